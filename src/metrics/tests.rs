use super::*;
use domain::source::Kind;

fn source(kind: Kind, name: &str) -> SourceKey {
    SourceKey {
        kind,
        namespace: "shop".into(),
        name: name.into(),
    }
}

/// The scrape's lines, without help, types, histogram buckets and the process's own.
fn lines(registry: &Registry) -> Vec<String> {
    let text = encode(registry);
    assert!(text.ends_with("# EOF\n"));
    let of_interest =
        |line: &&str| !line.starts_with('#') && !line.contains("_bucket{") && !line.starts_with("process_");
    let mut lines: Vec<String> = text.lines().filter(of_interest).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What stands from the start.
const ZEROES: [&str; 14] = [
    r#"vault_sync_operator_auth_attempts_total{result="failed"} 0"#,
    r#"vault_sync_operator_auth_attempts_total{result="success"} 0"#,
    "vault_sync_operator_claims_unavailable 0",
    "vault_sync_operator_events_dropped_total 0",
    "vault_sync_operator_leader 0",
    r#"vault_sync_operator_ledger_documents{state="creating"} 0"#,
    r#"vault_sync_operator_ledger_documents{state="deleting"} 0"#,
    r#"vault_sync_operator_ledger_documents{state="outcome-unknown"} 0"#,
    r#"vault_sync_operator_ledger_documents{state="written"} 0"#,
    "vault_sync_operator_ledger_newer_entries 0",
    "vault_sync_operator_ledger_pending_deletes 0",
    "vault_sync_operator_queue_depth 0",
    "vault_sync_operator_vault_up 0",
    "vault_sync_operator_watches_behind 0",
];

#[test]
fn every_name_and_label_is_the_contracts() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    assert_eq!(lines(&registry), ZEROES);

    let web = source(Kind::Deployment, "web");
    metrics.sync_succeeded(&web, Duration::from_millis(250));
    metrics.sync_failed(&web, Duration::from_millis(250));
    metrics.secrets_discovered(&web, 3);
    metrics.ownership_conflicts(&web, 1);
    metrics.drift_repaired(&web);
    metrics.config_parse_error(&web, "invalid_path");
    metrics.secret_not_found("shop");
    metrics.secret_key_missing("shop");
    metrics.document_written("shop");
    metrics.document_deleted("shop");
    metrics.vault_error(("denied", "permission_denied"));
    metrics.auth_attempt(true);
    metrics.ledger_documents(State::Written, 7);
    metrics.ledger_pending_deletes(2);
    metrics.ledger_newer_entries(3);
    metrics.claims_unavailable(1);
    metrics.event_dropped();
    metrics.vault_up(true);
    metrics.leader(true);
    metrics.queue_depth(5);
    metrics.watches_behind(2);
    metrics.runtime_info(4, Some(1024));

    let mut expected: Vec<String> = [
        r#"vault_sync_operator_auth_attempts_total{result="failed"} 0"#,
        r#"vault_sync_operator_auth_attempts_total{result="success"} 1"#,
        "vault_sync_operator_claims_unavailable 1",
        r#"vault_sync_operator_config_parse_errors_total{namespace="shop",resource="web",error_type="invalid_path"} 1"#,
        r#"vault_sync_operator_documents_deleted_total{namespace="shop"} 1"#,
        r#"vault_sync_operator_documents_written_total{namespace="shop"} 1"#,
        r#"vault_sync_operator_drift_repaired_total{namespace="shop",resource="web"} 1"#,
        "vault_sync_operator_events_dropped_total 1",
        "vault_sync_operator_leader 1",
        r#"vault_sync_operator_ledger_documents{state="creating"} 0"#,
        r#"vault_sync_operator_ledger_documents{state="deleting"} 0"#,
        r#"vault_sync_operator_ledger_documents{state="outcome-unknown"} 0"#,
        r#"vault_sync_operator_ledger_documents{state="written"} 7"#,
        "vault_sync_operator_ledger_newer_entries 3",
        "vault_sync_operator_ledger_pending_deletes 2",
        r#"vault_sync_operator_ownership_conflicts{namespace="shop",resource="web"} 1"#,
        "vault_sync_operator_queue_depth 5",
        r#"vault_sync_operator_runtime_info{setting="gogc",value="off"} 1"#,
        r#"vault_sync_operator_runtime_info{setting="gomaxprocs",value="4"} 1"#,
        r#"vault_sync_operator_runtime_info{setting="gomemlimit_bytes",value="1024"} 1"#,
        r#"vault_sync_operator_secret_key_missing_errors_total{namespace="shop"} 1"#,
        r#"vault_sync_operator_secret_not_found_errors_total{namespace="shop"} 1"#,
        r#"vault_sync_operator_secrets_discovered{namespace="shop",resource="web"} 3"#,
        r#"vault_sync_operator_sync_attempts_total{namespace="shop",resource="web",result="failed"} 1"#,
        r#"vault_sync_operator_sync_attempts_total{namespace="shop",resource="web",result="success"} 1"#,
        r#"vault_sync_operator_sync_duration_seconds_count{namespace="shop"} 2"#,
        r#"vault_sync_operator_sync_duration_seconds_sum{namespace="shop"} 0.5"#,
        "vault_sync_operator_vault_up 1",
        "vault_sync_operator_watches_behind 2",
                    r#"vault_sync_operator_vault_errors_total{kind="denied"} 1"#,
        r#"vault_sync_operator_vault_write_errors_total{error_type="permission_denied"} 1"#,
        ]
    .map(str::to_owned)
    .to_vec();
    let processors = std::thread::available_parallelism().unwrap();
    expected.push(format!(
        r#"vault_sync_operator_runtime_info{{setting="numcpu",value="{processors}"}} 1"#
    ));
    expected.sort();
    assert_eq!(lines(&registry), expected);
    assert!(encode(&registry).contains("# TYPE vault_sync_operator_sync_attempts counter\n"));
    assert!(encode(&registry).contains("# TYPE process_cpu_seconds counter\nprocess_cpu_seconds_total "));
    assert!(
        encode(&registry)
            .contains("# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes ")
    );
}

