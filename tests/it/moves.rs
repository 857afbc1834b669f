//! Sources that change their mind: new documents stand before old ones go, and nothing is forgotten.

use serde_json::json;

use testkit::{Scene, env_from, eventually, ours};

#[test]
fn two_sources_swap_their_paths_and_nothing_is_lost() {
    let scene = Scene::new();
    let (a, b) = (scene.path("a"), scene.path("b"));
    scene.create_secret("one", ours(&[("path", &a)]), &[("k", b"1")]);
    scene.create_secret("two", ours(&[("path", &b)]), &[("k", b"2")]);
    let _operator = scene.start();
    scene.doc("a").becomes(json!({"k": "1"}));
    scene.doc("b").becomes(json!({"k": "2"}));
    scene.annotate("Secret", "one", &[("path", Some(&b))]);
    scene.annotate("Secret", "two", &[("path", Some(&a))]);
    scene.doc("a").becomes(json!({"k": "2"})).is_at_version(2);
    scene.doc("b").becomes(json!({"k": "1"})).is_at_version(2);
    scene.settle();
    scene.doc("a").holds(json!({"k": "2"})).is_at_version(2);
    scene.doc("b").holds(json!({"k": "1"})).is_at_version(2);
}

#[test]
fn a_renamed_deployment_takes_its_documents_along() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let annotations = ours(&[("path", &scene.path("app"))]);
    scene.deployment("old", annotations.clone(), env_from(&["db"]));
    let operator = scene.start();
    let conflicts = |resource| {
        let labels = [("namespace", scene.ns.as_str()), ("resource", resource)];
        operator
            .metrics()
            .value("vault_sync_operator_ownership_conflicts", &labels)
    };
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.deployment("new", annotations, env_from(&["db"]));
    scene.event("new", "OwnershipConflict", &["old"]);
    assert_eq!(conflicts("new"), Some(1.0));
    scene.delete("Deployment", "old");
    scene.vanishes("Deployment", "old");
    scene.event("new", "Synced", &["app/db"]);
    assert_eq!(conflicts("new"), Some(0.0));
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn from_discovery_to_a_list_and_back() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.annotate(
        "Deployment",
        "app",
        &[("secrets", Some(r#"[{"name": "db", "prefix": "P_"}]"#))],
    );
    scene.doc("app").becomes(json!({"P_k": "v"}));
    scene.doc("app/db").goes();
    scene.annotate("Deployment", "app", &[("secrets", None)]);
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("app").goes();
}

#[test]
fn an_old_document_stays_until_the_new_one_stands() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.listing("app", r#"[{"name": "db"}]"#);
    let _operator = scene.start();
    scene.doc("app").becomes(json!({"k": "v"}));
    let moved = scene.path("moved");
    let list = r#"[{"name": "db"}, {"name": "late"}]"#;
    scene.annotate(
        "Deployment",
        "app",
        &[("path", Some(&moved)), ("secrets", Some(list))],
    );
    scene.event("app", "SyncFailed", &["late"]);
    scene.settle();
    scene.doc("app").holds(json!({"k": "v"}));
    scene.secret("late", &[("l", "w")]);
    scene.doc("moved").becomes(json!({"k": "v", "l": "w"}));
    scene.doc("app").goes();
}

#[test]
fn a_path_that_changed_while_the_operator_was_down_leaves_no_orphan() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"})).is_at_version(1);
    first.stop();
    scene.annotate("Secret", "db", &[("path", Some(&scene.path("moved")))]);
    let _second = scene.start();
    scene.doc("moved").becomes(json!({"k": "v"}));
    scene.doc("db").goes();
}

#[test]
fn annotations_wiped_while_the_operator_was_down_leave_no_orphan() {
    let scene = Scene::new();
    scene.own("db", "v");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"})).is_at_version(1);
    first.stop();
    // `kubectl replace` with a manifest that knows nothing of us.
    scene.patch(
        "Secret",
        "db",
        json!({"metadata": {"annotations": null, "finalizers": null}}),
    );
    let _second = scene.start();
    scene.doc("db").goes();
}

#[test]
fn an_object_made_anew_while_the_operator_was_down_keeps_its_document() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
    first.stop();
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": null}}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.own("db", "two");
    let _second = scene.start();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn preserve_removed_together_with_the_path_still_retains() {
    let scene = Scene::new();
    let path = scene.path("db");
    scene.create_secret(
        "db",
        ours(&[("path", &path), ("preserve-on-delete", "true")]),
        &[("k", b"v")],
    );
    let _operator = scene.run().flag("adopt", "equal").start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.annotate("Secret", "db", &[("path", None), ("preserve-on-delete", None)]);
    eventually("it is let go", || {
        let left = scene.finalizers("Secret", "db");
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
    scene.settle();
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
    assert_eq!(
        scene.doc("db").metadata()["custom_metadata"]["vault-sync.io/released"],
        "true"
    );
    // Released is nobody's: another source may have it.
    scene.create_secret("heir", ours(&[("path", &path)]), &[("k", b"v")]);
    scene.event("heir", "Synced", &[]);
}

#[test]
fn an_optional_secret_that_goes_takes_its_document_along() {
    let scene = Scene::new();
    scene.secret("must", &[("k", "v")]);
    scene.secret("may", &[("k", "v")]);
    let pod = json!({"containers": [{"name": "c", "image": "x", "envFrom": [
        {"secretRef": {"name": "must"}}, {"secretRef": {"name": "may", "optional": true}}]}]});
    scene.deployment("app", ours(&[("path", &scene.path("app"))]), pod);
    let _operator = scene.start();
    scene.doc("app/may").becomes(json!({"k": "v"}));
    scene.doc("app/must").becomes(json!({"k": "v"}));
    scene.delete("Secret", "may");
    scene.doc("app/may").goes();
    scene.secret("may", &[("k", "again")]);
    scene.doc("app/may").becomes(json!({"k": "again"}));
    scene.doc("app/must").is_at_version(1);
}

#[test]
fn an_immutable_secret_made_anew_under_its_name_is_followed() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "one")]);
    scene.patch("Secret", "db", json!({"immutable": true}));
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "one"}));
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.doc("app/db").holds(json!({"k": "one"}));
    scene.secret("db", &[("k", "two")]);
    scene.doc("app/db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_changed_cluster_name_or_prefix_moves_the_documents() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.own("own", "v");
    // Cluster name, template, style; where the documents then are.
    let runs = [
        (
            "c1",
            "clusters/{cluster}",
            "inside-mount",
            "secret",
            "clusters/c1/",
        ),
        (
            "c2",
            "clusters/{cluster}",
            "inside-mount",
            "secret",
            "clusters/c2/",
        ),
        (
            "c2",
            "clusters/x-{cluster}",
            "inside-mount",
            "secret",
            "clusters/x-c2/",
        ),
        ("c2", "", "inside-mount", "secret", ""),
        (
            "c2",
            "clusters/{cluster}",
            "before-mount",
            "clusters",
            "c2/secret/data/",
        ),
        (
            "c1",
            "clusters/{cluster}",
            "inside-mount",
            "secret",
            "clusters/c1/",
        ),
    ];
    let mut before: Option<(&'static str, &str)> = None;
    for (name, prefix, style, mount, place) in runs {
        let operator = scene
            .run()
            .flag("cluster-name", name)
            .flag("cluster-prefix", prefix)
            .flag("cluster-prefix-style", style)
            .start();
        for document in ["app/db", "own"] {
            let document = format!("{}/{document}", scene.ns);
            scene
                .doc_in(mount, &format!("{place}{document}"))
                .becomes(json!({"k": "v"}));
            if let Some((mount, place)) = before {
                scene.doc_in(mount, &format!("{place}{document}")).goes();
            }
        }
        before = Some((mount, place));
        assert_eq!(operator.stop().code(), Some(0));
    }
}

#[test]
fn annotations_put_back_to_an_older_path_move_the_document_back() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let _operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    // `kubectl rollout undo` and `kubectl apply` of an older manifest do this.
    let old = scene.get("Deployment", "app")["metadata"]["annotations"].clone();
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("moved")))]);
    scene.doc("moved/db").becomes(json!({"k": "v"}));
    scene.doc("app/db").goes();
    scene.patch("Deployment", "app", json!({"metadata": {"annotations": old}}));
    scene.doc("app/db").becomes(json!({"k": "v"})).is_at_version(2);
    scene.doc("moved/db").goes();
    scene.entry_is("app/db", Some("written"));
    scene.entry_is("moved/db", None);
}

