//! A fleet on one Vault: `hack/bench fleet`.
//!
//! Ten real control planes, each with its operator, the same applications in each, and one Vault, on one
//! machine: about 8 GB. FLEET_CLUSTERS and FLEET_SOURCES change how many there are.
//!
//! - *first sync*: from the start of the operators of all clusters but the first until Vault holds all
//!   their documents. Floor: the calls to Vault that this takes, from as many threads as one operator has
//!   workers; Kubernetes' share is not in it.
//! - *rotation*: in all clusters at once, each its own Secrets one after the other; from the API server's
//!   reply until Vault holds it. Peer: the same in one cluster, while the others have no operator.
//!
//! It ends with a panic if a document is not where it belongs, has another's content or claim, or was written
//! more often than its Secret changed.

#[path = "table.rs"]
mod table;
#[path = "workers.rs"]
mod workers;

use std::time::{Duration, Instant};

use serde_json::json;
use table::{percentile, report, row};
use testkit::{Cluster, Operator, Scene, Testbed, env_from, eventually, ours};
use workers::each;

const ROTATIONS: usize = 50;
const IDLE: Duration = Duration::from_mins(1);

fn main() {
    let (clusters, sources) = (number("FLEET_CLUSTERS", 10), number("FLEET_SOURCES", 100));
    let fleet = fleet(clusters);
    for cluster in &fleet {
        populate(cluster, sources);
    }
    report(
        &format!("{clusters} clusters, {sources} sources each"),
        &["operators", "beside", "ratio"],
    );

    let (first, others) = fleet.split_first().expect("a fleet has clusters");
    let mut operators = vec![first.start(&[])];
    await_first_sync(first, sources);
    let mut alone: Vec<Duration> = (0..ROTATIONS)
        .map(|round| rotate(first, sources, round))
        .collect();

    let floor = floor(first, others.len() * sources);
    let began = Instant::now();
    operators.extend(others.iter().map(|cluster| cluster.start(&[])));
    for cluster in others {
        await_first_sync(cluster, sources);
    }
    row(
        &format!("first sync of {} documents", others.len() * sources),
        began.elapsed(),
        floor,
    );
    for operator in &operators {
        settled(operator, sources);
    }
    let requests: usize = others
        .iter()
        .map(|cluster| cluster.scene.vault.requests().len())
        .sum();
    report(
        "calls to Vault for each of them",
        &[&format!("{:.2}", ratio(requests, others.len() * sources)), "3"],
    );

    let mut together: Vec<Duration> = std::thread::scope(|threads| {
        let rotating: Vec<_> = fleet
            .iter()
            .map(|cluster| {
                threads.spawn(move || -> Vec<Duration> {
                    (0..ROTATIONS)
                        .map(|round| rotate(cluster, sources, ROTATIONS + round))
                        .collect()
                })
            })
            .collect();
        rotating
            .into_iter()
            .flat_map(|thread| thread.join().expect("a thread rotates to its end"))
            .collect()
    });
    for (name, percent) in [("rotation, median", 50), ("rotation, 99th of 100", 99)] {
        row(
            name,
            percentile(&mut together, percent),
            percentile(&mut alone, percent),
        );
    }

    for (index, cluster) in fleet.iter().enumerate() {
        let changes = if index == 0 { 2 * ROTATIONS } else { ROTATIONS };
        examine(cluster, sources, changes);
    }
    let before: Vec<usize> = fleet
        .iter()
        .map(|cluster| cluster.scene.vault.requests().len())
        .collect();
    std::thread::sleep(IDLE);
    let idle: usize = fleet
        .iter()
        .zip(before)
        .map(|(cluster, before)| cluster.scene.vault.requests().len() - before)
        .sum();
    report("calls to Vault in an idle minute, all", &[&idle.to_string()]);
    let memory = |operator: &Operator| operator.metrics().value("process_resident_memory_bytes", &[]);
    let most = operators.iter().filter_map(memory).fold(0.0, f64::max);
    report("memory, the largest", &[&format!("{:.1} MB", most / 1e6)]);
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |text| text.parse().expect("FLEET_… is a number"))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
fn ratio(count: usize, of: usize) -> f64 {
    count as f64 / of as f64
}

