//! Whose a document is: claims, adoption, hand-over, and what another's document may expect of us.

use serde_json::{Value, json};

use testkit::{Scene, check, eventually, ours};

const MANAGER: &str = "vault-sync-operator";

fn claim(scene: &Scene, document: &str) -> Value {
    scene.doc(document).metadata()["custom_metadata"].clone()
}

/// Puts custom metadata on a document, as its owner would.
fn mark(scene: &Scene, document: &str, metadata: &Value) {
    let path = format!("/v1/secret/metadata/{}/{document}", scene.ns);
    scene
        .bed
        .vault
        .post(&path, &json!({"custom_metadata": metadata}))
        .ok();
}

fn foreign(cluster_id: &str) -> Value {
    json!({
        "managed-by": MANAGER, "vault-sync.io/cluster": "other", "vault-sync.io/cluster-id": cluster_id,
        "vault-sync.io/namespace": "elsewhere", "vault-sync.io/kind": "Deployment", "vault-sync.io/name": "theirs",
    })
}

/// Waits until an object made now is younger than this Secret by the API server's clock, which counts seconds.
fn a_second_passes(scene: &Scene, older: &str) {
    eventually("a second has passed, by the API server's clock", || {
        scene.create_secret("clock", json!({}), &[]);
        let later = scene.get("Secret", "clock")["metadata"]["creationTimestamp"].clone();
        scene.delete("Secret", "clock");
        let earlier = scene.get("Secret", older)["metadata"]["creationTimestamp"].clone();
        if later == earlier {
            Err(later.to_string())
        } else {
            Ok(())
        }
    });
}

#[test]
fn a_document_carries_its_owners_claim() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene
        .run()
        .flag("cluster-name", "c1")
        .flag("cluster-prefix", "")
        .start();
    scene.doc("db").becomes(json!({"k": "v"}));
    eventually("the claim is on it", || {
        let found = claim(&scene, "db");
        let id = found["vault-sync.io/cluster-id"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let wanted = json!({
            "managed-by": "vault-sync-operator", "vault-sync.io/cluster": "c1", "vault-sync.io/cluster-id": id,
            "vault-sync.io/namespace": scene.ns, "vault-sync.io/kind": "Secret", "vault-sync.io/name": "db",
        });
        if found == wanted && id.len() == 36 {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
}

#[test]
fn a_users_own_metadata_stays_beside_the_claim() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "v"}));
    mark(&scene, "db", &json!({"team": "payments"}));
    scene.own("db", "v");
    let _operator = scene.run().flag("adopt", "equal").start();
    eventually("the claim is on it", || {
        let found = claim(&scene, "db");
        if found["managed-by"] == MANAGER {
            Ok(())
        } else {
            Err(found.to_string())
        }
    });
    assert_eq!(claim(&scene, "db")["team"], "payments");
    scene.doc("db").is_at_version(1);
}

#[test]
fn an_unclaimed_document_with_other_content_is_left_alone() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "theirs"}));
    scene.own("db", "ours");
    let _operator = scene.start();
    scene.event(
        "db",
        "OwnershipConflict",
        &["/db", "was not written by this operator"],
    );
    scene.settle();
    scene.doc("db").holds(json!({"k": "theirs"})).is_at_version(1);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "theirs"}));
}

#[test]
fn adoption_goes_as_far_as_it_is_allowed() {
    for (adopt, annotation, content, adopted) in [
        ("never", None, "v", false),
        ("equal", None, "v", true),
        ("equal", Some("true"), "old", false),
        ("annotated", None, "old", false),
        ("annotated", Some("true"), "old", true),
        ("all", None, "old", true),
    ] {
        let scene = Scene::new();
        scene.doc("db").write(json!({"k": content}));
        let path = scene.path("db");
        let mut annotations = vec![("path", path.as_str())];
        annotations.extend(annotation.map(|value| ("adopt", value)));
        scene.create_secret("db", ours(&annotations), &[("k", b"v")]);
        let _operator = scene.run().flag("adopt", adopt).start();
        if adopted {
            scene.doc("db").becomes(json!({"k": "v"}));
            scene.event("db", "Synced", &[]);
        } else {
            scene.event("db", "OwnershipConflict", &[]);
            scene.doc("db").holds(json!({"k": content})).is_at_version(1);
        }
    }
}

