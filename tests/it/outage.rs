//! While Vault is away: one probe, nothing lost, and everything afterwards.

use std::time::Instant;

use serde_json::json;

use testkit::{Answer, Scene, Testbed, check, eventually};

const UP: &str = "vault_sync_operator_vault_up";
const PROBE: &str = "GET /v1/sys/health?";

/// What was said over the wire to Vault since then. (Requests are known in the order of connections.)
fn since(scene: &Scene, before: &[String]) -> Vec<String> {
    let mut requests = scene.vault.requests();
    for earlier in before {
        let at = requests.iter().position(|request| request == earlier);
        requests.remove(at.expect("what was heard stays heard"));
    }
    requests
}

#[test]
fn an_outage_costs_one_probe_however_many_wait_and_all_arrives_after_it() {
    const SOURCES: usize = 60;
    let scene = Scene::on(Testbed::private());
    // A token that ends in the midst of it.
    scene.set_role(json!({"token_ttl": "4s", "token_max_ttl": "1h"}));
    let names: Vec<String> = (0..SOURCES).map(|number| format!("s{number}")).collect();
    for name in &names {
        scene.own(name, "one");
    }
    let operator = scene.run().flag("cleanup-timeout", "3s").start();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "one"}));
    }
    operator.counts(UP, &[], 1.0);

    scene.bed.seal();
    scene.set_key("s0", "k", "two");
    operator.says(&["Vault does not answer"]);
    let (began, before) = (Instant::now(), scene.vault.requests());
    // Everything that could make it ask: changes, deletions, new sources, probes by the hundred.
    for (number, name) in names.iter().enumerate() {
        match number % 4 {
            3 => scene.delete("Secret", name),
            _ => scene.set_key(name, "k", "two"),
        }
        operator.probe("/healthz", 500);
        operator.probe("/readyz", 500);
    }
    scene.own("late", "v");
    for name in names.iter().skip(3).step_by(4) {
        scene.vanishes("Secret", name);
    }
    eventually("the fifth probe", || {
        let probes = since(&scene, &before);
        check(probes.len() >= 5, format!("{probes:?}"))
    });
    let asked = since(&scene, &before);
    let seconds = began.elapsed().as_secs();
    assert!(
        asked.iter().all(|request| request.starts_with(PROBE)),
        "nothing but probes: {asked:?}"
    );
    assert!(
        asked.len() as u64 <= seconds / 2 + 2,
        "{} probes in {seconds} s",
        asked.len()
    );
    operator.probe("/livez", 200);
    for path in ["/healthz", "/readyz"] {
        let reply = operator.probe(path, 500);
        assert!(reply.text.contains("[-]vault failed: "), "{reply:?}");
        assert!(reply.text.contains("sealed"), "{reply:?}");
    }
    assert_eq!(operator.metrics().value(UP, &[]), Some(0.0));

    scene.bed.unseal();
    for (number, name) in names.iter().enumerate() {
        match number % 4 {
            3 => scene.doc(name).goes(),
            _ => drop(scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2)),
        }
    }
    scene.doc("late").becomes(json!({"k": "v"})).is_at_version(1);
    operator.says(&["Vault answers again"]);
    operator.probe("/readyz", 200);
    operator.counts(UP, &[], 1.0);
    scene.entry_is("s3", None);
}

