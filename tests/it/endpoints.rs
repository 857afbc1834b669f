//! `/metrics`, `/healthz`, `/readyz`, `/livez`.

use std::collections::BTreeSet;

use serde_json::json;

use testkit::{Http, Operator, Scene, check, env_from, eventually, ours};

const FAMILIES: [&str; 9] = [
    "vault_sync_operator_sync_attempts_total",
    "vault_sync_operator_sync_duration_seconds_bucket",
    "vault_sync_operator_auth_attempts_total",
    "vault_sync_operator_secrets_discovered",
    "vault_sync_operator_vault_write_errors_total",
    "vault_sync_operator_secret_not_found_errors_total",
    "vault_sync_operator_secret_key_missing_errors_total",
    "vault_sync_operator_config_parse_errors_total",
    "vault_sync_operator_runtime_info",
];

fn names(labels: &[&str]) -> BTreeSet<String> {
    labels.iter().map(|label| (*label).to_owned()).collect()
}

#[test]
fn every_family_of_the_contract_is_there_with_its_labels_and_no_others() {
    let scene = Scene::new();
    scene.secret("good", &[("k", "v")]);
    scene.app("app", &["good", "missing-secret"]);
    let list = r#"[{"name": "good", "keys": ["missing-key"]}]"#;
    scene.deployment(
        "keyless",
        ours(&[("path", &scene.path("k")), ("secrets", list)]),
        env_from(&[]),
    );
    scene.create_secret("invalid", ours(&[("path", "secret")]), &[("k", b"v")]);
    scene.create_secret(
        "denied",
        ours(&[("path", "secret/data/not-ours/x")]),
        &[("k", b"v")],
    );
    let operator = scene.start();
    scene.doc("app/good").becomes(json!({"k": "v"}));
    for source in ["app", "keyless", "denied"] {
        scene.event(source, "SyncFailed", &[]);
    }
    scene.event("invalid", "InvalidAnnotation", &[]);
    scene.settle();

    let ns = ("namespace", &*scene.ns);
    let success = [ns, ("resource", "marker"), ("result", "success")];
    operator.counts(FAMILIES[0], &success, 1.0);
    operator.counts(FAMILIES[0], &[ns, ("resource", "app"), ("result", "failed")], 1.0);
    operator.counts("vault_sync_operator_sync_duration_seconds_count", &[ns], 1.0);
    operator.counts(
        "vault_sync_operator_auth_attempts_total",
        &[("result", "success")],
        1.0,
    );
    operator.counts(
        "vault_sync_operator_secrets_discovered",
        &[ns, ("resource", "app")],
        2.0,
    );
    operator.counts("vault_sync_operator_secret_not_found_errors_total", &[ns], 1.0);
    operator.counts("vault_sync_operator_secret_key_missing_errors_total", &[ns], 1.0);
    operator.counts(
        "vault_sync_operator_config_parse_errors_total",
        &[ns, ("resource", "invalid")],
        1.0,
    );

    let metrics = operator.metrics();
    for (family, labels) in FAMILIES.iter().zip([
        names(&["namespace", "resource", "result"]),
        names(&["namespace", "le"]),
        names(&["result"]),
        names(&["namespace", "resource"]),
        names(&["error_type"]),
        names(&["namespace"]),
        names(&["namespace"]),
        names(&["namespace", "resource", "error_type"]),
        names(&["setting", "value"]),
    ]) {
        assert_eq!(metrics.labels(family), labels, "{family}");
    }
    let known = names(&[
        "auth_failed",
        "permission_denied",
        "invalid_path",
        "connection_failed",
        "unknown",
    ]);
    let seen = metrics.label_values("vault_sync_operator_vault_write_errors_total", "error_type");
    assert!(seen.is_subset(&known), "{seen:?}");
    for word in [
        "missing-secret",
        "missing-key",
        "\"good\"",
        "not-ours",
        "secret/data",
    ] {
        assert!(!metrics.0.contains(word), "{word} in\n{}", metrics.0);
    }
}

#[test]
fn the_series_of_a_source_go_with_it() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let operator = scene.start();
    operator.counts(
        "vault_sync_operator_secrets_discovered",
        &[("resource", "app")],
        1.0,
    );
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    eventually("no series names it", || {
        let left = operator.metrics().0;
        check(!left.contains("resource=\"app\""), left)
    });
}

