//! What others change in Vault is put right when that is asked for or due, and by nothing else.

use serde_json::{Value, json};

use testkit::{Operator, Scene, check, eventually, ours};

const ATTEMPTS: &str = "vault_sync_operator_sync_attempts_total";
const REPAIRED: &str = "vault_sync_operator_drift_repaired_total";

/// Waits for as many more looks at a source as it takes to say that it is looked at again and again.
fn looked_at(scene: &Scene, operator: &Operator, name: &str, times: f64) {
    let labels = [("namespace", &*scene.ns), ("resource", name)];
    let before = operator.metrics().value(ATTEMPTS, &labels).unwrap_or(0.0);
    operator.counts(ATTEMPTS, &labels, before + times);
}

#[test]
fn a_resync_restores_what_was_changed_deleted_or_purged_and_says_so() {
    let scene = Scene::new();
    for name in ["changed", "deleted", "purged", "left"] {
        scene.own(name, "v");
    }
    let operator = scene.run().flag("resync-interval", "1s").start();
    for name in ["changed", "deleted", "purged", "left"] {
        scene.doc(name).becomes(json!({"k": "v"}));
        looked_at(&scene, &operator, name, 1.0);
    }
    scene.doc("changed").write(json!({"k": "by hand"}));
    scene.doc("deleted").delete();
    let purged = format!("/v1/secret/metadata/{}/purged", scene.ns);
    scene.bed.vault.delete(&purged).ok();
    scene.doc("changed").becomes(json!({"k": "v"})).is_at_version(3);
    scene.doc("deleted").becomes(json!({"k": "v"})).is_at_version(2);
    scene.doc("purged").becomes(json!({"k": "v"})).is_at_version(1);
    for name in ["changed", "deleted", "purged"] {
        let told = scene.event(name, "DriftRepaired", &[&format!("{}/{name}", scene.ns)]);
        assert_eq!(told.kind, "Normal");
        let labels = [("namespace", &*scene.ns), ("resource", name)];
        operator.counts(REPAIRED, &labels, 1.0);
    }
    scene.doc("left").is_at_version(1);
    assert!(
        scene
            .events("left")
            .iter()
            .all(|event| event.reason != "DriftRepaired")
    );
}

#[test]
fn a_repaired_document_carries_its_claim_again() {
    let scene = Scene::new();
    scene.own("purged", "v");
    scene.own("unmarked", "v");
    let operator = scene.run().flag("resync-interval", "1s").start();
    let claimed = |name: &str| {
        eventually(format!("the claim is on {name}"), || {
            let found = scene.doc(name).metadata()["custom_metadata"].clone();
            check(found["vault-sync.io/name"] == name, found)
        });
    };
    for name in ["purged", "unmarked"] {
        claimed(name);
        looked_at(&scene, &operator, name, 1.0);
    }
    let metadata = |name: &str| format!("/v1/secret/metadata/{}/{name}", scene.ns);
    scene.bed.vault.delete(&metadata("purged")).ok();
    scene
        .bed
        .vault
        .post(&metadata("unmarked"), &json!({"custom_metadata": {}}))
        .ok();
    claimed("purged");
    claimed("unmarked");
    scene.doc("unmarked").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn drift_on_kv_v1_is_restored_too() {
    let scene = Scene::new();
    for name in ["changed", "deleted"] {
        let annotations = ours(&[("path", &format!("kv1/{}/{name}", scene.ns))]);
        scene.create_secret(name, annotations, &[("k", b"v")]);
    }
    let operator = scene.run().flag("resync-interval", "1s").start();
    let document = |name: &str| scene.doc_in("kv1", &format!("{}/{name}", scene.ns));
    for name in ["changed", "deleted"] {
        document(name).becomes(json!({"k": "v"}));
        looked_at(&scene, &operator, name, 1.0);
    }
    document("changed").write(json!({"k": "by hand"}));
    document("deleted").delete();
    for name in ["changed", "deleted"] {
        document(name).becomes(json!({"k": "v"}));
        scene.event(name, "DriftRepaired", &["kv1/"]);
    }
}

#[test]
fn a_resync_writes_nothing_where_nothing_differs() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    scene.create_secret(
        "v1",
        ours(&[("path", &format!("kv1/{}/v1", scene.ns))]),
        &[("k", b"v")],
    );
    let operator = scene.run().flag("resync-interval", "1s").start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    scene
        .doc_in("kv1", &format!("{}/v1", scene.ns))
        .becomes(json!({"k": "v"}));
    scene.settle();
    for name in ["app", "own", "v1"] {
        looked_at(&scene, &operator, name, 1.0);
    }
    let state = || -> (Vec<String>, Vec<Value>, Vec<Value>, usize) {
        let versions = [
            ("Deployment", "app"),
            ("Secret", "own"),
            ("Secret", "db"),
            ("Secret", "v1"),
        ]
        .map(|(kind, name)| scene.get(kind, name)["metadata"]["resourceVersion"].clone());
        let ledger = scene
            .ledger()
            .iter()
            .map(|map| map["metadata"]["resourceVersion"].clone())
            .collect();
        let events = ["app", "own", "v1"].map(|name| scene.events(name).len());
        (
            scene.vault_writes(),
            versions.to_vec(),
            ledger,
            events.iter().sum(),
        )
    };
    let before = state();
    for name in ["app", "own", "v1"] {
        looked_at(&scene, &operator, name, 3.0);
    }
    assert_eq!(state(), before);
}

