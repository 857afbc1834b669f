//! The ledger: what it says, what it survives, and what happens without it.

use std::sync::Arc;

use serde_json::{Value, json};

use testkit::{Gate, Plan, Scene, Wires, check, env_from, eventually, ours};

const EPOCH: &str = "vault-sync.io/epoch";

/// The one ConfigMap of a small ledger.
fn only(scene: &Scene) -> Value {
    let maps = scene.ledger();
    assert_eq!(maps.len(), 1, "{maps:#?}");
    maps[0].clone()
}

fn place(scene: &Scene) -> String {
    scene.configmap(only(scene)["metadata"]["name"].as_str().unwrap())
}

/// Keys of the ledger's lines.
fn keys(scene: &Scene) -> Vec<String> {
    let maps = scene.ledger();
    let data = maps.iter().filter_map(|map| map["data"].as_object());
    data.flat_map(|data| data.keys().cloned()).collect()
}

#[test]
fn an_entry_tells_the_document_its_source_and_state_and_nothing_else() {
    let scene = Scene::new();
    scene.secret("db", &[("password", "canary-3c5e91")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"password": "canary-3c5e91"}));
    let entry = eventually("the ledger knows that the claim is on it", || {
        let entry = scene.entries()["app/db"].clone();
        check(entry["claimed"] == true, &entry).map(|()| entry)
    });
    let since = entry["since"].as_i64().unwrap();
    assert!(since > 1_700_000_000, "{since}");
    assert_eq!(
        entry,
        json!({
            "mount": "secret", "path": format!("{}/app/db", scene.ns),
            "kind": "Deployment", "namespace": scene.ns, "name": "app",
            "uid": scene.get("Deployment", "app")["metadata"]["uid"],
            "state": "written", "since": since, "deletion": "soft", "claimed": true,
        })
    );
    assert_eq!(only(&scene)["metadata"]["labels"]["vault-sync.io/ledger"], "true");
    assert!(!only(&scene).to_string().contains("canary"));
}

#[test]
fn an_entry_goes_with_its_document() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.entry_is("db", None);
}

#[test]
fn garbage_in_it_is_reported_survived_and_taken_out() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    first.stop();
    let good = keys(&scene);
    // Somebody else's document, in an entry that gives it to a source that is gone.
    scene.doc("theirs").write(json!({"k": "theirs"}));
    let mut forged = scene.entries()["db"].clone();
    forged["path"] = json!(format!("{}/theirs", scene.ns));
    forged["name"] = json!("gone");
    let mut climbing = forged.clone();
    climbing["path"] = json!("../sys/policy");
    let garbage = json!({"data": {
        "text": "no JSON at all",
        "empty": "",
        "00000000000000000000000000000000": forged.to_string(),
        "11111111111111111111111111111111": climbing.to_string(),
    }});
    scene.bed.kube.patch(&place(&scene), &garbage).ok();

    let second = scene.start();
    second.says(&["ERROR", "ledger", "cannot be read", "text"]);
    second.says(&["ERROR", "ledger", "another document's key", "theirs"]);
    scene.settle();
    eventually("only what was good is left, beside the marker's", || {
        let mut left = keys(&scene);
        left.retain(|key| {
            good.contains(key) || key.len() != 32 || key.starts_with("0000") || key.starts_with("1111")
        });
        check(left == good, format!("{left:?}"))
    });
    scene.doc("theirs").holds(json!({"k": "theirs"})).is_at_version(1);
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
}

#[test]
fn an_operator_that_ends_in_good_order_takes_its_epoch_off() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    let epoch = only(&scene)["metadata"]["annotations"][EPOCH].clone();
    assert!(
        epoch
            .as_str()
            .is_some_and(|epoch| epoch.starts_with("operator-0")),
        "{epoch}"
    );
    assert_eq!(operator.stop().code(), Some(0));
    assert_eq!(only(&scene)["metadata"]["annotations"][EPOCH], Value::Null);
}

#[test]
fn an_operator_that_ends_leaves_anothers_epoch_where_it_is() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    let other = json!({"metadata": {"annotations": {EPOCH: "another-operator"}}});
    scene.bed.kube.patch(&place(&scene), &other).ok();
    operator.stop();
    assert_eq!(only(&scene)["metadata"]["annotations"][EPOCH], "another-operator");
}

