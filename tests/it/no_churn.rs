//! Nothing is written, to Vault or to Kubernetes, when nothing differs.

use std::time::Instant;

use serde_json::{Value, json};

use testkit::{Scene, check, eventually, ours};

const ATTEMPTS: &str = "vault_sync_operator_sync_attempts_total";

/// A synced Deployment `app` over the Secret `db`, and a synced Secret `own`.
fn synced(scene: &Scene) {
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    for (kind, name) in [("Deployment", "app"), ("Secret", "own")] {
        eventually("the finalizer is there", || {
            let there = scene.finalizers(kind, name);
            check(!there.is_empty(), "none")
        });
    }
    scene.settle();
}

fn scene() -> Scene {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    scene
}

fn version_of(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// What the operator changed in Kubernetes, but for what its marker and its lease cost.
fn kube_writes(scene: &Scene) -> Vec<String> {
    let mut writes: Vec<String> = scene
        .audit()
        .into_iter()
        .filter(|request| !matches!(&*request.verb, "get" | "list" | "watch"))
        .filter(|request| matches!(&*request.resource, "secrets" | "deployments"))
        .filter(|request| request.name != "marker")
        .map(|request| format!("{} {} {}", request.verb, request.resource, request.name))
        .collect();
    writes.sort();
    writes
}

#[test]
fn edits_that_do_not_matter_write_nothing_anywhere() {
    let scene = scene();
    let operator = scene.start();
    synced(&scene);
    let labels = [("namespace", &*scene.ns), ("resource", "app")];
    let attempts = operator.metrics().value(ATTEMPTS, &labels);
    let (vault, kube) = (scene.vault_writes(), kube_writes(&scene));

    scene.patch(
        "Deployment",
        "app",
        json!({"metadata": {"labels": {"x": "y"}, "annotations": {"other": "1"}}}),
    );
    let status = format!("/apis/apps/v1/namespaces/{}/deployments/app/status", scene.ns);
    let app = scene
        .bed
        .kube
        .patch(
            &status,
            &json!({"status": {"observedGeneration": 1, "replicas": 3}}),
        )
        .ok();
    scene.settle();
    assert_eq!(
        operator.metrics().value(ATTEMPTS, &labels),
        attempts,
        "there is no reason to look"
    );

    let own = scene.patch("Secret", "own", json!({"metadata": {"labels": {"x": "y"}}}));
    let db = scene.patch("Secret", "db", json!({"metadata": {"labels": {"x": "y"}}}));
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(version_of(&scene.get("Deployment", "app")), version_of(&app));
    assert_eq!(version_of(&scene.get("Secret", "own")), version_of(&own));
    assert_eq!(version_of(&scene.get("Secret", "db")), version_of(&db));
    assert_eq!(scene.vault_writes(), vault);
    assert_eq!(kube_writes(&scene), kube);
}

#[test]
fn the_operators_own_writes_start_nothing() {
    let scene = scene();
    let _operator = scene.start();
    synced(&scene);
    scene.doc("app/db").is_at_version(1);
    scene.doc("own").is_at_version(1);
    // One patch each, for the finalizer; the Secret that is only read is not touched.
    assert_eq!(
        kube_writes(&scene),
        ["patch deployments app", "patch secrets own"]
    );
}

#[test]
fn a_restart_writes_nothing() {
    let scene = scene();
    let first = scene.start();
    synced(&scene);
    let versions = |scene: &Scene| {
        [("Deployment", "app"), ("Secret", "own"), ("Secret", "db")]
            .map(|(kind, name)| version_of(&scene.get(kind, name)))
    };
    let before = (versions(&scene), scene.vault_writes(), kube_writes(&scene));
    first.stop();
    let second = scene.start();
    second.ready();
    let labels = |name| [("namespace", scene.ns.clone()), ("resource", String::from(name))];
    for name in ["app", "own"] {
        let labels = labels(name);
        let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        second.counts(ATTEMPTS, &labels, 1.0);
    }
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(
        (versions(&scene), scene.vault_writes(), kube_writes(&scene)),
        before
    );
}

#[test]
fn an_object_carries_nothing_of_ours_but_a_finalizer() {
    let scene = scene();
    let _operator = scene.start();
    synced(&scene);
    for (kind, name, path) in [
        ("Deployment", "app", scene.path("app")),
        ("Secret", "own", scene.path("own")),
    ] {
        let metadata = &scene.get(kind, name)["metadata"];
        assert_eq!(metadata["annotations"], ours(&[("path", &path)]));
        assert_eq!(metadata["labels"], Value::Null);
        assert_eq!(metadata["finalizers"], json!(["vault-sync.io/finalizer"]));
    }
    assert_eq!(scene.get("Secret", "db")["metadata"]["finalizers"], Value::Null);
}

#[test]
fn other_finalizers_and_annotations_are_left_as_they_are() {
    let scene = Scene::new();
    scene.own("own", "v");
    scene.patch(
        "Secret",
        "own",
        json!({"metadata": {"finalizers": ["example.com/theirs"], "annotations": {"other": "1"}}}),
    );
    let _operator = scene.start();
    scene.doc("own").becomes(json!({"k": "v"}));
    eventually("both finalizers are there", || {
        let mut there = scene.finalizers("Secret", "own");
        there.sort();
        check(
            there == ["example.com/theirs", "vault-sync.io/finalizer"],
            format!("{there:?}"),
        )
    });
    scene.annotate("Secret", "own", &[("path", None)]);
    eventually("only ours goes", || {
        let there = scene.finalizers("Secret", "own");
        check(there == ["example.com/theirs"], format!("{there:?}"))
    });
    assert_eq!(
        scene.get("Secret", "own")["metadata"]["annotations"],
        json!({"other": "1"})
    );
    scene.patch("Secret", "own", json!({"metadata": {"finalizers": null}}));
}

#[test]
fn the_predecessors_secret_versions_annotation_is_taken_away_once() {
    let scene = Scene::new();
    let annotations = ours(&[
        ("path", &scene.path("own")),
        ("secret-versions", r#"{"own": "1"}"#),
    ]);
    scene.create_secret("own", annotations, &[("k", b"v")]);
    let _operator = scene.start();
    scene.doc("own").becomes(json!({"k": "v"}));
    eventually("the annotation is gone", || {
        let left = scene.get("Secret", "own")["metadata"]["annotations"].clone();
        check(left == ours(&[("path", &scene.path("own"))]), left)
    });
    scene.settle();
    scene.doc("own").is_at_version(1);
}

#[test]
fn secrets_that_no_source_names_are_never_read() {
    let scene = Scene::new();
    scene.secret("unused", &[("k", "v")]);
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.set_key("unused", "k", "changed");
    scene.settle();
    let read: Vec<String> = scene
        .audit()
        .into_iter()
        .filter(|request| request.resource == "secrets" && request.verb == "get")
        .map(|request| request.name)
        .collect();
    assert!(read.contains(&"db".to_owned()), "{read:?}");
    assert!(!read.contains(&"unused".to_owned()), "{read:?}");
}

#[test]
fn a_source_that_only_a_change_can_cure_is_looked_at_once_a_period() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.listing("app", r#"[{"name": "db"}]"#);
    let operator = scene.run().flag("resync-interval", "1s").start();
    scene.doc("app").becomes(json!({"k": "v"}));
    scene.delete("Secret", "db");
    scene.event("app", "SyncFailed", &["db"]);
    let labels = [("namespace", &*scene.ns), ("resource", "app")];
    let attempts = || operator.metrics().value(ATTEMPTS, &labels).unwrap();
    let (begun, before) = (Instant::now(), attempts());
    operator.counts(ATTEMPTS, &labels, before + 4.0);
    let periods = begun.elapsed().as_secs_f64() / 0.9;
    let made = attempts() - before;
    assert!(made <= periods + 2.0, "{made} attempts in {periods} periods");
}

#[test]
fn two_sources_that_share_a_path_and_an_absent_optional_secret_come_to_rest() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let pod = json!({"containers": [{"name": "main", "image": "none", "envFrom": [
        {"secretRef": {"name": "db"}},
        {"secretRef": {"name": "maybe", "optional": true}},
    ]}]});
    for name in ["one", "two"] {
        scene.deployment(name, ours(&[("path", &scene.path("app"))]), pod.clone());
    }
    let operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    for _ in 0..3 {
        scene.settle();
    }
    let attempts = |name| {
        let labels = [("namespace", &*scene.ns), ("resource", name)];
        operator.metrics().value(ATTEMPTS, &labels).unwrap()
    };
    let before = (attempts("one"), attempts("two"));
    for _ in 0..3 {
        scene.settle();
    }
    assert_eq!((attempts("one"), attempts("two")), before);
}

#[test]
fn an_absent_optional_secret_costs_no_write_to_the_ledger() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let pod = json!({"containers": [{"name": "main", "image": "none", "envFrom": [
        {"secretRef": {"name": "db"}},
        {"secretRef": {"name": "maybe", "optional": true}},
    ]}]});
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.settle();
    // What is new in it is stored behind the write, the marker's too.
    eventually("the ledger has come to rest", || {
        let text = Value::from(scene.ledger()).to_string();
        let claimed = text.matches("claimed").count();
        check(!text.contains("creating") && claimed == 2, text)
    });
    let ledger = || -> Vec<String> { scene.at_home("configmaps").iter().map(version_of).collect() };
    let before = ledger();
    let labels = [("namespace", &*scene.ns), ("resource", "app")];
    let attempts = operator.metrics().value(ATTEMPTS, &labels).unwrap();
    scene.annotate("Deployment", "app", &[("force-sync", Some("1"))]);
    operator.counts(ATTEMPTS, &labels, attempts + 1.0);
    scene.settle();
    assert_eq!(ledger(), before);
}

#[test]
fn a_new_leader_writes_nothing() {
    let scene = scene();
    let run = |name: &str| {
        scene
            .run()
            .flag("leader-elect", "true")
            .env("POD_NAME", name)
            .start()
    };
    let first = run("first");
    synced(&scene);
    let second = run("second");
    second.says(&["waiting for the lease"]);
    let versions = || {
        [("Deployment", "app"), ("Secret", "own"), ("Secret", "db")]
            .map(|(kind, name)| version_of(&scene.get(kind, name)))
    };
    let before = (versions(), scene.vault_writes(), kube_writes(&scene));
    first.stop();
    for name in ["app", "own"] {
        second.counts(ATTEMPTS, &[("namespace", &*scene.ns), ("resource", name)], 1.0);
    }
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!((versions(), scene.vault_writes(), kube_writes(&scene)), before);
}