#[test]
fn an_adopted_document_is_never_purged() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "v"}));
    scene.own("db", "v");
    let run = scene.run().flag("adopt", "equal");
    let _operator = run.flag("deletion-policy", "purge").start();
    scene.event("db", "Synced", &[]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.doc("db").undelete(1);
    scene.doc("db").holds(json!({"k": "v"}));
}

#[test]
fn another_clusters_document_is_neither_written_nor_deleted() {
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "v"}));
    mark(&scene, "db", &foreign("11111111-2222-3333-4444-555555555555"));
    scene.own("db", "v");
    let operator = scene.start();
    let event = scene.event("db", "OwnershipConflict", &["another cluster"]);
    for word in ["(other)", "\"other\"", "11111111", "elsewhere", "theirs"] {
        assert!(!event.message.contains(word), "{word} is in {event:?}");
    }
    operator.says(&["another cluster", "\"other\""]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(claim(&scene, "db")["vault-sync.io/name"], "theirs");
}

#[test]
fn a_restored_clusters_claims_count_as_ones_own() {
    const OLD: &str = "11111111-2222-3333-4444-555555555555";
    let scene = Scene::new();
    scene.doc("db").write(json!({"k": "old"}));
    let mut old = foreign(OLD);
    old["vault-sync.io/kind"] = json!("Secret");
    old["vault-sync.io/namespace"] = json!(scene.ns);
    old["vault-sync.io/name"] = json!("before-the-disaster");
    mark(&scene, "db", &old);
    scene.own("db", "new");
    let _operator = scene.run().flag("adopt-cluster-id", OLD).start();
    scene.doc("db").becomes(json!({"k": "new"})).is_at_version(2);
}

#[test]
fn of_two_sources_the_second_waits_and_then_gets_the_document() {
    for mount in ["secret", "kv1"] {
        let scene = Scene::new();
        let path = if mount == "secret" {
            scene.path("shared")
        } else {
            format!("kv1/{}/shared", scene.ns)
        };
        let document = || scene.doc_in(mount, &format!("{}/shared", scene.ns));
        scene.create_secret("first", ours(&[("path", &path)]), &[("k", b"first")]);
        let _operator = scene.start();
        document().becomes(json!({"k": "first"}));
        a_second_passes(&scene, "first");
        scene.create_secret("second", ours(&[("path", &path)]), &[("k", b"second")]);
        scene.event("second", "OwnershipConflict", &["first"]);
        document().holds(json!({"k": "first"}));
        scene.delete("Secret", "first");
        scene.vanishes("Secret", "first");
        document().becomes(json!({"k": "second"}));
        scene.event("second", "Synced", &["shared"]);
    }
}

#[test]
fn without_claims_the_holder_keeps_the_path_while_it_wants_it() {
    let scene = Scene::new();
    let path = format!("kv1/{}/shared", scene.ns);
    let document = || scene.doc_in("kv1", &format!("{}/shared", scene.ns));
    scene.create_secret("older", json!({}), &[("k", b"older")]);
    a_second_passes(&scene, "older");
    scene.create_secret("younger", ours(&[("path", &path)]), &[("k", b"younger")]);
    let _operator = scene.start();
    document().becomes(json!({"k": "younger"}));
    scene.annotate("Secret", "older", &[("path", Some(&path))]);
    scene.event("older", "OwnershipConflict", &["younger"]);
    scene.set_key("younger", "k", "again");
    document().becomes(json!({"k": "again"}));
    scene.delete("Secret", "younger");
    scene.vanishes("Secret", "younger");
    document().becomes(json!({"k": "older"}));
}

#[test]
fn a_policy_without_metadata_rights_still_syncs() {
    let scene = Scene::new();
    scene.own("db", "one");
    let policy = format!(
        "path \"secret/data/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n\
         path \"secret/metadata/{0}/*\" {{ capabilities = [\"read\", \"list\"] }}\n",
        scene.ns
    );
    scene
        .bed
        .vault
        .send(
            "PUT",
            &format!("/v1/sys/policies/acl/{}", scene.ns),
            Some(&json!({"policy": policy})),
        )
        .ok();
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.says(&["carries no claim", "secret"]);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    operator.counts("vault_sync_operator_claims_unavailable", &[], 1.0);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    assert_eq!(scene.doc("db").data(), None);
}

