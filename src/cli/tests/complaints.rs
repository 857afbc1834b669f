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
            r#"error: VAULT_CLIENT_TIMEOUT: "0" is not allowed; use 1 to 3600 seconds, or a duration such as 60s"#,
        ),
        (
            "VAULT_PROXY_ADDR",
            "hunter2",
            "error: VAULT_PROXY_ADDR: this is no proxy's URL; use one such as",
        ),
        (
            "VAULT_PROXY_ADDR",
            "http://proxy:65536",
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
            r#"error: GOMEMLIMIT: "1G" is not allowed; use bytes, or a suffix B, KiB, MiB, GiB or TiB, such as 512KiB, and at most 1024TiB; or off"#,
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
        ("--vault-addr=http://v:65535", true),
        ("--vault-addr=http://[::1]:8200", true),
        ("--vault-addr=http://[::1]", true),
        ("--vault-addr=http://v:65536", false),
        ("--vault-addr=http://v:99999999999999999999", false),
        ("--vault-addr=http://v:-1", false),
        ("--vault-addr=http://v:0", false),
        ("--vault-addr=http://v:", false),
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

const HUGE: [&str; 5] = [
    "18446744073709551615",
    "99999999999999999999999999",
    "-1",
    "1e30",
    "",
];
const LONG: [&str; 6] = [
    "18446744073709551615s",
    "2562047h",
    "1e30h",
    "-1s",
    "18446744073709551615",
    "99999999999999999999999999h",
];
const LARGE: [&str; 6] = [
    "1025TiB",
    "18446744073709551615",
    "99999999999999999999999999TiB",
    "-1",
    "1e30KiB",
    "8EiB",
];

/// Each flag that is a number, a duration, a size or a port: its name, what is outside of its range, and the words that
/// say what is inside.
#[test]
fn every_flag_refuses_what_is_outside_of_its_range() {
    let flags: [(&str, &[&str], &[&str], &str); 9] = [
        ("vault-max-rps", &HUGE, &["1000001"], "from 0 to 1000000"),
        ("concurrency", &HUGE, &["0", "513"], "from 1 to 512"),
        ("cleanup-timeout", &LONG, &["24h1ns", "25h"], "from 0s to 24h"),
        ("shutdown-grace", &LONG, &["25h"], "from 0s to 24h"),
        (
            "resync-interval",
            &LONG,
            &["1ns", "999ms", "8761h"],
            "from 1s to 8760h",
        ),
        ("repeat-events", &LONG, &["0", "1ms", "25h"], "from 1s to 24h"),
        ("max-document-size", &LARGE, &[], "at most 1024TiB"),
        (
            "metrics-bind-address",
            &[":65536", ":-1", ":99999999999999999999"],
            &[],
            ":8080",
        ),
        (
            "health-probe-bind-address",
            &[":65536", ":-1", ":1e4"],
            &[],
            ":8080",
        ),
    ];
    for (flag, outside, more, range) in flags {
        for value in outside.iter().chain(more) {
            let variable = args::variable(flag);
            for (said, name) in [
                (read(&format!("--{flag}={value}"), &[]), format!("--{flag}: ")),
                (
                    read("", &[(&variable, value)]),
                    format!("{variable} (for --{flag}): "),
                ),
            ] {
                if value.is_empty() && name.starts_with("VAULT") {
                    continue; // It counts as unset.
                }
                let text = said.expect_err(&format!("{name}{value:?}")).text;
                assert!(
                    text.contains(&name) && text.contains(&format!("{value:?}").replace('"', "")),
                    "{text}"
                );
                let grammar = [
                    "a duration is needed",
                    "lacks a unit",
                    "is negative",
                    "is too long",
                ];
                let says_range = text.contains(range) || grammar.iter().any(|words| text.contains(words));
                assert!(says_range, "{text}");
            }
        }
    }
}

#[test]
fn every_variable_refuses_what_is_outside_of_its_range() {
    let variables: [(&str, &[&str], &[&str], &str); 4] = [
        (
            "VAULT_CLIENT_TIMEOUT",
            &LONG,
            &["0", "3601", "0s", "1h1s", "1us"],
            "1",
        ),
        ("VAULT_MAX_RETRIES", &HUGE, &["101"], "from 0 to 100"),
        ("GOMAXPROCS", &HUGE, &["0", "1025"], "from 1 to 1024"),
        ("GOMEMLIMIT", &LARGE, &[], "at most 1024TiB"),
    ];
    for (name, outside, more, range) in variables {
        for value in outside.iter().chain(more).filter(|value| !value.is_empty()) {
            let text = complaint_of("", &[(name, value)]);
            assert!(text.starts_with(&format!("error: {name}: \"{value}")), "{text}");
            assert!(text.contains(range) || text.contains("duration"), "{text}");
        }
    }
    for value in ["0", "25h", "1e30h"] {
        let complaint = complaint_of(&format!("release --timeout={value}"), &[]);
        assert!(complaint.starts_with("error: --timeout: "), "{complaint}");
    }
    let longest = format!("--cluster-prefix={}", "x".repeat(256));
    assert!(read(&longest, &[]).is_ok());
    assert!(complaint_of(&format!("{longest}x"), &[]).contains("at most 256 bytes"));
}

/// What is at the edge of its range is used, and nothing that is made of it overflows.
#[test]
fn the_ends_of_each_range_are_usable() {
    for (line, variables) in [
        ("--vault-max-rps=1000000 --concurrency=512", vec![]),
        ("--vault-max-rps=0 --concurrency=1", vec![]),
        (
            "--cleanup-timeout=24h --shutdown-grace=24h --resync-interval=8760h",
            vec![],
        ),
        (
            "--cleanup-timeout=0 --shutdown-grace=0s --resync-interval=1s",
            vec![],
        ),
        (
            "--max-document-size=1024TiB --metrics-bind-address=:65535",
            vec![],
        ),
        ("--max-document-size=1 --health-probe-bind-address=:0", vec![]),
        (
            "",
            vec![("VAULT_CLIENT_TIMEOUT", "3600"), ("VAULT_MAX_RETRIES", "100")],
        ),
        (
            "",
            vec![("VAULT_CLIENT_TIMEOUT", "1ms"), ("VAULT_MAX_RETRIES", "0")],
        ),
        ("", vec![("GOMAXPROCS", "1"), ("GOMEMLIMIT", "0")]),
        ("", vec![("GOMEMLIMIT", "1024TiB")]),
    ] {
        let config = read(line, &variables).unwrap();
        let _ = config.vault.timeout * 2;
    }
}
