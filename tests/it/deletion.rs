//! What goes from Vault, when, and what stays.

use std::net::TcpListener;

use domain::settings::Discover;
use domain::source::{Kind, SourceKey};
use serde_json::json;
use tokio::runtime::Runtime;
use vault_sync_operator::kube::{Error, Kube, connect};

use testkit::{Scene, Testbed, check, env_from, eventually, ours};

const FINALIZER: &str = "vault-sync.io/finalizer";

#[test]
fn deleting_a_deployment_deletes_every_discovered_document_and_lets_it_go() {
    let scene = Scene::new();
    for secret in ["a", "b", "c"] {
        scene.secret(secret, &[("k", secret)]);
    }
    scene.app("app", &["a", "b", "c"]);
    let _operator = scene.start();
    for secret in ["a", "b", "c"] {
        scene.doc(&format!("app/{secret}")).becomes(json!({"k": secret}));
    }
    assert_eq!(scene.finalizers("Deployment", "app"), [FINALIZER]);
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    for secret in ["a", "b", "c"] {
        assert_eq!(
            scene.doc(&format!("app/{secret}")).data(),
            None,
            "gone before the finalizer went"
        );
        assert!(scene.exists("Secret", secret), "Secrets are not ours to delete");
    }
}

#[test]
fn deleting_a_deployment_with_a_list_deletes_its_document() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let annotations = ours(&[("path", &scene.path("app")), ("secrets", r#"[{"name": "db"}]"#)]);
    scene.deployment("app", annotations, env_from(&[]));
    let _operator = scene.start();
    scene.doc("app").becomes(json!({"k": "v"}));
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    assert_eq!(scene.doc("app").data(), None);
}

#[test]
fn deleting_an_annotated_secret_deletes_its_document() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    assert_eq!(scene.finalizers("Secret", "db"), [FINALIZER]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    assert_eq!(scene.doc("db").data(), None);
}

#[test]
fn a_soft_delete_can_be_undone() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").undelete(1);
    scene.doc("db").holds(json!({"k": "one"}));
}

#[test]
fn the_purge_policy_leaves_no_version_and_no_metadata() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("db")), ("deletion-policy", "purge")]);
    scene.create_secret("db", annotations, &[("k", b"one")]);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    assert!(scene.doc("db").metadata().is_null());
}

#[test]
fn preserve_on_delete_keeps_every_document_and_lets_the_source_go() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let keep = |path: &str| ours(&[("path", path), ("preserve-on-delete", "true")]);
    scene.deployment("app", keep(&scene.path("app")), env_from(&["db"]));
    scene.create_secret("own", keep(&scene.path("own")), &[("k", b"v")]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    scene.delete("Deployment", "app");
    scene.delete("Secret", "own");
    scene.vanishes("Deployment", "app");
    scene.vanishes("Secret", "own");
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn preserve_on_delete_is_remembered_when_it_goes_together_with_the_path() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("db")), ("preserve-on-delete", "true")]);
    scene.create_secret("db", annotations, &[("k", b"v")]);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("path", None), ("preserve-on-delete", None)]);
    eventually("the finalizer goes", || {
        let left = scene.finalizers("Secret", "db");
        check(left.is_empty(), format!("{left:?}"))
    });
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"}));
}

#[test]
fn removing_the_path_deletes_the_documents_and_takes_the_finalizer_off() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.annotate("Deployment", "app", &[("path", None)]);
    scene.doc("app/db").goes();
    eventually("the finalizer goes", || {
        let left = scene.finalizers("Deployment", "app");
        check(left.is_empty(), format!("{left:?}"))
    });
    assert!(scene.exists("Deployment", "app"));
    scene.event("app", "Cleaned", &[]);
}

