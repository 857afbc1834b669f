//! The essentials, by HTTP. That all else is as in a real Vault is tested against one.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use super::{Capability, Deed, Engine, Node, Role, Vault};

/// A Vault, a clock, and who asks.
struct Bench {
    vault: Vault,
    now: SystemTime,
    token: String,
}

impl Bench {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let mut vault = Vault::new(7);
        vault.enable(now, "secret", Engine::Kv2);
        vault.enable(now, "kv1", Engine::Kv1);
        let token = vault.root_token().to_owned();
        Self { vault, now, token }
    }

    fn send(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("content-type", "application/merge-patch+json")
            .header("x-vault-token", &self.token)
            .body(body)
            .expect("a request");
        let reply = self.vault.handle(self.now, &request);
        let body = serde_json::from_slice(reply.body()).unwrap_or_default();
        (reply.status().as_u16(), body)
    }

    fn get(&mut self, path: &str) -> (u16, Value) {
        self.send("GET", path, &Value::Null)
    }

    fn write(&mut self, path: &str, value: &str) {
        let (status, body) = self.send("POST", path, &json!({"data": {"k": value}}));
        assert!(status < 300, "{status} {body}");
    }

    fn log_in(&mut self, role: &str) -> (u16, Value) {
        self.send(
            "POST",
            "auth/kubernetes/login",
            &json!({"role": role, "jwt": "j"}),
        )
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

#[test]
fn a_document_has_versions() {
    let mut bench = Bench::new();
    bench.write("secret/data/app", "1");
    bench.write("secret/data/app", "2");
    let (status, body) = bench.get("secret/data/app");
    assert_eq!((status, &body["data"]["data"]), (200, &json!({"k": "2"})));
    let (_, body) = bench.get("secret/data/app?version=1");
    assert_eq!(body["data"]["metadata"]["version"], 1);
    let stale = json!({"data": {}, "options": {"cas": 1}});
    let (status, body) = bench.send("POST", "secret/data/app", &stale);
    let words = json!({"errors": ["check-and-set parameter did not match the current version"]});
    assert_eq!((status, body), (400, words));
    assert_eq!(bench.get("secret/data/none"), (404, json!({"errors": []})));
}

#[test]
fn a_deleted_version_is_told_of_and_comes_back() {
    let mut bench = Bench::new();
    bench.write("secret/data/app", "1");
    assert_eq!(bench.send("DELETE", "secret/data/app", &Value::Null).0, 204);
    let (status, body) = bench.get("secret/data/app");
    assert_eq!((status, &body["data"]["data"]), (404, &Value::Null));
    assert_ne!(body["data"]["metadata"]["deletion_time"], "");
    bench.send("POST", "secret/undelete/app", &json!({"versions": [1]}));
    assert_eq!(bench.get("secret/data/app").0, 200);
    bench.send("POST", "secret/destroy/app", &json!({"versions": [1]}));
    assert_eq!(
        bench.get("secret/data/app").1["data"]["metadata"]["destroyed"],
        true
    );
}

#[test]
fn the_history_keeps_what_vault_forgets() {
    let mut bench = Bench::new();
    for value in 1..=12 {
        bench.write("secret/data/app", &value.to_string());
    }
    assert_eq!(bench.get("secret/data/app?version=2").0, 404);
    assert_eq!(bench.get("secret/data/app?version=3").0, 200);
    let document = bench.vault.document("secret", "app").expect("it is there");
    assert_eq!(
        document.ever(1).map(|version| &version.data),
        Some(&json!({"k": "1"}))
    );
    bench.send("DELETE", "secret/metadata/app", &Value::Null);
    bench.write("kv1/app", "x");
    bench.vault.disable(bench.now, "kv1");
    let archived = bench.vault.archive();
    let paths: Vec<_> = archived
        .iter()
        .map(|gone| (gone.mount.as_str(), gone.path.as_str()))
        .collect();
    assert_eq!(paths, [("secret", "app"), ("kv1", "app")]);
    assert_eq!(archived[0].document.current, 12);
}

#[test]
fn the_journal_tells_who_did_what() {
    let mut bench = Bench::new();
    bench.write("secret/data/a/b", "1");
    let patch = json!({"custom_metadata": {"owner": "us"}});
    assert_eq!(bench.send("PATCH", "secret/metadata/a/b", &patch).0, 204);
    bench.send("DELETE", "secret/metadata/a/b", &Value::Null);
    let journal = bench.vault.journal();
    let deeds: Vec<_> = journal
        .iter()
        .map(|change| (&change.deed, change.path.as_str()))
        .collect();
    let expected = [
        (&Deed::Mount, ""),
        (&Deed::Mount, ""),
        (&Deed::Write(1), "a/b"),
        (&Deed::Claim, "a/b"),
        (&Deed::Purge, "a/b"),
    ];
    assert_eq!(deeds, expected);
    assert_eq!(journal[2].who, "root");
    assert_eq!(journal[2].accessor, journal[0].accessor);
}

#[test]
fn a_mount_made_anew_is_another_one() {
    let mut bench = Bench::new();
    let (_, before) = bench.get("sys/internal/ui/mounts/secret/data/app");
    assert_eq!(before["data"]["path"], "secret/");
    assert_eq!(before["data"]["options"]["version"], "2");
    bench.vault.enable(bench.now, "secret", Engine::Kv1);
    let (_, after) = bench.get("sys/internal/ui/mounts/secret/data/app");
    assert_eq!(after["data"]["options"]["version"], "1");
    assert_ne!(before["data"]["accessor"], after["data"]["accessor"]);
    assert_eq!(bench.get("sys/internal/ui/mounts/none").0, 403);
}

#[test]
fn a_role_gives_tokens_that_end() {
    let mut bench = Bench::new();
    let now = bench.now;
    bench
        .vault
        .set_policy(now, "app", &[("secret/data/app", &[Capability::Read])]);
    let role = Role {
        policies: vec!["app".to_owned()],
        ttl: 60,
        max_ttl: 90,
        ..Role::default()
    };
    bench.vault.set_role(now, "kubernetes", "app", role);
    let (status, body) = bench.log_in("app");
    assert_eq!((status, &body["auth"]["lease_duration"]), (200, &json!(60)));
    bench.token = body["auth"]["client_token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(bench.get("secret/data/app").0, 404);
    assert_eq!(bench.get("secret/data/other").0, 403);
    bench.later(50);
    let (_, body) = bench.send("POST", "auth/token/renew-self", &json!({"increment": "60s"}));
    assert_eq!(body["auth"]["lease_duration"], 40);
    bench.later(41);
    let words = json!({"errors": ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]});
    assert_eq!(bench.get("auth/token/lookup-self"), (403, words));
    assert_eq!(bench.vault.tokens(bench.now).count(), 0);
    assert_eq!(bench.log_in("nobody").0, 400);
}

#[test]
fn a_token_is_good_for_so_many_calls() {
    let mut bench = Bench::new();
    let role = Role {
        num_uses: 2,
        ..Role::default()
    };
    bench.vault.set_role(bench.now, "kubernetes", "app", role);
    let (_, body) = bench.log_in("app");
    bench.token = body["auth"]["client_token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let statuses = [(); 3].map(|()| bench.get("auth/token/lookup-self").0);
    assert_eq!(statuses, [200, 200, 403]);
}

#[test]
fn a_sealed_vault_answers_nothing_else() {
    let mut bench = Bench::new();
    assert_eq!(bench.get("sys/health").0, 200);
    assert_eq!(bench.send("PUT", "sys/seal", &Value::Null).0, 204);
    assert_eq!(
        bench.get("secret/data/app"),
        (503, json!({"errors": ["Vault is sealed"]}))
    );
    assert_eq!(bench.get("sys/health").0, 503);
    let key = json!({"key": bench.vault.unseal_key()});
    assert_eq!(bench.send("PUT", "sys/unseal", &key).0, 200);
    for (node, statuses) in [
        (Node::Active, [200, 200]),
        (Node::Standby, [429, 200]),
        (Node::PerformanceStandby, [473, 200]),
        (Node::Secondary, [472, 472]),
    ] {
        bench.vault.set_node(node);
        let seen =
            ["sys/health", "sys/health?standbyok=true&perfstandbyok=true"].map(|path| bench.get(path).0);
        assert_eq!(seen, statuses, "{node:?}");
    }
}

#[test]
fn one_seed_gives_one_story() {
    let story = || {
        let mut bench = Bench::new();
        bench.write("secret/data/app", "1");
        bench.get("secret/metadata/app").1.to_string()
    };
    assert_eq!(story(), story());
}

#[test]
fn time_stands_still_and_a_deleted_version_is_deleted() {
    let mut bench = Bench::new();
    bench.send(
        "POST",
        "secret/metadata/app",
        &json!({"delete_version_after": "10s"}),
    );
    bench.write("secret/data/app", "1");
    assert_eq!(bench.get("secret/data/app").0, 200);
    bench.later(11);
    assert_eq!(bench.get("secret/data/app").0, 404);
}
