//! Times the operator against the calls that nobody can avoid, on the same real Kubernetes and Vault
//! in the same run: `hack/bench sync`.
//!
//! - *first sync*: from the operator's start until Vault holds all documents. Floor: the same calls
//!   for the same number of documents, from as many threads as the operator has workers.
//! - *rotation*: from the API server's reply to a change until Vault holds it. Floor: one read of the
//!   Secret and one write to Vault.
//!
//! Machines are noisy: read the ratios.

#[path = "table.rs"]
mod table;
#[path = "workers.rs"]
mod workers;

use std::time::{Duration, Instant};

use serde_json::json;
use table::{percentile, report, row};
use testkit::{Scene, env_from, eventually, ours};
use workers::{WORKERS, each};

const SOURCES: usize = 300;
const ALL_SOURCES: f64 = 300.0;
const ROTATIONS: usize = 200;

fn main() {
    let scene = Scene::new();
    populate(&scene);
    let floor = first_sync_floor();

    let started = Instant::now();
    let operator = scene.start();
    for number in (0..SOURCES).rev() {
        while scene.doc(&document(number)).data().is_none() {}
    }
    let first_sync = started.elapsed();
    eventually("all sources have been counted", || {
        let done = operator.metrics().value(
            "vault_sync_operator_sync_attempts_total",
            &[("result", "success")],
        );
        if done >= Some(ALL_SOURCES) {
            Ok(())
        } else {
            Err(format!("{done:?}"))
        }
    });

    let mut rotations = Vec::new();
    let mut floors = Vec::new();
    for round in 0..ROTATIONS {
        let number = round % SOURCES;
        floors.push(rotation_floor(&scene, number, round));
        rotations.push(rotation(&scene, number, round));
    }
    let memory = operator
        .metrics()
        .value("process_resident_memory_bytes", &[])
        .unwrap_or_default();

    report(
        &format!("{SOURCES} sources, one Secret each; {WORKERS} workers"),
        "operator",
        "floor",
        "ratio",
    );
    row("first sync", first_sync, floor);
    row(
        "rotation, median",
        percentile(&mut rotations, 50),
        percentile(&mut floors, 50),
    );
    row(
        "rotation, 99th of 100",
        percentile(&mut rotations, 99),
        percentile(&mut floors, 99),
    );
    report("memory after it", &format!("{:.1} MB", memory / 1e6), "", "");
    drop(operator);
}

fn document(number: usize) -> String {
    format!("app-{number}/secret-{number}")
}

fn populate(scene: &Scene) {
    for number in 0..SOURCES {
        let secret = format!("secret-{number}");
        scene.secret(&secret, &[("password", "first")]);
        let annotations = ours(&[("path", &scene.path(&format!("app-{number}")))]);
        scene.deployment(&format!("app-{number}"), annotations, env_from(&[&secret]));
    }
}

/// For each document what a first sync has to do: look at Vault, read the source and the Secret, put
/// the finalizer on, write, claim.
fn first_sync_floor() -> Duration {
    let scene = Scene::new();
    populate(&scene);
    let (ns, kube, vault) = (&scene.ns, &scene.bed.kube, &scene.bed.vault);
    let started = Instant::now();
    each(SOURCES, |number| {
        let document = format!("{ns}/{}", document(number));
        let source = format!("/apis/apps/v1/namespaces/{ns}/deployments/app-{number}");
        assert_eq!(vault.get(&format!("/v1/secret/data/{document}")).status, 404);
        kube.get(&source).ok();
        kube.get(&format!("/api/v1/namespaces/{ns}/secrets/secret-{number}"))
            .ok();
        kube.patch(
            &source,
            &json!({"metadata": {"finalizers": ["bench.example/floor"]}}),
        )
        .ok();
        let body = json!({"data": {"password": "first"}, "options": {"cas": 0}});
        vault.post(&format!("/v1/secret/data/{document}"), &body).ok();
        let claim = json!({"custom_metadata": {"managed-by": "floor"}});
        vault
            .patch(&format!("/v1/secret/metadata/{document}"), &claim)
            .ok();
    });
    let took = started.elapsed();
    for number in 0..SOURCES {
        scene.patch(
            "Deployment",
            &format!("app-{number}"),
            json!({"metadata": {"finalizers": null}}),
        );
    }
    took
}

fn rotation(scene: &Scene, number: usize, round: usize) -> Duration {
    let value = format!("round-{round}");
    scene.set_key(&format!("secret-{number}"), "password", &value);
    let changed = Instant::now();
    let wanted = json!({"password": value});
    let document = scene.doc(&document(number));
    while document.data().as_ref() != Some(&wanted) {}
    changed.elapsed()
}

fn rotation_floor(scene: &Scene, number: usize, round: usize) -> Duration {
    let (ns, bed) = (&scene.ns, &scene.bed);
    let started = Instant::now();
    bed.kube
        .get(&format!("/api/v1/namespaces/{ns}/secrets/secret-{number}"))
        .ok();
    let body = json!({"data": {"password": format!("round-{round}")}});
    bed.vault
        .post(&format!("/v1/secret/data/{ns}/floor-{number}"), &body)
        .ok();
    started.elapsed()
}
