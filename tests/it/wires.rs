//! The wires to Kubernetes and Vault: every wait on them ends, and what is said on them can be followed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use testkit::{Answer, Authority, Front, Gate, Plan, Scene, Wires, check, eventually, within};

/// Every wait on a wire ends within this time.
const BOUND: Duration = Duration::from_secs(90);

/// The connections of the watches, and all idle ones, are silently gone; new ones are good.
#[test]
fn a_change_arrives_within_ninety_seconds_although_all_connections_are_silently_gone() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.kube_wire.go_silent();
    let began = Instant::now();
    scene.set_key("db", "k", "two");
    within(BOUND, "the change has arrived", || {
        let data = scene.doc("db").data();
        check(data == Some(json!({"k": "two"})), format!("{data:?}"))
    });
    assert!(began.elapsed() < BOUND);
    operator.ready();
    operator.counts("vault_sync_operator_watches_behind", &[], 0.0);
}

#[test]
fn a_watch_that_hears_nothing_is_told_by_readiness_and_by_a_gauge_and_both_recover_without_an_event() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.run().flag("enable-metrics-auth", "false").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.ready();
    scene.kube_wire.stall();
    within(BOUND, "/readyz names the watch", || {
        let reply = operator.health.try_send("GET", "/readyz", None)?;
        let told = reply.status == 500 && reply.text.contains("kubernetes failed: watching");
        check(told, format!("{reply:?}"))
    });
    operator.counts("vault_sync_operator_watches_behind", &[], 1.0);
    scene.kube_wire.flow();
    // Nothing changes that the watches could show.
    within(BOUND, "/readyz is good again", || {
        let reply = operator.health.try_send("GET", "/readyz", None)?;
        check(reply.status == 200, format!("{reply:?}"))
    });
    within(BOUND, "no watch is behind", || {
        let behind = operator
            .metrics()
            .value("vault_sync_operator_watches_behind", &[]);
        check(behind == Some(0.0), format!("{behind:?}"))
    });
}

#[test]
fn a_change_reaches_vault_soon_although_all_connections_to_it_are_silently_gone() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.run().candidate("first").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.go_silent();
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
}

#[test]
fn a_leader_whose_ledger_takes_long_to_load_keeps_its_lease() {
    let scene = Scene::new();
    scene.own("db", "one");
    let wires = Wires::new(&scene.bed, &Arc::new(Plan::new(&scene.ns, None)));
    let kube = Gate::to(wires.kube_port);
    kube.hold(&format!("GET /api/v1/namespaces/{}/configmaps?", scene.home));
    let first = scene.run().candidate("first").over_http(&kube).start();
    scene.leads("first");
    let second = scene.run().candidate("second").start();
    second.ready();
    let began = Instant::now();
    eventually("a lease that is not renewed would have lapsed", || {
        let leader = scene.leader();
        assert!(leader.starts_with("first"), "{leader}");
        check(began.elapsed() > Duration::from_secs(20), leader)
    });
    kube.behave();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
    first.counts("vault_sync_operator_leader", &[], 1.0);
    assert!(scene.leader().starts_with("first"), "{}", scene.leader());
}

#[test]
fn a_namespace_that_does_not_exist_is_named_and_not_asked_for_again_and_again() {
    let scene = Scene::new();
    let wires = Wires::new(&scene.bed, &Arc::new(Plan::new(&scene.ns, None)));
    let kube = Gate::to(wires.kube_port);
    let missing = format!("{}-missing", scene.ns);
    // It has the rights there that it has at home.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = json!({
        "metadata": {"name": &missing},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "it-home"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": &scene.home}],
    });
    scene.bed.kube.post(roles, &binding).ok();
    let operator = scene
        .run()
        .env("POD_NAMESPACE", &missing)
        .over_http(&kube)
        .start();
    let reply = operator.probe("/readyz", 500);
    let writes = || {
        let requests = kube.requests();
        requests
            .iter()
            .filter(|r| r.starts_with("POST /api/v1/namespaces/"))
            .count()
    };
    eventually("it has tried to write its ledger there", || {
        check(writes() >= 2, writes())
    });
    let (began, before) = (Instant::now(), writes());
    eventually("five seconds are over", || {
        check(began.elapsed().as_secs() >= 5, writes())
    });
    assert!(
        writes() - before < 10,
        "{} writes in five seconds",
        writes() - before
    );
    let told = within(BOUND, "/readyz names it", || {
        let reply = operator.health.try_send("GET", "/readyz", None)?;
        check(reply.text.contains(&missing), format!("{reply:?}")).map(|()| reply.text)
    });
    assert!(
        told.contains("create what is missing, or correct the name"),
        "{told} {reply:?}"
    );
    scene.bed.kube.delete(&format!("{roles}/{missing}")).ok();
}

