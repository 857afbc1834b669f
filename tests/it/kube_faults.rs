//! Kubernetes itself fails, denies, forgets, or is changed faster than anybody can follow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use testkit::{Http, Operator, Scene, Testbed, check, env_from, eventually, ours};

/// A testbed whose programs may be stopped, for one test at a time.
fn alone() -> (MutexGuard<'static, ()>, Arc<Testbed>) {
    static TURN: Mutex<()> = Mutex::new(());
    static BED: OnceLock<Arc<Testbed>> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (turn, Arc::clone(BED.get_or_init(Testbed::private)))
}

/// The log's lines with these words.
fn lines(operator: &Operator, words: &[&str]) -> Vec<String> {
    let log = operator.log();
    let all = log
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    all.map(str::to_owned).collect()
}

/// Still there, and without a panic.
#[track_caller]
fn is_well(operator: &mut Operator) {
    assert!(operator.is_running());
    assert_eq!(lines(operator, &["panicked"]), [""; 0]);
}

fn role_binding(name: &str, role: &str, home: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": home}],
    })
}

fn bindings_in(namespace: &str) -> String {
    format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings")
}

/// A Secret of its own path, in any namespace; the document is below the scene's prefix.
fn own_in(scene: &Scene, namespace: &str, name: &str, value: &str) {
    let secret = json!({
        "metadata": {"name": name, "annotations": ours(&[("path", &scene.path(name))])},
        "stringData": {"k": value},
    });
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    scene.bed.kube.post(&path, &secret).ok();
}

fn set_key_in(scene: &Scene, namespace: &str, name: &str, value: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
    scene
        .bed
        .kube
        .patch(&path, &json!({"stringData": {"k": value}}))
        .ok();
}

#[test]
fn changes_around_the_end_of_the_api_server_all_arrive_and_nothing_is_written_twice() {
    let (_turn, bed) = alone();
    for sign in ["TERM", "KILL"] {
        let scene = Scene::on(Arc::clone(&bed));
        for name in ["still", "before", "after", "goes"] {
            scene.own(name, "1");
        }
        scene.secret("db", &[("k", "1")]);
        scene.app("app", &["db", "late"]);
        let mut operator = scene.start();
        for name in ["still", "before", "after", "goes", "app/db"] {
            scene.doc(name).becomes(json!({"k": "1"}));
        }
        scene.settle();
        scene.set_key("before", "k", "2");
        scene.set_key("db", "k", "2");
        bed.stop(&bed.kube_server, sign);
        operator.says(&["a watch has failed", "Secret"]);
        operator.says(&["a watch has failed", "Deployment"]);
        bed.start_again(&bed.kube_server);
        scene.set_key("after", "k", "2");
        scene.secret("late", &[("k", "2")]);
        scene.delete("Secret", "goes");
        for name in ["before", "after", "app/db", "app/late"] {
            scene.doc(name).becomes(json!({"k": "2"}));
        }
        scene.doc("goes").goes();
        scene.settle();
        for (name, version) in [
            ("still", 1),
            ("before", 2),
            ("after", 2),
            ("app/db", 2),
            ("app/late", 1),
        ] {
            scene.doc(name).is_at_version(version);
        }
        is_well(&mut operator);
        // Once for each watch, however often it has tried.
        assert_eq!(
            lines(&operator, &["a watch has failed", "does not answer"]).len(),
            2,
            "{}",
            operator.log()
        );
        eventually("both watches work again", || {
            let working = lines(&operator, &["the watch works again"]).len();
            check(working == 2, operator.log())
        });
        assert!(
            lines(&operator, &["\"level\":\"WARN\""]).len() <= 12,
            "{}",
            operator.log()
        );
    }
}

