//! What people get wrong: it is said clearly, loses nothing, and stops nobody else.

use serde_json::{Map, Value, json};

use testkit::{Scene, env_from, eventually, ours};

const PARSE_ERRORS: &str = "vault_sync_operator_config_parse_errors_total";

/// Each source is healthy first; then one of its annotations is spoilt as its row says. Every row
/// must end in an Event with the row's words and in the metric, and leave Vault as it was.
fn spoils(annotation: &str, rows: &[(&str, &[&str])]) {
    let scene = Scene::new();
    scene.secret("db", &[("k", "good")]);
    for number in 0..rows.len() {
        let path = scene.path(&format!("app{number}"));
        let annotations = ours(&[("path", &path), ("secrets", r#"[{"name": "db"}]"#)]);
        scene.deployment(&format!("app{number}"), annotations, env_from(&[]));
    }
    let mut operator = scene.start();
    for number in 0..rows.len() {
        scene.doc(&format!("app{number}")).becomes(json!({"k": "good"}));
    }
    for (number, (value, _)) in rows.iter().enumerate() {
        scene.annotate(
            "Deployment",
            &format!("app{number}"),
            &[(annotation, Some(value))],
        );
    }
    for (number, (_, words)) in rows.iter().enumerate() {
        let name = format!("app{number}");
        let event = scene.event(&name, "InvalidAnnotation", words);
        assert_eq!(event.kind, "Warning");
        assert!(
            event.message.contains(&format!("vault-sync.io/{annotation}")),
            "{event:?}"
        );
        operator.counts(
            PARSE_ERRORS,
            &[("namespace", &scene.ns), ("resource", &name)],
            1.0,
        );
    }
    // The Secret changes for all of them; none may follow, and others go on.
    scene.set_key("db", "k", "changed");
    scene.settle();
    for number in 0..rows.len() {
        scene
            .doc(&format!("app{number}"))
            .holds(json!({"k": "good"}))
            .is_at_version(1);
    }
    assert!(operator.is_running());
    // All of them can be mended.
    for number in 0..rows.len() {
        let good = match annotation {
            "path" => scene.path(&format!("app{number}")),
            _ => r#"[{"name": "db"}]"#.to_owned(),
        };
        scene.annotate(
            "Deployment",
            &format!("app{number}"),
            &[(annotation, Some(&good))],
        );
    }
    for number in 0..rows.len() {
        scene
            .doc(&format!("app{number}"))
            .becomes(json!({"k": "changed"}))
            .is_at_version(2);
    }
}

#[test]
fn a_path_that_names_no_document_is_refused_and_nothing_is_deleted() {
    let long = format!("secret/data/{}", "x".repeat(600));
    let huge = format!("secret/data/{}", "x".repeat(200 * 1024));
    spoils(
        "path",
        &[
            ("", &["empty"]),
            ("   ", &["empty"]),
            ("secret", &["mount", "secret"]),
            ("secret/data", &["mount", "secret"]),
            ("team/kv", &["mount", "team/kv"]),
            ("kv1", &["mount", "kv1"]),
            ("secret/data/../other", &[".."]),
            ("secret/data/./app", &["\".\""]),
            ("secret/data/%2e%2e/app", &["not allowed"]),
            ("secret/data//app", &["empty segment"]),
            ("/secret/data/app", &["/"]),
            ("secret/data/app/", &["/"]),
            (" secret/data/app", &["blank"]),
            ("secret/data/app ", &["blank"]),
            ("secret/data/a\tb", &["not allowed"]),
            ("secret/data/a\u{200b}b", &["not allowed"]),
            ("secret/data/{namespace}/app", &["braces", "placeholders"]),
            (
                "secret/data/{{ .Values.name }}",
                &["braces", "was perhaps not rendered"],
            ),
            ("secret/data/${NAME}", &["braces"]),
            ("secret/metadata/app", &["metadata"]),
            ("secret/delete/app", &["delete"]),
            ("secret/undelete/app", &["undelete"]),
            ("secret/destroy/app", &["destroy"]),
            ("secret/subkeys/app", &["subkeys"]),
            ("secret/config", &["config"]),
            ("transit/keys/app", &["transit"]),
            ("sys/policies/acl/app", &["sys"]),
            ("cubbyhole/app", &["cubbyhole"]),
            (&long, &["512"]),
            (&huge, &["512"]),
        ],
    );
}

#[test]
fn a_mount_that_does_not_exist_is_reported_and_nothing_is_deleted() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("path", Some("nowhere/data/db"))]);
    // Vault tells neither a mount that is not there from one that the token may not use, nor may we.
    eventually("a Warning that names the path", || {
        let events = scene.events("db");
        let found = events
            .iter()
            .any(|e| e.kind == "Warning" && e.message.contains("nowhere"));
        if found {
            Ok(())
        } else {
            Err(format!("{events:#?}"))
        }
    });
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_list_that_cannot_be_read_is_refused_and_nothing_is_changed() {
    spoils(
        "secrets",
        &[
            (r#"[{"name": "db""#, &["JSON"]),
            (r#"{"name": "db"}"#, &["list"]),
            (r#""db""#, &["list"]),
            ("17", &["list"]),
            (r#"["db"]"#, &["entry 1", "name"]),
            (r#"[{"name": "db"}, {"keys": ["k"]}]"#, &["entry 2", "name"]),
            (r#"[{"name": ""}]"#, &["entry 1", "name"]),
            (r#"[{"name": 7}]"#, &["entry 1", "name"]),
            (r#"[{"name": "../../configmaps/x"}]"#, &["entry 1", "name"]),
            (r#"[{"name": "db", "keys": "k"}]"#, &["entry 1", "keys"]),
            (r#"[{"name": "db", "keys": [1]}]"#, &["entry 1", "key"]),
            (
                r#"[{"name": "db", "keys": [{"from": "k"}]}]"#,
                &["entry 1", "from", "to"],
            ),
            (r#"[{"name": "db", "prefix": 1}]"#, &["entry 1", "prefix"]),
            (r#"[{"name": "db", "optional": "yes"}]"#, &["entry 1", "optional"]),
            (
                r#"[{"name": "db", "encoding": "rot13"}]"#,
                &["entry 1", "encoding", "base64"],
            ),
            (
                r#"[{"name": "db", "key": ["k"]}]"#,
                &["entry 1", "\"db\"", "unknown field \"key\"", "\"keys\"?"],
            ),
            (r#"[{"Name": "db"}]"#, &["entry 1", "\"Name\"", "\"name\"?"]),
            (
                r#"[{"name": "db", "keys": ["a"], "keys": ["b"]}]"#,
                &["\"keys\"", "twice"],
            ),
            ("[{\"name\": \"db\u{200b}\"}]", &["entry 1", "U+200B"]),
            ("- name:\u{a0}db\n", &["entry 1", "U+00A0"]),
            ("[{\"name\": \"db\"}]\u{feff}", &["JSON", "U+FEFF"]),
        ],
    );
}

#[test]
fn keys_that_collide_are_reported_with_both_entries_and_nothing_is_written() {
    let scene = Scene::new();
    scene.secret("a", &[("k", "from a")]);
    scene.secret("b", &[("k", "from b")]);
    let list = r#"[{"name": "a", "keys": ["k"]}, {"name": "b"}]"#;
    scene.listing("app", list);
    let operator = scene.start();
    scene.event(
        "app",
        "InvalidAnnotation",
        &["\"k\"", "\"a\"", "\"b\"", "entry 1", "entry 2"],
    );
    operator.counts(
        PARSE_ERRORS,
        &[("namespace", &scene.ns), ("resource", "app")],
        1.0,
    );
    scene.settle();
    assert_eq!(scene.doc("app").data(), None);
    scene.annotate(
        "Deployment",
        "app",
        &[(
            "secrets",
            Some(r#"[{"name": "a"}, {"name": "b", "prefix": "B_"}]"#),
        )],
    );
    scene.doc("app").becomes(json!({"k": "from a", "B_k": "from b"}));
}

#[test]
fn an_unknown_field_in_a_list_brings_nothing_to_vault() {
    let scene = Scene::new();
    scene.secret("db", &[("user", "u"), ("password", "p")]);
    scene.listing("app", r#"[{"name": "db", "key": ["user"]}]"#);
    let _operator = scene.start();
    scene.event("app", "InvalidAnnotation", &["\"key\"", "\"keys\"?"]);
    scene.settle();
    assert_eq!(scene.doc("app").data(), None);
    scene.annotate(
        "Deployment",
        "app",
        &[("secrets", Some(r#"[{"name": "db", "keys": ["user"]}]"#))],
    );
    scene.doc("app").becomes(json!({"user": "u"}));
}

#[test]
fn a_byte_order_mark_before_a_list_is_skipped() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.listing("yaml", "\u{feff}- name: db\n");
    scene.listing("json", "\u{feff}[{\"name\": \"db\"}]");
    let _operator = scene.start();
    scene.doc("yaml").becomes(json!({"k": "v"}));
    scene.doc("json").becomes(json!({"k": "v"}));
}

#[test]
fn a_reconcile_period_that_is_none_is_a_warning_and_counts_as_off() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment(
        "app",
        ours(&[("path", &scene.path("app")), ("reconcile", "often")]),
        env_from(&["db"]),
    );
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.event(
        "app",
        "InvalidAnnotation",
        &["vault-sync.io/reconcile", "often", "90s"],
    );
}

#[test]
fn a_preserve_on_delete_that_is_neither_true_nor_false_is_reported_and_retains() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let annotations = ours(&[("path", &scene.path("app")), ("preserve-on-delete", "True")]);
    scene.deployment("app", annotations, env_from(&["db"]));
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.event(
        "app",
        "InvalidAnnotation",
        &["vault-sync.io/preserve-on-delete", "True", "true", "false"],
    );
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"}));
}

#[test]
fn binary_values_arrive_as_base64_with_a_warning_that_says_to_pin_it() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        json!({}),
        &[("cert", &[0x30, 0x82, 0xff, 0x00]), ("text", b"plain")],
    );
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene
        .doc("app/db")
        .becomes(json!({"cert": "MIL/AA==", "text": "plain"}))
        .is_at_version(1);
    eventually("a Warning that names secret, key and encoding", || {
        let events = scene.events("app");
        let words = ["db", "cert", "base64", "encoding"];
        let found = events
            .iter()
            .any(|e| e.kind == "Warning" && words.iter().all(|w| e.message.contains(w)));
        if found {
            Ok(())
        } else {
            Err(format!("{events:#?}"))
        }
    });
}

#[test]
fn binary_values_under_encoding_text_are_a_problem_and_the_last_good_content_stays() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "good")]);
    let annotations = ours(&[("path", &scene.path("app")), ("encoding", "text")]);
    scene.deployment("app", annotations, env_from(&["db"]));
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "good"}));
    scene.patch("Secret", "db", json!({"data": {"k": "//79"}}));
    scene.event("app", "SyncFailed", &["db", "\"k\"", "UTF-8", "base64"]);
    scene.doc("app/db").holds(json!({"k": "good"})).is_at_version(1);
}

#[test]
fn an_empty_secret_is_an_empty_document_and_on_kv_v1_a_problem() {
    let scene = Scene::new();
    scene.create_secret("v2", ours(&[("path", &scene.path("v2"))]), &[]);
    scene.create_secret("v1", ours(&[("path", &format!("kv1/{}/v1", scene.ns))]), &[]);
    let mut operator = scene.start();
    scene.doc("v2").becomes(json!({})).is_at_version(1);
    scene.event("v1", "SyncFailed", &["KV v1", "no keys"]);
    scene.settle();
    scene.doc("v2").is_at_version(1);
    assert!(operator.is_running());
    scene.set_key("v1", "k", "v");
    scene
        .doc_in("kv1", &format!("{}/v1", scene.ns))
        .becomes(json!({"k": "v"}));
}

#[test]
fn a_secret_of_one_mebibyte_is_synced_and_what_vault_cannot_hold_is_said() {
    let scene = Scene::new();
    // Exactly what Kubernetes allows.
    let text = "x".repeat(1024 * 1024);
    scene.secret("text", &[("k", &text)]);
    scene.create_secret("binary", json!({}), &[("k", &vec![0xff; 1024 * 1024])]);
    scene.app("app", &["text", "binary"]);
    let mut operator = scene.start();
    scene.doc("app/text").becomes(json!({"k": text})).is_at_version(1);
    // As base64 it is more than Vault takes: that is said, with the size.
    scene.event("app", "SyncFailed", &["app/binary", "1398105 bytes"]);
    assert_eq!(scene.doc("app/binary").data(), None);
    let text = "y".repeat(1024 * 1024);
    scene.set_key("text", "k", &text);
    scene.doc("app/text").becomes(json!({"k": text})).is_at_version(2);
    assert!(operator.is_running());
}

#[test]
fn an_annotation_of_200_kib_works() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let prefix = |number: usize| format!("{}_{number:04}_", "P".repeat(70));
    let entries: Vec<Value> = (0..1850)
        .map(|number| json!({"name": "db", "keys": ["k"], "prefix": prefix(number)}))
        .collect();
    let list = Value::from(entries).to_string();
    assert!((200 * 1024..250 * 1024).contains(&list.len()), "{}", list.len());
    scene.deployment(
        "app",
        ours(&[("path", &scene.path("app")), ("secrets", &list)]),
        env_from(&[]),
    );
    let _operator = scene.start();
    let merged: Map<String, Value> = (0..1850)
        .map(|number| (prefix(number) + "k", json!("v")))
        .collect();
    scene.doc("app").becomes(merged.into()).is_at_version(1);
}

#[test]
fn an_annotation_of_200_kib_that_is_nonsense_gets_a_readable_event() {
    let scene = Scene::new();
    let nonsense = format!("[{}", "{".repeat(200 * 1024));
    scene.deployment(
        "app",
        ours(&[("path", &scene.path("app")), ("secrets", &nonsense)]),
        env_from(&[]),
    );
    let mut operator = scene.start();
    let event = scene.event("app", "InvalidAnnotation", &["vault-sync.io/secrets"]);
    assert!(event.message.len() <= 1024, "{} bytes", event.message.len());
    scene.settle();
    assert!(operator.is_running());
}

#[test]
fn a_document_that_somebody_else_wrote_is_not_overwritten() {
    let scene = Scene::new();
    scene.doc("app/db").write(json!({"k": "theirs"}));
    scene.secret("db", &[("k", "ours")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    assert_eq!(
        scene.event("app", "OwnershipConflict", &[&scene.ns]).kind,
        "Warning"
    );
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "theirs"})).is_at_version(1);
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "theirs"})).is_at_version(1);
}
