//! How much at a time, and that nobody waits for another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use testkit::{Answer, Plan, Scene, Wires, check, env_from, eventually, ours};

#[test]
fn a_source_whose_write_hangs_delays_no_other_even_when_one_runs_at_a_time() {
    let scene = Scene::new();
    scene.own("other", "one");
    let _operator = scene.run().flag("concurrency", "1").start();
    scene.doc("other").becomes(json!({"k": "one"}));
    scene
        .vault
        .hold(&format!("POST /v1/secret/data/{}/hung ", scene.ns));
    scene.own("hung", "v");
    scene.vault.holds(1);
    for value in ["two", "three", "four"] {
        scene.set_key("other", "k", value);
        scene.doc("other").becomes(json!({"k": value}));
    }
    assert_eq!(scene.doc("hung").data(), None);
    scene.vault.behave();
    scene.vault.land();
    scene.doc("hung").becomes(json!({"k": "v"}));
}

#[test]
fn a_namespace_whose_sources_all_hang_delays_no_other_namespace() {
    let scene = Scene::new();
    let calm = scene.another_namespace("calm");
    let path = format!("/api/v1/namespaces/{calm}/secrets");
    let secret = json!({
        "metadata": {"name": "calm", "annotations": ours(&[("path", &scene.path("calm"))])},
        "stringData": {"k": "one"},
    });
    scene.bed.kube.post(&path, &secret).ok();
    let _operator = scene
        .run()
        .flag("concurrency", "2")
        .env("VAULT_CLIENT_TIMEOUT", "10s")
        .flag("watch-namespaces", &format!("{},{calm}", scene.ns))
        .start();
    scene.doc("calm").becomes(json!({"k": "one"}));
    scene
        .vault
        .hold(&format!("POST /v1/secret/data/{}/hung", scene.ns));
    for number in 0..20 {
        scene.own(&format!("hung{number}"), "v");
    }
    // Half of four times as many as may be at work.
    scene.vault.holds(4);
    for value in ["two", "three"] {
        let change = json!({"stringData": {"k": value}});
        scene.bed.kube.patch(&format!("{path}/calm"), &change).ok();
        scene.doc("calm").becomes(json!({"k": value}));
    }
    scene.vault.behave();
    scene.vault.land();
    for number in 0..20 {
        scene.doc(&format!("hung{number}")).becomes(json!({"k": "v"}));
    }
}

#[test]
fn vault_max_rps_bounds_the_calls_of_a_second() {
    let scene = Scene::new();
    for number in 0..5 {
        scene.own(&format!("s{number}"), "v");
    }
    let began = Instant::now();
    let _operator = scene.run().flag("vault-max-rps", "5").start();
    for number in 0..5 {
        scene.doc(&format!("s{number}")).becomes(json!({"k": "v"}));
    }
    let took = began.elapsed();
    let requests = scene.vault.requests();
    let paced = requests.iter().filter(|r| r.contains("/secret/")).count();
    // A read and a write each; the last ones' claims may still be under way.
    assert!(paced >= 10, "{requests:?}");
    let least = Duration::from_millis(200) * u32::try_from(paced - 1).unwrap();
    assert!(took >= least, "{paced} calls in {took:?}");
}

#[test]
fn vault_max_rps_holds_up_neither_login_nor_probes() {
    let scene = Scene::new();
    for number in 0..200 {
        scene.own(&format!("s{number}"), "v");
    }
    let operator = scene.run().flag("vault-max-rps", "1").start();
    operator.ready();
    scene.revoke_logins();
    operator.probe("/readyz", 200);
    assert_eq!(operator.stop().code(), Some(0));
}

/// A document that Vault fails to take is tried again; meanwhile one that is too large is left alone, and
/// so is one whose annotation is wrong.
#[test]
fn what_only_a_change_can_cure_is_not_tried_again() {
    let scene = Scene::new();
    let operator = scene.run().flag("max-document-size", "100").start();
    scene.own("large", &"x".repeat(200));
    scene.create_secret("wrong", ours(&[("path", "secret/data/../x")]), &[("k", b"v")]);
    scene.event("large", "SyncFailed", &["more than the allowed 100"]);
    scene.event("wrong", "InvalidAnnotation", &[".."]);
    scene.settle();
    let attempts = |source: &str| {
        let labels = [("resource", source)];
        operator
            .metrics()
            .value("vault_sync_operator_sync_attempts_total", &labels)
    };
    let before = (attempts("large"), attempts("wrong"));
    scene.vault.answer(
        &format!("/v1/secret/data/{}/failing ", scene.ns),
        Answer::errors(500, &["a storage backend has failed"]),
    );
    scene.own("failing", "v");
    let failed = [("resource", "failing"), ("result", "failed")];
    operator.counts("vault_sync_operator_sync_attempts_total", &failed, 3.0);
    assert_eq!((attempts("large"), attempts("wrong")), before);
    // The change that cures it wakes it at once.
    scene.set_key("large", "k", "small");
    scene.doc("large").becomes(json!({"k": "small"}));
    scene.vault.behave();
    scene.doc("failing").becomes(json!({"k": "v"}));
}

