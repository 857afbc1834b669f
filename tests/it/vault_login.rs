//! Logins when Vault's auth method misbehaves, many at once, and the end of a token.

use serde_json::json;

use testkit::{Scene, check, eventually, ours};

const LOGIN: &str = "POST /v1/auth/kubernetes/login";

/// How many requests the operator has begun with these words.
fn asked(scene: &Scene, words: &str) -> usize {
    let requests = scene.vault.requests();
    requests
        .iter()
        .filter(|request| request.starts_with(words))
        .count()
}

/// Sources of this number, each a Secret that goes whole to a document of its own name.
fn crowd(scene: &Scene, number: usize) -> Vec<String> {
    let names: Vec<String> = (0..number).map(|i| format!("s{i}")).collect();
    for name in &names {
        scene.own(name, "one");
    }
    names
}

#[test]
fn an_auth_method_that_is_unmounted_and_comes_back_is_waited_for() {
    let scene = Scene::new();
    let path = format!("own-{}", scene.ns);
    let unmount = || scene.bed.vault.delete(&format!("/v1/sys/auth/{path}")).ok();
    scene.bed.mount_auth(&path);
    scene.set_role_at(&path, json!({}));
    scene.own("db", "one");
    let mut operator = scene.run().flag("vault-auth-path", &path).start();
    scene.doc("db").becomes(json!({"k": "one"}));
    // All that it has granted ends with it.
    unmount();
    scene.set_key("db", "k", "two");
    operator.counts(
        "vault_sync_operator_auth_attempts_total",
        &[("result", "failed")],
        1.0,
    );
    operator.says(&["login to Vault failed", &format!("auth/{path}/login")]);
    let reply = operator.probe("/readyz", 500);
    assert!(reply.text.contains("token"), "the check is named: {reply:?}");
    operator.probe("/livez", 200);
    assert!(operator.is_running());
    scene.doc("db").holds(json!({"k": "one"}));

    scene.bed.mount_auth(&path);
    scene.set_role_at(&path, json!({}));
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    operator.ready();
    drop(operator);
    unmount();
}

#[test]
fn a_role_that_is_deleted_and_comes_back_is_waited_for() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.delete_role();
    // The token that it has is as good as ever.
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    scene.revoke_logins();
    scene.set_key("db", "k", "three");
    operator.says(&["login to Vault failed", "role"]);
    operator.probe("/readyz", 500);
    scene.set_role(json!({}));
    scene.doc("db").becomes(json!({"k": "three"})).is_at_version(3);
    operator.ready();
}

#[test]
fn what_a_role_allows_anew_holds_from_the_next_login() {
    let scene = Scene::new();
    let wider = format!("{}-wider", scene.ns);
    let policy = r#"path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete"] }"#;
    let put = |name: &str, policy: &str| {
        let path = format!("/v1/sys/policies/acl/{name}");
        scene
            .bed
            .vault
            .send("PUT", &path, Some(&json!({"policy": policy})))
            .ok();
    };
    put(&wider, policy);
    scene.own("db", "one");
    let place = format!("wider-{}", scene.ns);
    let annotations = ours(&[("path", &format!("secret/data/{place}"))]);
    scene.create_secret("far", annotations, &[("k", b"one")]);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.event("far", "SyncFailed", &["permission denied"]);

    scene.set_role(json!({"token_policies": [scene.ns, wider]}));
    scene.revoke_logins();
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    scene.set_key("far", "k", "two");
    scene
        .doc_in("secret", &place)
        .becomes(json!({"k": "two"}))
        .is_at_version(1);

    // And what it allows no more.
    scene.set_role(json!({}));
    scene.revoke_logins();
    scene.set_key("db", "k", "three");
    scene.doc("db").becomes(json!({"k": "three"}));
    scene.set_key("far", "k", "three");
    scene.settle();
    scene.doc_in("secret", &place).holds(json!({"k": "two"}));
}

#[test]
fn a_login_that_hangs_is_given_up_and_tried_again() {
    let scene = Scene::new();
    scene.own("db", "one");
    scene.vault.hold(LOGIN);
    let mut operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.vault.holds(2);
    operator.says(&["login to Vault failed", "timed out"]);
    operator.probe("/livez", 200);
    operator.probe("/healthz", 200);
    let reply = operator.probe("/readyz", 500);
    assert!(reply.text.contains("token"), "the check is named: {reply:?}");
    assert!(operator.is_running());
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
    operator.ready();
}

