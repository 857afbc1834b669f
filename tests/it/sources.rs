//! What counts as a source, and which Secrets of it.

use serde_json::{Value, json};

use testkit::{Scene, env_from, ours};

fn container(fields: Value) -> Value {
    let mut container = json!({"name": "main", "image": "none"});
    container
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    container
}

fn env(secret: &str, optional: bool) -> Value {
    json!([{"name": "X", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k", "optional": optional}}}])
}

#[test]
fn every_secret_that_a_pod_reads_is_discovered_as_a_document_of_its_own() {
    let scene = Scene::new();
    let secrets = [
        "env",
        "env-from",
        "volume",
        "projected",
        "init-env",
        "init-env-from",
        "sidecar",
        "second-container",
    ];
    for secret in secrets {
        scene.secret(secret, &[("k", secret), ("other", "too")]);
    }
    scene.secret("unused", &[("k", "v")]);
    let sidecar =
        json!({"name": "sidecar", "image": "none", "restartPolicy": "Always", "env": env("sidecar", false)});
    let pod = json!({
        "initContainers": [
            {"name": "i1", "image": "none", "env": env("init-env", false)},
            {"name": "i2", "image": "none", "envFrom": [{"secretRef": {"name": "init-env-from"}}]},
            sidecar,
        ],
        "containers": [
            container(json!({
                "env": env("env", false),
                // Named twice: still one document.
                "envFrom": [{"secretRef": {"name": "env-from"}}, {"secretRef": {"name": "env"}}, {"configMapRef": {"name": "unused"}}],
            })),
            {"name": "second", "image": "none", "env": env("second-container", false)},
        ],
        "volumes": [
            {"name": "v1", "secret": {"secretName": "volume", "items": [{"key": "k", "path": "p"}]}},
            {"name": "v2", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "unused"}}]}},
        ],
    });
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let operator = scene.start();
    for secret in secrets {
        scene
            .doc(&format!("app/{secret}"))
            .becomes(json!({"k": secret, "other": "too"}))
            .is_at_version(1);
    }
    assert_eq!(scene.doc("app/unused").data(), None);
    assert_eq!(scene.doc("app").data(), None);
    let labels = [("namespace", &*scene.ns), ("resource", "app")];
    operator.counts("vault_sync_operator_secrets_discovered", &labels, 8.0);
}

#[test]
fn an_optional_secret_that_is_missing_contributes_nothing_and_is_no_failure() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let pod = json!({
        "containers": [container(json!({"env": env("maybe-env", true), "envFrom": [
            {"secretRef": {"name": "db"}}, {"secretRef": {"name": "maybe-from", "optional": true}},
        ]}))],
        "volumes": [
            {"name": "v1", "secret": {"secretName": "maybe-volume", "optional": true}},
            {"name": "v2", "projected": {"sources": [{"secret": {"name": "maybe-projected", "optional": true}}]}},
        ],
    });
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.settle();
    assert!(
        scene.events("app").iter().all(|event| event.kind == "Normal"),
        "{:?}",
        scene.events("app")
    );

    scene.secret("maybe-env", &[("k", "now")]);
    scene.doc("app/maybe-env").becomes(json!({"k": "now"}));
    scene.delete("Secret", "maybe-env");
    scene.doc("app/maybe-env").goes();
}

#[test]
fn an_annotated_secret_goes_whole_to_its_path() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        ours(&[("path", &scene.path("db"))]),
        &[("user", b"app"), ("password", b"one")],
    );
    let _operator = scene.start();
    scene
        .doc("db")
        .becomes(json!({"user": "app", "password": "one"}))
        .is_at_version(1);
    scene.set_key("db", "password", "two");
    scene
        .doc("db")
        .becomes(json!({"user": "app", "password": "two"}))
        .is_at_version(2);
}

#[test]
fn an_annotated_secret_with_a_list_may_name_any_secret_of_its_namespace() {
    let scene = Scene::new();
    scene.secret("other", &[("k", "from the other")]);
    let list = r#"[{"name": "db", "keys": ["user"]}, {"name": "other", "prefix": "OTHER_"}]"#;
    let annotations = ours(&[("path", &scene.path("db")), ("secrets", list)]);
    scene.create_secret("db", annotations, &[("user", b"app"), ("password", b"one")]);
    let _operator = scene.start();
    scene
        .doc("db")
        .becomes(json!({"user": "app", "OTHER_k": "from the other"}));
    scene.set_key("other", "k", "changed");
    scene
        .doc("db")
        .becomes(json!({"user": "app", "OTHER_k": "changed"}));
}