#[test]
fn an_older_path_put_back_while_the_operator_was_down_leaves_no_orphan() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let first = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("moved")))]);
    scene.doc("moved/db").becomes(json!({"k": "v"}));
    scene.doc("app/db").goes();
    first.kill();
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("app")))]);
    let _second = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("moved/db").goes();
}

#[test]
fn a_preserved_document_stays_where_it_was_when_its_source_moves() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("old")), ("preserve-on-delete", "true")]);
    scene.create_secret("db", annotations, &[("k", b"v")]);
    let _operator = scene.start();
    scene.doc("old").becomes(json!({"k": "v"}));
    scene.entry_is("old", Some("written"));
    scene.annotate(
        "Secret",
        "db",
        &[("path", Some(&scene.path("new"))), ("preserve-on-delete", None)],
    );
    scene.doc("new").becomes(json!({"k": "v"}));
    scene.entry_is("old", None);
    scene.doc("old").holds(json!({"k": "v"})).is_at_version(1);
    // What was said last is what counts for the new one.
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    assert_eq!(scene.doc("new").data(), None);
}

#[test]
fn a_preserved_document_stays_when_all_annotations_are_wiped_while_the_operator_is_down() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("db")), ("preserve-on-delete", "true")]);
    scene.create_secret("db", annotations, &[("k", b"v")]);
    let first = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    scene.entry_is("db", Some("written"));
    first.stop();
    scene.patch(
        "Secret",
        "db",
        json!({"metadata": {"annotations": null, "finalizers": null}}),
    );
    let _second = scene.start();
    scene.entry_is("db", None);
    scene.doc("db").holds(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_source_with_300_documents_moves_in_one_edit() {
    let scene = Scene::new();
    let names: Vec<String> = (0..300).map(|number| format!("s{number}")).collect();
    for name in &names {
        scene.secret(name, &[("k", name)]);
    }
    let list: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.app("app", &list);
    let _operator = scene.start();
    for name in &names {
        scene.doc(&format!("app/{name}")).becomes(json!({"k": name}));
    }
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("moved")))]);
    for name in &names {
        scene
            .doc(&format!("moved/{name}"))
            .becomes(json!({"k": name}))
            .is_at_version(1);
    }
    for name in &names {
        scene.doc(&format!("app/{name}")).goes();
    }
    eventually("the ledger holds the new ones only", || {
        let entries = scene.entries();
        let moved = entries.keys().filter(|path| path.starts_with("moved/")).count();
        testkit::check(
            (entries.len(), moved) == (300, 300),
            format!("{} {moved}", entries.len()),
        )
    });
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
    for name in &names {
        assert_eq!(scene.doc(&format!("moved/{name}")).data(), None);
    }
}

