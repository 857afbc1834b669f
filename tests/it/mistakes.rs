//! What people mistype, put in the wrong place or leave half done: each gets a message that says so.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use testkit::{Answer, Gate, Plan, Scene, Wires, check, env_from, eventually, ours, within};

/// How many Events on a source have this reason and all of these words.
fn count(scene: &Scene, source: &str, reason: &str, words: &[&str]) -> usize {
    let events = scene.events(source);
    let found = events
        .iter()
        .filter(|event| event.reason == reason && words.iter().all(|word| event.message.contains(word)));
    found.count()
}

/// Puts an annotation of ours on the pod template of a Deployment.
fn annotate_template(scene: &Scene, name: &str, annotation: &str, value: Option<&str>) {
    let annotations = json!({format!("vault-sync.io/{annotation}"): value});
    let template = json!({"metadata": {"annotations": annotations}});
    scene.patch("Deployment", name, json!({"spec": {"template": template}}));
}

#[test]
fn an_unknown_annotation_is_a_warning_and_the_documents_are_retained() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    for name in ["deleted", "moved", "corrected"] {
        let annotations = ours(&[("path", &scene.path(name)), ("preserve-on-deletion", "true")]);
        scene.deployment(name, annotations, env_from(&["db"]));
    }
    let _operator = scene.start();
    for name in ["deleted", "moved", "corrected"] {
        scene.doc(&format!("{name}/db")).becomes(json!({"k": "v"}));
        let words = [
            "vault-sync.io/preserve-on-deletion",
            "vault-sync.io/preserve-on-delete?",
            "retained",
        ];
        let event = scene.event(name, "InvalidAnnotation", &words);
        assert_eq!(event.kind, "Warning");
    }
    scene.delete("Deployment", "deleted");
    scene.vanishes("Deployment", "deleted");
    scene.annotate("Deployment", "moved", &[("path", None)]);
    eventually("the finalizer is gone", || {
        let left = scene.finalizers("Deployment", "moved");
        check(left.is_empty(), format!("{left:?}"))
    });
    scene.annotate("Deployment", "corrected", &[("preserve-on-deletion", None)]);
    scene.settle();
    scene.delete("Deployment", "corrected");
    scene.doc("corrected/db").goes();
    scene.doc("deleted/db").holds(json!({"k": "v"}));
    scene.doc("moved/db").holds(json!({"k": "v"}));
}

#[test]
fn an_object_with_nothing_but_a_misspelt_annotation_gets_one_warning() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment("app", ours(&[("Path", &scene.path("app"))]), env_from(&["db"]));
    scene.create_secret("own", ours(&[("pth", &scene.path("own"))]), &[("k", b"v")]);
    let _operator = scene.start();
    for (name, written) in [("app", "vault-sync.io/Path"), ("own", "vault-sync.io/pth")] {
        scene.event(name, "InvalidAnnotation", &[written, "vault-sync.io/path?"]);
    }
    // Changes that have nothing to do with it bring no second one.
    for number in 0..3 {
        for (kind, name) in [("Deployment", "app"), ("Secret", "own")] {
            let labels = json!({"metadata": {"labels": {"n": number.to_string()}}});
            scene.patch(kind, name, labels);
        }
        scene.settle();
    }
    for (kind, name) in [("Deployment", "app"), ("Secret", "own")] {
        assert_eq!(scene.events(name).len(), 1, "{:#?}", scene.events(name));
        assert_eq!(scene.finalizers(kind, name), [] as [&str; 0]);
    }
    scene.annotate(
        "Secret",
        "own",
        &[("pth", None), ("path", Some(&scene.path("own")))],
    );
    scene.doc("own").becomes(json!({"k": "v"}));
}