#[test]
fn a_reconcile_that_nobody_asked_to_compare_repairs_nothing() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    scene.settle();
    scene.doc("app/db").write(json!({"k": "by hand"}));
    scene.doc("own").delete();
    for (kind, name) in [("Deployment", "app"), ("Secret", "db"), ("Secret", "own")] {
        scene.patch(kind, name, json!({"metadata": {"labels": {"x": "y"}}}));
    }
    scene.annotate("Deployment", "app", &[("reconcile", Some("1h"))]);
    scene.settle();
    scene
        .doc("app/db")
        .holds(json!({"k": "by hand"}))
        .is_at_version(2);
    assert_eq!(scene.doc("own").data(), None);
    // A true change is written over what was changed by hand, with no check-and-set in its way.
    scene.set_key("db", "k", "w");
    scene.doc("app/db").becomes(json!({"k": "w"})).is_at_version(3);
}

#[test]
fn without_a_resync_interval_drift_stays_until_force_sync() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.run().flag("resync-interval", "off").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.doc("db").write(json!({"k": "by hand"}));
    scene.settle();
    scene.doc("db").is_at_version(2);
    scene.annotate("Secret", "db", &[("force-sync", Some("now"))]);
    scene.doc("db").becomes(json!({"k": "v"})).is_at_version(3);
    scene.event("db", "DriftRepaired", &["/db"]);
    operator.counts(REPAIRED, &[("namespace", &*scene.ns), ("resource", "db")], 1.0);
    // The same value again asks for nothing.
    scene.doc("db").write(json!({"k": "by hand"}));
    scene.annotate("Secret", "db", &[("force-sync", Some("now"))]);
    scene.settle();
    scene.doc("db").is_at_version(4);
}

#[test]
fn a_document_that_another_claims_meanwhile_is_not_repaired() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    let metadata = format!("/v1/secret/metadata/{}/db", scene.ns);
    let claim = json!({
        "managed-by": "vault-sync-operator", "vault-sync.io/cluster-id": "11111111-2222-3333-4444-555555555555",
        "vault-sync.io/namespace": "elsewhere", "vault-sync.io/kind": "Secret", "vault-sync.io/name": "theirs",
    });
    scene
        .bed
        .vault
        .post(&metadata, &json!({"custom_metadata": claim}))
        .ok();
    scene.doc("db").write(json!({"k": "theirs"}));
    scene.annotate("Secret", "db", &[("force-sync", Some("1"))]);
    scene.event("db", "OwnershipConflict", &["another cluster"]);
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(2);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(2);
}
