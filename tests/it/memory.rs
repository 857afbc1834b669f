//! Memory does not grow with what is in the cluster.

use std::time::Duration;

use serde_json::json;

use testkit::{Operator, Scene, check, eventually, ours, within};

/// Far less than the payloads below, far more than an idle process varies by.
const ALLOWED_GROWTH: f64 = 12e6;

fn resident(operator: &Operator) -> f64 {
    eventually("the process's own metrics", || {
        let resident = operator.metrics().value("process_resident_memory_bytes", &[]);
        check(resident.is_some(), "none").map(|()| resident.unwrap_or_default())
    })
}

#[test]
fn secrets_that_no_source_names_take_no_memory() {
    let scene = Scene::new();
    let operator = scene.start();
    scene.settle();
    let before = resident(&operator);
    let payload = vec![b'x'; 700_000];
    // What kubectl apply leaves behind: the content once more, in the metadata.
    let applied = json!({"kubectl.kubernetes.io/last-applied-configuration": "y".repeat(200_000)});
    for number in 0..60 {
        scene.create_secret(&format!("unused{number}"), applied.clone(), &[("k", &payload)]);
    }
    scene.settle();
    let growth = resident(&operator) - before;
    assert!(
        growth < ALLOWED_GROWTH,
        "it grew by {growth} bytes while 54 MB arrived"
    );
}

#[test]
fn documents_larger_together_than_gomemlimit_are_synced_one_after_the_other() {
    let scene = Scene::new();
    let names: Vec<String> = (0..12).map(|number| format!("large{number}")).collect();
    let value = "x".repeat(900_000);
    for name in &names {
        scene.own(name, &value);
    }
    let operator = scene.run().env("GOMEMLIMIT", "1MiB").start();
    for name in &names {
        scene.doc(name).becomes(json!({"k": value})).is_at_version(1);
    }
    drop(operator);
}

/// JSON writes a control character as six bytes.
#[test]
fn secrets_whose_text_grows_when_it_is_sent_stay_within_the_memory_limit() {
    let scene = Scene::new();
    let names: Vec<String> = (0..48).map(|number| format!("control{number}")).collect();
    let keys: Vec<String> = (0..10).map(|number| format!("k{number}")).collect();
    let value = "\u{1}".repeat(100_000);
    let data: Vec<(&str, &[u8])> = keys.iter().map(|k| (k.as_str(), value.as_bytes())).collect();
    for name in &names {
        scene.create_secret(name, ours(&[("path", &scene.path(name))]), &data);
    }
    let operator = scene.run().env("GOMEMLIMIT", "128MiB").start();
    for name in &names {
        eventually(format!("{name} is in Vault"), || {
            check(scene.doc(name).version() == 1, "not yet")
        });
    }
    let peak = operator.peak_memory();
    assert!(peak < 128 << 20, "{peak} bytes at the peak");
}

/// What is kept for each document lasts as long as its source.
#[test]
fn a_thousand_documents_take_little_memory() {
    const SECRETS: usize = 250;
    let scene = Scene::new();
    let names: Vec<String> = (0..SECRETS)
        .map(|number| format!("a-secret-of-the-shop-{number}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        scene.secret(name, &[("k", "v")]);
    }
    let operator = scene.start();
    let synced = |app: &str| {
        scene.app(app, &names);
        within(Duration::from_mins(2), "all are in Vault", || {
            let last = scene.doc(&format!("{app}/{}", names[SECRETS - 1])).version();
            check(last == 1, last)
        });
        scene.event(app, "Synced", &[app]);
    };
    // Connections, pools and tables that do not grow any more.
    synced("first");
    scene.settle();
    let before = operator.anonymous_memory();
    for app in ["second", "third", "fourth", "fifth"] {
        synced(app);
    }
    scene.settle();
    let each = (operator.anonymous_memory() - before) / (4 * SECRETS as u64);
    assert!(each < 2200, "{each} bytes for each document");
}