#[test]
fn deleted_while_nothing_changes_it_is_written_anew_when_the_operator_ends() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    scene.settle();
    scene.bed.kube.delete(&place(&scene)).ok();
    assert_eq!(operator.stop().code(), Some(0));
    scene.entry_is("db", Some("written"));
    assert_eq!(only(&scene)["metadata"]["annotations"][EPOCH], Value::Null);
}

#[test]
fn deleted_while_it_was_empty_it_is_there_again_when_the_operator_ends() {
    let scene = Scene::new();
    let operator = scene.start();
    operator.says(&["ledger loaded"]);
    scene.bed.kube.delete(&place(&scene)).ok();
    assert_eq!(operator.stop().code(), Some(0));
    assert_eq!(only(&scene)["metadata"]["annotations"][EPOCH], Value::Null);
}

#[test]
fn deleted_while_the_operator_runs_it_is_written_anew_whole_at_the_next_change() {
    let scene = Scene::new();
    scene.own("one", "v");
    scene.own("two", "v");
    let operator = scene.start();
    scene.entry_is("one", Some("written"));
    scene.entry_is("two", Some("written"));
    scene.settle();
    let lost = place(&scene);
    scene.bed.kube.delete(&lost).ok();
    scene.own("three", "v");
    scene.doc("three").becomes(json!({"k": "v"}));
    for name in ["one", "two", "three"] {
        scene.entry_is(name, Some("written"));
        scene.doc(name).is_at_version(1);
    }
    operator.says(&["WARN", "ledger's ConfigMap is gone"]);
}

#[test]
fn edited_while_the_operator_runs_it_is_put_right_at_the_next_change() {
    let scene = Scene::new();
    scene.own("kept", "v");
    scene.own("removed", "v");
    let operator = scene.start();
    scene.entry_is("kept", Some("written"));
    scene.entry_is("removed", Some("written"));
    scene.settle();
    let map = only(&scene);
    let key_of = |document: &str| -> String {
        let path = format!("{}/{document}\"", scene.ns);
        let data = map["data"].as_object().unwrap();
        let found = data
            .iter()
            .find(|(_, line)| line.as_str().unwrap().contains(&path));
        found.unwrap().0.clone()
    };
    let edit = json!({"data": {
        key_of("removed"): null, key_of("kept"): "edited", "added": "x",
    }});
    scene.bed.kube.patch(&place(&scene), &edit).ok();
    scene.own("new", "v");
    for name in ["kept", "removed", "new"] {
        scene.entry_is(name, Some("written"));
    }
    operator.says(&["WARN", "somebody has changed the ledger's ConfigMap"]);
    eventually("what was added is taken out", || {
        let keys = keys(&scene);
        check(!keys.contains(&"added".to_owned()), format!("{keys:?}"))
    });
    scene.delete("Secret", "removed");
    scene.vanishes("Secret", "removed");
    scene.doc("removed").goes();
}

#[test]
fn lost_with_a_source_that_goes_the_claims_still_give_its_documents_away() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.doc("app/theirs").write(json!({"k": "theirs"}));
    let first = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.settle();
    first.stop();
    scene.bed.kube.delete(&place(&scene)).ok();
    scene.delete("Deployment", "app");

    let _second = scene.start();
    scene.vanishes("Deployment", "app");
    assert_eq!(scene.doc("app/db").data(), None);
    scene
        .doc("app/theirs")
        .holds(json!({"k": "theirs"}))
        .is_at_version(1);
}

#[test]
fn lost_while_the_operator_was_down_the_claims_give_the_documents_back() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    let first = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    scene.settle();
    first.stop();
    scene.bed.kube.delete(&place(&scene)).ok();

    let _second = scene.start();
    scene.entry_is("app/db", Some("written"));
    scene.entry_is("own", Some("written"));
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
    scene.delete("Deployment", "app");
    scene.delete("Secret", "own");
    scene.vanishes("Deployment", "app");
    scene.vanishes("Secret", "own");
    assert_eq!(scene.doc("app/db").data(), None);
    assert_eq!(scene.doc("own").data(), None);
}