#[test]
fn annotations_that_have_no_effect_get_a_warning_each() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let list = r#"[{"name": "db"}]"#;
    scene.deployment("unled", ours(&[("secrets", list)]), env_from(&["db"]));
    scene.create_secret("kept", ours(&[("preserve-on-delete", "true")]), &[("k", b"v")]);
    let upper = json!({"Vault-Sync.io/path": scene.path("upper")});
    scene.deployment("upper", upper, env_from(&["db"]));
    let typo = ours(&[("path", &scene.path("typo")), ("rotation-check", "disable")]);
    scene.deployment("typo", typo, env_from(&["db"]));
    scene.app("template", &["db"]);
    annotate_template(&scene, "template", "preserve-on-deletion", Some("true"));
    let _operator = scene.start();
    for (name, words) in [
        ("unled", ["vault-sync.io/secrets has no effect", "set the path"]),
        (
            "kept",
            ["vault-sync.io/preserve-on-delete has no effect", "set the path"],
        ),
        (
            "upper",
            ["Vault-Sync.io/path", "did you mean vault-sync.io/path?"],
        ),
        ("typo", ["\"disable\" is not allowed", "enabled or disabled"]),
        (
            "template",
            ["pod template", "did you mean vault-sync.io/preserve-on-delete?"],
        ),
    ] {
        let event = scene.event(name, "InvalidAnnotation", &words);
        assert_eq!(event.kind, "Warning");
    }
    scene.doc("template/db").becomes(json!({"k": "v"}));
    scene.delete("Deployment", "template");
    scene.vanishes("Deployment", "template");
    scene.settle();
    scene.doc("template/db").holds(json!({"k": "v"}));
    for (kind, name) in [
        ("Deployment", "unled"),
        ("Secret", "kept"),
        ("Deployment", "upper"),
    ] {
        assert_eq!(scene.finalizers(kind, name), [] as [&str; 0]);
        assert_eq!(scene.events(name).len(), 1, "{:#?}", scene.events(name));
    }
    scene.annotate("Deployment", "unled", &[("path", Some(&scene.path("unled")))]);
    scene.doc("unled").becomes(json!({"k": "v"}));
}

#[test]
fn an_annotation_on_the_pod_template_gets_a_warning_that_says_where_it_belongs() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.deployment("app", json!({}), env_from(&["db"]));
    annotate_template(&scene, "app", "path", Some(&scene.path("app")));
    scene.app("kept", &["db"]);
    annotate_template(&scene, "kept", "preserve-on-delete", Some("true"));
    let _operator = scene.start();
    scene.event(
        "app",
        "InvalidAnnotation",
        &["vault-sync.io/path", "pod template"],
    );
    scene.doc("kept/db").becomes(json!({"k": "v"}));
    let words = ["vault-sync.io/preserve-on-delete", "pod template", "retained"];
    scene.event("kept", "InvalidAnnotation", &words);
    scene.settle();
    assert_eq!(scene.doc("app/db").data(), None);
    scene.delete("Deployment", "kept");
    scene.vanishes("Deployment", "kept");
    scene.settle();
    scene.doc("kept/db").holds(json!({"k": "v"}));
    annotate_template(&scene, "app", "path", None);
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("app")))]);
    scene.doc("app/db").becomes(json!({"k": "v"}));
}