#[test]
fn an_operator_that_starts_without_an_api_server_says_once_what_it_waits_for() {
    let scene = Scene::new();
    scene.own("db", "1");
    scene.kube_wire.cut();
    let mut operator = scene.start();
    operator.says(&["waiting for Kubernetes"]);
    operator.says(&["a watch has failed", "Secret"]);
    operator.says(&["a watch has failed", "Deployment"]);
    operator.probe("/livez", 200);
    scene.kube_wire.restore();
    scene.doc("db").becomes(json!({"k": "1"})).is_at_version(1);
    is_well(&mut operator);
    assert_eq!(
        lines(&operator, &["waiting for Kubernetes"]).len(),
        1,
        "{}",
        operator.log()
    );
    assert_eq!(
        lines(&operator, &["a watch has failed"]).len(),
        2,
        "{}",
        operator.log()
    );
}

#[test]
fn a_watch_whose_place_in_history_is_gone_misses_nothing() {
    let (_turn, bed) = alone();
    let scene = Scene::on(Arc::clone(&bed));
    for name in ["still", "changes", "goes", "vanishes"] {
        scene.own(name, "1");
    }
    scene.secret("db", &[("k", "1")]);
    scene.app("app", &["db", "late"]);
    scene.secret("taken", &[("k", "1")]);
    scene.app("loses", &["taken"]);
    let mut operator = scene.start();
    for name in ["still", "changes", "goes", "vanishes", "app/db", "loses/taken"] {
        scene.doc(name).becomes(json!({"k": "1"}));
    }
    scene.settle();

    scene.kube_wire.cut();
    scene.set_key("changes", "k", "2");
    scene.set_key("db", "k", "2");
    scene.secret("late", &[("k", "2")]);
    scene.own("new", "2");
    scene.delete("Secret", "taken");
    scene.delete("Secret", "goes");
    // Of this one nothing is left to be seen but that it is missing.
    scene.patch("Secret", "vanishes", json!({"metadata": {"finalizers": null}}));
    scene.delete("Secret", "vanishes");
    scene.vanishes("Secret", "vanishes");
    // etcd forgets the history, and a new API server's cache begins behind it.
    let latest = scene.get("Secret", "new")["metadata"]["resourceVersion"].clone();
    let etcd = Http::new(bed.etcd_url.clone(), &[], None);
    etcd.post(
        "/v3/kv/compaction",
        &json!({"revision": latest, "physical": true}),
    )
    .ok();
    bed.stop(&bed.kube_server, "TERM");
    bed.start_again(&bed.kube_server);
    scene.kube_wire.restore();

    for name in ["changes", "app/db", "app/late", "new"] {
        scene.doc(name).becomes(json!({"k": "2"}));
    }
    for name in ["goes", "vanishes"] {
        scene.doc(name).goes();
    }
    scene.event("loses", "SyncFailed", &["failed to get secret", "taken"]);
    scene.settle();
    scene.doc("loses/taken").holds(json!({"k": "1"})).is_at_version(1);
    for (name, version) in [
        ("still", 1),
        ("changes", 2),
        ("app/db", 2),
        ("app/late", 1),
        ("new", 1),
    ] {
        scene.doc(name).is_at_version(version);
    }
    is_well(&mut operator);
    // Both watches have resumed from where they were, and were told (410) that this is no more.
    let forgotten = lines(&operator, &["has forgotten where the watch was"]);
    assert_eq!(forgotten.len(), 2, "{}", operator.log());
}

