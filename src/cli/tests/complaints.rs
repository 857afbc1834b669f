//! What is refused, and in which words.

use super::*;

#[test]
fn complaints_name_the_flag_and_what_is_allowed() {
    for (line, expected) in [
        ("--vault-adr=x", "error: unexpected argument '--vault-adr' found"),
        ("-nonsense", "error: unexpected argument '--nonsense' found"),
        ("sync", "error: unrecognized subcommand 'sync'"),
        (
            "--adopt=Always",
            r#"error: --adopt: "Always" is not allowed; use never, equal, annotated or all"#,
        ),
        (
            "--log-level=loud",
            "error: --log-level: use error, warn, info, debug or trace",
        ),
        (
            "--leader-elect=yes",
            r#"error: --leader-elect: "yes" is not allowed; use true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)"#,
        ),
        (
            "--concurrency 0",
            r#"error: --concurrency: "0" is not allowed; use a whole number from 1 to 512"#,
        ),
        (
            "--concurrency -5",
            r#"error: --concurrency: "-5" is not allowed; use a whole number from 1 to 512"#,
        ),
        (
            "--cluster-name=C1",
            r#"error: --cluster-name: "C1" is not allowed; use [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 characters"#,
        ),
        (
            "--cluster-prefix=env/{cluster}",
            "error: --cluster-prefix: {cluster} stands in it, and --cluster-name is not set",
        ),
        (
            "--kinds=Pod",
            r#"error: --kinds: unknown kind "Pod"; allowed are Deployment, Secret, StatefulSet, DaemonSet, CronJob"#,
        ),
        (
            "--mount=secret",
            r#"error: --mount: "secret" is not allowed; write PATH=1 or PATH=2, such as secret=2"#,
        ),
        (
            "--mount=a=1,a=2",
            r#"error: --mount: "a" is given both as version 1 and as version 2"#,
        ),
        (
            "--metrics-bind-address=8080",
            r#"error: --metrics-bind-address: "8080" is not allowed; use :8080, HOST:8080, [::1]:8080, or 0 for off"#,
        ),
        (
            "--vault-addr=http://u:hunter2@v",
            "error: --vault-addr: the URL must not hold a user or a password; use an address such as https://vault.example.com:8200",
        ),
        (
            "--cleanup-timeout=30",
            r#"error: --cleanup-timeout: "30": the duration lacks a unit; write for example 90s, 5m or 1h30m (units: ns, us, ms, s, m, h)"#,
        ),
    ] {
        assert_eq!(complaint_of(line, &[]), expected, "{line}");
    }
    assert!(
        read("--vault-adr=x", &[])
            .unwrap_err()
            .text
            .contains("'--vault-addr'")
    );
    assert!(
        read("--vault-addr", &[])
            .unwrap_err()
            .text
            .contains("a value is required for '--vault-addr <URL>'")
    );
}

#[test]
fn complaints_name_the_variable() {
    for (name, value, expected) in [
        ("VAULT_ADDR", "v:8200", "error: VAULT_ADDR (for --vault-addr): "),
        (
            "VAULT_SYNC_LEADER_ELECT",
            "yes",
            r#"error: VAULT_SYNC_LEADER_ELECT (for --leader-elect): "yes" is not allowed; use true or false"#,
        ),
        (
            "VAULT_SYNC_MOUNT",
            "a=1,a=2",
            "error: VAULT_SYNC_MOUNT (for --mount): ",
        ),
        (
            "VAULT_SKIP_VERIFY",
            "yes",
            r#"error: VAULT_SKIP_VERIFY: "yes" is not allowed; use true or false"#,
        ),
        ("VAULT_CLIENT_TIMEOUT", "soon", "error: VAULT_CLIENT_TIMEOUT: "),
        (
            "VAULT_CLIENT_TIMEOUT",
            "0",
            "error: VAULT_CLIENT_TIMEOUT: 0 would time out at once",
        ),
        (
            "VAULT_PROXY_ADDR",
            "hunter2",
            "error: VAULT_PROXY_ADDR: this is no proxy's URL; use one such as",
        ),
        (
            "VAULT_CLIENT_CERT",
            "/c.pem",
            "error: VAULT_CLIENT_CERT: it needs VAULT_CLIENT_KEY beside it",
        ),
        (
            "GOMAXPROCS",
            "0",
            r#"error: GOMAXPROCS: "0" is not allowed; use a whole number from 1 to 1024"#,
        ),
        (
            "GOMEMLIMIT",
            "1G",
            r#"error: GOMEMLIMIT: "1G" is not allowed; use bytes, or a suffix B, KiB, MiB, GiB or TiB, such as 512KiB; or off"#,
        ),
        ("RUST_LOG", "a=b=c", "error: RUST_LOG: this is not a filter"),
        ("POD_NAMESPACE", "A", "error: POD_NAMESPACE: "),
    ] {
        let complaint = complaint_of("", &[(name, value)]);
        assert!(complaint.starts_with(expected), "{complaint}");
        assert!(!complaint.contains("hunter2"));
    }
}

#[test]
fn values_have_their_limits() {
    for (line, good) in [
        ("--metrics-bind-address=[::]:8080", true),
        ("--metrics-bind-address=localhost:0", true),
        ("--metrics-bind-address=:65536", false),
        ("--metrics-bind-address=::1:80", false),
        ("--metrics-bind-address=:", false),
        ("--vault-addr=https://v:8200/prefix", true),
        ("--vault-addr=ftp://v", false),
        ("--vault-addr=https://v?x=1", false),
        ("--vault-addr=https:", false),
        ("--resync-interval=off", true),
        ("--resync-interval=0", true),
        ("--resync-interval=-1h", false),
        ("--max-document-size=1MiB", true),
        ("--max-document-size=1.5MiB", false),
        ("--max-document-size=99999999TiB", false),
        ("--cluster-name=", true),
        ("--cluster-name=a-", false),
        ("--cluster-prefix=", true),
        ("--cluster-prefix=a/../b", false),
        ("--cluster-prefix={name}", false),
        ("--discover=", true),
        ("--discover=csi,image-pull-secrets", true),
        ("--discover=pods", false),
        ("--kinds=", false),
        ("--path-policy=", true),
        ("--watch-namespaces=A", false),
        ("--vault-role=", false),
        ("--vault-auth-path=/", false),
    ] {
        assert_eq!(read(line, &[]).is_ok(), good, "{line}");
    }
    assert_eq!(read("--resync-interval=off", &[]).unwrap().resync_interval, None);
    assert_eq!(
        read("--max-document-size=1MiB", &[])
            .unwrap()
            .settings
            .max_document_size,
        Some(1_048_576)
    );
    assert_eq!(
        read("--cluster-prefix=/fleet/", &[])
            .unwrap()
            .settings
            .cluster_prefix,
        "fleet"
    );
}