#[test]
fn a_changed_path_moves_the_document_the_new_one_stands_before_the_old_one_goes() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment("app", ours(&[("path", &scene.path("old"))]), env_from(&["db"]));
    let _operator = scene.start();
    scene.doc("old/db").becomes(json!({"k": "v"}));
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("new")))]);
    scene.doc("old/db").goes();
    scene.doc("new/db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn the_old_document_stays_while_the_new_one_cannot_be_made() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let list = r#"[{"name": "db"}]"#;
    scene.deployment(
        "app",
        ours(&[("path", &scene.path("old")), ("secrets", list)]),
        env_from(&[]),
    );
    let _operator = scene.start();
    scene.doc("old").becomes(json!({"k": "v"}));
    let missing = r#"[{"name": "missing"}]"#;
    scene.annotate(
        "Deployment",
        "app",
        &[("path", Some(&scene.path("new"))), ("secrets", Some(missing))],
    );
    scene.event("app", "SyncFailed", &["missing"]);
    scene.settle();
    scene.doc("old").holds(json!({"k": "v"})).is_at_version(1);
    scene.secret("missing", &[("k", "new")]);
    scene.doc("new").becomes(json!({"k": "new"}));
    scene.doc("old").goes();
}

#[test]
fn going_from_discovery_to_a_list_deletes_the_discovered_documents() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.annotate("Deployment", "app", &[("secrets", Some(r#"[{"name": "db"}]"#))]);
    scene.doc("app").becomes(json!({"k": "v"}));
    scene.doc("app/db").goes();
}

#[test]
fn a_deleted_namespace_does_not_hang_and_leaves_no_document() {
    let scene = Scene::new();
    // Rights that live in the namespace would go before what needs them.
    scene.bind("operator", "it-sources");
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    let namespace = format!("/api/v1/namespaces/{}", scene.ns);
    scene.bed.kube.delete(&namespace).ok();
    eventually("the namespace is gone", || {
        let reply = scene.bed.kube.get(&namespace);
        check(reply.status == 404, reply.text)
    });
    scene.doc("app/db").goes();
    scene.doc("own").goes();
}

#[test]
fn a_source_deleted_while_the_operator_was_down_is_cleaned_up_at_start() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    first.stop();
    scene.delete("Secret", "db");
    let _second = scene.start();
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
}

#[test]
fn a_source_that_vanished_past_its_finalizer_is_found_by_the_ledger() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    first.stop();
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": null}}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    let _second = scene.start();
    scene.doc("db").goes();
}

#[test]
fn without_finalizers_documents_of_a_deleted_source_go_all_the_same() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().flag("finalizers", "false").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    assert!(scene.finalizers("Secret", "db").is_empty());
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
}

#[test]
fn a_delete_that_vault_does_not_take_is_bounded_by_cleanup_timeout_and_made_up_later() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.vault.cut();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").holds(json!({"k": "v"}));
    scene.vault.restore();
    scene.doc("db").goes();
}

/// The delete is on its way when its time is over, and lands on what another source has made since.
#[test]
fn a_delete_that_cleanup_timeout_cut_off_is_looked_after_should_it_land_later() {
    let scene = Scene::new();
    let purged = ours(&[("path", &scene.path("db")), ("deletion-policy", "purge")]);
    scene.create_secret("db", purged, &[("k", b"one")]);
    let run = scene.run().flag("cleanup-timeout", "1s");
    let _operator = run.env("VAULT_CLIENT_TIMEOUT", "6s").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.vault.hold("DELETE /v1/secret/metadata/");
    scene.delete("Secret", "db");
    scene.vault.holds(1);
    scene.vault.behave();
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.create_secret("heir", ours(&[("path", &scene.path("db"))]), &[("k", b"two")]);
    scene.doc("db").becomes(json!({"k": "two"}));
    assert_eq!(scene.vault.land(), ["HTTP/1.1 204 No Content"]);
    assert_eq!(scene.doc("db").data(), None, "it has hit the heir's");
    scene.doc("db").becomes(json!({"k": "two"}));
}