/// Each mount counts while there is a document of ours on it: KV v1, and KV v2 where claims are denied.
#[test]
fn the_gauge_of_mounts_without_claims_rises_and_falls() {
    const GAUGE: &str = "vault_sync_operator_claims_unavailable";
    let scene = Scene::new();
    let allow = |metadata: &str| {
        scene.set_policy(&format!(
            "path \"kv1/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n\
             path \"+/data/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n\
             path \"+/metadata/{0}/*\" {{ capabilities = [{metadata}] }}\n",
            scene.ns
        ));
    };
    allow("\"read\", \"list\"");
    scene.own("db", "one");
    let operator = scene.start();
    let becomes = |mounts: f64| {
        eventually(format!("the gauge is {mounts}"), || {
            let value = operator.metrics().value(GAUGE, &[]);
            check(value == Some(mounts), format!("{value:?}"))
        });
    };
    scene.doc("db").becomes(json!({"k": "one"}));
    becomes(1.0);
    for name in ["old", "older"] {
        let annotations = ours(&[("path", &format!("kv1/{}/{name}", scene.ns))]);
        scene.create_secret(name, annotations, &[("k", b"v")]);
        let path = format!("{}/{name}", scene.ns);
        scene.doc_in("kv1", &path).becomes(json!({"k": "v"}));
    }
    becomes(2.0);
    scene.delete("Secret", "old");
    scene.vanishes("Secret", "old");
    scene.settle();
    becomes(2.0);
    scene.delete("Secret", "older");
    scene.vanishes("Secret", "older");
    becomes(1.0);

    allow("\"create\", \"read\", \"update\", \"patch\", \"list\", \"delete\"");
    // A denial is remembered for the document that it met.
    scene.annotate("Secret", "db", &[("force-sync", Some("1"))]);
    scene.annotate("Secret", "marker", &[("force-sync", Some("1"))]);
    becomes(0.0);
    assert!(scene.doc("db").metadata()["custom_metadata"].is_object());
}

#[test]
fn our_finalizer_and_anothers_path_delete_nothing_of_theirs() {
    let scene = Scene::new();
    scene.doc("theirs").write(json!({"k": "theirs"}));
    let mut metadata = ours(&[("path", &scene.path("theirs"))]);
    metadata["vault-sync.io/secret-versions"] = json!("{\"theirs\":\"1\"}");
    scene.create_secret("forged", metadata, &[("k", b"forged")]);
    scene.patch(
        "Secret",
        "forged",
        json!({"metadata": {"finalizers": ["vault-sync.io/finalizer"]}}),
    );
    scene.delete("Secret", "forged");
    let _operator = scene.start();
    scene.vanishes("Secret", "forged");
    scene.settle();
    scene.doc("theirs").holds(json!({"k": "theirs"})).is_at_version(1);
}

#[test]
fn two_operators_that_do_not_know_of_each_other_put_no_older_value_over_a_newer_one() {
    const CHANGES: u64 = 25;
    let scene = Scene::new();
    // A home of its own for the second: neither shares ledger nor lease with the other.
    let elsewhere = format!("{}-elsewhere", scene.ns);
    let kube = &scene.bed.kube;
    kube.post("/api/v1/namespaces", &json!({"metadata": {"name": elsewhere}}))
        .ok();
    let binding = json!({
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "it-home"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": scene.home}],
    });
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{elsewhere}/rolebindings");
    kube.post(&bindings, &binding).ok();
    // Versions in Vault count the values, so that none may be skipped over for want of room.
    let metadata = format!("/v1/secret/metadata/{}/db", scene.ns);
    scene
        .bed
        .vault
        .post(&metadata, &json!({"max_versions": 100}))
        .ok();
    scene.own("db", "1000");
    let _one = scene.start();
    let _other = scene
        .run()
        .env("POD_NAMESPACE", &elsewhere)
        .env("POD_NAME", "elsewhere-0")
        .start();
    scene.doc("db").becomes(json!({"k": "1000"}));
    for change in 1..=CHANGES {
        scene.set_key("db", "k", &(1000 + change).to_string());
    }
    let last = (1000 + CHANGES).to_string();
    scene.doc("db").becomes(json!({"k": last}));
    scene.settle();
    scene.doc("db").holds(json!({"k": last}));
    let held: Vec<String> = (1..=scene.doc("db").version())
        .map(|version| {
            let path = format!("/v1/secret/data/{}/db?version={version}", scene.ns);
            let document = scene.bed.vault.get(&path).ok();
            document["data"]["data"]["k"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(
        held.is_sorted_by(|earlier, later| earlier < later),
        "each version holds a newer value than the one before: {held:?}"
    );
}