#[test]
fn metrics_are_for_who_may_read_them() {
    let scene = Scene::new();
    scene.create_account("reader");
    scene.bind("reader", "it-metrics");
    scene.create_account("stranger");
    let operator = scene.start();
    operator.ready();
    let base = format!("http://{}", operator.metrics_address);
    let status = |authorization: Option<String>| {
        let headers: Vec<(&str, &str)> = authorization
            .iter()
            .map(|value| ("authorization", &**value))
            .collect();
        Http::new(base.clone(), &headers, None).get("/metrics").status
    };
    assert_eq!(status(None), 401);
    assert_eq!(status(Some("Bearer nonsense".into())), 401);
    assert_eq!(status(Some("Basic Zm9vOmJhcg==".into())), 401);
    assert_eq!(status(Some(format!("Bearer {}", scene.jwt("stranger")))), 403);
    assert_eq!(status(Some(format!("Bearer {}", scene.jwt("reader")))), 200);
    scene.kube_wire.cut();
    assert_eq!(
        status(Some(format!("Bearer {}", scene.jwt("stranger")))),
        500,
        "nobody can be asked"
    );
}

#[test]
fn metrics_are_for_everybody_when_their_auth_is_off() {
    let scene = Scene::new();
    let operator = scene.run().flag("enable-metrics-auth", "false").start();
    operator.ready();
    let anybody = Http::new(format!("http://{}", operator.metrics_address), &[], None);
    let reply = anybody.get("/metrics");
    assert_eq!(reply.status, 200);
    assert!(
        reply.text.contains("vault_sync_operator_runtime_info"),
        "{reply:?}"
    );
}

#[test]
fn health_endpoints_answer_ok_and_verbose_lists_the_checks() {
    let scene = Scene::new();
    let operator = scene.start();
    operator.ready();
    for path in ["/healthz", "/readyz", "/livez"] {
        let reply = operator.health.get(path);
        assert_eq!((reply.status, reply.text.trim()), (200, "ok"), "{path}");
        assert_eq!(operator.health.get(&format!("{path}?verbose")).status, 200);
    }
    for (path, checks) in [
        ("/healthz", &["vault"][..]),
        ("/readyz", &["vault", "token", "kubernetes"]),
    ] {
        let verbose = operator
            .health
            .get(&format!("{path}?verbose"))
            .text
            .to_lowercase();
        for check in checks {
            assert!(
                verbose
                    .lines()
                    .any(|line| line.contains(check) && line.contains("ok")),
                "{path}: {verbose}"
            );
        }
    }
    assert_eq!(operator.health.get("/nowhere").status, 404);
}

#[test]
fn without_vault_only_livez_is_content() {
    let scene = Scene::new();
    let operator = scene.start();
    operator.ready();
    scene.vault.cut();
    for path in ["/healthz", "/readyz"] {
        let reply = operator.probe(path, 500);
        assert!(
            reply.text.to_lowercase().contains("vault"),
            "the check is named: {reply:?}"
        );
    }
    operator.probe("/livez", 200);
    scene.vault.restore();
    operator.probe("/healthz", 200);
    operator.probe("/readyz", 200);
}

fn setting(operator: &Operator, setting: &str, value: &str) {
    operator.counts(
        "vault_sync_operator_runtime_info",
        &[("setting", setting), ("value", value)],
        1.0,
    );
}

#[test]
fn gomaxprocs_and_gomemlimit_are_obeyed_logged_and_in_runtime_info() {
    let scene = Scene::new();
    let operator = scene
        .run()
        .env("GOMAXPROCS", "3")
        .env("GOMEMLIMIT", "64MiB")
        .start();
    setting(&operator, "gomaxprocs", "3");
    setting(&operator, "gomemlimit_bytes", "67108864");
    let settings = operator
        .metrics()
        .label_values("vault_sync_operator_runtime_info", "setting");
    assert!(
        settings.is_superset(&names(&["gomaxprocs", "numcpu", "gomemlimit_bytes", "gogc"])),
        "{settings:?}"
    );
    eventually("a log line with both", || {
        let log = operator.log().to_lowercase();
        let found = log
            .lines()
            .any(|line| line.contains("gomaxprocs") && line.contains("gomemlimit"));
        check(found, log)
    });
}
