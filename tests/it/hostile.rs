//! As much as Kubernetes lets anybody put into an object: what is kept of it is bounded.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Operator, Scene, Testbed, env_from, eventually, ours};

/// What the operator may have at most, in bytes, whatever is in the cluster.
const LIMIT: u64 = 64 * 1024 * 1024;
/// What all annotations of an object may have together, in bytes.
const ROOM: usize = 256 * 1024;
/// Objects of each kind.
const OBJECTS: usize = 500;

/// `unit`, numbered, until there are so many bytes.
fn fill(bytes: usize, unit: impl Fn(usize) -> String) -> String {
    let mut text = String::with_capacity(bytes);
    for number in 0.. {
        let next = unit(number);
        if text.len() + next.len() > bytes {
            break;
        }
        text.push_str(&next);
    }
    text
}

/// A list with as many entries as fit.
fn list(bytes: usize) -> String {
    let entries = fill(bytes - 2, |number| format!(r#"{{"name":"n{number}"}},"#));
    format!("[{}]", entries.trim_end_matches(','))
}

/// The annotations of the object with this number: of each kind of too much there are some.
fn annotations(scene: &Scene, name: &str, number: usize) -> Value {
    // Names of annotations count too.
    let room = ROOM - 200;
    let path = scene.path(name);
    let with = |name: &str, value: String| ours(&[("path", &path), (name, &value)]);
    match number % 10 {
        0 => json!({"example.com/note": "x".repeat(room)}),
        1 => with("unknown", "x".repeat(room)),
        2 => with("secrets", list(room - 300)),
        3 => with("secrets", list(120_000)),
        4 => with(
            "secrets",
            format!("- &a {}\n- [{}]\n", "x".repeat(60_000), "*a,".repeat(20_000)),
        ),
        5 => with("secrets", "{a: [".repeat((room - 300) / 5)),
        6 => ours(&[("path", &"x".repeat(room))]),
        7 => with("force-sync", "x".repeat(room - 300)),
        8 => {
            let many = fill(room - 300, |number| format!("{number}"));
            with("reconcile", many)
        }
        // As much as an honest list may have, beside somebody else's note.
        _ => {
            let names: Vec<String> = (0..250)
                .map(|n| format!(r#"{{"name":"n{n}","prefix":"N{n}_"}}"#))
                .collect();
            let list = format!("[{}]", names.join(","));
            let mut both = with("secrets", list.clone());
            let note = "x".repeat(room - 300 - list.len());
            both.as_object_mut()
                .unwrap()
                .insert("example.com/note".into(), note.into());
            both
        }
    }
}

/// A pod that uses a few thousand Secrets, as many as fit into an object.
fn pod_of_thousands() -> Value {
    let names: Vec<String> = (0..12_000).map(|number| format!("referenced-{number}")).collect();
    env_from(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The objects of one thread of eight.
fn create(scene: &Scene, part: usize) {
    for number in (part..OBJECTS).step_by(8) {
        let secret = format!("secret{number}");
        scene.create_secret(&secret, annotations(scene, &secret, number), &[("k", b"v")]);
        let app = format!("app{number}");
        let pod = if number % 25 == 11 {
            pod_of_thousands()
        } else {
            env_from(&["db"])
        };
        scene.deployment(&app, annotations(scene, &app, number), pod);
    }
}

#[track_caller]
fn is_within_its_limit(operator: &mut Operator, when: &str) {
    let peak = operator.peak_memory();
    eprintln!("peak of memory {when}: {} KiB", peak / 1024);
    assert!(operator.is_running());
    assert!(!operator.log().contains("panicked"));
    assert!(peak < LIMIT, "{peak} bytes {when}");
}

#[test]
fn a_thousand_objects_with_all_the_annotations_that_fit_stay_within_64_mib() {
    let scene = Scene::on(Testbed::private());
    scene.secret("db", &[("k", "v")]);
    scene.own("good", "1");
    let scene = Arc::new(scene);
    std::thread::scope(|threads| {
        for part in 0..8 {
            let scene = &scene;
            threads.spawn(move || create(scene, part));
        }
    });
    eprintln!("all is there");
    for round in 1..=2 {
        let start = || scene.run().env("GOMEMLIMIT", "64MiB").start();
        let mut operator = start();
        scene.doc("good").becomes(json!({"k": round.to_string()}));
        is_within_its_limit(&mut operator, "after the list");
        // Each is read again, changed in what decides and in what does not.
        for number in 0..OBJECTS / 10 {
            let (secret, app) = (format!("secret{number}"), format!("app{number}"));
            let other = json!({"example.com/other": round.to_string()});
            for (kind, name) in [("Secret", &secret), ("Deployment", &app)] {
                scene.patch(kind, name, json!({"metadata": {"annotations": other}}));
                scene.annotate(kind, name, &[("paused", Some("false")), ("adopt", Some("false"))]);
            }
        }
        scene.set_key("good", "k", &(round + 1).to_string());
        scene.doc("good").becomes(json!({"k": (round + 1).to_string()}));
        // Those that are good but for a note that nobody reads are synced, and the others told.
        scene.doc("app1/db").becomes(json!({"k": "v"}));
        scene.doc("secret7").becomes(json!({"k": "v"}));
        for (name, words) in [
            ("app2", "bytes long; 131072 are allowed"),
            ("app3", "entries; 500 are allowed"),
            ("app4", "it says more than a list has room for"),
            ("app5", "131072 are allowed"),
            ("app6", "512 are allowed"),
            ("app8", "vault-sync.io/reconcile"),
            ("app11", "the pod template uses 12000 Secrets; 500 are allowed"),
        ] {
            scene.event(
                name,
                if name == "app11" {
                    "SyncFailed"
                } else {
                    "InvalidAnnotation"
                },
                &[words],
            );
        }
        scene.event("app9", "SyncFailed", &["failed to get secret"]);
        eventually("the queue is empty", || {
            let depth = operator.metrics().value("vault_sync_operator_queue_depth", &[]);
            if depth == Some(0.0) {
                Ok(())
            } else {
                Err(format!("{depth:?}"))
            }
        });
        is_within_its_limit(&mut operator, "after the sync");
        assert!(operator.stop().success());
    }
}
