//! Leader election: one writer at a time, whatever becomes of it.

use serde_json::{Value, json};

use testkit::{Gate, Scene, check, eventually};

/// How a candidate that has lost its lease ends.
const FAILED: Option<i32> = Some(1);

/// Waits until somebody sees that Vault holds what the Secret `db` holds, by this operator's hand.
fn takes_over(scene: &Scene, name: &str, value: &str, version: u64) {
    scene.leads(name);
    scene.set_key("db", "k", value);
    scene
        .doc("db")
        .becomes(json!({"k": value}))
        .is_at_version(version);
}

#[test]
fn a_standby_is_ready_writes_nothing_and_takes_over_when_the_leader_ends_in_good_order() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.run().candidate("first").start();
    scene.leads("first");
    scene.doc("db").becomes(json!({"k": "one"}));
    let (kube, vault) = (Gate::to(scene.bed.kube_port), Gate::to(scene.bed.vault_port));
    let second = scene.run().candidate("second").via(&kube, &vault).start();
    second.ready();
    second.says(&["all sources are known"]);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    assert!(scene.leader().starts_with("first"), "{}", scene.leader());
    let asked = vault.requests();
    assert!(
        asked.iter().all(|request| !request.contains("/secret/")),
        "a standby asks Vault for no document: {asked:?}"
    );

    assert_eq!(first.stop().code(), Some(0));
    takes_over(&scene, "second", "three", 3);
    second.counts("vault_sync_operator_leader", &[], 1.0);
}

#[test]
fn a_lease_that_is_given_up_is_seen_by_a_watch() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.run().candidate("first").start();
    scene.leads("first");
    scene.doc("db").becomes(json!({"k": "one"}));
    let second = scene.run().candidate("second").start();
    second.ready();
    eventually("the second watches the Lease", || {
        let watching = scene
            .audit()
            .iter()
            .any(|asked| asked.verb == "watch" && asked.resource == "leases");
        check(watching, "not yet")
    });
    first.stop();
    scene.leads("second");
}

#[test]
fn a_leader_that_is_killed_is_replaced_when_its_lease_has_lapsed() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.run().candidate("first").start();
    scene.leads("first");
    scene.doc("db").becomes(json!({"k": "one"}));
    let second = scene.run().candidate("second").start();
    second.ready();
    first.kill();
    assert!(scene.leader().starts_with("first"), "a crash gives nothing up");
    takes_over(&scene, "second", "two", 2);
    let lease = scene.lease();
    assert_eq!(lease["spec"]["leaseTransitions"], 1, "{lease}");
}

/// The leader's packets vanish, while a write of its own is somewhere on its way to Vault. (Were Vault
/// there, its token would be revoked, and the write refused for that.)
#[test]
fn a_leader_that_is_cut_off_ends_before_its_lease_does_and_its_late_write_changes_nothing() {
    let scene = Scene::new();
    scene.own("db", "one");
    let (kube, vault) = (Gate::to(scene.bed.kube_port), Gate::to(scene.bed.vault_port));
    let mut first = scene.run().candidate("first").via(&kube, &vault).start();
    scene.leads("first");
    scene.doc("db").becomes(json!({"k": "one"}));
    let second = scene.run().candidate("second").start();
    second.ready();

    vault.hold("POST /v1/secret/data/");
    scene.set_key("db", "k", "stale");
    vault.holds(1);
    vault.stall();
    kube.stall();
    assert_eq!(first.ends().code(), FAILED);
    first.says(&["ERROR", "lease could not be renewed within 10s"]);
    assert!(
        scene.leader().starts_with("first"),
        "nobody else may write yet: {}",
        scene.leader()
    );

    scene.leads("second");
    scene.doc("db").becomes(json!({"k": "stale"})).is_at_version(2);
    scene.set_key("db", "k", "new");
    scene.doc("db").becomes(json!({"k": "new"})).is_at_version(3);
    assert_eq!(vault.land(), ["HTTP/1.1 400 Bad Request"]);
    scene.doc("db").holds(json!({"k": "new"})).is_at_version(3);
}

/// KV v1 knows no check-and-set: there nothing but the leader's own clock keeps it from writing.
#[test]
fn a_leader_that_was_suspended_for_longer_than_its_lease_writes_nothing_when_it_goes_on() {
    let scene = Scene::new();
    let path = format!("kv1/{}/db", scene.ns);
    let annotations = testkit::ours(&[("path", &path)]);
    scene.create_secret("db", annotations, &[("k", b"one")]);
    let (kube, vault) = (Gate::to(scene.bed.kube_port), Gate::to(scene.bed.vault_port));
    let mut first = scene.run().candidate("first").via(&kube, &vault).start();
    let document = scene.doc_in("kv1", &format!("{}/db", scene.ns));
    document.becomes(json!({"k": "one"}));
    let second = scene.run().candidate("second").start();
    second.ready();
    let written = |vault: &Gate| {
        let requests = vault.requests();
        requests.iter().filter(|r| r.starts_with("POST /v1/kv1/")).count()
    };
    assert_eq!(written(&vault), 1);

    first.suspend();
    scene.set_key("db", "k", "two");
    scene.leads("second");
    document.becomes(json!({"k": "two"}));
    first.resume();
    assert_eq!(first.ends().code(), FAILED);
    assert_eq!(written(&vault), 1, "{:?}", vault.requests());
    document.holds(json!({"k": "two"}));
}

