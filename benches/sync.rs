//! What the operator costs, beside the calls that nobody can avoid, on the same real Kubernetes and Vault in the same
//! run: `hack/bench sync`.
//!
//! - *first sync*: from the operator's start until Vault holds all documents. Floors: the six plain calls for each
//!   document (look at Vault, read the source, put the finalizer on, read the Secret, write, claim), and the four that
//!   are left without looking first and without reading what the finalizer's patch returns. Both with credentials of
//!   the operator's role, from as many threads as the operator has workers.
//! - *rotation*: from the API server's reply to a change until Vault holds it. Floor: a bare watch that reads the
//!   Secret and writes to Vault.
//!
//! The time that each process uses a processor is what counts: on a busy machine it hardly changes. Nothing asks
//! Vault busily meanwhile, or the benchmark would measure itself.
//!
//! `BENCH_SOURCES` lists the numbers of sources (300 and 1,000, if it is not set); `BENCH_JSON` names a file that gets
//! the figures.

#[path = "cost.rs"]
mod cost;
#[path = "floor.rs"]
mod floor;
#[path = "rotation.rs"]
mod rotation;
#[path = "table.rs"]
mod table;
#[path = "workers.rs"]
mod workers;

use std::thread::sleep;
use std::time::{Duration, Instant};

use cost::{Cost, quiet};
use floor::{Floor, populate};
use serde_json::{Value, json};
use table::{ms, report};
use testkit::{Operator, Scene, Testbed, cpu_time};
use workers::WORKERS;

/// How often it is asked whether the first sync is over.
const SELDOM: Duration = Duration::from_millis(250);

fn main() {
    let sizes = std::env::var("BENCH_SOURCES").unwrap_or_else(|_| "300 1000".to_owned());
    let sizes: Vec<usize> = sizes
        .split_whitespace()
        .map(|size| size.parse().expect("BENCH_SOURCES lists numbers"))
        .collect();
    let figures: Vec<Value> = sizes.into_iter().map(measure).collect();
    if let Ok(file) = std::env::var("BENCH_JSON") {
        let text = serde_json::to_string_pretty(&figures).expect("they are plain numbers");
        std::fs::write(file, text + "\n").expect("BENCH_JSON can be written");
    }
}

/// Everything for so many sources, on servers of their own.
fn measure(sources: usize) -> Value {
    let bed = Testbed::private();
    let [six, four] = [Floor::Six, Floor::Four].map(|floor| floor.run(&Scene::on(bed.clone()), sources));
    let scene = Scene::on(bed.clone());
    populate(&scene, sources);
    quiet(&bed);
    let (mut all, operator) = Cost::of(&bed, || {
        let operator = scene.start();
        finish(&operator, &scene, sources);
        operator
    });
    all.operator = cpu_time(operator.id());
    quiet(&bed);
    let idle = idle(&operator, &bed);
    let (anonymous, resident) = (operator.anonymous_memory(), operator.resident_memory());
    let scraped = Instant::now();
    let scrape = operator.metrics().0.len() as u64;
    let scraping = scraped.elapsed();

    report(
        &format!("{sources} sources, one Secret each; {WORKERS} workers"),
        &["etcd", "API server", "Vault", "servers", "operator", "wall"],
    );
    let rows = [
        ("first sync, for each document", all),
        ("the six plain calls", six),
        ("the four that are left", four),
    ];
    for (name, cost) in rows {
        report(name, &cost.for_each(sources).words());
    }
    for (name, floor) in [("the six", six), ("the four", four)] {
        let ratio = all.servers().as_secs_f64() / floor.servers().as_secs_f64();
        report(&format!("servers' time, to {name}"), &[format!("{ratio:.2}")]);
    }
    report("ten quiet seconds", &idle.words());
    for (name, bytes) in [
        ("anonymous memory", anonymous),
        ("resident memory", resident),
        ("/metrics", scrape),
    ] {
        report(name, &[format!("{} kB", bytes / 1000)]);
    }
    report("/metrics, to scrape", &[ms(scraping)]);
    let rotation = rotation::measure(&scene, sources);
    json!({
        "sources": sources,
        "perDocument": {
            "operator": all.for_each(sources).json(),
            "sixCalls": six.for_each(sources).json(),
            "fourCalls": four.for_each(sources).json(),
        },
        "tenQuietSeconds": idle.json(),
        "memory": {"anonymousBytes": anonymous, "residentBytes": resident},
        "metricsBytes": scrape,
        "rotation": rotation,
    })
}

/// Waits until the operator has brought all documents to Vault, and has counted that.
fn finish(operator: &Operator<'_>, scene: &Scene, sources: usize) {
    let last = [0, sources / 2, sources - 1];
    let stands = |number: usize| scene.doc(&floor::document(number)).data().is_some();
    while !last.into_iter().all(stands) {
        sleep(SELDOM);
    }
    let counted = || {
        operator.metrics().value(
            "vault_sync_operator_sync_attempts_total",
            &[("result", "success")],
        )
    };
    let all = f64::from(u32::try_from(sources).expect("there are not so many"));
    while counted() < Some(all) {
        sleep(SELDOM);
    }
}

/// What ten quiet seconds cost.
fn idle(operator: &Operator<'_>, bed: &Testbed) -> Cost {
    let before = cpu_time(operator.id());
    let (mut idle, ()) = Cost::of(bed, || sleep(Duration::from_secs(10)));
    idle.operator = cpu_time(operator.id()).saturating_sub(before);
    idle
}
