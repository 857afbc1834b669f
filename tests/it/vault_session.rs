//! Logins, renewals, refusals, outages.

use std::fs;

use serde_json::json;

use testkit::{Scene, Testbed, check, env_from, eventually, ours};

const LOGIN: &str = "POST /v1/auth/kubernetes/login";

fn logins(scene: &Scene) -> usize {
    scene
        .vault
        .requests()
        .iter()
        .filter(|request| *request == LOGIN)
        .count()
}

/// A Secret `db` that goes whole to `db`, synced with this value.
fn synced(scene: &Scene) {
    scene.own("db", "one");
}

#[test]
fn one_login_serves_many_documents() {
    let scene = Scene::new();
    let names: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    for name in &names {
        scene.secret(name, &[("k", "v")]);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), env_from(&names));
    let operator = scene.start();
    for name in &names {
        scene.doc(&format!("app/{name}")).becomes(json!({"k": "v"}));
    }
    assert_eq!(logins(&scene), 1);
    operator.counts(
        "vault_sync_operator_auth_attempts_total",
        &[("result", "success")],
        1.0,
    );
}

#[test]
fn a_token_that_reaches_its_max_ttl_is_replaced_and_sync_goes_on() {
    let scene = Scene::new();
    scene.set_role(json!({"token_ttl": "1s", "token_max_ttl": "2s"}));
    synced(&scene);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    eventually("the third token", || {
        let count = scene.tokens().len();
        check(count >= 3, format!("{count} tokens"))
    });
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_token_is_renewed_before_its_ttl_ends() {
    let scene = Scene::new();
    scene.set_role(json!({"token_ttl": "9s", "token_max_ttl": "1h"}));
    synced(&scene);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    eventually("two renewals", || {
        let requests = scene.vault.requests();
        let renewals = requests
            .iter()
            .filter(|r| r.ends_with(" /v1/auth/token/renew-self"))
            .count();
        check(renewals >= 2, format!("{requests:?}"))
    });
    assert_eq!(logins(&scene), 1);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
}

#[test]
fn when_all_logins_are_revoked_it_logs_in_again_and_sync_goes_on() {
    let scene = Scene::on(Testbed::private());
    synced(&scene);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene
        .bed
        .vault
        .send("PUT", "/v1/sys/leases/revoke-prefix/auth/kubernetes/login", None)
        .ok();
    assert!(scene.logins().is_empty());
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    assert_eq!(logins(&scene), 2, "one for each life");
}

#[test]
fn the_token_file_is_read_at_each_login() {
    let scene = Scene::new();
    synced(&scene);
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    let file = scene.dir.join("token");
    let old = fs::read_to_string(&file).unwrap();
    let new = scene.jwt("operator");
    assert_ne!(old, new);
    fs::write(&file, &new).unwrap();
    scene.revoke_logins();
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    let with = |jwt: &str| {
        scene
            .vault
            .heard()
            .iter()
            .map(|text| text.matches(jwt).count())
            .sum::<usize>()
    };
    assert_eq!(
        (with(&old), with(&new)),
        (1, 1),
        "logins with the old token, and with the new one"
    );
}

#[test]
fn a_true_permission_denied_is_reported_and_starts_no_login_storm() {
    let scene = Scene::new();
    synced(&scene);
    scene.create_secret(
        "denied",
        ours(&[("path", "secret/data/not-ours/x")]),
        &[("k", b"v")],
    );
    let operator = scene.start();
    scene.event("denied", "SyncFailed", &["permission denied", "not-ours/x"]);
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.set_key("denied", "k", "again");
    scene.settle();
    assert!(logins(&scene) <= 2, "{} logins", logins(&scene));
    let labels = [
        ("namespace", &*scene.ns),
        ("resource", "denied"),
        ("result", "failed"),
    ];
    operator.counts("vault_sync_operator_sync_attempts_total", &labels, 1.0);
}

#[test]
fn a_refused_login_is_counted_said_and_tried_again() {
    let scene = Scene::new();
    scene.delete_role();
    synced(&scene);
    let mut operator = scene.start();
    operator.counts(
        "vault_sync_operator_auth_attempts_total",
        &[("result", "failed")],
        1.0,
    );
    operator.says(&["login"]);
    operator.probe("/livez", 200);
    operator.probe("/readyz", 500);
    assert!(operator.is_running());
    scene.set_role(json!({}));
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.probe("/readyz", 200);
}

#[test]
fn changes_made_during_an_outage_of_vault_arrive_after_it() {
    let scene = Scene::new();
    synced(&scene);
    scene.secret("late", &[("k", "v")]);
    let mut operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.cut();
    scene.set_key("db", "k", "two");
    scene.app("app", &["late"]);
    operator.probe("/readyz", 500);
    assert!(operator.is_running());
    scene.vault.restore();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    scene.doc("app/late").becomes(json!({"k": "v"})).is_at_version(1);
    operator.probe("/readyz", 200);
}

#[test]
fn changes_made_while_kubernetes_is_away_arrive_after_it() {
    let scene = Scene::new();
    synced(&scene);
    let mut operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.kube_wire.cut();
    scene.set_key("db", "k", "two");
    operator.probe("/livez", 200);
    assert!(operator.is_running());
    scene.kube_wire.restore();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_vault_that_is_sealed_at_start_is_waited_for() {
    let scene = Scene::on(Testbed::private());
    synced(&scene);
    scene.bed.seal();
    let mut operator = scene.start();
    operator.probe("/livez", 200);
    let reply = operator.probe("/readyz", 500);
    assert!(
        reply.text.to_lowercase().contains("vault"),
        "the check is named: {reply:?}"
    );
    operator.probe("/healthz", 500);
    operator.says(&["sealed"]);
    assert!(operator.is_running());
    scene.bed.unseal();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
    operator.ready();

    // And once more while it runs.
    scene.bed.seal();
    scene.set_key("db", "k", "two");
    operator.probe("/readyz", 500);
    operator.probe("/livez", 200);
    scene.bed.unseal();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_vault_that_is_away_at_start_is_waited_for() {
    let scene = Scene::new();
    synced(&scene);
    scene.vault.cut();
    let mut operator = scene.start();
    operator.probe("/livez", 200);
    let reply = operator.probe("/readyz", 500);
    assert!(
        reply.text.to_lowercase().contains("vault"),
        "the check is named: {reply:?}"
    );
    operator.says(&["Vault"]);
    assert!(operator.is_running());
    scene.vault.restore();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
    operator.ready();
}

#[test]
fn a_kubernetes_that_is_away_at_start_is_waited_for() {
    let scene = Scene::new();
    synced(&scene);
    scene.kube_wire.cut();
    let mut operator = scene.start();
    operator.probe("/livez", 200);
    operator.says(&["Kubernetes"]);
    assert!(operator.is_running());
    scene.kube_wire.restore();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
}

#[test]
fn vault_over_tls_is_trusted_by_vault_cacert_and_by_nothing_else() {
    let scene = Scene::new();
    synced(&scene);
    let address = format!("https://127.0.0.1:{}", scene.bed.vault_tls_port);
    let distrusting = scene.run().flag("vault-addr", &address).start();
    distrusting.says(&["certificate"]);
    distrusting.probe("/readyz", 500);
    assert_eq!(scene.doc("db").data(), None);
    distrusting.stop();

    let ca = scene.bed.dir.join("tls.crt");
    let by_file = scene
        .run()
        .flag("vault-addr", &address)
        .env("VAULT_CACERT", ca.to_str().unwrap())
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    by_file.stop();
    scene.set_key("db", "k", "two");
    let _by_bytes = scene
        .run()
        .flag("vault-addr", &address)
        .env("VAULT_CACERT_BYTES", &scene.bed.ca)
        .start();
    scene.doc("db").becomes(json!({"k": "two"}));
}

#[test]
fn the_auth_path_and_vaults_namespace_are_sent_as_set() {
    let scene = Scene::new();
    let _operator = scene
        .run()
        .flag("vault-auth-path", "other/cluster")
        .env("VAULT_NAMESPACE", "team-a")
        .start();
    eventually("a login at that path", || {
        let requests = scene.vault.requests();
        check(
            requests.iter().any(|r| r == "POST /v1/auth/other/cluster/login"),
            format!("{requests:?}"),
        )
    });
    let heard = scene.vault.heard().join("\n").to_lowercase();
    assert!(heard.contains("x-vault-namespace: team-a"), "{heard}");
}

/// Rights to the scene's documents, and to nothing else.
fn documents_only(scene: &Scene) -> String {
    ["data", "metadata", "delete"]
        .map(|part| {
            let rights = r#""create", "read", "update", "patch", "list", "delete""#;
            format!(
                "path \"secret/{part}/{}/*\" {{ capabilities = [{rights}] }}\n",
                scene.ns
            )
        })
        .concat()
}

#[test]
fn a_token_that_may_not_look_itself_up_is_a_good_one_and_stays() {
    let scene = Scene::new();
    scene.set_policy(&documents_only(&scene));
    scene.set_role(json!({"token_no_default_policy": true}));
    synced(&scene);
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.ready();
    let began = std::time::Instant::now();
    eventually("it is older than ten seconds, and probed", || {
        let reply = operator.health.try_send("GET", "/readyz", None)?;
        assert_eq!(reply.status, 200, "{reply:?}");
        check(began.elapsed().as_secs() >= 12, began.elapsed().as_secs())
    });
    assert_eq!(logins(&scene), 1);
    // One that is dead is replaced all the same.
    scene.revoke_logins();
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    assert_eq!(logins(&scene), 2);
}

#[test]
fn with_the_policy_of_the_example_a_token_looks_itself_up_and_is_revoked() {
    let scene = Scene::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/operator/vault-policy.hcl");
    scene.set_policy(&fs::read_to_string(example).unwrap());
    scene.set_role(json!({"token_no_default_policy": true, "token_ttl": "9s", "token_max_ttl": "1h"}));
    synced(&scene);
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.ready();
    eventually("it is renewed", || {
        let renewals = scene.vault.requests();
        let renewals = renewals.iter().filter(|r| r.ends_with("/renew-self")).count();
        check(renewals >= 2, renewals)
    });
    assert_eq!(logins(&scene), 1);
    operator.stop();
    assert!(scene.logins().is_empty());
}