#[test]
fn without_its_label_it_is_found_by_its_name() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    first.stop();
    let bare = json!({"metadata": {"labels": null}});
    scene.bed.kube.patch(&place(&scene), &bare).ok();
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": null}}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    let _second = scene.start();
    scene.doc("db").goes();
    assert_eq!(only(&scene)["metadata"]["labels"]["vault-sync.io/ledger"], "true");
}

#[test]
fn an_operator_whose_ledger_another_has_taken_ends_and_says_so() {
    let scene = Scene::new();
    scene.own("one", "v");
    let mut first = scene.start();
    scene.doc("one").becomes(json!({"k": "v"}));
    scene.settle();
    scene
        .bed
        .kube
        .patch(
            &place(&scene),
            &json!({"metadata": {"annotations": {EPOCH: "another-operator"}}}),
        )
        .ok();
    scene.own("two", "v");
    let status = first.ends();
    assert!(!status.success(), "{status}");
    first.says(&[
        "ERROR",
        "another operator (another-operator) has taken the ledger over",
    ]);
    assert_eq!(
        scene.doc("two").data(),
        None,
        "nothing is written without the ledger"
    );
    assert_eq!(only(&scene)["metadata"]["annotations"][EPOCH], "another-operator");
}

#[test]
fn of_two_operators_without_an_election_the_later_one_stays() {
    let scene = Scene::new();
    scene.own("one", "v");
    let mut first = scene.run().env("POD_NAME", "first").start();
    scene.doc("one").becomes(json!({"k": "v"}));
    scene.settle();
    let _second = scene.run().env("POD_NAME", "second").start();
    eventually("the second has put its epoch on the ledger", || {
        let epoch = only(&scene)["metadata"]["annotations"][EPOCH].clone();
        check(
            epoch.as_str().is_some_and(|epoch| epoch.starts_with("second")),
            epoch,
        )
    });
    scene.own("two", "v");
    assert!(!first.ends().success());
    first.says(&["another operator (second", "has taken the ledger over"]);
    scene.doc("two").becomes(json!({"k": "v"})).is_at_version(1);
    scene.set_key("one", "k", "w");
    scene.doc("one").becomes(json!({"k": "w"})).is_at_version(2);
}

#[test]
fn a_write_of_it_that_lands_after_its_next_try_is_refused() {
    let scene = Scene::new();
    let wires = Wires::new(&scene.bed, &Arc::new(Plan::new(&scene.ns, None)));
    let kube = Gate::to(wires.kube_port);
    let _operator = scene.run().over_http(&kube).flag("finalizers", "false").start();
    scene.settle();
    let writes = format!("PATCH /api/v1/namespaces/{}/configmaps/", scene.home);
    let tries = || {
        kube.requests()
            .iter()
            .filter(|line| line.starts_with(&writes))
            .count()
    };
    let before = tries();
    kube.hold(&writes);
    scene.own("db", "v");
    kube.holds(1);
    scene.delete("Secret", "db");
    kube.behave();
    kube.cut();
    kube.restore();
    eventually("it is tried again", || check(tries() >= before + 2, tries()));
    scene.settle();
    // The next try had nothing to say any more, but it must not leave the ledger as the lost one knew it.
    assert_eq!(kube.land(), ["HTTP/1.1 409 Conflict"]);
    scene.entry_is("db", None);
}

#[test]
fn documents_go_while_it_cannot_be_written_and_leave_it_afterwards() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    let rbac = format!(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
        scene.home
    );
    let name = format!("{}-operator-it-home", scene.ns);
    let binding = scene.bed.kube.get(&format!("{rbac}/{name}")).ok();
    scene.bed.kube.delete(&format!("{rbac}/{name}")).ok();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    assert!(scene.entries().contains_key("db"));
    let again = json!({
        "metadata": {"name": name}, "roleRef": binding["roleRef"], "subjects": binding["subjects"],
    });
    scene.bed.kube.post(&rbac, &again).ok();
    scene.entry_is("db", None);
}