#[test]
fn the_ledger_fences_a_leader_that_does_not_know_it_is_none_any_more() {
    let scene = Scene::new();
    scene.own("db", "one");
    let mut first = scene.run().candidate("first").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    // Somebody takes the ledger over while the first one's lease is good: an operator without election.
    let other = scene.run().env("POD_NAME", "other").start();
    other.ready();
    eventually("the other has put its epoch on the ledger", || {
        let ledger = Value::from(scene.ledger()).to_string();
        check(ledger.contains("\"vault-sync.io/epoch\":\"other_"), ledger)
    });
    scene.own("new", "v");
    assert_eq!(first.ends().code(), FAILED);
    first.says(&["another operator (other_", "has taken the ledger over"]);
    scene.doc("new").becomes(json!({"k": "v"})).is_at_version(1);
}

/// A Lease whose holder's clock is an hour slow: it looks lapsed to whoever believes in clocks.
#[test]
fn whose_clock_is_wrong_neither_loses_nor_keeps_a_lease() {
    let scene = Scene::new();
    scene.own("db", "one");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", scene.home);
    let spec = |renewal: usize| {
        json!({
            "holderIdentity": "ghost", "leaseDurationSeconds": 4, "leaseTransitions": 7,
            "acquireTime": "2020-01-01T00:00:00.000000Z",
            "renewTime": format!("2020-01-01T00:{:02}:{:02}.000000Z", renewal / 60 % 60, renewal % 60),
        })
    };
    let lease = json!({"metadata": {"name": "vault-sync-operator.io"}, "spec": spec(0)});
    scene.bed.kube.post(&leases, &lease).ok();
    let operator = scene.run().candidate("first").start();
    operator.says(&["waiting for the lease", "ghost"]);
    let place = format!("{leases}/vault-sync-operator.io");
    let began = std::time::Instant::now();
    let mut renewal = 0;
    eventually("twice the length of the lease is over", || {
        renewal += 1;
        let patch = json!({"spec": spec(renewal)});
        scene.bed.kube.patch(&place, &patch).ok();
        check(began.elapsed().as_secs() > 8, renewal)
    });
    assert_eq!(scene.leader(), "ghost", "it was renewed all the time");
    assert_eq!(scene.doc("db").data(), None);
    // Its clock an hour ahead; and then it is heard of no more.
    let ahead = json!({"spec": {"renewTime": "2199-01-01T00:00:00.000000Z"}});
    scene.bed.kube.patch(&place, &ahead).ok();
    scene.leads("first");
    assert_eq!(scene.lease()["spec"]["leaseTransitions"], 8);
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn who_ends_with_work_still_under_way_lets_the_lease_lapse() {
    let scene = Scene::new();
    scene.own("db", "one");
    scene.vault.hold("POST /v1/secret/data/");
    let operator = scene
        .run()
        .candidate("first")
        .flag("shutdown-grace", "1s")
        .start();
    scene.vault.holds(1);
    assert_eq!(operator.stop().code(), Some(0));
    assert!(scene.leader().starts_with("first"), "{}", scene.lease());
}

#[test]
fn a_standby_asks_for_nothing_that_came_and_went_while_it_stood_by() {
    let scene = Scene::new();
    scene.own("db", "one");
    let first = scene.run().candidate("first").start();
    scene.leads("first");
    let second = scene.run().candidate("second").start();
    second.ready();
    for number in 0..20 {
        let ghost = format!("ghost{number}");
        scene.own(&ghost, "v");
        scene.doc(&ghost).becomes(json!({"k": "v"}));
        scene.delete("Secret", &ghost);
    }
    for number in 0..20 {
        scene.vanishes("Secret", &format!("ghost{number}"));
    }
    assert_eq!(first.stop().code(), Some(0));
    let before = scene.audit().len();
    takes_over(&scene, "second", "two", 2);
    let asked: Vec<String> = scene.audit()[before..]
        .iter()
        .filter(|asked| asked.verb == "get" && asked.name.starts_with("ghost"))
        .map(|asked| asked.name.clone())
        .collect();
    assert_eq!(asked, Vec::<String>::new());
}

#[test]
fn a_lease_that_may_not_be_read_is_reported_in_plain_words_with_what_to_do() {
    let scene = Scene::new();
    let operator = scene
        .run()
        .candidate("a")
        .flag("namespace", "no-such-namespace")
        .start();
    operator.says(&[
        "cannot acquire the lease",
        "read the Lease no-such-namespace/vault-sync-operator.io: Kubernetes denied it",
        "check the operator's Roles in this namespace",
    ]);
    assert!(!operator.log().contains("Status {"), "{}", operator.log());
}
