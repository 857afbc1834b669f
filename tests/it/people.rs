//! The promises hold against people: one who writes a document by hand a moment before us, one who deletes or
//! undeletes what we manage, one who takes a document over and gives it back, one who renames a workload.

use serde_json::{Value, json};

use testkit::{Answer, Doc, Scene, check, env_from, eventually, ours};

fn metadata_path(scene: &Scene, document: &str) -> String {
    format!("/v1/secret/metadata/{}/{document}", scene.ns)
}

/// Vault's words for a write that came second.
fn mismatch() -> Answer {
    Answer::errors(
        400,
        &["check-and-set parameter did not match the current version"],
    )
}

/// An annotated Secret with one key, and further annotations.
fn secret(scene: &Scene, name: &str, value: &str, further: &[(&str, &str)]) {
    let path = scene.path(name);
    let annotations: Vec<(&str, &str)> = [("path", path.as_str())]
        .into_iter()
        .chain(further.iter().copied())
        .collect();
    scene.create_secret(name, ours(&annotations), &[("k", value.as_bytes())]);
}

/// What the first version of the document `db` holds.
fn first_version_is(scene: &Scene, wanted: Value) {
    let first = format!("/v1/secret/data/{}/db?version=1", scene.ns);
    assert_eq!(scene.bed.vault.get(&first).json()["data"]["data"], wanted);
}

fn claimed(doc: &Doc, name: &str) {
    eventually(format!("the claim of {name} is on it"), || {
        let found = doc.metadata()["custom_metadata"].clone();
        check(found["vault-sync.io/name"] == name, found)
    });
}

#[test]
fn what_a_person_creates_before_our_first_write_is_theirs() {
    let scene = Scene::new();
    let _operator = scene.start();
    scene.settle();
    // The operator finds nothing there, announces the document, and comes second.
    let write = format!("POST /v1/secret/data/{}/db ", scene.ns);
    scene.vault.answer(&write, mismatch());
    scene.own("db", "ours");
    scene.vault.answers(1);
    scene.doc("db").write(json!({"k": "theirs"}));
    scene.vault.behave();
    scene.event(
        "db",
        "OwnershipConflict",
        &["/db", "was not written by this operator"],
    );
    scene.entry_is("db", None);
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(1);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(1);
}

#[test]
fn a_purge_leaves_the_versions_that_were_there_before_us() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "before us"}));
    scene.doc("db").delete();
    let _operator = scene.start();
    secret(&scene, "db", "ours", &[("deletion-policy", "purge")]);
    scene.doc("db").becomes(json!({"k": "ours"})).is_at_version(2);
    claimed(&scene.doc("db"), "db");
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.entry_is("db", None);
    scene.doc("db").is_at_version(2);
    scene.doc("db").undelete(1);
    first_version_is(&scene, json!({"k": "before us"}));
}

#[test]
fn an_adopted_document_is_not_purged_when_the_ledger_is_lost() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "before us"}));
    let run = || scene.run().flag("adopt", "annotated");
    let operator = run().start();
    secret(
        &scene,
        "db",
        "ours",
        &[("deletion-policy", "purge"), ("adopt", "true")],
    );
    scene.doc("db").becomes(json!({"k": "ours"}));
    claimed(&scene.doc("db"), "db");
    operator.stop();
    for map in scene.ledger() {
        let name = map["metadata"]["name"].as_str().unwrap();
        scene.bed.kube.delete(&scene.configmap(name)).ok();
    }
    let _operator = run().start();
    scene.settle();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.entry_is("db", None);
    first_version_is(&scene, json!({"k": "before us"}));
}

#[test]
fn what_stands_after_an_answered_purge_is_somebody_elses() {
    let scene = Scene::new();
    let _operator = scene.start();
    secret(&scene, "db", "ours", &[("deletion-policy", "purge")]);
    scene.doc("db").becomes(json!({"k": "ours"}));
    claimed(&scene.doc("db"), "db");
    scene.settle();
    // The operator learns that it is purged. Whatever stands there now, it is looked at no more.
    let purge = format!("DELETE /v1/secret/metadata/{}/db ", scene.ns);
    let gone = Answer::new(204, &[], "");
    scene.vault.answer(&purge, gone);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.entry_is("db", None);
    assert_eq!(scene.vault.answered(), 1);
    scene.doc("db").holds(json!({"k": "ours"})).is_at_version(1);
}

