//! Something between the operator and Vault answers in its place, and then no more.

use serde_json::json;

use testkit::{Answer, Scene};

/// A status page, to which somebody redirects all requests for a while.
fn elsewhere() -> Answer {
    Answer::new(302, &[("Location", "https://status.example/")], "<html>")
}

#[test]
fn writes_that_are_redirected_to_a_page_are_tried_again() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.answer("/v1/secret/", elsewhere());
    scene.set_key("db", "k", "two");
    scene.event("db", "SyncFailed", &["(302)"]);
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "two"}));
}

#[test]
fn logins_that_are_redirected_to_a_page_leave_no_source_behind() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.answer("/v1/auth/kubernetes/login", elsewhere());
    scene.revoke_logins();
    scene.set_key("db", "k", "two");
    scene.event("db", "SyncFailed", &["(302)"]);
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "two"}));
}

/// It is not Vault's word that nothing is mounted there.
#[test]
fn a_404_that_is_not_vaults_strikes_nothing_from_the_ledger() {
    for body in ["", r#"{"message":"no Route matched with those values"}"#] {
        let scene = Scene::new();
        scene.own("db", "one");
        let operator = scene.run().flag("cleanup-timeout", "3s").start();
        scene.doc("db").becomes(json!({"k": "one"}));
        scene.settle();
        scene.vault.answer("/v1/", Answer::new(404, &[], body));
        scene.delete("Secret", "db");
        scene.vanishes("Secret", "db");
        let failed = [("resource", "db"), ("result", "failed")];
        operator.counts("vault_sync_operator_sync_attempts_total", &failed, 2.0);
        assert!(scene.entries().contains_key("db"), "{:?}", scene.entries());
        scene.vault.behave();
        scene.doc("db").goes();
        scene.entry_is("db", None);
    }
}