#[test]
fn while_a_login_hangs_the_operator_is_alive_and_ends_when_told() {
    let scene = Scene::new();
    scene.own("db", "one");
    scene.vault.hold(LOGIN);
    let operator = scene.start();
    scene.vault.holds(1);
    operator.probe("/livez", 200);
    // Its own patience with Vault, a minute, is longer than that of this test.
    assert_eq!(operator.stop().code(), Some(0));
    assert_eq!(asked(&scene, LOGIN), 1);
    // It reaches Vault after all: whoever sent it is no more, and has no token.
    scene.vault.land();
}

#[test]
fn however_many_calls_find_their_token_dead_one_login_is_in_flight() {
    let scene = Scene::new();
    let names = crowd(&scene, 40);
    let _operator = scene.start();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "one"}));
    }
    scene.settle();
    let before = scene.vault.requests().len();
    scene.vault.hold(LOGIN);
    scene.revoke_logins();
    for name in &names {
        scene.set_key(name, "k", "two");
    }
    scene.vault.holds(1);
    // As many as are worked on at a time.
    eventually("16 calls are refused", || {
        let refused = scene.vault.requests().len() - before;
        check(refused >= 16, refused)
    });
    assert_eq!(asked(&scene, LOGIN), 2, "the first one, and the one that hangs");
    // Whoever waited for it goes on with what the next one brings.
    scene.vault.behave();
    scene.vault.cut();
    scene.vault.restore();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2);
    }
    assert_eq!(scene.logins().len(), 1);
}

#[test]
fn forty_calls_with_a_dead_token_cost_one_login() {
    let scene = Scene::new();
    let names = crowd(&scene, 40);
    let _operator = scene.start();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "one"}));
    }
    scene.revoke_logins();
    for name in &names {
        scene.set_key(name, "k", "two");
    }
    for name in &names {
        scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2);
    }
    assert_eq!(asked(&scene, LOGIN), 2, "one for each life");
}

#[test]
fn forty_denied_paths_cost_no_login_and_delay_nobody() {
    let scene = Scene::new();
    scene.own("db", "one");
    for i in 0..40 {
        let annotations = ours(&[("path", &format!("secret/data/not-ours/{i}"))]);
        scene.create_secret(&format!("denied{i}"), annotations, &[("k", b"v")]);
    }
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    for i in 0..40 {
        scene.event(&format!("denied{i}"), "SyncFailed", &["permission denied"]);
    }
    for i in 0..40 {
        scene.set_key(&format!("denied{i}"), "k", "again");
    }
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    scene.settle();
    assert_eq!(asked(&scene, LOGIN), 1);
    let lookups = asked(&scene, "GET /v1/auth/token/lookup-self");
    assert!(lookups <= 40, "refusals share their lookups: {lookups} for 80");
}

#[test]
fn a_token_is_revoked_when_sigterm_comes_in_the_midst_of_work() {
    let scene = Scene::new();
    let names = crowd(&scene, 60);
    let operator = scene.start();
    scene.doc("s0").becomes(json!({"k": "one"}));
    assert_eq!(operator.stop().code(), Some(0));
    assert!(scene.logins().is_empty());

    // Also when work does not end in time.
    scene.vault.hold("POST /v1/secret/data/");
    for name in &names {
        scene.set_key(name, "k", "two");
    }
    let operator = scene.run().flag("shutdown-grace", "1s").start();
    scene.vault.holds(1);
    assert_eq!(operator.stop().code(), Some(0));
    assert!(scene.logins().is_empty());
}

#[test]
fn a_leader_that_hands_over_revokes_its_token() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.run().flag("leader-elect", "true").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    let second = scene
        .run()
        .flag("leader-elect", "true")
        .env("POD_NAME", "operator-1")
        .start();
    second.ready();
    let both = scene.logins();
    assert_eq!(both.len(), 2, "a standby is warm");
    assert_eq!(first.stop().code(), Some(0));
    assert_eq!(scene.logins().len(), 1);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    assert_eq!(second.stop().code(), Some(0));
    assert!(scene.logins().is_empty());
}