#[test]
fn an_etcd_that_is_away_for_a_while_costs_nothing() {
    let (_turn, bed) = alone();
    let scene = Scene::on(Arc::clone(&bed));
    for name in ["still", "before", "after"] {
        scene.own(name, "1");
    }
    let mut operator = scene.start();
    for name in ["still", "before", "after"] {
        scene.doc(name).becomes(json!({"k": "1"}));
    }
    scene.settle();
    scene.set_key("before", "k", "2");
    bed.stop(&bed.etcd, "TERM");
    eventually("the API server feels it", || {
        let reply = bed.kube.try_send("GET", "/readyz", None)?;
        check(reply.status != 200, reply.status)
    });
    bed.start_again(&bed.etcd);
    scene.set_key("after", "k", "2");
    scene.own("new", "2");
    for name in ["before", "after", "new"] {
        scene.doc(name).becomes(json!({"k": "2"}));
    }
    scene.settle();
    for (name, version) in [("still", 1), ("before", 2), ("after", 2), ("new", 1)] {
        scene.doc(name).is_at_version(version);
    }
    is_well(&mut operator);
    assert!(
        lines(&operator, &["\"level\":\"WARN\""]).len() <= 12,
        "{}",
        operator.log()
    );
}

#[test]
fn a_namespace_where_all_is_denied_keeps_no_other_waiting_and_heals() {
    let scene = Scene::new();
    let denied = format!("{}-denied", scene.ns);
    scene
        .bed
        .kube
        .post("/api/v1/namespaces", &json!({"metadata": {"name": denied}}))
        .ok();
    own_in(&scene, &denied, "there", "1");
    scene.own("here", "1");
    let both = format!("{},{denied}", scene.ns);
    let mut operator = scene.run().flag("watch-namespaces", &both).start();
    scene.doc("here").becomes(json!({"k": "1"}));
    operator.says(&["a watch has failed", "denied", &denied]);
    assert_eq!(scene.doc("there").data(), None);

    // Given, taken away while it runs, and given back.
    let grant = || {
        let binding = role_binding("operator", "it-sources", &scene.home);
        scene.bed.kube.post(&bindings_in(&denied), &binding).ok();
    };
    grant();
    scene.doc("there").becomes(json!({"k": "1"}));
    eventually("both watches work again", || {
        let said = lines(&operator, &["the watch works again", &denied]).len();
        check(said == 2, operator.log())
    });
    scene
        .bed
        .kube
        .delete(&format!("{}/operator", bindings_in(&denied)))
        .ok();
    // A watch that is open is not looked at again; a new one is.
    scene.kube_wire.cut();
    scene.kube_wire.restore();
    eventually("the watches are denied", || {
        let said = lines(&operator, &["a watch has failed", "denied", &denied]).len();
        check(said >= 4, operator.log())
    });
    set_key_in(&scene, &denied, "there", "2");
    scene.set_key("here", "k", "2");
    scene.doc("here").becomes(json!({"k": "2"}));
    scene.settle();
    scene.doc("there").holds(json!({"k": "1"})).is_at_version(1);
    grant();
    scene.doc("there").becomes(json!({"k": "2"})).is_at_version(2);
    scene.doc("here").is_at_version(2);
    is_well(&mut operator);
}

#[test]
fn where_secrets_may_be_listed_and_not_read_an_event_says_so_and_others_go_on() {
    let scene = Scene::new();
    let half = format!("{}-half", scene.ns);
    let role = json!({
        "metadata": {"name": half},
        "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch", "patch"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch", "patch"]},
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ],
    });
    let kube = &scene.bed.kube;
    kube.post("/api/v1/namespaces", &json!({"metadata": {"name": half}}))
        .ok();
    kube.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role)
        .ok();
    kube.post(&bindings_in(&half), &role_binding("half", &half, &scene.home))
        .ok();
    let secret = json!({"metadata": {"name": "db"}, "stringData": {"k": "1"}});
    kube.post(&format!("/api/v1/namespaces/{half}/secrets"), &secret)
        .ok();
    let deployment = json!({
        "metadata": {"name": "app", "annotations": ours(&[("path", &scene.path("app"))])},
        "spec": {
            "selector": {"matchLabels": {"app": "app"}},
            "template": {"metadata": {"labels": {"app": "app"}}, "spec": env_from(&["db"])},
        },
    });
    kube.post(
        &format!("/apis/apps/v1/namespaces/{half}/deployments"),
        &deployment,
    )
    .ok();
    scene.own("here", "1");
    let both = format!("{},{half}", scene.ns);
    let mut operator = scene.run().flag("watch-namespaces", &both).start();
    scene.doc("here").becomes(json!({"k": "1"}));
    eventually("an Event that names the right", || {
        let list = kube.get(&format!("/api/v1/namespaces/{half}/events")).ok();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let says = |event: &Value| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "SyncFailed" && message.contains("denied") && message.contains("Roles")
        };
        check(items.iter().any(says), list)
    });
    assert_eq!(scene.doc("app/db").data(), None);
    // With the right comes the document, without a change.
    kube.post(
        &bindings_in(&half),
        &role_binding("operator", "it-sources", &scene.home),
    )
    .ok();
    scene.doc("app/db").becomes(json!({"k": "1"})).is_at_version(1);
    scene.doc("here").is_at_version(1);
    is_well(&mut operator);
}

