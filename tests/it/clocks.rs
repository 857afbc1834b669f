//! The operator's clock is another than the API server's and Vault's.

use std::fs;
use std::process::Command;

use serde_json::json;

use testkit::{Scene, eventually};

const HOUR: i64 = 3600;

/// A library that sets a process's wall clock so many seconds ahead; its timers run as ever.
fn clock(scene: &Scene, ahead: i64) -> String {
    let code = format!(
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <time.h>\n\
         int clock_gettime(clockid_t id, struct timespec *t) {{\n\
           int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, \"clock_gettime\");\n\
           int result = real(id, t);\n\
           if (result == 0 && id == CLOCK_REALTIME) t->tv_sec += {ahead};\n\
           return result;\n\
         }}\n"
    );
    let (source, library) = (scene.dir.join("clock.c"), scene.dir.join("clock.so"));
    fs::write(&source, code).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .expect("there is a C compiler, which Rust needs too");
    assert!(compiled.success());
    library.display().to_string()
}

#[test]
fn an_operator_whose_clock_is_slow_lets_a_deleted_object_go_in_time() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene
        .run()
        .trusting()
        .env("LD_PRELOAD", &clock(&scene, -HOUR))
        .flag("cleanup-timeout", "3s")
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    let line: serde_json::Value = serde_json::from_str(&operator.says(&["starting"])).unwrap();
    let now = scene.get("Secret", "db")["metadata"]["creationTimestamp"].clone();
    assert!(
        line["timestamp"].as_str() < now.as_str(),
        "its clock is slow: {line}, {now}"
    );
    scene.vault.cut();
    scene.delete("Secret", "db");
    scene.vanishes("Secret", "db");
    scene.vault.restore();
    scene.doc("db").goes();
}

/// It dies while its first write is on its way; the write lands, without a claim. By its own clock the
/// document is an hour older than the intention to create it.
#[test]
fn an_operator_whose_clock_is_fast_knows_what_it_was_about_to_create() {
    let scene = Scene::new();
    let clock = clock(&scene, HOUR);
    let run = || scene.run().trusting().env("LD_PRELOAD", &clock);
    // What was held up may land for twice as long.
    let start = || run().env("VAULT_CLIENT_TIMEOUT", "2s").start();
    let first = start();
    first.ready();
    scene.vault.hold("POST /v1/secret/data/");
    scene.own("db", "one");
    scene.vault.holds(1);
    first.kill();
    scene.vault.behave();
    assert_eq!(scene.vault.land(), ["HTTP/1.1 200 OK"]);
    scene.doc("db").holds(json!({"k": "one"}));
    scene.entry_is("db", Some("creating"));
    // Nothing tells any more what it should hold; only the ledger whose it is.
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": null}}));
    scene.delete("Secret", "db");
    let _second = start();
    scene.doc("db").goes();
    eventually("the ledger is empty", || {
        let left = scene.entries();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}