/// Started one after the other: each takes both cores.
fn fleet(clusters: usize) -> Vec<Cluster> {
    let first = Testbed::shared();
    (0..clusters)
        .map(|number| {
            let bed = match number {
                0 => first.clone(),
                _ => Testbed::sharing_vault_of(first.clone()),
            };
            let cluster = Cluster::new(Scene::on(bed), &format!("cluster{number}"));
            cluster.set_up(&[]);
            cluster
        })
        .collect()
}

fn document(number: usize) -> String {
    format!("app-{number}/secret-{number}")
}

fn populate(cluster: &Cluster, sources: usize) {
    let scene = &cluster.scene;
    for number in 0..sources {
        let (app, secret) = (format!("app-{number}"), format!("secret-{number}"));
        scene.secret(&secret, &[("password", &cluster.name)]);
        scene.deployment(&app, ours(&[("path", &scene.path(&app))]), env_from(&[&secret]));
    }
}

fn await_first_sync(cluster: &Cluster, sources: usize) {
    for number in (0..sources).rev() {
        while cluster.doc(&document(number)).data().is_none() {}
    }
}

/// Until it has counted every source: then each document has its claim too.
fn settled(operator: &Operator, sources: usize) {
    eventually("all sources have been counted", || {
        let labels = [("result", "success")];
        let done = operator
            .metrics()
            .value("vault_sync_operator_sync_attempts_total", &labels);
        if done >= Some(ratio(sources, 1)) {
            Ok(())
        } else {
            Err(format!("{done:?}"))
        }
    });
}

/// Looks, writes and claims, with a token like the operator's, below the first cluster's prefix.
fn floor(cluster: &Cluster, documents: usize) -> Duration {
    let vault = cluster.logged_in();
    let began = Instant::now();
    each(documents, |number| {
        let place = cluster.document(&format!("floor-{number}"));
        let data = format!("/v1/secret/data/{place}");
        assert_eq!(vault.get(&data).status, 404);
        let body = json!({"data": {"password": "first"}, "options": {"cas": 0}});
        vault.post(&data, &body).ok();
        let claim = json!({"custom_metadata": {"managed-by": "floor"}});
        vault.patch(&format!("/v1/secret/metadata/{place}"), &claim).ok();
    });
    began.elapsed()
}

fn rotate(cluster: &Cluster, sources: usize, round: usize) -> Duration {
    let number = round % sources;
    let value = format!("{} {round}", cluster.name);
    cluster
        .scene
        .set_key(&format!("secret-{number}"), "password", &value);
    let changed = Instant::now();
    let wanted = json!({"password": value});
    let document = cluster.doc(&document(number));
    while document.data().as_ref() != Some(&wanted) {}
    changed.elapsed()
}

/// Everything of a cluster's is there, its own, claimed by it, and was written as often as it changed.
fn examine(cluster: &Cluster, sources: usize, changes: usize) {
    let mut versions = 0;
    for number in 0..sources {
        let document = cluster.doc(&document(number));
        let password = document.data().expect("it is there")["password"].clone();
        let password = password.as_str().expect("a text").to_owned();
        assert!(
            password.starts_with(&cluster.name),
            "{}: {password}",
            cluster.name
        );
        let claim = document.metadata()["custom_metadata"]["cluster-id"].clone();
        assert_eq!(claim, *cluster.scene.bed.cluster_id());
        versions += usize::try_from(document.version()).expect("a number of versions");
    }
    assert_eq!(versions, sources + changes, "versions of {}", cluster.name);
    let requests = cluster.scene.vault.requests();
    let logins = requests
        .iter()
        .filter(|request| request.ends_with("/login"))
        .count();
    assert_eq!(logins, 1, "logins of {}", cluster.name);
}