#[test]
fn who_edits_one_object_in_a_loop_starves_nobody_and_is_followed_to_the_end() {
    const EDITS: usize = 60;
    let scene = Scene::new();
    for name in ["stormy", "calm"] {
        scene.own(name, "0");
    }
    scene.secret("db", &[("k", "0")]);
    scene.app("app", &["db"]);
    let mut operator = scene.start();
    for name in ["stormy", "calm", "app/db"] {
        scene.doc(name).becomes(json!({"k": "0"}));
    }
    let mut calm = 0;
    for edit in 1..=EDITS {
        let value = edit.to_string();
        scene.set_key("stormy", "k", &value);
        scene.annotate("Secret", "stormy", &[("force-sync", Some(&value))]);
        // As one who knows only of finalizers of his own.
        for (kind, name) in [("Secret", "stormy"), ("Deployment", "app")] {
            let finalizers = if edit % 2 == 0 {
                json!(["example.com/mine"])
            } else {
                json!([])
            };
            scene.patch(kind, name, json!({"metadata": {"finalizers": finalizers}}));
        }
        scene.annotate(
            "Deployment",
            "app",
            &[("reconcile", Some(&format!("{}s", 100 + edit)))],
        );
        scene.set_key("db", "k", &value);
        if edit % 20 == 0 {
            calm += 1;
            scene.set_key("calm", "k", &calm.to_string());
            scene.doc("calm").becomes(json!({"k": calm.to_string()}));
        }
    }
    for name in ["stormy", "app/db"] {
        scene.doc(name).becomes(json!({"k": "60"}));
    }
    // A finalizer that was taken off after the last sync is back with the next.
    scene.set_key("stormy", "k", "end");
    scene.set_key("db", "k", "end");
    for name in ["stormy", "app/db"] {
        scene.doc(name).becomes(json!({"k": "end"}));
    }
    scene.settle();
    for (kind, name) in [("Secret", "stormy"), ("Deployment", "app")] {
        let mut finalizers = scene.finalizers(kind, name);
        finalizers.sort();
        assert_eq!(
            finalizers,
            ["example.com/mine", "vault-sync.io/finalizer"],
            "{name}"
        );
    }
    scene.doc("calm").is_at_version(4);
    // At most one patch puts the finalizer back after each edit that took it off.
    for name in ["stormy", "app"] {
        let audit = scene.audit();
        let patches = audit.iter().filter(|a| a.verb == "patch" && a.name == name);
        let patches = patches.count();
        assert!(patches <= EDITS + 2, "{patches} patches of {name}");
        scene.patch(
            if name == "app" { "Deployment" } else { "Secret" },
            name,
            json!({"metadata": {"finalizers": ["vault-sync.io/finalizer"]}}),
        );
    }
    for (name, versions) in [("stormy", EDITS as u64 + 2), ("app/db", EDITS as u64 + 2)] {
        let version = scene.doc(name).version();
        assert!(version <= versions, "{name} is at version {version}");
    }
    is_well(&mut operator);
    // Whatever was read a moment ago: a delete in the storm's end goes all the way.
    scene.delete("Secret", "stormy");
    scene.delete("Deployment", "app");
    scene.vanishes("Secret", "stormy");
    scene.doc("stormy").goes();
    scene.doc("app/db").goes();
}