/// A document of many Secrets asks for all the memory that there is for payload, and has to wait for it
/// while a write hangs; those who come after it need not.
#[test]
fn a_large_document_that_waits_for_a_hung_one_delays_no_third() {
    let scene = Scene::new();
    scene.own("other", "one");
    let names: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    for name in &names {
        scene.secret(name, &[(name, "v")]);
    }
    let _operator = scene.start();
    scene.doc("other").becomes(json!({"k": "one"}));
    scene
        .vault
        .hold(&format!("POST /v1/secret/data/{}/hung ", scene.ns));
    scene.own("hung", "v");
    scene.vault.holds(1);
    let entries: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    scene.listing("many", &json!(entries).to_string());
    for value in ["two", "three"] {
        scene.set_key("other", "k", value);
        scene.doc("other").becomes(json!({"k": value}));
    }
    assert_eq!(scene.doc("hung").data(), None);
}

/// Lists of many Secrets, whose reads hang: they hold next to nothing, so others have room.
#[test]
fn lists_whose_reads_hang_leave_memory_for_others() {
    let scene = Scene::new();
    let calm = scene.another_namespace("calm");
    let path = format!("/api/v1/namespaces/{calm}/secrets");
    let secret = json!({
        "metadata": {"name": "calm", "annotations": ours(&[("path", &scene.path("calm"))])},
        "stringData": {"k": "one"},
    });
    scene.bed.kube.post(&path, &secret).ok();
    let names: Vec<String> = (0..20).map(|number| format!("slow{number}")).collect();
    for name in &names {
        scene.secret(name, &[(name, "v")]);
    }
    let plan = Arc::new(Plan::new(&scene.ns, None));
    let wires = Wires::new(&scene.bed, &plan);
    plan.hold(&format!("/namespaces/{}/secrets/slow", scene.ns));
    let _operator = scene
        .run()
        .through(&wires)
        .env("GOMEMLIMIT", "64MiB")
        .flag("watch-namespaces", &format!("{},{calm}", scene.ns))
        .start();
    scene.doc("calm").becomes(json!({"k": "one"}));
    let entries: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    for number in 0..4 {
        scene.listing(&format!("list{number}"), &json!(entries).to_string());
    }
    let reads = |count: usize| {
        eventually(format!("{count} reads hang"), || {
            check(plan.waiting() >= count, plan.waiting())
        });
    };
    reads(1);
    for value in ["two", "three"] {
        let change = json!({"stringData": {"k": value}});
        scene.bed.kube.patch(&format!("{path}/calm"), &change).ok();
        scene.doc("calm").becomes(json!({"k": value}));
    }
    // Each list reads several Secrets at a time.
    reads(8);
    plan.let_go();
    let all: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!("v"))).collect();
    for number in 0..4 {
        scene.doc(&format!("list{number}")).becomes(json!(all));
    }
}

/// A document that is too large to be synced beside others waits for its turn, and loses nothing by that.
#[test]
fn lists_that_need_most_of_the_memory_are_all_synced_in_the_end() {
    let scene = Scene::new();
    let names: Vec<String> = (0..4).map(|number| format!("part{number}")).collect();
    let value = "x".repeat(900_000);
    for name in &names {
        scene.secret(name, &[(name, &value)]);
    }
    let entries: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    for number in 0..8 {
        scene.listing(&format!("list{number}"), &json!(entries).to_string());
    }
    let _operator = scene.run().env("GOMEMLIMIT", "32MiB").start();
    let all: serde_json::Map<_, _> = names.iter().map(|name| (name.clone(), json!(value))).collect();
    for number in 0..8 {
        scene
            .doc(&format!("list{number}"))
            .becomes(json!(all))
            .is_at_version(1);
    }
}

/// Whoever names my path gets a conflict, and reads nothing for it while it holds my document's lock.
#[test]
fn a_strangers_list_at_my_path_costs_me_nothing() {
    let scene = Scene::new();
    scene.own("mine", "one");
    scene.secret("slow", &[("k", "v")]);
    let plan = Arc::new(Plan::new(&scene.ns, None));
    let wires = Wires::new(&scene.bed, &plan);
    plan.hold(&format!("/namespaces/{}/secrets/slow", scene.ns));
    let _operator = scene.run().through(&wires).start();
    scene.doc("mine").becomes(json!({"k": "one"}));
    let annotations = ours(&[
        ("path", &scene.path("mine")),
        ("secrets", r#"[{"name": "slow"}]"#),
    ]);
    scene.deployment("stranger", annotations, env_from(&[]));
    scene.event("stranger", "OwnershipConflict", &["mine"]);
    scene.set_key("slow", "k", "w");
    for value in ["two", "three"] {
        scene.set_key("mine", "k", value);
        scene.doc("mine").becomes(json!({"k": value}));
    }
    assert_eq!(plan.waiting(), 0, "nothing is read for it");
    plan.let_go();
}