#[test]
fn a_source_that_comes_back_gets_its_document_back() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("db"))]);
    scene.create_secret("db", annotations.clone(), &[("k", b"one")]);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.create_secret("db", annotations, &[("k", b"two")]);
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_document_goes_with_its_successor_if_that_never_came_to_write_it() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    let next = ours(&[
        ("path", &scene.path("db")),
        ("secrets", r#"[{"name": "missing"}]"#),
    ]);
    scene.deployment("next", next, env_from(&[]));
    scene.event("next", "OwnershipConflict", &["db"]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.event("next", "SyncFailed", &["missing"]);
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"}));
    scene.delete("Deployment", "next");
    scene.vanishes("Deployment", "next");
    scene.doc("db").goes();
}

#[test]
fn the_document_of_an_optional_secret_goes_with_it_although_two_sources_share_it() {
    let scene = Scene::new();
    scene.secret("maybe", &[("k", "v")]);
    let pod = json!({"containers": [{"name": "main", "image": "none", "envFrom": [
        {"secretRef": {"name": "maybe", "optional": true}},
    ]}]});
    for name in ["one", "two"] {
        scene.deployment(name, ours(&[("path", &scene.path("app"))]), pod.clone());
    }
    let _operator = scene.start();
    scene.doc("app/maybe").becomes(json!({"k": "v"}));
    scene.settle();
    scene.delete("Secret", "maybe");
    scene.doc("app/maybe").goes();
    scene.secret("maybe", &[("k", "w")]);
    scene.doc("app/maybe").becomes(json!({"k": "w"}));
}

#[test]
fn a_move_during_a_pause_is_made_up_after_it_and_leaves_nothing_behind() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("paused", Some("true"))]);
    scene.settle();
    scene.annotate("Secret", "db", &[("path", Some(&scene.path("new")))]);
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"}));
    assert_eq!(scene.doc("new").data(), None);
    scene.annotate("Secret", "db", &[("paused", None)]);
    scene.doc("new").becomes(json!({"k": "v"}));
    scene.doc("db").goes();
}

#[test]
fn a_source_that_goes_during_a_pause_leaves_its_document_even_without_finalizers() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().flag("finalizers", "false").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("paused", Some("true"))]);
    scene.settle();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn the_last_word_of_a_source_counts_although_vault_hangs_until_it_is_gone() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene
        .run()
        .flag("cleanup-timeout", "1s")
        .env("VAULT_CLIENT_TIMEOUT", "3")
        .start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.vault.cut();
    let silent = TcpListener::bind(("127.0.0.1", scene.vault.port)).unwrap();
    // The operator sees the wish and the deletion at the same time.
    scene.kube_wire.cut();
    scene.annotate("Secret", "db", &[("preserve-on-delete", Some("true"))]);
    scene.delete("Secret", "db");
    scene.kube_wire.restore();
    scene.vanishes("Secret", "db");
    drop(silent);
    scene.vault.restore();
    scene.settle();
    eventually("the ledger has nothing left of it", || {
        let ledger = format!("{:?}", scene.at_home("configmaps"));
        check(!ledger.contains("/db"), ledger)
    });
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn the_retain_policy_releases_the_claim_and_leaves_the_content() {
    let scene = Scene::new();
    scene.own("db", "v");
    let run = scene.run().flag("adopt", "equal");
    let _operator = run.flag("deletion-policy", "retain").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.entry_is("db", None);
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(
        scene.doc("db").metadata()["custom_metadata"]["vault-sync.io/released"],
        "true"
    );
    // Released is nobody's: whoever would write the same may have it, and then it is theirs.
    scene.own("db", "v");
    scene.event("db", "Synced", &[]);
    eventually("it is claimed again", || {
        let metadata = scene.doc("db").metadata()["custom_metadata"].clone();
        check(metadata.get("vault-sync.io/released").is_none(), metadata)
    });
    scene.doc("db").is_at_version(1);
}

#[test]
fn deletes_that_wait_for_a_sealed_vault_outlive_the_source_and_the_operator() {
    let scene = Scene::on(Testbed::private());
    scene.own("db", "v");
    let first = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.bed.seal();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.entry_is("db", Some("deleting"));
    first.counts("vault_sync_operator_ledger_pending_deletes", &[], 1.0);
    assert_eq!(first.stop().code(), Some(0));
    let second = scene.start();
    second.says(&["ledger loaded"]);
    scene.entry_is("db", Some("deleting"));
    scene.bed.unseal();
    scene.doc("db").goes();
    scene.entry_is("db", None);
}

