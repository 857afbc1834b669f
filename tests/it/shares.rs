//! The share of a namespace: so many documents, whoever asks for them, and however often.

use serde_json::json;

use testkit::{Scene, env_from, ours};

/// What a Deployment's pods use from now on.
fn uses(scene: &Scene, name: &str, secrets: &[&str]) {
    let template = json!({"spec": {"template": {"spec": env_from(secrets)}}});
    scene.patch("Deployment", name, template);
}

fn secrets(scene: &Scene, names: &[&str]) {
    for name in names {
        scene.secret(name, &[("k", "1")]);
    }
}

#[test]
fn a_namespace_with_too_many_documents_keeps_those_that_it_has() {
    let scene = Scene::new();
    secrets(&scene, &["a", "b", "c"]);
    let run = || scene.run().flag("max-documents-per-namespace", "3");
    let operator = run().start();
    scene.app("second", &["a", "b"]);
    scene.doc("second/b").becomes(json!({"k": "1"}));
    // In the order of names it comes first; what is there already stays.
    scene.app("first", &["a", "b", "c"]);
    let words = ["may have 3 documents", "--max-documents-per-namespace"];
    scene.event("first", "SyncFailed", &words);
    assert_eq!(operator.stop().code(), Some(0));
    let _operator = run().start();
    scene.set_key("a", "k", "2");
    scene.doc("second/a").becomes(json!({"k": "2"}));
    assert_eq!(scene.doc("first/a").data(), None);
    scene.delete("Deployment", "second");
    scene.doc("first/c").becomes(json!({"k": "1"}));
    scene.doc("second/a").goes();
}

#[test]
fn a_source_that_grows_past_the_share_keeps_its_documents_up_to_date_and_is_told() {
    let scene = Scene::new();
    secrets(&scene, &["a", "b", "c"]);
    let run = || scene.run().flag("max-documents-per-namespace", "2");
    let operator = run().start();
    scene.app("app", &["a", "b"]);
    scene.doc("app/b").becomes(json!({"k": "1"}));
    uses(&scene, "app", &["a", "b", "c"]);
    let words = ["may have 2 documents", "kept up to date"];
    scene.event("app", "SyncFailed", &words);
    scene.set_key("a", "k", "2");
    scene.doc("app/a").becomes(json!({"k": "2"}));
    assert_eq!(operator.stop().code(), Some(0));
    let _operator = run().start();
    scene.set_key("b", "k", "2");
    scene.doc("app/b").becomes(json!({"k": "2"}));
    assert_eq!(scene.doc("app/c").data(), None);
    // What it does not ask for any more goes, once there is room for all that it asks for.
    uses(&scene, "app", &["b", "c"]);
    scene.doc("app/c").becomes(json!({"k": "1"}));
    scene.doc("app/a").goes();
}

#[test]
fn in_a_namespace_that_is_full_a_bad_path_is_told_as_one() {
    let scene = Scene::new();
    scene.secret("a", &[("k", "1")]);
    let _operator = scene.run().flag("max-documents-per-namespace", "1").start();
    scene.own("first", "v");
    scene.doc("first").becomes(json!({"k": "v"}));
    scene.create_secret("bad", ours(&[("path", "secret/data/../x")]), &[("k", b"v")]);
    scene.event("bad", "InvalidAnnotation", &[".."]);
    scene.own("second", "v");
    scene.event("second", "SyncFailed", &["may have 1 documents"]);
}

#[test]
fn a_rename_in_a_full_namespace_hands_the_documents_over() {
    let scene = Scene::new();
    secrets(&scene, &["a", "b"]);
    let _operator = scene.run().flag("max-documents-per-namespace", "2").start();
    let annotations = || ours(&[("path", &scene.path("app")), ("deletion-policy", "purge")]);
    scene.deployment("old", annotations(), env_from(&["a", "b"]));
    scene.doc("app/b").becomes(json!({"k": "1"}));
    scene.deployment("new", annotations(), env_from(&["a", "b"]));
    scene.event("new", "OwnershipConflict", &["old"]);
    scene.delete("Deployment", "old");
    scene.vanishes("Deployment", "old");
    scene.event("new", "Synced", &["app"]);
    for secret in ["a", "b"] {
        scene
            .doc(&format!("app/{secret}"))
            .holds(json!({"k": "1"}))
            .is_at_version(1);
    }
}

/// Each of these asks for something else and for more, and keeps what it has.
#[test]
fn whatever_sources_ask_for_a_namespace_has_no_more_than_its_share() {
    let scene = Scene::new();
    secrets(&scene, &["a", "b", "c"]);
    let run = || scene.run().flag("max-documents-per-namespace", "4");
    let operator = run().start();
    for name in ["moves", "grows"] {
        scene.app(name, &["a", "b"]);
        scene.doc(&format!("{name}/b")).becomes(json!({"k": "1"}));
    }
    scene.patch(
        "Deployment",
        "moves",
        json!({
            "metadata": {"annotations": {"vault-sync.io/path": scene.path("elsewhere")}},
            "spec": {"template": {"spec": env_from(&["a", "b", "c"])}},
        }),
    );
    scene.event("moves", "SyncFailed", &["may have 4 documents"]);
    let many: Vec<String> = (0..501).map(|number| format!("s{number}")).collect();
    uses(
        &scene,
        "grows",
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    scene.event("grows", "SyncFailed", &["501", "500 are allowed"]);
    scene.own("late", "v");
    scene.event("late", "SyncFailed", &["may have 4 documents"]);
    assert_eq!(operator.stop().code(), Some(0));
    let _operator = run().start();
    scene.own("later", "v");
    scene.event("later", "SyncFailed", &["may have 4 documents"]);
    let there: Vec<String> = scene.entries().into_keys().collect();
    assert_eq!(there, ["grows/a", "grows/b", "moves/a", "moves/b"]);
    // Where one goes, there is room for another, and for a move.
    uses(&scene, "grows", &["a"]);
    uses(&scene, "moves", &["b"]);
    scene.doc("elsewhere/b").becomes(json!({"k": "1"}));
    scene.doc("moves/a").goes();
    scene.doc("late").becomes(json!({"k": "v"}));
}

#[test]
fn a_source_that_asked_for_too_much_for_a_moment_keeps_its_documents_up_to_date() {
    let scene = Scene::new();
    secrets(&scene, &["a", "b", "c"]);
    let _operator = scene.run().flag("max-documents-per-namespace", "2").start();
    scene.app("app", &["a", "b"]);
    scene.doc("app/b").becomes(json!({"k": "1"}));
    uses(&scene, "app", &["a", "b", "c"]);
    scene.event("app", "SyncFailed", &["no room for 1 more"]);
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("other")))]);
    scene.event("app", "SyncFailed", &["no room for 3 more"]);
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("app")))]);
    scene.set_key("a", "k", "2");
    scene.doc("app/a").becomes(json!({"k": "2"}));
}
