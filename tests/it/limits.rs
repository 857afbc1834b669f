//! How much at a time, and that nobody waits for another.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Scene, ours};

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
    assert_eq!(scene.vault.land().len(), 4);
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