#[test]
fn a_delete_that_waited_is_dropped_when_a_live_source_wants_the_path_by_then() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    scene.vault.cut();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.entry_is("db", Some("deleting"));
    let heir = ours(&[("path", &scene.path("db"))]);
    scene.create_secret("heir", heir, &[("k", b"v")]);
    scene.vault.restore();
    scene.event("heir", "Synced", &["/db"]);
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    eventually("the ledger gives it to the heir", || {
        let entries = scene.entries();
        let entry = &entries["db"];
        check(entry["name"] == "heir" && entry["state"] == "written", entry)
    });
}

#[test]
fn a_namespace_does_not_hang_although_vault_is_away_and_its_documents_go_later() {
    let scene = Scene::new();
    scene.bind("operator", "it-sources");
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    let _operator = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    scene.settle();
    scene.vault.cut();
    let namespace = format!("/api/v1/namespaces/{}", scene.ns);
    scene.bed.kube.delete(&namespace).ok();
    eventually("the namespace is gone", || {
        let reply = scene.bed.kube.get(&namespace);
        check(reply.status == 404, reply.text)
    });
    scene.doc("app/db").holds(json!({"k": "v"}));
    scene.vault.restore();
    scene.doc("app/db").goes();
    scene.doc("own").goes();
    scene.entry_is("app/db", None);
    scene.entry_is("own", None);
}

/// The first words of the request that writes a document.
fn writes_of(scene: &Scene, name: &str) -> String {
    format!("/v1/secret/data/{}/{name} HTTP", scene.ns)
}

#[test]
fn a_creation_whose_reply_was_lost_is_found_and_claimed() {
    let scene = Scene::new();
    scene
        .vault
        .lose_replies_to(&format!("POST {}", writes_of(&scene, "db")));
    let _operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.own("db", "v");
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.vault.behave();
    eventually("the claim is on it", || {
        let metadata = scene.doc("db").metadata()["custom_metadata"].clone();
        check(metadata["vault-sync.io/name"] == "db", metadata)
    });
    scene.entry_is("db", Some("written"));
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_creation_whose_reply_was_lost_is_no_orphan_when_its_source_goes_meanwhile() {
    let scene = Scene::new();
    scene
        .vault
        .lose_replies_to(&format!("POST {}", writes_of(&scene, "db")));
    let _operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.own("db", "v");
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.delete("Secret", "db");
    scene.vault.behave();
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
    scene.entry_is("db", None);
}

#[test]
fn a_creation_that_lands_after_its_source_has_gone_is_no_orphan() {
    let scene = Scene::new();
    scene.vault.hold(&format!("POST {}", writes_of(&scene, "db")));
    // What got no answer may land for two client timeouts.
    let _operator = scene
        .run()
        .env("VAULT_CLIENT_TIMEOUT", "3s")
        .flag("cleanup-timeout", "1s")
        .start();
    scene.own("db", "v");
    scene.vault.holds(1);
    scene.delete("Secret", "db");
    scene.vault.behave();
    scene.vanishes("Secret", "db");
    assert_eq!(scene.doc("db").data(), None);
    assert!(scene.entries().contains_key("db"), "it is not forgotten yet");
    assert_eq!(scene.vault.land(), ["HTTP/1.1 200 OK"]);
    // It has landed; whether it is seen before the operator's next look is a matter of luck.
    scene.doc("db").is_at_version(1).goes();
    scene.entry_is("db", None);
}

#[test]
fn a_creation_that_lands_after_a_crash_is_no_orphan() {
    let scene = Scene::new();
    scene.vault.hold(&format!("POST {}", writes_of(&scene, "db")));
    let first = scene.run().env("VAULT_CLIENT_TIMEOUT", "3s").start();
    scene.own("db", "v");
    scene.vault.holds(1);
    scene.entry_is("db", Some("creating"));
    first.kill();
    scene.vault.behave();
    scene.delete("Secret", "db");
    let second = scene
        .run()
        .env("VAULT_CLIENT_TIMEOUT", "3s")
        .flag("cleanup-timeout", "1s")
        .start();
    scene.vanishes("Secret", "db");
    second.says(&["ledger loaded", "\"unclean\":true"]);
    assert_eq!(scene.vault.land(), ["HTTP/1.1 200 OK"]);
    // It has landed; whether it is seen before the operator's next look is a matter of luck.
    scene.doc("db").is_at_version(1).goes();
    scene.entry_is("db", None);
}

#[test]
fn an_update_that_lands_late_never_puts_an_old_value_over_a_newer_one() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.hold(&format!("POST {}", writes_of(&scene, "db")));
    scene.set_key("db", "k", "two");
    scene.vault.holds(1);
    scene.vault.behave();
    scene.set_key("db", "k", "three");
    scene.doc("db").becomes(json!({"k": "three"}));
    let version = scene.doc("db").version();
    assert_eq!(scene.vault.land(), ["HTTP/1.1 400 Bad Request"]);
    scene.settle();
    scene
        .doc("db")
        .holds(json!({"k": "three"}))
        .is_at_version(version);
}