#[test]
fn two_sources_that_swapped_their_paths_while_the_operator_was_down_lose_nothing() {
    let scene = Scene::new();
    let (a, b) = (scene.path("a"), scene.path("b"));
    scene.create_secret("one", ours(&[("path", &a)]), &[("k", b"1")]);
    scene.create_secret("two", ours(&[("path", &b)]), &[("k", b"2")]);
    let first = scene.start();
    scene.doc("a").becomes(json!({"k": "1"}));
    scene.doc("b").becomes(json!({"k": "2"}));
    scene.entry_is("a", Some("written"));
    scene.entry_is("b", Some("written"));
    first.kill();
    scene.annotate("Secret", "one", &[("path", Some(&b))]);
    scene.annotate("Secret", "two", &[("path", Some(&a))]);
    let _second = scene.start();
    scene.doc("a").becomes(json!({"k": "2"})).is_at_version(2);
    scene.doc("b").becomes(json!({"k": "1"})).is_at_version(2);
    scene.settle();
    scene.doc("a").holds(json!({"k": "2"})).is_at_version(2);
    scene.doc("b").holds(json!({"k": "1"})).is_at_version(2);
    for (document, name) in [("a", "two"), ("b", "one")] {
        let metadata = scene.doc(document).metadata();
        assert_eq!(metadata["custom_metadata"]["vault-sync.io/name"], name);
    }
}

