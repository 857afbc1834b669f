//! Mounts that are made anew with another version of the KV engine, or upgraded, while the operator runs.

use serde_json::{Value, json};

use testkit::{Operator, Scene, check, eventually, ours};

/// A mount of the test's own, which its policy allows altogether.
struct Own<'a> {
    scene: &'a Scene,
    name: String,
}

impl<'a> Own<'a> {
    fn new(scene: &'a Scene, version: &str) -> Self {
        let own = Self {
            scene,
            name: format!("own-{}", scene.ns),
        };
        let policy = format!(
            r#"path "{}/*" {{ capabilities = ["create", "read", "update", "patch", "delete", "list"] }}
               path "secret/data/{ns}/*" {{ capabilities = ["create", "read", "update", "delete"] }}"#,
            own.name,
            ns = scene.ns
        );
        scene.set_policy(&policy);
        own.mount(version);
        own
    }

    fn mount(&self, version: &str) {
        let vault = &self.scene.bed.vault;
        let engine = json!({"type": "kv", "options": {"version": version}});
        vault.post(&format!("/v1/sys/mounts/{}", self.name), &engine).ok();
        if version == "2" {
            eventually("it takes writes", || {
                let reply = vault.post(&format!("/v1/{}/config", self.name), &json!({}));
                check(reply.status < 300, reply.text)
            });
        }
    }

    fn remake(&self, version: &str) {
        let path = format!("/v1/sys/mounts/{}", self.name);
        self.scene.bed.vault.delete(&path).ok();
        self.mount(version);
    }

    /// What is at a path of the API, right after the mount.
    fn at(&self, path: &str) -> Value {
        let reply = self.scene.bed.vault.get(&format!("/v1/{}/{path}", self.name));
        reply.json()["data"].clone()
    }

    /// An operator that has brought a Secret to this mount, which is KV v2, and has nothing left to do.
    fn synced(&self) -> Operator<'_> {
        let annotations = ours(&[("path", &format!("{}/app", self.name))]);
        self.scene.create_secret("app", annotations, &[("k", b"one")]);
        let operator = self.scene.start();
        self.becomes("data/app", json!({"k": "one"}));
        self.scene.settle();
        operator
    }

    fn becomes(&self, path: &str, wanted: Value) {
        eventually(format!("{path} holds {wanted}"), || {
            let seen = self.at(path);
            let data = if path.starts_with("data/") {
                &seen["data"]
            } else {
                &seen
            };
            check(
                *data == wanted,
                format!("{seen}\n{:#?}", self.scene.events("app")),
            )
        });
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        let path = format!("/v1/sys/mounts/{}", self.name);
        let _ = self.scene.bed.vault.try_send("DELETE", &path, None);
    }
}

/// The two ways that lead to Vault: a write by what is remembered, and a look.
const WAYS: [fn(&Scene); 2] = [
    |scene| scene.set_key("app", "k", "two"),
    |scene| {
        // Both at once.
        let change = json!({
            "metadata": {"annotations": {"vault-sync.io/force-sync": "1"}},
            "stringData": {"k": "two"},
        });
        scene.patch("Secret", "app", change);
    },
];

#[test]
fn a_v2_mount_that_is_remade_as_v1_is_seen_for_what_it_is() {
    for change in WAYS {
        v2_to_v1(change);
    }
}

fn v2_to_v1(change: fn(&Scene)) {
    let scene = Scene::new();
    let own = Own::new(&scene, "2");
    let mut operator = own.synced();
    own.remake("1");
    change(&scene);
    own.becomes("app", json!({"k": "two"}));
    // The way of writing to v2 leaves nothing on v1.
    assert_eq!(own.at("data/app"), Value::Null);
    assert_eq!(own.at("metadata/app"), Value::Null);
    scene.set_key("app", "k", "three");
    own.becomes("app", json!({"k": "three"}));
    scene.delete("Secret", "app");
    scene.vanishes("Secret", "app");
    own.becomes("app", Value::Null);
    assert!(operator.is_running());
}