/// A balancer leads to standbys, which say that they are well, and have nobody to forward to.
#[test]
fn standbys_without_an_active_node_are_an_outage_that_costs_one_probe_however_many_wait() {
    const SOURCES: usize = 30;
    const LEADER: &str = "GET /v1/sys/leader";
    let scene = Scene::new();
    let names: Vec<String> = (0..SOURCES).map(|number| format!("s{number}")).collect();
    for name in &names {
        scene.own(name, "one");
    }
    let operator = scene.start();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "one"}));
    }
    scene.settle();
    let json = [("Content-Type", "application/json")];
    let standby = r#"{"initialized":true,"sealed":false,"standby":true,"performance_standby":false}"#;
    let leaderless = r#"{"ha_enabled":true,"is_self":false,"leader_address":"","leader_cluster_address":""}"#;
    scene.vault.answer(PROBE, Answer::new(200, &json, standby));
    scene.vault.answer(LEADER, Answer::new(200, &json, leaderless));
    let nobody = Answer::errors(500, &["local node not active but active cluster node not found"]);
    scene.vault.answer("/v1/", nobody);
    scene.set_key("s0", "k", "two");
    operator.says(&["Vault does not answer", "no active node"]);
    let (began, before) = (Instant::now(), scene.vault.requests());
    for name in &names {
        scene.set_key(name, "k", "two");
    }
    eventually("the fifth probe", || {
        let asked = since(&scene, &before);
        let probes = asked.iter().filter(|request| request.starts_with(PROBE)).count();
        check(probes >= 5, format!("{asked:?}"))
    });
    let asked = since(&scene, &before);
    let seconds = began.elapsed().as_secs();
    assert!(
        asked
            .iter()
            .all(|request| request.starts_with(PROBE) || request == LEADER),
        "nothing but probes: {asked:?}"
    );
    assert!(
        asked.len() as u64 <= 2 * (seconds / 2 + 2),
        "{} questions in {seconds} s",
        asked.len()
    );
    operator.probe("/healthz", 500);
    assert_eq!(operator.metrics().value(UP, &[]), Some(0.0));

    scene.vault.behave();
    for name in &names {
        scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2);
    }
}

#[test]
fn the_gauge_says_down_and_up_and_the_log_says_it_once() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    operator.counts(UP, &[], 1.0);
    for round in ["two", "three"] {
        scene.vault.cut();
        scene.set_key("db", "k", round);
        eventually("the gauge is 0", || {
            let up = operator.metrics().value(UP, &[]);
            check(up == Some(0.0), format!("{up:?}"))
        });
        scene.vault.restore();
        scene.doc("db").becomes(json!({"k": round}));
        operator.counts(UP, &[], 1.0);
    }
    let count = |words: &str| operator.log().matches(words).count();
    eventually("the end of the second outage is told", || {
        let told = (
            count("Vault does not answer; all sources wait"),
            count("Vault answers again"),
        );
        check(told == (2, 2), format!("{told:?}"))
    });
}

/// A server error on one path says nothing of Vault as a whole.
#[test]
fn a_source_that_meets_errors_alone_is_no_outage() {
    let scene = Scene::new();
    scene.own("good", "one");
    let operator = scene.start();
    scene.doc("good").becomes(json!({"k": "one"}));
    scene.settle();
    scene.vault.quote(&format!("/v1/secret/data/{}/bad ", scene.ns));
    scene.own("bad", "v");
    scene.event("bad", "SyncFailed", &[]);
    scene.set_key("good", "k", "two");
    scene.doc("good").becomes(json!({"k": "two"}));
    assert_eq!(operator.metrics().value(UP, &[]), Some(1.0));
    assert!(!operator.log().contains("Vault does not answer"));
}

/// A network that swallows packets refuses nothing: only time tells.
#[test]
fn a_vault_that_answers_nothing_is_an_outage_too() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "2s").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.vault.stall();
    scene.set_key("db", "k", "two");
    operator.says(&["Vault does not answer", "timed out"]);
    operator.probe("/livez", 200);
    operator.probe("/healthz", 500);
    scene.set_key("db", "k", "three");
    scene.vault.flow();
    scene.doc("db").becomes(json!({"k": "three"}));
    operator.probe("/healthz", 200);
    scene.settle();
    scene.doc("db").holds(json!({"k": "three"}));
}

/// A source that is being deleted does not wait as long as it may; it too is seen to when Vault is back.
#[test]
fn a_delete_in_an_outage_is_among_those_that_are_tried_again_at_its_end() {
    let scene = Scene::on(Testbed::private());
    scene.own("db", "one");
    let operator = scene.run().flag("cleanup-timeout", "10m").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.bed.seal();
    scene.delete("Secret", "db");
    operator.says(&["Vault does not answer"]);
    let failed = [("resource", "db"), ("result", "failed")];
    operator.counts("vault_sync_operator_sync_attempts_total", &failed, 3.0);
    scene.bed.unseal();
    operator.says(&["Vault answers again", "\"sources\":1"]);
    scene.doc("db").goes();
    scene.vanishes("Secret", "db");
}