#[test]
fn a_path_without_a_secret_to_bring_gets_a_warning_that_says_what_to_do() {
    let scene = Scene::new();
    scene.app("app", &[]);
    scene.secret("db", &[("k", "v")]);
    let _operator = scene.start();
    let event = scene.event(
        "app",
        "InvalidAnnotation",
        &["pod template", "no Secret", "vault-sync.io/secrets"],
    );
    assert_eq!(event.kind, "Warning");
    scene.annotate("Deployment", "app", &[("secrets", Some(r#"[{"name": "db"}]"#))]);
    scene.doc("app").becomes(json!({"k": "v"}));
}

#[test]
fn a_problem_that_lasts_is_reported_again_and_nothing_is_touched_for_it() {
    let scene = Scene::new();
    scene.app("broken", &["missing"]);
    scene.own("taken", "ours");
    scene.doc("taken").write(json!({"k": "theirs"}));
    scene.deployment("stray", ours(&[("Path", "secret/x")]), env_from(&[]));
    scene.own("healthy", "v");
    let operator = scene.run().flag("repeat-events", "1s").start();
    scene.doc("healthy").becomes(json!({"k": "v"}));
    let problems = [
        ("Deployment", "broken", "SyncFailed", "missing"),
        ("Secret", "taken", "OwnershipConflict", "taken"),
        ("Deployment", "stray", "InvalidAnnotation", "vault-sync.io/Path"),
    ];
    for (_, name, reason, word) in problems {
        scene.event(name, reason, &[word]);
    }
    scene.settle();
    let touched = || {
        let versions = |(kind, name, ..): (&str, &str, &str, &str)| {
            scene.get(kind, name)["metadata"]["resourceVersion"].clone()
        };
        let objects: Vec<Value> = problems.into_iter().map(versions).collect();
        (objects, scene.vault_writes(), scene.doc("taken").version())
    };
    let before = touched();
    for (_, name, reason, word) in problems {
        eventually(
            format!("the problem of {name} is reported again and again"),
            || {
                let seen = count(&scene, name, reason, &[word]);
                check(seen >= 4, seen)
            },
        );
    }
    assert_eq!(touched(), before);
    assert_eq!(scene.events("healthy").len(), 1);
    let log = operator.log();
    let lines = log.lines().filter(|line| line.contains("\"SyncFailed\"")).count();
    assert_eq!(lines, 1, "{log}");
}

#[test]
fn while_the_operator_cannot_log_in_a_new_source_says_what_it_waits_for() {
    let scene = Scene::new();
    scene.delete_role();
    scene.own("early", "v");
    let operator = scene.start();
    operator.says(&["login to Vault failed"]);
    scene.own("late", "v");
    for name in ["early", "late"] {
        let event = scene.event(
            name,
            "SyncFailed",
            &["cannot log in to Vault", "synced as soon as Vault can be used"],
        );
        assert_eq!(event.kind, "Warning");
        assert!(!event.message.contains(&scene.home), "{event:?}");
    }
    scene.set_key("early", "k", "w");
    scene.set_role(json!({}));
    scene.doc("early").becomes(json!({"k": "w"}));
    scene.doc("late").becomes(json!({"k": "v"}));
    for name in ["early", "late"] {
        scene.event(name, "Synced", &[name]);
        assert_eq!(scene.events(name).len(), 2, "{:#?}", scene.events(name));
    }
}

#[test]
fn while_vault_is_sealed_a_new_source_says_what_it_waits_for() {
    const HEALTH: &str = "GET /v1/sys/health?";
    let scene = Scene::new();
    scene.own("old", "one");
    let operator = scene.run().flag("repeat-events", "3s").start();
    scene.doc("old").becomes(json!({"k": "one"}));
    let sealed = r#"{"initialized":true,"sealed":true,"standby":true}"#;
    let json_type = [("Content-Type", "application/json")];
    scene.vault.answer(
        "/v1/",
        Answer::new(503, &json_type, r#"{"errors":["Vault is sealed"]}"#),
    );
    scene.vault.answer(HEALTH, Answer::new(503, &json_type, sealed));
    scene.set_key("old", "k", "two");
    operator.says(&["all sources wait"]);
    scene.own("new", "v");
    scene.event(
        "new",
        "SyncFailed",
        &["sealed", "synced as soon as Vault can be used"],
    );
    // It stays so for a long time.
    eventually("it is said again", || {
        let seen = count(&scene, "new", "SyncFailed", &["sealed"]);
        check(seen >= 2, seen)
    });
    scene.vault.behave();
    scene.doc("new").becomes(json!({"k": "v"}));
    scene.doc("old").becomes(json!({"k": "two"}));
    scene.event("new", "Synced", &["new"]);
}

#[test]
fn while_vault_hangs_a_new_source_says_what_it_waits_for_before_any_call_times_out() {
    let scene = Scene::new();
    scene.own("old", "one");
    let operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "5m").start();
    scene.doc("old").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.stall();
    scene.own("new", "v");
    scene.event(
        "new",
        "SyncFailed",
        &["Vault cannot be used now", "synced as soon as Vault can be used"],
    );
    scene.own("newer", "v");
    scene.event(
        "newer",
        "SyncFailed",
        &["Vault cannot be used now", "synced as soon as Vault can be used"],
    );
    operator.counts("vault_sync_operator_vault_up", &[], 0.0);
    scene.vault.flow();
    scene.doc("new").becomes(json!({"k": "v"})).is_at_version(1);
    scene.doc("newer").becomes(json!({"k": "v"})).is_at_version(1);
}

#[test]
fn a_mistake_that_is_made_while_vault_is_away_is_told_before_it_is_back() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    scene.own("old", "one");
    let operator = scene.start();
    scene.doc("old").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.cut();
    scene.set_key("old", "k", "two");
    operator.says(&["all sources wait"]);
    scene.app("app", &["db"]);
    scene.event(
        "app",
        "SyncFailed",
        &["Vault cannot be used now", "synced as soon as Vault can be used"],
    );
    scene.annotate("Deployment", "app", &[("path", Some("secret/data/../x"))]);
    scene.event("app", "InvalidAnnotation", &[".."]);
    scene.annotate("Secret", "old", &[("preserve-on-deletion", Some("true"))]);
    scene.event(
        "old",
        "InvalidAnnotation",
        &["did you mean vault-sync.io/preserve-on-delete?"],
    );
    scene.create_secret("stray", ours(&[("Path", "secret/x")]), &[("k", b"v")]);
    scene.event(
        "stray",
        "InvalidAnnotation",
        &["did you mean vault-sync.io/path?"],
    );
    // By whom it was noticed that Vault is away.
    assert_eq!(count(&scene, "old", "SyncFailed", &[]), 1);
    scene.vault.restore();
    scene.annotate("Deployment", "app", &[("path", Some(&scene.path("app")))]);
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("old").becomes(json!({"k": "two"}));
    scene.settle();
    for name in ["app", "old", "stray"] {
        assert_eq!(count(&scene, name, "InvalidAnnotation", &[]), 1, "{name}");
    }
}

#[test]
fn of_a_source_with_many_missing_secrets_each_is_named_and_a_mistake_comes_first() {
    let scene = Scene::new();
    let names: Vec<String> = (10..25).map(|number| format!("missing{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let annotations = ours(&[("path", &scene.path("app")), ("preserve-on-deletion", "true")]);
    scene.deployment("app", annotations, env_from(&names));
    let operator = scene.start();
    scene.event("app", "SyncFailed", &names);
    assert_eq!(
        count(&scene, "app", "InvalidAnnotation", &["preserve-on-delete?"]),
        1
    );
    assert_eq!(scene.events("app").len(), 2, "{:#?}", scene.events("app"));
    // One that appears makes no news of the others.
    scene.secret("missing10", &[("k", "v")]);
    scene.doc("app/missing10").becomes(json!({"k": "v"}));
    scene.settle();
    assert_eq!(count(&scene, "app", "SyncFailed", &[]), 1);
    let log = operator.log();
    let lines = log.lines().filter(|line| line.contains("failed to get secret"));
    assert_eq!(lines.count(), 15);
}

#[test]
fn a_mistake_whose_event_was_one_too_many_is_told_as_soon_as_there_may_be_one_more() {
    let scene = Scene::new();
    scene.own("db", "v");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "v"}));
    for number in 0..12 {
        scene.annotate("Secret", "db", &[("paused", Some(&format!("word{number}")))]);
        let words = format!("word{number}");
        operator.says(&["vault-sync.io/paused", &words]);
    }
    within(Duration::from_mins(1), "the last one is told", || {
        let events = scene.events("db");
        let told = events.iter().any(|event| event.message.contains("word11"));
        check(told, format!("{events:#?}"))
    });
    // Those that are not true any more are not told late.
    assert_eq!(count(&scene, "db", "InvalidAnnotation", &["word10"]), 0);
    let log = operator.log();
    assert_eq!(
        log.lines().filter(|line| line.contains("word11")).count(),
        1,
        "{log}"
    );
    scene.annotate("Secret", "db", &[("paused", None)]);
    within(Duration::from_mins(1), "that all is well is told too", || {
        let events = scene.events("db");
        let synced = events.iter().filter(|event| event.reason == "Synced").count();
        check(synced == 2, format!("{events:#?}"))
    });
}

#[test]
fn a_source_that_is_rotated_while_vault_is_away_says_that_it_waits() {
    let scene = Scene::new();
    for name in ["one", "two", "three"] {
        scene.own(name, "v");
    }
    let operator = scene.start();
    for name in ["one", "two", "three"] {
        scene.doc(name).becomes(json!({"k": "v"}));
    }
    scene.settle();
    scene.vault.cut();
    scene.set_key("one", "k", "w");
    operator.says(&["all sources wait"]);
    scene.set_key("two", "k", "w");
    scene.event("two", "SyncFailed", &["synced as soon as Vault can be used"]);
    // Of this one Vault holds all that it should.
    assert_eq!(scene.events("three").len(), 1, "{:#?}", scene.events("three"));
    scene.vault.restore();
    scene.doc("two").becomes(json!({"k": "w"}));
    eventually("its end is told too", || {
        let synced = count(&scene, "two", "Synced", &[]);
        check(synced == 2, synced)
    });
}

#[test]
fn an_event_that_the_api_server_cannot_take_at_once_is_written_later() {
    let scene = Scene::new();
    let wires = Wires::new(&scene.bed, &Arc::new(Plan::new(&scene.ns, None)));
    let kube = Gate::to(wires.kube_port);
    let words = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "etcdserver: leader changed", "code": 500}"#;
    let json_type = [("Content-Type", "application/json")];
    kube.answer_first(1, "POST /apis/events.k8s.io", Answer::new(500, &json_type, words));
    let _operator = scene.run().over_http(&kube).start();
    scene.create_secret("bad", ours(&[("path", "secret/data/../x")]), &[("k", b"v")]);
    scene.event("bad", "InvalidAnnotation", &[".."]);
    kube.answers(1);
}

/// Nobody would ever tell it again: the ledger forgets the document.
#[test]
fn a_possible_orphan_is_told_however_many_events_its_source_had() {
    let scene = Scene::new();
    scene.own("app", "1");
    let operator = scene.start();
    scene.doc("app").becomes(json!({"k": "1"}));
    for number in 0..11 {
        scene.annotate("Secret", "app", &[("paused", Some(&format!("word{number}")))]);
        operator.says(&["vault-sync.io/paused", &format!("word{number}")]);
    }
    scene.annotate("Secret", "app", &[("paused", None)]);
    scene.settle();
    let purged = format!("/v1/secret/metadata/{}/app", scene.ns);
    scene.bed.vault.delete(&purged).ok();
    scene.doc("app").write(json!({"k": "theirs"}));
    scene.delete("Secret", "app");
    scene.vanishes("Secret", "app");
    scene.event("app", "PossibleOrphan", &["app"]);
    scene.doc("app").holds(json!({"k": "theirs"}));
}

#[test]
fn by_default_nobody_learns_by_an_event_what_an_unclaimed_document_holds() {
    let scene = Scene::new();
    scene.doc("right").write(json!({"k": "guess"}));
    scene.doc("wrong").write(json!({"k": "something else"}));
    for name in ["right", "wrong"] {
        scene.own(name, "guess");
    }
    let _operator = scene.start();
    let said: Vec<String> = ["right", "wrong"]
        .map(|name| {
            let event = scene.event(name, "OwnershipConflict", &["--adopt"]);
            event.message.replace(name, "NAME")
        })
        .into();
    assert_eq!(said[0], said[1]);
    scene.settle();
    for name in ["right", "wrong"] {
        assert_eq!(scene.doc(name).metadata()["custom_metadata"], Value::Null);
        scene.delete("Secret", name);
        scene.vanishes("Secret", name);
    }
    scene.settle();
    scene.doc("right").holds(json!({"k": "guess"})).is_at_version(1);
}