#[test]
fn an_annotation_that_is_added_later_turns_sync_on() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment("app", json!({}), env_from(&["db"]));
    let _operator = scene.start();
    scene.settle();
    assert_eq!(scene.doc("app/db").data(), None);
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("app")))]);
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("path", Some(&scene.path("db")))]);
    scene.doc("db").becomes(json!({"k": "v"}));
}

#[test]
fn what_is_not_annotated_is_left_alone_and_so_are_annotations_of_the_pod_template() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment("plain", json!({}), env_from(&["db"]));
    let template =
        json!({"spec": {"template": {"metadata": {"annotations": ours(&[("path", &scene.path("plain"))])}}}});
    let made = scene.patch("Deployment", "plain", template);
    let _operator = scene.start();
    scene.settle();
    assert_eq!(scene.doc("plain/db").data(), None);
    assert_eq!(
        scene.get("Deployment", "plain")["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    assert!(scene.finalizers("Secret", "db").is_empty());
}

#[test]
fn a_secret_that_the_pod_template_gains_or_loses_gains_or_loses_its_document() {
    let scene = Scene::new();
    for secret in ["a", "b"] {
        scene.secret(secret, &[("k", secret)]);
    }
    scene.app("app", &["a"]);
    let _operator = scene.start();
    scene.doc("app/a").becomes(json!({"k": "a"}));
    scene.patch(
        "Deployment",
        "app",
        json!({"spec": {"template": {"spec": env_from(&["b"])}}}),
    );
    scene.doc("app/b").becomes(json!({"k": "b"}));
    scene.doc("app/a").goes();
}

#[test]
fn discover_widens_to_image_pull_secrets_and_csi_volumes() {
    let scene = Scene::new();
    for secret in ["pull", "csi"] {
        scene.secret(secret, &[("k", secret)]);
    }
    let mut pod = env_from(&[]);
    pod["imagePullSecrets"] = json!([{"name": "pull"}]);
    pod["volumes"] =
        json!([{"name": "v", "csi": {"driver": "d.example", "nodePublishSecretRef": {"name": "csi"}}}]);
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let narrow = scene.start();
    scene.settle();
    assert_eq!(scene.doc("app/pull").data(), None);
    assert_eq!(scene.doc("app/csi").data(), None);
    narrow.stop();
    let _wide = scene.run().flag("discover", "image-pull-secrets,csi").start();
    scene.doc("app/pull").becomes(json!({"k": "pull"}));
    scene.doc("app/csi").becomes(json!({"k": "csi"}));
}

#[test]
fn a_deployment_with_300_references_is_synced_and_cleaned_up_whole() {
    let scene = Scene::new();
    let names: Vec<String> = (0..300).map(|i| format!("s{i}")).collect();
    for name in &names {
        scene.secret(name, &[("k", name)]);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), env_from(&names));
    let list: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "keys": ["k"], "prefix": format!("{name}_")}))
        .collect();
    let annotations = ours(&[
        ("path", &scene.path("listed")),
        ("secrets", &Value::from(list).to_string()),
    ]);
    scene.deployment("listed", annotations, env_from(&[]));
    let _operator = scene.start();
    let merged: serde_json::Map<String, Value> = names
        .iter()
        .map(|name| (format!("{name}_k"), json!(name)))
        .collect();
    scene.doc("listed").becomes(merged.into()).is_at_version(1);
    for name in &names {
        scene
            .doc(&format!("app/{name}"))
            .becomes(json!({"k": name}))
            .is_at_version(1);
    }
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    for name in &names {
        scene.doc(&format!("app/{name}")).goes();
    }
}

#[test]
fn a_document_that_somebody_made_while_its_secret_was_missing_is_not_taken() {
    let scene = Scene::new();
    scene.listing("app", r#"[{"name": "late"}]"#);
    let _operator = scene.start();
    scene.event("app", "SyncFailed", &["late"]);
    scene.settle();
    scene.doc("app").write(json!({"k": "by hand"}));
    scene.secret("late", &[("k", "v")]);
    scene.event("app", "OwnershipConflict", &["exists already"]);
    scene.doc("app").holds(json!({"k": "by hand"})).is_at_version(1);
}

#[test]
fn a_reference_that_can_name_no_secret_reaches_no_api() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    // The API server checks the names in `env` and `envFrom`, and not those of volumes.
    let pod = json!({
        "containers": [{"name": "main", "image": "none", "envFrom": [{"secretRef": {"name": "db"}}]}],
        "volumes": [
            {"name": "v", "secret": {"secretName": "db?pretty=true"}},
            {"name": "w", "secret": {"secretName": "a/b"}},
        ],
    });
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.settle();
    let mut asked = scene.vault.requests();
    asked.retain(|request| request.contains("pretty") || request.ends_with("/a/b"));
    assert_eq!(asked, [""; 0]);
}