#[test]
fn a_sources_series_go_with_it() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let web = source(Kind::Deployment, "web");
    metrics.sync_succeeded(&web, Duration::from_millis(1));
    metrics.sync_failed(&web, Duration::from_millis(1));
    metrics.secrets_discovered(&web, 3);
    metrics.ownership_conflicts(&web, 1);
    metrics.drift_repaired(&web);
    metrics.config_parse_error(&web, "invalid_path");
    metrics.forget(&web);
    metrics.forget(&web);
    let mut left = lines(&registry);
    // The histogram is its namespace's, and stays for a while.
    left.retain(|line| !line.starts_with("vault_sync_operator_sync_duration_seconds"));
    assert_eq!(left, ZEROES);
}

#[test]
fn two_kinds_of_one_name_share_their_series() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (deployment, secret) = (source(Kind::Deployment, "web"), source(Kind::Secret, "web"));
    let discovered =
        |n: i64| format!(r#"vault_sync_operator_secrets_discovered{{namespace="shop",resource="web"}} {n}"#);
    metrics.secrets_discovered(&deployment, 3);
    metrics.secrets_discovered(&secret, 1);
    assert!(lines(&registry).contains(&discovered(4)));
    metrics.forget(&deployment);
    assert!(lines(&registry).contains(&discovered(1)));
    metrics.forget(&secret);
    assert_eq!(lines(&registry), ZEROES);
}

#[test]
fn the_series_of_namespaces_without_sources_go_when_a_hundred_more_are_empty() {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let in_namespace = |number: usize| SourceKey {
        namespace: format!("ns{number}").into(),
        ..source(Kind::Deployment, "web")
    };
    for number in 0..150 {
        metrics.sync_succeeded(&in_namespace(number), Duration::from_millis(1));
        metrics.document_written(&format!("ns{number}"));
        metrics.document_deleted(&format!("ns{number}"));
        metrics.secret_not_found(&format!("ns{number}"));
        metrics.secret_key_missing(&format!("ns{number}"));
        if number > 0 {
            metrics.forget(&in_namespace(number));
        }
    }
    let lines = lines(&registry);
    let of = |number: usize| {
        let label = format!("namespace=\"ns{number}\"");
        lines.iter().filter(|line| line.contains(&label)).count()
    };
    // Four counters, and the sum and the count of a histogram; its source has one series.
    assert_eq!(of(0), 6 + 1, "it has a source");
    assert_eq!((of(1), of(49), of(50), of(149)), (0, 0, 6, 6));
}
