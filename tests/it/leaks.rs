//! No value of a Secret, and no credential, anywhere but in Vault.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use vault_sync_operator::telemetry::{Format, Level, Logs};

use testkit::{Operator, Scene, env_from, ours};

const TEXT: &str = "canary-9f2c7e51-text";
const OTHER: &str = "canary-b03d8a44-other";
const APPLIED: &str = "canary-77aa01fe-applied";
/// Not UTF-8, so that it goes the way of base64.
const BINARY: &[u8] = b"\xff\xfecanary-5d1e60c2-binary";

/// A secret in every spelling in which it could come to light.
fn spellings(secret: &[u8]) -> Vec<String> {
    let each = |print: fn(&u8) -> String| secret.iter().map(print).collect::<Vec<_>>();
    let mut all = vec![
        STANDARD.encode(secret).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(secret),
        // As people print bytes: [255, 254], fffe, \xff\xfe.
        each(ToString::to_string).join(", "),
        each(|byte| format!("{byte:02x}")).concat(),
        secret.escape_ascii().to_string(),
    ];
    // The part of it that is text, inside of anything else.
    if let Some(at) = secret.windows(7).position(|window| window == b"canary-") {
        all.push(String::from_utf8_lossy(&secret[at..]).into_owned());
    }
    all
}

/// Sources that work, and one for each way of failing with a value in hand.
fn sources(scene: &Scene) {
    let applied = format!(r#"{{"stringData":{{"x":"{APPLIED}"}}}}"#);
    let applied = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    scene.create_secret(
        "text",
        applied,
        &[("k", TEXT.as_bytes()), ("x", APPLIED.as_bytes())],
    );
    scene.create_secret("binary", json!({}), &[("k", BINARY)]);
    scene.secret("other", &[("k", OTHER)]);
    scene.app("app", &["text", "binary"]);
    let annotations = ours(&[("path", &format!("kv1/{}/own", scene.ns))]);
    scene.create_secret("own", annotations, &[("k", TEXT.as_bytes())]);

    scene.listing("collides", r#"[{"name": "text"}, {"name": "other"}]"#);
    scene.listing("keyless", r#"[{"name": "text", "keys": ["k", "nope"]}]"#);
    scene.listing("not-text", r#"[{"name": "binary", "encoding": "text"}]"#);
    scene.listing("malformed", r#"[{"name": "text""#);
    scene.deployment(
        "denied",
        ours(&[("path", "secret/data/not-ours/x")]),
        env_from(&["text"]),
    );
    scene.doc("taken").write(json!({"k": OTHER}));
    scene.listing("taken", r#"[{"name": "text"}]"#);
}

/// Everything that others than Vault can see, by the place's name.
fn public(scene: &Scene, operator: &Operator) -> Vec<(String, String)> {
    let mut public = vec![
        ("log".to_owned(), operator.log()),
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
    for (group, resource) in [("api/v1", "events"), ("apis/apps/v1", "deployments")] {
        let list = format!("/{group}/namespaces/{}/{resource}", scene.ns);
        public.push((format!("{resource} of sources"), scene.bed.kube.get(&list).text));
    }
    for name in ["own", "other", "binary"] {
        let metadata = &scene.get("Secret", name)["metadata"];
        public.push((format!("metadata of {name}"), metadata.to_string()));
    }
    let metadata = scene.doc("app/text").metadata();
    public.push(("metadata in Vault".to_owned(), metadata.to_string()));
    public
}

#[test]
fn values_and_tokens_appear_nowhere_but_in_vault_even_at_trace() {
    let scene = Scene::new();
    sources(&scene);
    let operator = scene
        .run()
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .start();
    let good = json!({"k": TEXT, "x": APPLIED});
    scene.doc("app/text").becomes(good.clone());
    scene
        .doc("app/binary")
        .becomes(json!({"k": STANDARD.encode(BINARY)}));
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
    scene.doc("app/text").becomes(good.clone());
    scene.vault.cut();
    scene.set_key("text", "k", OTHER);
    operator.probe("/readyz", 500);
    scene.vault.restore();
    scene.doc("app/text").becomes(json!({"k": OTHER, "x": APPLIED}));
    scene.revoke_logins();
    scene.set_key("text", "k", TEXT);
    scene.doc("app/text").becomes(good);
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");

    let values = [TEXT.as_bytes(), OTHER.as_bytes(), APPLIED.as_bytes(), BINARY];
    let mut secret: Vec<String> = values.iter().flat_map(|value| spellings(value)).collect();
    secret.push(fs::read_to_string(scene.dir.join("token")).unwrap());
    let tokens = scene.tokens();
    assert!(
        tokens.len() >= 2,
        "the wire was listened to: {} tokens",
        tokens.len()
    );
    secret.extend(tokens);
    for (place, text) in public(&scene, &operator) {
        assert!(
            text.len() > 1,
            "there is something to look through in the {place}"
        );
        for secret in &secret {
            assert!(
                !text.contains(secret.as_str()),
                "{secret:?} is in the {place}:\n{text}"
            );
        }
    }
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

#[test]
fn an_error_of_vaults_that_quotes_the_request_tells_no_value_and_no_token() {
    // A proxy, a plugin, or a version of Vault to come could answer so.
    let scene = Scene::new();
    let jwt = fs::read_to_string(scene.dir.join("token")).unwrap();
    scene.vault.quote("POST /v1/auth/kubernetes/login HTTP");
    let operator = scene.run().env("RUST_LOG", "trace").start();
    operator.says(&["log in"]);
    scene.vault.behave();
    operator.ready();
    scene
        .vault
        .quote(&format!("/v1/secret/data/{}/own HTTP", scene.ns));
    scene.own("own", TEXT);
    scene.event("own", "SyncFailed", &["Vault refused"]);
    scene.delete("Secret", "own");
    scene.vanishes("Secret", "own");
    let mut secret = spellings(TEXT.as_bytes());
    secret.extend(scene.tokens());
    secret.push(jwt.clone());
    // A part of a secret is one too many.
    secret.push(TEXT[..14].to_owned());
    secret.push(jwt[..24].to_owned());
    for (place, text) in [
        ("log", operator.log()),
        ("Events", format!("{:?}", scene.events("own"))),
        ("metrics", operator.metrics().0),
        ("readyz", operator.health.get("/readyz?verbose").text),
    ] {
        for secret in &secret {
            assert!(
                !text.contains(secret.as_str()),
                "{secret:?} is in the {place}:\n{text}"
            );
        }
    }
}

#[test]
fn a_panic_tells_where_it_was_and_not_what_it_held() {
    // The operator takes over what its process prints, so that this test is run again in one of its own.
    const CHILD: &str = "VAULT_SYNC_IT_PANICS";
    if std::env::var_os(CHILD).is_some() {
        Logs::new(Format::Json, Level::Trace, Some("trace"))
            .unwrap()
            .install();
        // What a failed `unwrap` of a parser's error would be.
        let read = TEXT.parse::<u8>().map_err(|_| TEXT.to_owned());
        read.unwrap();
    }
    let name = "leaks::a_panic_tells_where_it_was_and_not_what_it_held";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains(r#""message":"panic""#), "{text}");
    assert!(text.contains("tests/it/leaks.rs"), "{text}");
    for spelling in spellings(TEXT.as_bytes()) {
        assert!(!text.contains(&spelling), "{text}");
    }
}
