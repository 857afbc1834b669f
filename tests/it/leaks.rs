//! No value of a Secret, and no credential, anywhere but in Vault.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::{Scene, env_from, eventually, ours};

const TEXT: &str = "canary-9f2c7e51-text";
const OTHER: &str = "canary-b03d8a44-other";
const APPLIED: &str = "canary-77aa01fe-applied";
/// Not UTF-8, so that it goes the way of base64.
const BINARY: &[u8] = b"\xff\xfecanary-5d1e60c2-binary";

/// A secret in every spelling in which it could come to light.
fn spellings(secret: &[u8]) -> Vec<String> {
    let mut all = vec![
        STANDARD.encode(secret).trim_end_matches('=').to_owned(),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        secret
            .iter()
            .map(|byte| byte.to_string())
            .collect::<Vec<_>>()
            .join(", "),
        secret.iter().map(|byte| format!("{byte:02x}")).collect(),
        // As people print bytes: \xff\xfe...
        secret.escape_ascii().to_string(),
    ];
    // A text inside anything else, such as the JSON of a last-applied-configuration.
    if let Some(at) = secret.windows(7).position(|window| window == b"canary-") {
        all.push(String::from_utf8_lossy(&secret[at..]).into_owned());
    }
    all
}

#[test]
fn values_and_tokens_appear_nowhere_but_in_vault_even_at_trace() {
    let scene = Scene::new();
    let applied = json!({"kubectl.kubernetes.io/last-applied-configuration": format!(r#"{{"stringData":{{"x":"{APPLIED}"}}}}"#)});
    scene.create_secret(
        "text",
        applied,
        &[("k", TEXT.as_bytes()), ("x", APPLIED.as_bytes())],
    );
    scene.create_secret("binary", json!({}), &[("k", BINARY)]);
    scene.secret("other", &[("k", OTHER)]);
    let listed = |path: &str, list: &str| ours(&[("path", path), ("secrets", list)]);
    // What works ...
    scene.deployment(
        "app",
        ours(&[("path", &scene.path("app"))]),
        env_from(&["text", "binary"]),
    );
    scene.create_secret(
        "own",
        ours(&[("path", &format!("kv1/{}/own", scene.ns))]),
        &[("k", TEXT.as_bytes())],
    );
    // ... and each way of failing with a value in hand.
    scene.deployment(
        "collides",
        listed(&scene.path("c"), r#"[{"name": "text"}, {"name": "other"}]"#),
        env_from(&[]),
    );
    scene.deployment(
        "keyless",
        listed(&scene.path("n"), r#"[{"name": "text", "keys": ["k", "nope"]}]"#),
        env_from(&[]),
    );
    let strict = r#"[{"name": "binary", "encoding": "text"}]"#;
    scene.deployment("not-text", listed(&scene.path("t"), strict), env_from(&[]));
    scene.deployment(
        "denied",
        listed("secret/data/not-ours/x", r#"[{"name": "text"}]"#),
        env_from(&[]),
    );
    scene.deployment(
        "malformed",
        listed(&scene.path("m"), r#"[{"name": "text""#),
        env_from(&[]),
    );
    scene.doc("taken").write(json!({"k": OTHER}));
    scene.deployment(
        "taken",
        listed(&scene.path("taken"), r#"[{"name": "text"}]"#),
        env_from(&[]),
    );

    let operator = scene
        .run()
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .start();
    let binary = STANDARD.encode(BINARY);
    scene.doc("app/text").becomes(json!({"k": TEXT, "x": APPLIED}));
    scene.doc("app/binary").becomes(json!({"k": binary}));
    scene
        .doc_in("kv1", &format!("{}/own", scene.ns))
        .becomes(json!({"k": TEXT}));
    for source in ["collides", "malformed"] {
        scene.event(source, "InvalidAnnotation", &[]);
    }
    for source in ["keyless", "not-text", "denied"] {
        scene.event(source, "SyncFailed", &[]);
    }
    scene.event("taken", "OwnershipConflict", &[]);
    // Drift, an outage, a lost login, a deletion.
    scene.doc("app/text").write(json!({"k": OTHER}));
    scene.annotate("Deployment", "app", &[("force-sync", Some("1"))]);
    scene.doc("app/text").becomes(json!({"k": TEXT, "x": APPLIED}));
    scene.vault.cut();
    scene.set_key("text", "k", OTHER);
    operator.probe("/readyz", 500);
    scene.vault.restore();
    scene.doc("app/text").becomes(json!({"k": OTHER, "x": APPLIED}));
    for accessor in scene.logins() {
        scene
            .bed
            .vault
            .post("/v1/auth/token/revoke-accessor", &json!({"accessor": accessor}))
            .ok();
    }
    scene.set_key("text", "k", TEXT);
    scene.doc("app/text").becomes(json!({"k": TEXT, "x": APPLIED}));
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");

    let mut public = vec![
        ("metrics".to_owned(), operator.metrics().0),
        ("readyz".to_owned(), operator.health.get("/readyz?verbose").text),
        ("healthz".to_owned(), operator.health.get("/healthz?verbose").text),
    ];
    for resource in ["configmaps", "leases", "events"] {
        public.push((
            resource.to_owned(),
            Value::from(scene.at_home(resource)).to_string(),
        ));
    }
    let events = scene
        .bed
        .kube
        .get(&format!("/api/v1/namespaces/{}/events", scene.ns))
        .text;
    assert!(
        events.contains("SyncFailed"),
        "there is something to look through"
    );
    public.push(("events of sources".to_owned(), events));
    for name in ["own", "other", "binary"] {
        let metadata = scene.get("Secret", name)["metadata"].clone();
        public.push((format!("metadata of {name}"), metadata.to_string()));
    }
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", scene.ns);
    public.push(("deployments".to_owned(), scene.bed.kube.get(&deployments).text));
    let metadata = scene
        .bed
        .vault
        .get(&format!("/v1/secret/metadata/{}/app/text", scene.ns))
        .text;
    public.push(("metadata in Vault".to_owned(), metadata));

    let mut secret: Vec<String> = [TEXT.as_bytes(), OTHER.as_bytes(), APPLIED.as_bytes(), BINARY]
        .iter()
        .flat_map(|s| spellings(s))
        .collect();
    secret.push(fs::read_to_string(scene.dir.join("token")).unwrap());
    let tokens = scene.tokens();
    assert!(
        tokens.len() >= 2,
        "the wire was listened to: {} tokens",
        tokens.len()
    );
    secret.extend(tokens);

    // Up to its last words.
    let log = eventually("it says that it ends", || {
        let log = operator.log();
        if log.lines().count() > 10 {
            Ok(log)
        } else {
            Err(format!("{} lines", log.lines().count()))
        }
    });
    public.push(("log".to_owned(), log));
    for (place, text) in &public {
        for secret in &secret {
            assert!(
                !text.contains(secret.as_str()),
                "{secret:?} is in the {place}:\n{text}"
            );
        }
    }
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn a_secret_that_kubernetes_or_vault_refuses_is_not_quoted() {
    let scene = Scene::new();
    // Vault answers with an error that a proxy or a plugin could have filled with the request.
    scene.create_secret(
        "own",
        ours(&[("path", &format!("strict/data/{}/own", scene.ns))]),
        &[("k", TEXT.as_bytes())],
    );
    let policy = format!("/v1/sys/policies/acl/{}", scene.ns);
    let rules = format!(
        r#"path "strict/data/{}/*" {{ capabilities = ["read"] }}"#,
        scene.ns
    );
    scene
        .bed
        .vault
        .send("PUT", &policy, Some(&json!({"policy": rules})))
        .ok();
    let operator = scene.run().env("RUST_LOG", "trace").start();
    scene.event("own", "SyncFailed", &["permission denied"]);
    for spelling in spellings(TEXT.as_bytes()) {
        assert!(!operator.log().contains(&spelling));
        assert!(!format!("{:?}", scene.events("own")).contains(&spelling));
    }
}