#[test]
fn a_purge_without_the_right_to_it_takes_the_value_out_of_use_and_stays_pending() {
    let scene = Scene::new();
    let rights = |metadata: &str| {
        let ns = &scene.ns;
        scene.set_policy(&format!(
            r#"path "secret/data/{ns}/*" {{ capabilities = ["create", "read", "update", "delete"] }}
               path "secret/metadata/{ns}/*" {{ capabilities = [{metadata}] }}
               path "secret/delete/{ns}/*" {{ capabilities = ["update"] }}"#
        ));
    };
    rights(r#""create", "read", "update", "patch""#);
    let run = || scene.run().flag("cleanup-timeout", "1s");
    let operator = run().start();
    secret(&scene, "db", "ours", &[("deletion-policy", "purge")]);
    scene.doc("db").becomes(json!({"k": "ours"}));
    claimed(&scene.doc("db"), "db");
    scene.delete("Secret", "db");
    scene.doc("db").goes();
    scene.vanishes("Secret", "db");
    scene.entry_is("db", Some("deleting"));
    assert!(scene.doc("db").metadata().is_object());
    operator.stop();
    rights(r#""create", "read", "update", "patch", "delete""#);
    let _operator = run().start();
    scene.entry_is("db", None);
    assert_eq!(scene.doc("db").metadata(), Value::Null);
}

#[test]
fn another_tools_mark_is_a_claim() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "v"}));
    let theirs =
        json!({"managed-by": "external-secrets", "name": "theirs", "cluster": "blue", "kind": "PushSecret"});
    let body = json!({"custom_metadata": theirs});
    scene.bed.vault.post(&metadata_path(&scene, "db"), &body).ok();
    scene.own("db", "v");
    let _operator = scene.run().flag("adopt", "equal").start();
    scene.event("db", "OwnershipConflict", &["another tool"]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(scene.doc("db").metadata()["custom_metadata"], theirs);
}

#[test]
fn another_tools_mark_on_a_document_that_we_know_is_heard_at_the_next_write() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.start();
    claimed(&scene.doc("db"), "db");
    scene.settle();
    let theirs = json!({"custom_metadata": {"managed-by": "external-secrets"}});
    scene.bed.vault.post(&metadata_path(&scene, "db"), &theirs).ok();
    scene.set_key("db", "k", "two");
    scene.event("db", "OwnershipConflict", &["another tool"]);
    scene.set_key("db", "k", "three");
    scene.settle();
    scene.doc("db").holds(json!({"k": "two"})).is_at_version(2);
    assert_eq!(
        scene.doc("db").metadata()["custom_metadata"],
        theirs["custom_metadata"]
    );
}

#[test]
fn a_users_own_keys_stay_beside_an_adopted_claim() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "v"}));
    let own = json!({"name": "billing", "cluster": "blue", "kind": "database", "released": "2024"});
    let body = json!({"custom_metadata": own});
    scene.bed.vault.post(&metadata_path(&scene, "db"), &body).ok();
    scene.own("db", "v");
    let _operator = scene.run().flag("adopt", "all").start();
    claimed(&scene.doc("db"), "db");
    let found = scene.doc("db").metadata()["custom_metadata"].clone();
    for key in ["name", "cluster", "kind", "released"] {
        assert_eq!(found[key], own[key], "{key}");
    }
    assert_eq!(found["vault-sync.io/adopted"], "true");
}

