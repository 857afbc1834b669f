//! As much as Kubernetes lets anybody put into an object: what is kept of it is bounded.

use std::sync::Arc;

use serde_json::{Value, json};

use testkit::{Operator, Scene, Testbed, env_from, eventually, ours};

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
        3 => with("secrets", list(60_000)),
        4 => with(
            "secrets",
            format!("- &a {}\n- [{}]\n", "x".repeat(30_000), "*a,".repeat(10_000)),
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
    // Of each kind, those that are good but for what nobody reads; ten of the pods use too much.
    restart(&scene, 1, 150 + 140 + 1);
    scene.set_key("db", "k", "2");
    scene.set_key("good", "k", "2");
    restart(&scene, 2, 140 + 1);
}

/// One run of the operator, which has so many documents to write.
fn restart(scene: &Scene, round: usize, documents: usize) {
    let mut operator = scene.run().env("GOMEMLIMIT", "64MiB").start();
    writes(&operator, documents);
    is_within_its_limit(&mut operator, "after the list");
    // Some are changed, in what decides and in what does not, and read again.
    for number in 0..OBJECTS / 10 {
        let (secret, app) = (format!("secret{number}"), format!("app{number}"));
        let other = json!({"example.com/other": round.to_string()});
        for (kind, name) in [("Secret", &secret), ("Deployment", &app)] {
            scene.patch(kind, name, json!({"metadata": {"annotations": other}}));
            let value = if round == 1 { "true" } else { "false" };
            scene.annotate(kind, name, &[("adopt", Some(value))]);
        }
    }
    scene.set_key("good", "k", &format!("{round} changed"));
    scene.set_key("db", "k", &format!("{round} changed"));
    writes(&operator, documents + 140 + 1);
    for name in ["good", "app1/db"] {
        scene.doc(name).becomes(json!({"k": format!("{round} changed")}));
    }
    scene.doc("secret7").holds(json!({"k": "v"}));
    for (name, words) in [
        ("app2", "it says more than a list has room for"),
        ("app3", "it has 3594 entries; 2000 are allowed"),
        ("app4", "it says more than a list has room for"),
        ("app5", "it nests too deeply"),
        ("app6", "512 are allowed"),
        ("app8", "vault-sync.io/reconcile"),
    ] {
        scene.event(name, "InvalidAnnotation", &[words]);
    }
    scene.event("app9", "SyncFailed", &["failed to get secret"]);
    let words = "the pod template uses 12000 Secrets; 500 are allowed";
    scene.event("app11", "SyncFailed", &[words]);
    is_within_its_limit(&mut operator, "after the sync");
    assert!(operator.stop().success());
}

/// Waits until so many documents have been written, for as long as there is progress.
fn writes(operator: &Operator, documents: usize) {
    let written = || operator.log().matches("document written").count();
    let mut seen = written();
    while seen < documents {
        seen = eventually(format!("document {} of {documents}", seen + 1), || {
            let now = written();
            if now > seen { Ok(now) } else { Err(now.to_string()) }
        });
    }
}

#[test]
fn a_source_that_asks_for_too_much_loses_nothing_and_can_be_mended() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "1")]);
    for name in ["template", "entries"] {
        scene.app(name, &["db"]);
    }
    let mut operator = scene.start();
    for name in ["template/db", "entries/db"] {
        scene.doc(name).becomes(json!({"k": "1"}));
    }
    let names: Vec<String> = (0..501).map(|number| format!("n{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let template = |pod: Value| json!({"spec": {"template": {"spec": pod}}});
    scene.patch("Deployment", "template", template(env_from(&names)));
    scene.event(
        "template",
        "SyncFailed",
        &["uses 501 Secrets; 500 are allowed", "vault-sync.io/secrets"],
    );
    scene.annotate("Deployment", "entries", &[("secrets", Some(&list(20_000)))]);
    scene.event("entries", "InvalidAnnotation", &["Secrets; 500 are allowed"]);
    scene.set_key("db", "k", "2");
    scene.settle();
    for name in ["template/db", "entries/db"] {
        scene.doc(name).holds(json!({"k": "1"})).is_at_version(1);
    }
    // Nobody else may have them meanwhile.
    scene.create_secret(
        "heir",
        ours(&[("path", &scene.path("template/db"))]),
        &[("k", b"3")],
    );
    scene.event("heir", "OwnershipConflict", &["template/db"]);
    scene.patch("Deployment", "template", template(env_from(&["db"])));
    scene.annotate("Deployment", "entries", &[("secrets", None)]);
    for name in ["template/db", "entries/db"] {
        scene.doc(name).becomes(json!({"k": "2"})).is_at_version(2);
    }
    is_within_its_limit(&mut operator, "after too much was asked for");
}

#[test]
fn a_list_that_multiplies_a_secret_is_refused_before_it_takes_all_memory() {
    let scene = Scene::new();
    scene.create_secret("large", json!({}), &[("k", "x".repeat(700_000).as_bytes())]);
    let entries: Vec<String> = (0..400)
        .map(|n| format!(r#"{{"name":"large","prefix":"{n}_"}}"#))
        .collect();
    scene.listing("many", &format!("[{}]", entries.join(",")));
    // A few of it are as good as any.
    scene.listing(
        "few",
        r#"[{"name":"large","prefix":"a_"},{"name":"large","prefix":"b_"}]"#,
    );
    let mut operator = scene.run().env("GOMEMLIMIT", "64MiB").start();
    scene.event(
        "many",
        "SyncFailed",
        &[
            "would be 280001890 bytes, more than the allowed 8388608",
            "GOMEMLIMIT",
        ],
    );
    let value = "x".repeat(700_000);
    scene
        .doc("few")
        .becomes(json!({"a_k": value, "b_k": value}))
        .is_at_version(1);
    assert_eq!(scene.doc("many").data(), None);
    is_within_its_limit(&mut operator, "after the refusal");
}
