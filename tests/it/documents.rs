//! How Secrets become documents: lists, keys, prefixes, encodings.

use serde_json::json;

use testkit::{Scene, env_from, ours};

/// Syncs a Deployment with this list, over the Secrets `a` (k1, k2) and `b` (x).
fn listed<'a>(scene: &'a Scene, list: &str) -> testkit::Doc<'a> {
    scene.secret("a", &[("k1", "1"), ("k2", "2")]);
    scene.secret("b", &[("x", "3")]);
    scene.listing("app", list);
    scene.doc("app")
}

#[test]
fn chosen_keys_of_all_listed_secrets_are_merged_under_their_prefixes() {
    let scene = Scene::new();
    let doc = listed(
        &scene,
        r#"[{"name": "a", "keys": ["k1"], "prefix": "A_"}, {"name": "b", "keys": ["x"]}]"#,
    );
    let _operator = scene.start();
    doc.becomes(json!({"A_k1": "1", "x": "3"})).is_at_version(1);
    assert_eq!(
        scene.doc("app/a").data(),
        None,
        "a list makes one document, at the path itself"
    );
}

#[test]
fn no_keys_or_an_empty_list_of_keys_means_all_keys() {
    let scene = Scene::new();
    let doc = listed(
        &scene,
        r#"[{"name": "a"}, {"name": "b", "keys": [], "prefix": "B_"}]"#,
    );
    let _operator = scene.start();
    doc.becomes(json!({"k1": "1", "k2": "2", "B_x": "3"}));
    scene.set_key("a", "k3", "new");
    doc.becomes(json!({"k1": "1", "k2": "2", "k3": "new", "B_x": "3"}));
}

#[test]
fn from_and_to_rename_a_key() {
    let scene = Scene::new();
    let doc = listed(
        &scene,
        r#"[{"name": "a", "keys": ["k2", {"from": "k1", "to": "first"}]}, {"name": "b", "keys": [{"from": "x", "to": "y"}], "prefix": "B_"}]"#,
    );
    let _operator = scene.start();
    doc.becomes(json!({"k2": "2", "first": "1", "B_y": "3"}));
}

#[test]
fn a_list_may_be_yaml() {
    let scene = Scene::new();
    let doc = listed(&scene, "- name: a\n  keys: [k1]\n  prefix: A_\n- name: b\n");
    let _operator = scene.start();
    doc.becomes(json!({"A_k1": "1", "x": "3"}));
}

#[test]
fn an_optional_entry_may_lack_its_secret_or_its_keys() {
    let scene = Scene::new();
    let doc = listed(
        &scene,
        r#"[{"name": "a", "keys": ["k1", "nope"], "optional": true}, {"name": "nowhere", "optional": true}]"#,
    );
    let _operator = scene.start();
    doc.becomes(json!({"k1": "1"}));
    scene.secret("nowhere", &[("late", "5")]);
    doc.becomes(json!({"k1": "1", "late": "5"}));
    scene.delete("Secret", "nowhere");
    doc.becomes(json!({"k1": "1"}));
}

#[test]
fn a_required_entry_that_is_missing_leaves_the_whole_document_unwritten() {
    let scene = Scene::new();
    let doc = listed(&scene, r#"[{"name": "a", "keys": ["k1"]}, {"name": "nowhere"}]"#);
    let _operator = scene.start();
    scene.event("app", "SyncFailed", &["failed to get secret", "nowhere"]);
    scene.settle();
    assert_eq!(doc.data(), None);
}

#[test]
fn encoding_base64_encodes_every_value_and_an_entry_may_say_otherwise() {
    let scene = Scene::new();
    scene.secret("a", &[("k", "ü")]);
    scene.create_secret("b", json!({}), &[("bin", &[0xff, 0x00, 0xfe])]);
    scene.secret("c", &[("k", "plain")]);
    let list = r#"[{"name": "a", "prefix": "A_"}, {"name": "b"}, {"name": "c", "prefix": "C_", "encoding": "text"}]"#;
    let annotations = [
        ("path", &*scene.path("app")),
        ("secrets", list),
        ("encoding", "base64"),
    ];
    scene.deployment("app", ours(&annotations), env_from(&[]));
    let _operator = scene.start();
    scene
        .doc("app")
        .becomes(json!({"A_k": "w7w=", "bin": "/wD+", "C_k": "plain"}));
    scene.settle();
    assert!(
        scene.events("app").iter().all(|event| event.kind == "Normal"),
        "{:?}",
        scene.events("app")
    );
}

#[test]
fn text_arrives_as_it_is_whatever_it_holds() {
    let scene = Scene::new();
    let odd = "ü € 😀 \" \\ \n\t\u{1} <&> {{x}} ${y}\r\n";
    scene.secret(
        "db",
        &[
            ("odd", odd),
            ("empty", ""),
            ("json", r#"{"a": [1]}"#),
            ("number", "007"),
        ],
    );
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene
        .doc("app/db")
        .becomes(json!({"odd": odd, "empty": "", "json": r#"{"a": [1]}"#, "number": "007"}));
}

#[test]
fn a_document_over_max_document_size_is_refused_with_both_sizes() {
    let scene = Scene::new();
    scene.secret("small", &[("k", "v")]);
    scene.secret("large", &[("key", &"x".repeat(2045))]);
    scene.app("app", &["small", "large"]);
    let _operator = scene.run().flag("max-document-size", "2000").start();
    scene.event("app", "SyncFailed", &["large", "2048", "2000"]);
    scene.doc("app/small").becomes(json!({"k": "v"}));
    assert_eq!(scene.doc("app/large").data(), None);
}