#[test]
fn what_a_person_writes_where_our_document_was_deleted_is_theirs() {
    let scene = Scene::new();
    let _operator = scene.start();
    scene.own("db", "ours");
    scene.doc("db").becomes(json!({"k": "ours"}));
    claimed(&scene.doc("db"), "db");
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.entry_is("db", None);
    scene.doc("db").write(json!({"k": "theirs"}));
    scene.own("db", "ours again");
    scene.event("db", "OwnershipConflict", &["/db"]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(2);
}

#[test]
fn a_source_that_comes_back_has_its_deleted_document_again() {
    let scene = Scene::new();
    let _operator = scene.start();
    for version in [1, 2] {
        secret(
            &scene,
            "db",
            "v",
            &[("deletion-policy", if version == 1 { "soft" } else { "purge" })],
        );
        scene.doc("db").becomes(json!({"k": "v"})).is_at_version(version);
        claimed(&scene.doc("db"), "db");
        scene.delete("Secret", "db");
        scene.vanishes("Secret", "db");
        scene.doc("db").goes();
        scene.entry_is("db", None);
    }
    // All of its versions were ours.
    assert_eq!(scene.doc("db").metadata(), Value::Null);
}

#[test]
fn a_denial_concerns_the_path_that_it_met() {
    let scene = Scene::new();
    let ns = &scene.ns;
    scene.set_policy(&format!(
        r#"path "secret/data/{ns}/*" {{ capabilities = ["create", "read", "update", "delete"] }}
           path "secret/metadata/{ns}/*" {{ capabilities = ["create", "read", "update", "patch"] }}
           path "secret/metadata/{ns}/closed" {{ capabilities = ["deny"] }}
           path "secret/delete/{ns}/*" {{ capabilities = ["update"] }}"#
    ));
    let operator = scene.start();
    scene.own("closed", "v");
    scene.doc("closed").becomes(json!({"k": "v"}));
    operator.says(&["carries no claim", "closed"]);
    scene.own("open", "v");
    scene.doc("open").becomes(json!({"k": "v"}));
    claimed(&scene.doc("open"), "open");
    assert_eq!(scene.doc("closed").metadata()["custom_metadata"], Value::Null);
    scene.set_key("closed", "k", "w");
    scene.doc("closed").becomes(json!({"k": "w"}));
}

#[test]
fn who_loses_a_document_is_told_and_has_it_back_when_it_is_given_up() {
    for mount in ["secret", "kv1"] {
        let scene = Scene::new();
        let path = match mount {
            "secret" => scene.path("shared"),
            _ => format!("kv1/{}/shared", scene.ns),
        };
        let document = || scene.doc_in(mount, &format!("{}/shared", scene.ns));
        let _operator = scene.run().flag("adopt", "annotated").start();
        scene.create_secret("first", ours(&[("path", &path)]), &[("k", b"first")]);
        document().becomes(json!({"k": "first"}));
        scene.event("first", "Synced", &["shared"]);
        let taking = ours(&[("path", &path), ("adopt", "true")]);
        scene.create_secret("second", taking, &[("k", b"second")]);
        document().becomes(json!({"k": "second"}));
        scene.event("first", "OwnershipConflict", &["second"]);
        scene.annotate("Secret", "second", &[("path", None)]);
        document().becomes(json!({"k": "first"}));
    }
}

#[test]
fn a_rename_is_seamless() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    // Longer than this test waits for anything: nothing here may be left to the timeout.
    let _operator = scene.run().flag("cleanup-timeout", "10m").start();
    let path = scene.path("app");
    let deploy = |name: &str| scene.deployment(name, ours(&[("path", &path)]), env_from(&["db"]));
    deploy("old");
    scene.doc("app/db").becomes(json!({"k": "v"}));
    eventually("the finalizer is on it", || {
        let finalizers = scene.finalizers("Deployment", "old");
        check(finalizers.len() == 1, finalizers.len())
    });
    claimed(&scene.doc("app/db"), "old");
    scene.settle();
    // The successor's pass has the document's lock, and looks at it, when the old one's deletion comes.
    let look = format!("GET /v1/secret/data/{}/app/db ", scene.ns);
    let before = scene.vault.requests().len();
    scene.vault.stall();
    deploy("new");
    eventually("the successor looks at the document", || {
        let requests = scene.vault.requests();
        check(
            requests[before..].iter().any(|request| look.starts_with(request)),
            requests.len(),
        )
    });
    scene.delete("Deployment", "old");
    eventually("the deletion has begun", || {
        let deleting = scene.get("Deployment", "old")["metadata"]["deletionTimestamp"].clone();
        check(deleting.is_string(), deleting)
    });
    scene.vault.flow();
    scene.vanishes("Deployment", "old");
    scene.event("new", "Synced", &["app/db"]);
    claimed(&scene.doc("app/db"), "new");
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_deletion_does_not_wait_for_a_pass_that_hangs() {
    let scene = Scene::new();
    let secrets = ["s0", "s1", "s2", "s3"];
    for name in secrets {
        scene.secret(name, &[("k", "v")]);
    }
    // Each of the four writes would hang for half a minute.
    let _operator = scene
        .run()
        .env("VAULT_CLIENT_TIMEOUT", "30s")
        .flag("cleanup-timeout", "3s")
        .start();
    scene.settle();
    scene
        .vault
        .hold(&format!("POST /v1/secret/data/{}/app/", scene.ns));
    scene.app("app", &secrets);
    scene.vault.holds(1);
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    // What was on its way arrives: it is no orphan, but taken away when it can be.
    let states: Vec<Value> = scene
        .entries()
        .into_values()
        .map(|entry| entry["state"].clone())
        .collect();
    assert!(!states.is_empty(), "the ledger knows what may have been written");
}

#[test]
fn a_write_that_a_deletion_cut_off_is_no_orphan() {
    let scene = Scene::new();
    let _operator = scene
        .run()
        .env("VAULT_CLIENT_TIMEOUT", "3s")
        .flag("cleanup-timeout", "1s")
        .start();
    scene.settle();
    scene
        .vault
        .hold(&format!("POST /v1/secret/data/{}/db ", scene.ns));
    scene.own("db", "v");
    scene.vault.holds(1);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.vault.behave();
    assert_eq!(scene.vault.land().len(), 1);
    scene.doc("db").holds(json!({"k": "v"}));
    scene.doc("db").goes();
    scene.entry_is("db", None);
}

#[test]
fn a_pending_delete_is_not_given_up_because_its_mount_seems_to_be_missing() {
    for answer in [
        Answer::errors(404, &["no handler for route"]),
        Answer::new(
            200,
            &[],
            r#"{"data":{"path":"secret/","type":"transit","options":null}}"#,
        ),
    ] {
        let scene = Scene::new();
        let run = || scene.run().flag("cleanup-timeout", "1s");
        let operator = run().start();
        scene.own("db", "v");
        scene.doc("db").becomes(json!({"k": "v"}));
        scene.settle();
        operator.stop();
        scene.vault.answer("GET /v1/sys/internal/ui/mounts/", answer);
        let operator = run().start();
        scene.delete("Secret", "db");
        scene.vanishes("Secret", "db");
        scene.entry_is("db", Some("deleting"));
        operator.stop();
        scene.doc("db").holds(json!({"k": "v"}));
        scene.vault.behave();
        let _operator = run().start();
        scene.doc("db").goes();
        scene.entry_is("db", None);
    }
}

/// Somebody has purged our document and keeps one of their own in its place.
#[test]
fn a_document_in_the_place_of_ours_is_not_deleted_with_our_source() {
    for policy in ["soft", "purge"] {
        let scene = Scene::new();
        let _operator = scene.start();
        secret(&scene, "db", "ours", &[("deletion-policy", policy)]);
        scene.doc("db").becomes(json!({"k": "ours"}));
        eventually("the ledger knows that the claim is on it", || {
            let entry = scene.entries()["db"].clone();
            check(entry["claimed"] == true, entry)
        });
        scene.bed.vault.delete(&metadata_path(&scene, "db")).ok();
        scene.doc("db").write(json!({"k": "theirs"}));
        scene.doc("db").write(json!({"k": "theirs, again"}));
        scene.delete("Secret", "db");
        scene.vanishes("Secret", "db");
        scene.event("db", "PossibleOrphan", &["/db"]);
        scene.entry_is("db", None);
        scene
            .doc("db")
            .holds(json!({"k": "theirs, again"}))
            .is_at_version(2);
    }
}

#[test]
fn a_pending_purge_leaves_what_somebody_writes_meanwhile() {
    for claims in [true, false] {
        let scene = Scene::new();
        let ns = &scene.ns;
        let metadata = if claims {
            format!(
                r#"path "secret/metadata/{ns}/*" {{ capabilities = ["create", "read", "update", "patch"] }}"#
            )
        } else {
            String::new()
        };
        scene.set_policy(&format!(
            r#"path "secret/data/{ns}/*" {{ capabilities = ["create", "read", "update", "delete"] }}
               path "secret/delete/{ns}/*" {{ capabilities = ["update"] }}
               {metadata}"#
        ));
        let run = || scene.run().flag("cleanup-timeout", "1s");
        let operator = run().start();
        secret(&scene, "db", "ours", &[("deletion-policy", "purge")]);
        scene.doc("db").becomes(json!({"k": "ours"}));
        if claims {
            claimed(&scene.doc("db"), "db");
        }
        scene.settle();
        scene.delete("Secret", "db");
        scene.doc("db").goes();
        scene.vanishes("Secret", "db");
        scene.entry_is("db", Some("deleting"));
        operator.stop();
        scene.doc("db").write(json!({"k": "theirs"}));
        let _operator = run().start();
        scene.entry_is("db", None);
        scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(2);
    }
}
