//! From the path that people write to the document in Vault.

use serde_json::json;

use testkit::{Scene, env_from, eventually, ours, run_to_end};

#[test]
fn api_form_and_logical_form_name_the_same_document() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        ours(&[("path", &format!("secret/data/{}/db", scene.ns))]),
        &[("k", b"v")],
    );
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate(
        "Secret",
        "db",
        &[("path", Some(&format!("secret/{}/db", scene.ns)))],
    );
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn the_logical_form_alone_works() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        ours(&[("path", &format!("secret/{}/db", scene.ns))]),
        &[("k", b"v")],
    );
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_mount_whose_name_has_two_segments_works_in_both_forms() {
    let scene = Scene::new();
    scene.create_secret(
        "a",
        ours(&[("path", &format!("team/kv/data/{}/a", scene.ns))]),
        &[("k", b"a")],
    );
    scene.create_secret(
        "b",
        ours(&[("path", &format!("team/kv/{}/b", scene.ns))]),
        &[("k", b"b")],
    );
    let _operator = scene.start();
    scene
        .doc_in("team/kv", &format!("{}/a", scene.ns))
        .becomes(json!({"k": "a"}))
        .is_at_version(1);
    scene
        .doc_in("team/kv", &format!("{}/b", scene.ns))
        .becomes(json!({"k": "b"}))
        .is_at_version(1);
}

#[test]
fn kv_v1_is_recognised_written_followed_and_deleted() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "one")]);
    scene.deployment(
        "app",
        ours(&[("path", &format!("kv1/{}/app", scene.ns))]),
        env_from(&["db"]),
    );
    let _operator = scene.start();
    let doc = scene.doc_in("kv1", &format!("{}/app/db", scene.ns));
    doc.becomes(json!({"k": "one"}));
    scene.set_key("db", "k", "two");
    doc.becomes(json!({"k": "two"}));
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    doc.goes();
}

#[test]
fn a_mount_that_requires_check_and_set_takes_every_write() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        ours(&[("path", &format!("strict/data/{}/db", scene.ns))]),
        &[("k", b"one")],
    );
    let _operator = scene.start();
    let doc = scene.doc_in("strict", &format!("{}/db", scene.ns));
    doc.becomes(json!({"k": "one"}));
    scene.set_key("db", "k", "two");
    doc.becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_path_may_have_blanks_and_letters_of_any_language_inside() {
    let scene = Scene::new();
    scene.create_secret("db", ours(&[("path", &scene.path("My App/ü"))]), &[("k", b"v")]);
    let _operator = scene.start();
    scene.doc("My%20App/%C3%BC").becomes(json!({"k": "v"}));
}

#[test]
fn the_clusters_prefix_goes_inside_the_mount() {
    let scene = Scene::new();
    scene.own("db", "v");
    scene.create_secret(
        "one",
        ours(&[("path", &format!("kv1/{}/one", scene.ns))]),
        &[("k", b"v")],
    );
    let _operator = scene.run().flag("cluster-name", "c1").start();
    scene
        .doc_in("secret", &format!("clusters/c1/{}/db", scene.ns))
        .becomes(json!({"k": "v"}));
    scene
        .doc_in("kv1", &format!("clusters/c1/{}/one", scene.ns))
        .becomes(json!({"k": "v"}));
    assert_eq!(scene.doc("db").data(), None);
}

#[test]
fn the_predecessors_literal_form_of_the_clusters_prefix_is_an_option() {
    let scene = Scene::new();
    scene.own("db", "v");
    let _operator = scene
        .run()
        .flag("cluster-name", "c1")
        .flag("cluster-prefix-style", "before-mount")
        .start();
    scene
        .doc_in("clusters", &format!("c1/secret/data/{}/db", scene.ns))
        .becomes(json!({"k": "v"}));
}

#[test]
fn the_clusters_prefix_follows_its_template_and_an_empty_one_is_none() {
    let scene = Scene::new();
    scene.own("db", "v");
    let templated = scene
        .run()
        .flag("cluster-name", "c1")
        .flag("cluster-prefix", "clusters/x-{cluster}")
        .start();
    scene
        .doc_in("secret", &format!("clusters/x-c1/{}/db", scene.ns))
        .becomes(json!({"k": "v"}));
    templated.stop();
    let _none = scene
        .run()
        .flag("cluster-name", "c1")
        .flag("cluster-prefix", "")
        .start();
    scene.doc("db").becomes(json!({"k": "v"}));
}