#[test]
fn what_another_keeps_in_a_mount_that_was_made_anew_is_not_overwritten_by_what_is_remembered() {
    let scene = Scene::new();
    let own = Own::new(&scene, "2");
    let _operator = own.synced();
    own.remake("2");
    // At the version that we remember.
    let vault = &scene.bed.vault;
    let theirs = json!({"data": {"k": "theirs"}});
    vault.post(&format!("/v1/{}/data/app", own.name), &theirs).ok();
    let mark = json!({"custom_metadata": {"managed-by": "external-secrets"}});
    vault.post(&format!("/v1/{}/metadata/app", own.name), &mark).ok();
    scene.set_key("app", "k", "two");
    scene.event("app", "OwnershipConflict", &["another tool"]);
    assert_eq!(own.at("data/app")["data"], theirs["data"]);
    assert_eq!(own.at("metadata/app")["current_version"], 1);
}

#[test]
fn a_v1_mount_that_is_remade_as_v2_is_seen_for_what_it_is() {
    for change in WAYS {
        v1_to_v2(change);
    }
}

fn v1_to_v2(change: fn(&Scene)) {
    let scene = Scene::new();
    let own = Own::new(&scene, "1");
    let annotations = ours(&[("path", &format!("{}/app", own.name))]);
    scene.create_secret("app", annotations, &[("k", b"one")]);
    let mut operator = scene.start();
    own.becomes("app", json!({"k": "one"}));
    scene.settle();
    own.remake("2");
    change(&scene);
    own.becomes("data/app", json!({"k": "two"}));
    scene.set_key("app", "k", "three");
    own.becomes("data/app", json!({"k": "three"}));
    scene.delete("Secret", "app");
    scene.vanishes("Secret", "app");
    eventually("its version is deleted", || {
        let seen = own.at("data/app");
        check(seen["data"] == Value::Null, seen)
    });
    assert!(operator.is_running());
}

#[test]
fn a_v1_mount_that_is_upgraded_to_v2_keeps_its_documents_and_they_stay_true() {
    let scene = Scene::new();
    let own = Own::new(&scene, "1");
    let annotations = ours(&[("path", &format!("{}/app", own.name))]);
    scene.create_secret("app", annotations, &[("k", b"one")]);
    let _operator = scene.start();
    own.becomes("app", json!({"k": "one"}));
    scene.settle();
    let vault = &scene.bed.vault;
    let tune = format!("/v1/sys/mounts/{}/tune", own.name);
    vault.post(&tune, &json!({"options": {"version": "2"}})).ok();
    own.becomes("data/app", json!({"k": "one"}));
    scene.set_key("app", "k", "two");
    own.becomes("data/app", json!({"k": "two"}));
    scene.settle();
    let metadata = own.at("metadata/app");
    assert_eq!(metadata["current_version"], 2, "{metadata}");
    assert_eq!(
        metadata["custom_metadata"]["vault-sync.io/name"], "app",
        "{metadata}"
    );
}

/// What stands in the way of v2 on a mount that has become v1 may be somebody else's.
#[test]
fn a_look_that_meets_another_shape_asks_for_the_mount_anew() {
    let scene = Scene::new();
    let own = Own::new(&scene, "2");
    let _operator = own.synced();
    own.remake("1");
    let theirs = format!("/v1/{}/data/app", own.name);
    scene.bed.vault.post(&theirs, &json!({"mine": "x"})).ok();
    scene.annotate("Secret", "app", &[("force-sync", Some("now"))]);
    own.becomes("app", json!({"k": "one"}));
    assert_eq!(own.at("data/app"), json!({"mine": "x"}));
}

/// KV v1 takes whatever it is given: a write in the form of v2 would go to `data/app` there.
#[test]
fn a_mount_made_anew_as_v1_keeps_what_a_person_wrote_there() {
    let scene = Scene::new();
    let own = Own::new(&scene, "2");
    let _operator = own.synced();
    own.remake("1");
    let theirs = format!("/v1/{}/data/app", own.name);
    scene.bed.vault.post(&theirs, &json!({"k": "theirs"})).ok();
    scene.set_key("app", "k", "two");
    own.becomes("app", json!({"k": "two"}));
    assert_eq!(own.at("data/app"), json!({"k": "theirs"}));
}