#[test]
fn every_call_is_a_line_of_the_log_at_debug_and_says_nothing_secret() {
    let scene = Scene::new();
    scene.own("db", "a-value-of-mine");
    let operator = scene.run().flag("log-level", "debug").start();
    scene.doc("db").becomes(json!({"k": "a-value-of-mine"}));
    let document = format!("/v1/secret/data/{}/db", scene.ns);
    operator.says(&["DEBUG", "called Vault", "POST", &document, "200", "ms"]);
    operator.says(&["DEBUG", "called Vault", "/v1/auth/kubernetes/login", "200", "ms"]);
    let secret = format!("/api/v1/namespaces/{}/secrets/db", scene.ns);
    operator.says(&["DEBUG", "called Kubernetes", "GET", &secret, "200", "ms"]);
    scene.vault.cut();
    scene.set_key("db", "k", "another-value");
    operator.says(&["DEBUG", "called Vault without an answer", "ms"]);
    let log = operator.log();
    let jwt = std::fs::read_to_string(scene.dir.join("token")).unwrap();
    let mut secrets = scene.tokens();
    secrets.extend(["a-value-of-mine".to_owned(), "another-value".to_owned(), jwt]);
    for secret in secrets {
        assert!(!log.contains(secret.trim()), "a secret is in the log");
    }
    scene.vault.restore();
}

#[test]
fn an_address_of_the_wrong_scheme_and_a_missing_token_file_say_what_to_do() {
    let scene = Scene::new();
    let authority = Authority::new(scene.dir.join("ca"));
    let front = Front::to(scene.vault.port, &authority.issue("vault", "IP:127.0.0.1"));
    for port in [scene.bed.vault_tls_port, front.number()] {
        let address = format!("http://127.0.0.1:{port}");
        let plain = scene.run().flag("vault-addr", &address).start();
        plain.says(&[
            "the port speaks TLS",
            "give https:// in --vault-addr (VAULT_ADDR)",
        ]);
        plain.stop();
    }
    let secure = format!("https://127.0.0.1:{}", scene.bed.vault_port);
    let secure = scene.run().flag("vault-addr", &secure).start();
    secure.says(&["the port does not speak TLS: give http:// in --vault-addr (VAULT_ADDR)"]);
    secure.stop();
    let missing = scene.dir.join("no-such-file");
    let missing = scene
        .run()
        .flag("vault-token-file", missing.to_str().unwrap())
        .start();
    missing.says(&[
        "no-such-file",
        "mount a projected token into the pod",
        "--vault-token-file",
    ]);
}

#[test]
fn a_redirect_from_https_to_http_gets_no_token_and_no_credentials() {
    let scene = Scene::new();
    scene.own("db", "one");
    let authority = Authority::new(scene.dir.join("ca"));
    let front = Front::to(scene.vault.port, &authority.issue("vault", "IP:127.0.0.1"));
    let plain = Gate::to(scene.bed.vault_port);
    let to = |path: &str| {
        let location = format!("http://127.0.0.1:{}{path}", plain.port);
        Answer::new(307, &[("Location", &location)], "")
    };
    scene
        .vault
        .answer("/v1/auth/kubernetes/login", to("/v1/auth/kubernetes/login"));
    let operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CACERT", authority.cert().to_str().unwrap())
        .start();
    scene.vault.answers(1);
    operator.says(&["login to Vault failed", "a redirect that is not followed"]);
    scene.vault.behave();
    let document = format!("/v1/secret/data/{}/db", scene.ns);
    scene.vault.answer(&format!("POST {document}"), to(&document));
    scene.event("db", "SyncFailed", &["a redirect that is not followed"]);
    assert_eq!(plain.heard(), [""; 0], "nothing was sent in clear");
}