/// A namespace with thirty sources goes while they are being written. The operator's rights are the
/// chart's: for the whole cluster, since what is bound in a namespace goes with it.
fn namespace_goes(cut: bool) {
    let scene = Scene::new();
    scene.bind("operator", "it-sources");
    let names: Vec<String> = (0..30).map(|number| format!("s{number:02}")).collect();
    let run = scene.run().flag("cleanup-timeout", "3s");
    // A write that was cut off may land for twice as long; its document is looked at again after that.
    let mut operator = run.env("VAULT_CLIENT_TIMEOUT", "2s").start();
    operator.ready();
    let (first, rest) = names.split_at(15);
    for name in first {
        scene.own(name, "1");
    }
    for name in first {
        scene.doc(name).becomes(json!({"k": "1"}));
    }
    for name in rest {
        scene.own(name, "1");
    }
    if cut {
        scene.vault.cut();
    }
    let namespace = format!("/api/v1/namespaces/{}", scene.ns);
    scene.bed.kube.delete(&namespace).ok();
    eventually("the namespace is gone", || {
        let reply = scene.bed.kube.get(&namespace);
        check(reply.status == 404, reply.text)
    });
    if cut {
        // They were not forgotten with it.
        let pending = scene.entries();
        assert!(pending.len() >= 15, "{pending:#?}");
        scene.vault.restore();
    }
    for name in &names {
        scene.doc(name).goes();
    }
    eventually("the ledger is empty", || {
        let left: BTreeSet<String> = scene.entries().into_keys().collect();
        check(left.is_empty(), format!("{left:?}"))
    });
    is_well(&mut operator);
}

#[test]
fn a_namespace_that_goes_in_the_midst_of_a_sync_takes_its_documents_with_it() {
    namespace_goes(false);
}

#[test]
fn a_namespace_goes_although_vault_is_away_and_its_documents_follow() {
    namespace_goes(true);
}

#[test]
fn a_flood_of_failures_is_told_in_a_bounded_number_of_events_the_first_of_each_source_at_once() {
    const SOURCES: usize = 200;
    const ROUNDS: usize = 50;
    let scene = Scene::new();
    let mut operator = scene.start();
    operator.ready();
    let began = Instant::now();
    let names: Vec<String> = (0..SOURCES).map(|number| format!("bad{number:03}")).collect();
    for name in &names {
        scene.create_secret(name, ours(&[("path", "secret//x")]), &[("k", b"v")]);
    }
    eventually("an Event on each source", || {
        let told: BTreeSet<String> = scene.all_events_of("InvalidAnnotation");
        check(told.len() == SOURCES, told.len())
    });
    // Ten thousand things to tell; each source may tell ten of its at once.
    std::thread::scope(|threads| {
        for names in names.chunks(SOURCES / 4) {
            let scene = &scene;
            threads.spawn(move || {
                for round in 0..ROUNDS {
                    for name in names {
                        let path = "x".repeat(600 + round);
                        scene.annotate("Secret", name, &[("path", Some(&path))]);
                    }
                }
            });
        }
    });
    scene.settle();
    let dropped = "vault_sync_operator_events_dropped_total";
    operator.counts(dropped, &[], 1.0);
    let audit = scene.audit();
    let created = audit
        .iter()
        .filter(|a| a.verb == "create" && a.resource == "events")
        .count();
    // The first of each, what all may have at once, and after that fifty a second.
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
    let most = SOURCES + 50 + 50 * seconds;
    assert!(
        created >= SOURCES && created <= most,
        "{created} Events in {seconds} s"
    );
    is_well(&mut operator);
}