#[test]
fn what_is_to_happen_to_a_document_is_kept_in_it() {
    let scene = Scene::new();
    for (name, annotation) in [
        ("soft", ("deletion-policy", "soft")),
        ("purge", ("deletion-policy", "purge")),
        ("retain", ("deletion-policy", "retain")),
        ("preserved", ("preserve-on-delete", "true")),
    ] {
        let annotations = ours(&[("path", &scene.path(name)), annotation]);
        scene.create_secret(name, annotations, &[("k", b"v")]);
    }
    let first = scene.start();
    for (name, deletion) in [
        ("soft", "soft"),
        ("purge", "purge"),
        ("retain", "retain"),
        ("preserved", "retain"),
    ] {
        scene.entry_is(name, Some("written"));
        assert_eq!(scene.entries()[name]["deletion"], deletion, "{name}");
    }
    scene.settle();
    first.stop();
    // Deleted past their finalizers: nothing but the ledger remembers what they wished.
    for name in ["soft", "purge", "retain", "preserved"] {
        scene.patch("Secret", name, json!({"metadata": {"finalizers": null}}));
        scene.delete("Secret", name);
        scene.vanishes("Secret", name);
    }
    let _second = scene.start();
    for name in ["soft", "purge", "retain", "preserved"] {
        scene.entry_is(name, None);
    }
    assert_eq!(scene.doc("soft").data(), None);
    scene.doc("soft").undelete(1);
    scene.doc("soft").holds(json!({"k": "v"}));
    assert!(scene.doc("purge").metadata().is_null());
    for name in ["retain", "preserved"] {
        scene.doc(name).holds(json!({"k": "v"})).is_at_version(1);
        assert_eq!(
            scene.doc(name).metadata()["custom_metadata"]["vault-sync.io/released"],
            "true"
        );
    }
}

#[test]
fn however_many_documents_it_holds_no_object_passes_512_kib_and_few_writes_store_them() {
    const SECRETS: usize = 300;
    let scene = Scene::new();
    let names: Vec<String> = (0..SECRETS).map(|number| format!("s{number}")).collect();
    for name in &names {
        scene.secret(name, &[("k", "v")]);
    }
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    // Paths as long as they may be make the ledger large soon.
    let long = format!("{}/{}", "a".repeat(220), "b".repeat(220));
    for app in ["one", "two"] {
        let annotations = ours(&[("path", &scene.path(&format!("{app}/{long}")))]);
        scene.deployment(app, annotations, env_from(&list));
    }
    let first = scene.start();
    let whole = || {
        eventually("the ledger knows all documents", || {
            let entries = scene.entries();
            let written = entries.values().filter(|entry| entry["state"] == "written");
            let (all, written) = (entries.len(), written.count());
            check(
                (all, written) == (2 * SECRETS, 2 * SECRETS),
                format!("{written} of {all}"),
            )
        });
    };
    whole();
    let maps = scene.ledger();
    assert!(maps.len() >= 2, "{}", maps.len());
    for map in &maps {
        let size = map.to_string().len();
        assert!(size <= 512 * 1024, "{}: {size}", map["metadata"]["name"]);
    }
    let stored = |verb: &str| {
        let audit = scene.audit();
        audit
            .iter()
            .filter(|request| request.resource == "configmaps" && request.verb == verb)
            .count()
    };
    assert_eq!(stored("create"), maps.len());
    // How many are stored together depends on how fast the documents are written.
    let patches = stored("patch");
    assert!(
        patches < 2 * SECRETS,
        "{patches} writes for {} documents",
        2 * SECRETS
    );

    scene.settle();
    assert_eq!(first.stop().code(), Some(0));
    let writes = scene.vault_writes();
    // A delete that is cut off on a busy machine is looked at for two client timeouts.
    let second = scene.run().env("VAULT_CLIENT_TIMEOUT", "10s").start();
    second.says(&["ledger loaded", &format!("\"configmaps\":{}", maps.len())]);
    for app in ["one", "two"] {
        let labels = [("namespace", &*scene.ns), ("resource", app)];
        second.counts("vault_sync_operator_sync_attempts_total", &labels, 1.0);
    }
    scene.settle();
    assert_eq!(scene.vault_writes(), writes);
    for app in ["one", "two"] {
        scene.delete("Deployment", app);
        scene.vanishes("Deployment", app);
    }
    eventually("the ledger is empty", || {
        let entries = scene.entries();
        check(entries.is_empty(), entries.len())
    });
    for name in [&names[0], &names[SECRETS - 1]] {
        assert_eq!(scene.doc(&format!("two/{long}/{name}")).data(), None);
    }
}
