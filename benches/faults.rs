//! Times what faults cost, on a real Kubernetes and a real Vault: `hack/bench faults`.
//!
//! - *outage*: a thousand Secrets change while Vault is sealed; from unsealing until Vault holds them all.
//!   Floor: the same writes, from as many threads as the operator has workers.
//! - *fairness*: a change in a calm namespace, while a thousand sources of another one fail: at once, and
//!   by hanging. Peer: the same change without them.
//! - *hand-over*: from the leader's SIGTERM, or its death, until its successor has written a change that was
//!   made in the same moment. Peer: the leader's own time for such a change; the length of the lease.
//!
//! Machines are noisy: read the ratios.

#[path = "table.rs"]
mod table;
#[path = "workers.rs"]
mod workers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use table::{percentile, report, row};
use testkit::{Scene, Testbed, eventually, ours};
use workers::{WORKERS, each};

const SOURCES: usize = 1000;
const ROUNDS: usize = 100;
/// The predecessor's, and ours.
const LEASE: Duration = Duration::from_secs(15);

fn main() {
    report("", &["operator", "beside", "ratio"]);
    outage();
    fairness();
    handover();
}

fn outage() {
    let scene = Scene::on(Testbed::private());
    each(SOURCES, |number| scene.own(&format!("s{number}"), "before"));
    let _operator = scene.start();
    let all_hold = |value: &str| {
        for number in (0..SOURCES).rev() {
            let wanted = json!({"k": value});
            while scene.doc(&format!("s{number}")).data().as_ref() != Some(&wanted) {}
        }
    };
    all_hold("before");
    scene.bed.seal();
    each(SOURCES, |number| {
        scene.set_key(&format!("s{number}"), "k", "after");
    });
    let began = Instant::now();
    scene.bed.unseal();
    all_hold("after");
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(10),
        "promised within ten seconds: {took:?}"
    );
    let began = Instant::now();
    each(SOURCES, |number| {
        let body = json!({"data": {"k": "after"}});
        let path = format!("/v1/secret/data/{}/floor{number}", scene.ns);
        scene.bed.vault.post(&path, &body).ok();
    });
    row("outage: 1,000 changes after it", took, began.elapsed());
}

fn fairness() {
    let scene = Scene::new();
    let calm = scene.another_namespace("calm");
    let path = format!("/api/v1/namespaces/{calm}/secrets");
    let secret = json!({
        "metadata": {"name": "calm", "annotations": ours(&[("path", &scene.path("calm"))])},
        "stringData": {"k": "0"},
    });
    scene.bed.kube.post(&path, &secret).ok();
    let place = format!("{path}/calm");
    let operator = scene
        .run()
        .flag("watch-namespaces", &format!("{},{calm}", scene.ns))
        .start();
    let mut value = 0;
    let mut change = || {
        value += 1;
        let value = value.to_string();
        let change = json!({"stringData": {"k": value}});
        scene.bed.kube.patch(&place, &change).ok();
        let changed = Instant::now();
        while scene.doc("calm").data() != Some(json!({"k": value})) {}
        changed.elapsed()
    };
    let times = |change: &mut dyn FnMut() -> Duration| {
        let mut times: Vec<Duration> = (0..ROUNDS).map(|_| change()).collect();
        (percentile(&mut times, 50), percentile(&mut times, 99))
    };
    change();
    let alone = times(&mut change);

    // They are denied, again at each of their changes; somebody changes them all the time.
    each(SOURCES, |number| {
        let annotations = ours(&[("path", &format!("secret/data/not-ours/s{number}"))]);
        scene.create_secret(&format!("denied{number}"), annotations, &[("k", b"v")]);
    });
    let (ended, beside) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let denied = std::thread::scope(|threads| {
        threads.spawn(|| {
            while ended.load(Ordering::Relaxed) == 0 {
                let number = beside.fetch_add(1, Ordering::Relaxed) % SOURCES;
                scene.set_key(&format!("denied{number}"), "k", "again");
            }
        });
        let denied = times(&mut change);
        ended.store(1, Ordering::Relaxed);
        denied
    });
    row("fairness: 1,000 are denied, median", denied.0, alone.0);
    row("fairness: 1,000 are denied, 99th of 100", denied.1, alone.1);

    scene.vault.hold(&format!("/v1/secret/data/{}/hung", scene.ns));
    each(SOURCES, |number| scene.own(&format!("hung{number}"), "v"));
    scene.vault.holds(2 * WORKERS);
    let hung = times(&mut change);
    row("fairness: 1,000 hang, median", hung.0, alone.0);
    row("fairness: 1,000 hang, 99th of 100", hung.1, alone.1);
    operator.kill();
}

fn handover() {
    let scene = Scene::new();
    scene.own("db", "0");
    let mut value = 0;
    let mut change = || {
        value += 1;
        scene.set_key("db", "k", &value.to_string());
        json!({"k": value.to_string()})
    };
    let written = |wanted| {
        let began = Instant::now();
        eventually("the change is written", || {
            if scene.doc("db").data().as_ref() == Some(&wanted) {
                Ok(())
            } else {
                Err(String::new())
            }
        });
        began.elapsed()
    };
    let mut leader = scene.run().candidate("c0").start();
    scene.leads("c0");
    let wanted = change();
    written(wanted);
    let mut own: Vec<Duration> = (0..20).map(|_| written(change())).collect();
    let own = percentile(&mut own, 50);
    let (mut graceful, mut killed) = (Vec::new(), Vec::new());
    for round in 1..=8 {
        let standby = scene.run().candidate(&format!("c{round}")).start();
        standby.ready();
        standby.says(&["waiting for the lease", &format!("c{}", round - 1)]);
        let old = std::mem::replace(&mut leader, standby);
        let began = Instant::now();
        if round <= 5 {
            // It finishes what runs, so the change must come after the signal to be its successor's.
            std::thread::scope(|threads| {
                let ending = threads.spawn(|| old.stop());
                scene.leads(&format!("c{round}"));
                graceful.push(began.elapsed() + written(change()));
                ending.join().expect("the old leader ends")
            });
        } else {
            old.kill();
            let wanted = change();
            written(wanted);
            killed.push(began.elapsed());
        }
    }
    let slowest = |times: &[Duration]| times.iter().max().copied().unwrap_or_default();
    assert!(slowest(&graceful) < Duration::from_secs(2), "{graceful:?}");
    // The lease, and the time between two looks at it.
    assert!(slowest(&killed) < LEASE + Duration::from_secs(3), "{killed:?}");
    row(
        "hand-over after SIGTERM, median of 5",
        percentile(&mut graceful, 50),
        own,
    );
    row(
        "fail-over after a kill, median of 3",
        percentile(&mut killed, 50),
        LEASE,
    );
}