#[test]
fn a_chain_of_moves_onto_each_others_paths_loses_nothing() {
    let scene = Scene::new();
    let names = ["a", "b", "c", "d"];
    for name in names {
        scene.own(name, name);
    }
    let _operator = scene.start();
    for name in names {
        scene.doc(name).becomes(json!({"k": name}));
    }
    // Each goes to where the next one is; the last one makes room.
    for (name, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
        scene.annotate("Secret", name, &[("path", Some(&scene.path(to)))]);
    }
    for (name, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
        scene.doc(to).becomes(json!({"k": name}));
    }
    scene.doc("a").goes();
    scene.settle();
    for (name, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
        scene.doc(to).holds(json!({"k": name}));
        assert_eq!(
            scene.doc(to).metadata()["custom_metadata"]["vault-sync.io/name"],
            name
        );
    }
}

#[test]
fn a_namespace_that_is_no_longer_watched_keeps_its_documents() {
    let scene = Scene::new();
    let other = format!("{}-other", scene.ns);
    let kube = &scene.bed.kube;
    kube.post("/api/v1/namespaces", &json!({"metadata": {"name": other}}))
        .ok();
    let binding = json!({
        "metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "it-sources"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": scene.home}],
    });
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{other}/rolebindings");
    kube.post(&bindings, &binding).ok();
    let secret = json!({
        "metadata": {"name": "far", "annotations": ours(&[("path", &scene.path("far"))])},
        "stringData": {"k": "v"},
    });
    kube.post(&format!("/api/v1/namespaces/{other}/secrets"), &secret)
        .ok();
    scene.own("near", "v");
    let both = format!("{},{other}", scene.ns);
    let first = scene.run().flag("watch-namespaces", &both).start();
    scene.doc("far").becomes(json!({"k": "v"}));
    scene.doc("near").becomes(json!({"k": "v"}));
    scene.entry_is("far", Some("written"));
    first.stop();
    // First it may still read there, then it may not.
    for round in 0..2 {
        if round == 1 {
            kube.delete(&format!("{bindings}/operator")).ok();
        }
        let second = scene.start();
        second.says(&["ledger loaded"]);
        scene.settle();
        scene.settle();
        scene.doc("far").holds(json!({"k": "v"})).is_at_version(1);
        scene.entry_is("far", Some("written"));
        second.stop();
    }
    // Somebody who watches it again finds all as it was, and takes it away in its time.
    kube.post(&bindings, &binding).ok();
    kube.delete(&format!("/api/v1/namespaces/{other}/secrets/far"))
        .ok();
    let _third = scene.run().flag("watch-namespaces", &both).start();
    scene.doc("far").goes();
    scene.entry_is("far", None);
}

#[test]
fn a_kind_that_is_no_longer_asked_for_keeps_its_documents() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    let first = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.entry_is("app/db", Some("written"));
    first.stop();
    let second = scene.run().flag("kinds", "Secret").start();
    second.says(&["ledger loaded"]);
    scene.settle();
    scene.settle();
    scene.doc("app/db").holds(json!({"k": "v"})).is_at_version(1);
    scene.entry_is("app/db", Some("written"));
}