#[test]
fn namespace_isolation_refuses_what_lies_outside_or_puts_the_namespace_in_front() {
    let scene = Scene::new();
    scene.own("inside", "v");
    scene.create_secret(
        "outside",
        ours(&[("path", "secret/data/elsewhere/outside")]),
        &[("k", b"v")],
    );
    let enforced = scene.run().flag("namespace-isolation", "enforce").start();
    scene.doc("inside").becomes(json!({"k": "v"}));
    scene.event("outside", "InvalidAnnotation", &["namespace", &scene.ns]);
    assert_eq!(scene.doc_in("secret", "elsewhere/outside").data(), None);
    enforced.stop();
    let _prefixed = scene.run().flag("namespace-isolation", "prefix").start();
    scene.doc("elsewhere/outside").becomes(json!({"k": "v"}));
    scene.doc("inside").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_path_policy_denies_what_no_rule_allows() {
    let scene = Scene::new();
    let policy = format!(
        "rules:\n- namespaces: [{0}]\n  paths: [\"secret/{0}/good/*\", \"secret/{0}/marker\"]\n",
        scene.ns
    );
    let file = scene.dir.join("policy.yaml");
    std::fs::write(&file, policy).unwrap();
    scene.create_secret("good", ours(&[("path", &scene.path("good/a"))]), &[("k", b"v")]);
    scene.create_secret("bad", ours(&[("path", &scene.path("bad/a"))]), &[("k", b"v")]);
    let _operator = scene.run().flag("path-policy", file.to_str().unwrap()).start();
    scene.doc("good/a").becomes(json!({"k": "v"}));
    scene.event("bad", "InvalidAnnotation", &["policy"]);
    scene.settle();
    assert_eq!(scene.doc("bad/a").data(), None);
}

#[test]
fn a_stated_mount_is_not_asked_for() {
    let scene = Scene::new();
    scene.create_secret(
        "db",
        ours(&[("path", &format!("kv1/{}/db", scene.ns))]),
        &[("k", b"v")],
    );
    let _operator = scene.run().flag("mount", "kv1=1").start();
    scene
        .doc_in("kv1", &format!("{}/db", scene.ns))
        .becomes(json!({"k": "v"}));
    let asked = scene.vault.requests();
    assert!(
        !asked
            .iter()
            .any(|r| r.starts_with("GET /v1/sys/internal/ui/mounts/kv1")),
        "{asked:?}"
    );
}

#[test]
fn a_source_that_the_policy_forbids_a_path_keeps_no_document_of_another_there() {
    let scene = Scene::new();
    scene.own("db", "v");
    scene.secret("other", &[("k", "w")]);
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    let rival = ours(&[("path", &scene.path("db")), ("secrets", r#"[{"name": "other"}]"#)]);
    scene.deployment("rival", rival, env_from(&[]));
    scene.event("rival", "OwnershipConflict", &["db"]);
    first.stop();
    let file = scene.dir.join("policy.yaml");
    std::fs::write(
        &file,
        "rules: [{namespaces: ['*'], paths: ['secret/elsewhere/*']}]",
    )
    .unwrap();
    let _second = scene.run().flag("path-policy", file.to_str().unwrap()).start();
    scene.event("rival", "InvalidAnnotation", &["policy"]);
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("db").goes();
}

#[test]
fn a_path_policy_with_a_fault_ends_the_operator_and_names_the_line_or_the_rule() {
    let scene = Scene::new();
    let file = scene.dir.join("policy.yaml");
    for (text, words) in [
        ("rules: [", &["line"][..]),
        (
            "rules:\n- namespaces: [a]\n  paths: [b]\n  path: [c]\n",
            &["path", "line 4"],
        ),
        ("- namespaces: [a]\n  paths: secret/*\n", &["paths", "line 2"]),
        ("rules:\n- paths: [b]\n", &["namespaces", "line 2"]),
        ("rule:\n- namespaces: [a]\n  paths: [b]\n", &["`rule`", "`rules`"]),
        (
            "rules:\n- {namespaces: [a], paths: [b]}\n- {namespaces: [], paths: [b]}\n",
            &["rule 2", "namespaces"],
        ),
        (
            "rules:\n- {namespaces: [a], paths: [\"/secret/a/*\"]}\n",
            &["rule 1", "/secret/a/*"],
        ),
        (
            "rules:\n- {namespaces: [a], paths: [\"secret/../sys\"]}\n",
            &["rule 1", "secret/../sys"],
        ),
        (
            "rules:\n- {namespaces: [a], paths: [\"\"]}\n",
            &["rule 1", "empty"],
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let flag = format!("--path-policy={}", file.display());
        let (code, said) = run_to_end(&[&flag], &[]);
        assert!(code == 1 || code == 2, "{code} for {text}: {said}");
        assert!(
            said.contains("--path-policy") && said.contains("policy.yaml"),
            "{text}: {said}"
        );
        for word in words {
            assert!(said.contains(word), "{text} does not say {word}: {said}");
        }
    }
}

/// Rights to everything, so that nothing but the operator itself keeps it from anything.
const ALL_RIGHTS: &str =
    r#"path "*" { capabilities = ["create", "read", "update", "patch", "delete", "list", "sudo"] }"#;

#[test]
fn only_kv_mounts_are_ever_written_whatever_the_token_may_do() {
    let scene = Scene::new();
    scene.set_policy(ALL_RIGHTS);
    let paths = [
        "sys/policies/acl/evil",
        "sys/mounts/evil",
        "sys/data/evil",
        "cubbyhole/evil",
        "cubbyhole/data/evil",
        "transit/keys/evil",
        "transit/data/evil",
        "identity/entity",
        "auth/kubernetes/role/evil",
        "auth/token/create",
    ];
    for (number, path) in paths.iter().enumerate() {
        let name = format!("s{number}");
        scene.create_secret(&name, ours(&[("path", path)]), &[("policy", b"evil")]);
    }
    let _operator = scene.start();
    for (number, path) in paths.iter().enumerate() {
        let name = format!("s{number}");
        let told = scene.event(&name, "InvalidAnnotation", &[]);
        assert_eq!(told.kind, "Warning", "{path}");
    }
    scene.settle();
    assert_eq!(scene.vault_writes(), [""; 0]);
}

#[test]
fn enforced_isolation_is_not_fooled_by_look_alikes() {
    let scene = Scene::new();
    scene.set_policy(ALL_RIGHTS);
    let ns = &scene.ns;
    let paths = [
        format!("secret/data/{ns}x/a"),
        format!("secret/data/x{ns}/a"),
        format!("secret/data/{}/a", ns.to_uppercase()),
        format!("secret/data/data/{ns}/a"),
        format!("secret/data/x/{ns}/a"),
        format!("secret/data/{ns}"),
        format!("secret/data/{ns}/"),
        format!("secret/data//{ns}/a"),
        format!("secret/data/{ns}/../other/a"),
        format!("secret/data/{ns}/./a"),
        format!("secret/data/{ns}%2f..%2fother/a"),
        format!("secret/data/{ns}\u{200b}/a"),
        format!("secret/data/\u{ff54}{}/a", &ns[1..]),
        format!("secret/metadata/{ns}/a"),
        format!("secret/{ns}x/a"),
        format!(" secret/data/{ns}/a"),
    ];
    for (number, path) in paths.iter().enumerate() {
        scene.create_secret(&format!("s{number}"), ours(&[("path", path)]), &[("k", b"v")]);
    }
    scene.own("inside", "v");
    let _operator = scene.run().flag("namespace-isolation", "enforce").start();
    scene.doc("inside").becomes(json!({"k": "v"}));
    for (number, path) in paths.iter().enumerate() {
        let told = scene.event(&format!("s{number}"), "InvalidAnnotation", &[]);
        assert_eq!(told.kind, "Warning", "{path}");
    }
    scene.settle();
    let mut written = scene.vault_writes();
    written.sort();
    assert_eq!(
        written,
        [
            format!("PATCH /v1/secret/metadata/{ns}/inside"),
            format!("POST /v1/secret/data/{ns}/inside"),
        ]
    );
}

#[test]
fn with_prefix_isolation_every_write_is_below_the_clusters_prefix_and_the_namespace() {
    let scene = Scene::new();
    scene.set_policy(ALL_RIGHTS);
    let ns = &scene.ns;
    // As people write it, and where it goes below the namespace.
    let paths = [
        (format!("secret/data/{ns}x/a"), format!("{ns}x/a")),
        (
            format!("secret/data/{}/b", ns.to_uppercase()),
            format!("{}/b", ns.to_uppercase()),
        ),
        (format!("secret/data/data/{ns}/c"), format!("data/{ns}/c")),
        (format!("secret/data/{ns}/d"), "d".to_owned()),
        (format!("secret/{ns}/e"), "e".to_owned()),
        ("secret/data/clusters/c2/f".to_owned(), "clusters/c2/f".to_owned()),
        (format!("secret/data/{ns}"), ns.clone()),
    ];
    for (number, (path, _)) in paths.iter().enumerate() {
        scene.create_secret(&format!("s{number}"), ours(&[("path", path)]), &[("k", b"v")]);
    }
    let _operator = scene
        .run()
        .flag("namespace-isolation", "prefix")
        .flag("cluster-name", "c1")
        .start();
    for (path, place) in &paths {
        let document = scene.doc_in("secret", &format!("clusters/c1/{ns}/{place}"));
        assert_eq!(document.becomes(json!({"k": "v"})).version(), 1, "{path}");
    }
    let fences = ["data", "metadata"].map(|word| format!("/v1/secret/{word}/clusters/c1/{ns}/"));
    // The claim on the last document may still be under way.
    let written = eventually("each document is written and claimed", || {
        let written = scene.vault_writes();
        let all = written.len() >= 2 * paths.len();
        if all {
            Ok(written)
        } else {
            Err(format!("{written:?}"))
        }
    });
    for request in written {
        let path = request.split_once(' ').unwrap().1;
        assert!(fences.iter().any(|fence| path.starts_with(fence)), "{request}");
    }
}

#[test]
fn a_policy_that_became_stricter_lets_documents_stay_and_lets_them_be_deleted() {
    let scene = Scene::new();
    let policy = scene.dir.join("policy.yaml");
    std::fs::write(
        &policy,
        "rules: [{namespaces: ['*'], paths: ['secret/elsewhere/*']}]",
    )
    .unwrap();
    let outside = format!("clusters/c1/{}/db", scene.ns);
    for (name, path) in [
        ("db", format!("secret/data/{outside}")),
        ("kept", scene.path("kept")),
    ] {
        scene.create_secret(name, ours(&[("path", &path)]), &[("k", b"v")]);
    }
    let first = scene.start();
    let document = || scene.doc_in("secret", &outside);
    document().becomes(json!({"k": "v"}));
    scene.doc("kept").becomes(json!({"k": "v"}));
    first.stop();
    let second = scene.run().flag("path-policy", policy.to_str().unwrap()).start();
    scene.event("db", "InvalidAnnotation", &["policy"]);
    scene.event("kept", "InvalidAnnotation", &["policy"]);
    scene.set_key("kept", "k", "w");
    second.stop();
    scene.doc("kept").holds(json!({"k": "v"})).is_at_version(1);
    let _third = scene.run().flag("namespace-isolation", "enforce").start();
    scene.event("db", "InvalidAnnotation", &["namespace", &scene.ns]);
    scene.doc("kept").becomes(json!({"k": "w"}));
    document().holds(json!({"k": "v"})).is_at_version(1);
    // What is ours may always be deleted.
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    document().goes();
}

#[test]
fn a_policys_rule_may_forbid_adoption() {
    let scene = Scene::new();
    let policy = scene.dir.join("policy.yaml");
    let rules = format!(
        "rules: [{{namespaces: ['*'], paths: ['secret/{}/*'], adopt: false}}]",
        scene.ns
    );
    std::fs::write(&policy, rules).unwrap();
    scene.doc("db").write(json!({"k": "v"}));
    scene.own("db", "v");
    scene.own("new", "v");
    let _operator = scene
        .run()
        .flag("path-policy", policy.to_str().unwrap())
        .flag("adopt", "all")
        .start();
    scene.event("db", "OwnershipConflict", &["/db"]);
    scene.doc("new").becomes(json!({"k": "v"}));
    assert_eq!(
        scene.doc("db").metadata()["custom_metadata"],
        serde_json::Value::Null
    );
}
