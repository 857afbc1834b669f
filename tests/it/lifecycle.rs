//! Starts, ends, crashes, successors.

use serde_json::{Value, json};

use testkit::{Scene, check, env_from, eventually, ours};

#[test]
fn sigterm_ends_it_with_0_and_its_token_is_revoked() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    assert_eq!(scene.logins().len(), 1);
    assert_eq!(operator.stop().code(), Some(0));
    assert!(scene.logins().is_empty());
}

#[test]
fn sigterm_in_the_midst_of_work_lets_it_finish_or_leaves_it_to_the_next() {
    let scene = Scene::new();
    let names: Vec<String> = (0..60).map(|i| format!("s{i}")).collect();
    for name in &names {
        scene.secret(name, &[("k", "v")]);
        scene.deployment(name, ours(&[("path", &scene.path(name))]), env_from(&[name]));
    }
    let operator = scene.start();
    scene.doc("s0/s0").becomes(json!({"k": "v"}));
    assert_eq!(operator.stop().code(), Some(0));
    let _next = scene.start();
    for name in &names {
        scene
            .doc(&format!("{name}/{name}"))
            .becomes(json!({"k": "v"}))
            .is_at_version(1);
    }
}

#[test]
fn sigterm_ends_it_with_0_when_vault_is_away() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.vault.cut();
    scene.set_key("db", "k", "two");
    operator.probe("/readyz", 500);
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn sigterm_ends_it_with_0_before_anything_could_be_reached() {
    let scene = Scene::new();
    scene.vault.cut();
    scene.kube_wire.cut();
    let operator = scene.start();
    operator.probe("/livez", 200);
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn a_crash_in_the_midst_of_work_loses_nothing() {
    let scene = Scene::new();
    let names: Vec<String> = (0..40).map(|i| format!("s{i}")).collect();
    for name in &names {
        scene.secret(name, &[("k", "v")]);
    }
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), env_from(&list));
    let first = scene.start();
    eventually("the first document", || {
        let any = names
            .iter()
            .any(|name| scene.doc(&format!("app/{name}")).data().is_some());
        check(any, "none")
    });
    first.kill();
    let second = scene.start();
    for name in &names {
        scene
            .doc(&format!("app/{name}"))
            .becomes(json!({"k": "v"}))
            .is_at_version(1);
    }
    scene.delete("Deployment", "app");
    eventually("the first document goes", || {
        let any = names
            .iter()
            .any(|name| scene.doc(&format!("app/{name}")).data().is_none());
        check(any, "none")
    });
    second.kill();
    let _third = scene.start();
    scene.vanishes("Deployment", "app");
    for name in &names {
        scene.doc(&format!("app/{name}")).goes();
    }
}

#[test]
fn the_ledger_is_a_configmap_in_the_operators_namespace_and_holds_no_value() {
    let scene = Scene::new();
    scene.own("db", "canary-value-1234");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "canary-value-1234"}));
    let maps = scene.at_home("configmaps");
    let name = |map: &Value| map["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let ledger: Vec<&Value> = maps.iter().filter(|map| name(map).contains("ledger")).collect();
    assert!(
        !ledger.is_empty(),
        "{:?}",
        maps.iter().map(name).collect::<Vec<_>>()
    );
    let text = Value::from(maps.clone()).to_string();
    assert!(
        text.contains(&format!("{}/db", scene.ns)),
        "the document is in it: {text}"
    );
    for leak in ["canary-value-1234", "Y2FuYXJ5LXZhbHVlLTEyMzQ"] {
        assert!(!text.contains(leak), "{text}");
    }
}

#[test]
fn every_log_line_is_one_json_object() {
    let scene = Scene::new();
    scene.own("db", "v");
    scene.create_secret("bad", ours(&[("path", "secret")]), &[("k", b"v")]);
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.event("bad", "InvalidAnnotation", &[]);
    operator.says(&["bad", "mount"]);
    for line in operator.log().lines() {
        assert!(
            serde_json::from_str::<Value>(line).is_ok_and(|json| json.is_object()),
            "{line}"
        );
    }
}

#[test]
fn a_source_that_could_not_be_read_is_not_forgotten() {
    let scene = Scene::new();
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", scene.ns);
    let bind = |name: &str, kind: &str, role: &str| {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": scene.home}],
        });
        scene
            .bed
            .kube
            .post(&format!("{rbac}/rolebindings"), &binding)
            .ok();
    };
    // It may see that there is a Deployment, but not read it.
    let full = format!("{rbac}/rolebindings/{}-operator-it-sources", scene.ns);
    scene.bed.kube.delete(&full).ok();
    let narrow = json!({"metadata": {"name": "narrow"}, "rules": [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch", "patch"]},
    ]});
    scene.bed.kube.post(&format!("{rbac}/roles"), &narrow).ok();
    bind("narrow", "Role", "narrow");
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let operator = scene.run().flag("resync-interval", "1s").start();
    let failed = [("resource", "app"), ("result", "failed")];
    operator.counts("vault_sync_operator_sync_attempts_total", &failed, 1.0);
    bind("full", "ClusterRole", "it-sources");
    scene.doc("app/db").becomes(json!({"k": "v"}));
}

#[test]
fn nothing_new_is_written_to_vault_while_the_ledger_cannot_be_written() {
    let scene = Scene::new();
    scene.own("old", "v");
    let _operator = scene.start();
    scene.doc("old").becomes(json!({"k": "v"}));
    scene.settle();
    let rbac = format!(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
        scene.home
    );
    let name = format!("{}-operator-it-home", scene.ns);
    let binding = scene.bed.kube.get(&format!("{rbac}/{name}")).ok();
    scene.bed.kube.delete(&format!("{rbac}/{name}")).ok();
    scene.own("new", "v");
    scene.event("new", "SyncFailed", &["ledger cannot be written"]);
    // What exists already is still updated.
    scene.set_key("old", "k", "w");
    scene.doc("old").becomes(json!({"k": "w"}));
    assert_eq!(scene.doc("new").data(), None);
    let again = json!({
        "metadata": {"name": name},
        "roleRef": binding["roleRef"],
        "subjects": binding["subjects"],
    });
    scene.bed.kube.post(&rbac, &again).ok();
    scene.doc("new").becomes(json!({"k": "v"}));
}