#[test]
fn a_predecessors_finalizer_without_a_ledger_entry_goes_and_nothing_is_deleted() {
    let scene = Scene::new();
    // As the predecessor left it: a document without claim, and an object with its finalizer and annotation.
    scene.doc("db").write(json!({"k": "v"}));
    let annotations = ours(&[("path", &scene.path("db")), ("secret-versions", r#"{"db":"1"}"#)]);
    scene.create_secret("db", annotations, &[("k", b"v")]);
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": [FINALIZER]}}));
    scene.delete("Secret", "db");
    let _operator = scene.start();
    scene.vanishes("Secret", "db");
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_policy_without_the_right_to_delete_versions_still_deletes_the_latest() {
    let scene = Scene::new();
    scene.own("db", "one");
    scene.set_policy(&format!(
        "path \"secret/data/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n\
         path \"secret/metadata/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"patch\", \"list\"] }}\n",
        scene.ns
    ));
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    assert_eq!(scene.doc("db").data(), None);
    scene.doc("db").undelete(2);
    scene.doc("db").holds(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn documents_of_a_paused_source_stay_when_it_is_deleted() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    for (kind, name) in [("Deployment", "app"), ("Secret", "own")] {
        scene.annotate(kind, name, &[("paused", Some("true"))]);
    }
    scene.settle();
    scene.delete("Deployment", "app");
    scene.delete("Secret", "own");
    scene.vanishes("Deployment", "app");
    scene.vanishes("Secret", "own");
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.doc("own").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_document_over_the_limit_of_integrated_storage_is_told_and_its_last_good_content_stays() {
    let scene = Scene::on(Testbed::with_integrated_storage());
    let half = "x".repeat(600 * 1024);
    scene.secret("a", &[("a", "small")]);
    scene.secret("b", &[("b", &half)]);
    scene.listing("big", r#"[{"name": "a"}, {"name": "b"}]"#);
    scene.own("other", "one");
    let _operator = scene.start();
    scene.doc("big").becomes(json!({"a": "small", "b": half}));
    scene.set_key("a", "a", &half);
    scene.event(
        "big",
        "SyncFailed",
        &["/big", "too large", "bytes", "split the document"],
    );
    scene.set_key("other", "k", "two");
    scene.doc("other").becomes(json!({"k": "two"}));
    scene
        .doc("big")
        .holds(json!({"a": "small", "b": half}))
        .is_at_version(1);
    scene.set_key("a", "a", "small again");
    scene
        .doc("big")
        .becomes(json!({"a": "small again", "b": half}))
        .is_at_version(2);
}

#[test]
fn without_finalizers_a_source_deleted_while_the_operator_was_down_leaves_no_document() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let first = scene.run().flag("finalizers", "false").start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.entry_is("app/db", Some("written"));
    first.stop();
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    let _second = scene.run().flag("finalizers", "false").start();
    scene.doc("app/db").goes();
    scene.entry_is("app/db", None);
}

#[test]
fn purge_and_retain_reach_documents_whose_path_has_changed() {
    let scene = Scene::new();
    for policy in ["purge", "retain"] {
        let annotations = ours(&[
            ("path", &scene.path(&format!("{policy}/old"))),
            ("deletion-policy", policy),
        ]);
        scene.create_secret(policy, annotations, &[("k", b"v")]);
    }
    let _operator = scene.start();
    for policy in ["purge", "retain"] {
        scene.doc(&format!("{policy}/old")).becomes(json!({"k": "v"}));
        let moved = scene.path(&format!("{policy}/new"));
        scene.annotate("Secret", policy, &[("path", Some(&moved))]);
        scene.doc(&format!("{policy}/new")).becomes(json!({"k": "v"}));
        scene.entry_is(&format!("{policy}/old"), None);
    }
    assert!(scene.doc("purge/old").metadata().is_null());
    scene.doc("retain/old").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn an_update_whose_reply_was_lost_is_followed_by_no_second_one() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene
        .vault
        .lose_replies_to(&format!("POST {}", writes_of(&scene, "db")));
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    scene.vault.behave();
    scene.event("db", "Synced", &[]);
    scene.settle();
    scene.doc("db").holds(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_delete_whose_reply_was_lost_is_done_once() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.settle();
    let delete = format!("/v1/secret/delete/{}/db HTTP", scene.ns);
    scene.vault.lose_replies_to(&delete);
    scene.delete("Secret", "db");
    scene.doc("db").goes();
    scene.vault.behave();
    scene.vanishes("Secret", "db");
    scene.entry_is("db", None);
    scene.doc("db").is_at_version(1);
}

#[test]
fn a_delete_that_vault_denies_holds_nobody_up_and_is_done_when_it_may_be() {
    let scene = Scene::new();
    scene.own("db", "v");
    let deny = format!(
        "path \"secret/data/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\"] }}\n\
         path \"secret/metadata/{0}/*\" {{ capabilities = [\"create\", \"read\", \"update\", \"patch\", \"list\"] }}\n",
        scene.ns
    );
    scene.set_policy(&deny);
    let first = scene.run().flag("cleanup-timeout", "1s").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.delete("Secret", "db");
    scene.event("db", "SyncFailed", &["permission denied", "/db"]);
    scene.vanishes("Secret", "db");
    scene.entry_is("db", Some("deleting"));
    scene.doc("db").holds(json!({"k": "v"}));
    first.stop();
    scene.set_policy(&deny.replace("\"update\"] }\npath", "\"update\", \"delete\"] }\npath"));
    let _second = scene.start();
    scene.doc("db").goes();
    scene.entry_is("db", None);
}

#[test]
fn an_object_that_was_made_anew_under_its_name_waits_for_no_finalizer_of_the_old_one() {
    let scene = Scene::new();
    scene.own("db", "one");
    let key = SourceKey {
        kind: Kind::Secret,
        namespace: scene.ns.as_str().into(),
        name: "db".into(),
    };
    let runtime = Runtime::new().unwrap();
    let config = scene.bed.dir.join("admin.kubeconfig");
    let client = runtime.block_on(connect(Some(&config))).unwrap();
    let kube = Kube::new(client, Discover::default());
    let read = || runtime.block_on(kube.source(&key)).unwrap().unwrap();
    let old = read();
    scene.delete("Secret", "db");
    scene.own("db", "two");
    let added = runtime.block_on(kube.add_finalizer(&old));
    assert!(matches!(added, Err(Error::Conflict(_))), "{added:?}");
    assert_eq!(scene.finalizers("Secret", "db"), [""; 0]);
    runtime.block_on(kube.add_finalizer(&read())).unwrap();
    runtime.block_on(kube.remove_finalizer(&old)).unwrap();
    assert_eq!(scene.finalizers("Secret", "db"), [FINALIZER]);
}
