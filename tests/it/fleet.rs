//! Clusters that share a Vault: what one does reaches nothing of another, whatever it is told.
//!
//! Each cluster is set up in Vault as people do it, by `hack/setup-vault.sh`, with a method to log in and a
//! policy of its own. The same application, with the same names, runs in both.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Doc, Http, Operator, Reply, Scene, check, eventually, ours};

/// One of two clusters.
struct Cluster {
    scene: Scene,
    /// As Vault and paths know it.
    name: String,
}

/// Both, set up, before their operators run.
fn two() -> [Cluster; 2] {
    let mut letter = 'a'..='b';
    Scene::twins().map(|scene| {
        let name = format!("{}-{}", scene.ns, letter.next().unwrap());
        let cluster = Cluster { scene, name };
        cluster.set_up(&[]);
        cluster
    })
}

impl Cluster {
    /// What `hack/setup-vault.sh` says that it did, a line each: how, and what.
    fn set_up(&self, env: &[(&str, &str)]) -> Vec<String> {
        let (scene, bed) = (&self.scene, &self.scene.bed);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/setup-vault.sh");
        let path = format!("{}:{}", bed.bin.display(), std::env::var("PATH").unwrap());
        let output = Command::new(script)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &scene.dir)
            .env("VAULT_ADDR", format!("http://127.0.0.1:{}", bed.vault_port))
            .env("VAULT_TOKEN", &bed.root_token)
            .env("KUBECONFIG", bed.dir.join("admin.kubeconfig"))
            .env("VAULT_SYNC_CLUSTER_NAME", &self.name)
            .env("KV_MOUNTS", "secret team/kv kv1")
            .env("NAMESPACE", &scene.home)
            .env("SERVICE_ACCOUNT", "operator")
            .envs(env.iter().copied())
            .output()
            .expect("the script runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said.lines().map(str::to_owned).collect()
    }

    fn start(&self, flags: &[(&str, &str)]) -> Operator<'_> {
        let mut run = self
            .scene
            .run()
            .flag("vault-auth-path", &format!("clusters/{}", self.name))
            .flag("vault-role", "vault-sync-operator")
            .flag("cluster-name", &self.name);
        for (name, value) in flags {
            run = run.flag(name, value);
        }
        run.start()
    }

    /// The application: a Deployment that reads the Secret `db`.
    fn deploy(&self, password: &str) {
        self.scene.secret("db", &[("password", password)]);
        self.scene.app("app", &["db"]);
    }

    /// A document below this cluster's prefix.
    fn doc(&self, name: &str) -> Doc<'_> {
        let path = format!("clusters/{}/{}/{name}", self.name, self.scene.ns);
        self.scene.doc_in("secret", &path)
    }

    /// What an annotation would have to say for one of its documents, if no prefix were put in front.
    fn full_path(&self, name: &str) -> String {
        format!("secret/data/clusters/{}/{}/{name}", self.name, self.scene.ns)
    }

    /// Vault, with the operator's own token.
    fn logged_in(&self) -> Http {
        let reply = self.log_in(self).ok();
        let token = reply["auth"]["client_token"].as_str().unwrap();
        let vault = format!("http://127.0.0.1:{}", self.scene.bed.vault_port);
        Http::new(vault, &[("x-vault-token", token)], None)
    }

    /// Shows this operator's ServiceAccount token where a cluster logs in.
    fn log_in(&self, at: &Self) -> Reply {
        let login = json!({"role": "vault-sync-operator", "jwt": self.scene.jwt("operator")});
        let path = format!("/v1/auth/clusters/{}/login", at.name);
        self.scene.bed.vault.post(&path, &login)
    }
}

/// Content, versions and claim of a document: all that could be done to it. The claim comes after the content.
fn state(doc: &Doc) -> Value {
    let metadata = eventually("the document has a claim", || {
        let metadata = doc.metadata();
        let claimed = metadata["custom_metadata"]["cluster-id"].is_string();
        check(claimed, &metadata).map(|()| metadata)
    });
    json!({"data": doc.data(), "metadata": metadata})
}

#[test]
fn the_same_application_in_two_clusters_has_documents_of_its_own() {
    let [a, b] = two();
    a.deploy("of a");
    b.deploy("of b");
    let _operators = [a.start(&[]), b.start(&[])];
    a.doc("app/db").becomes(json!({"password": "of a"}));
    b.doc("app/db").becomes(json!({"password": "of b"}));
    let claims =
        [&a, &b].map(|one| state(&one.doc("app/db"))["metadata"]["custom_metadata"]["cluster-id"].clone());
    assert_eq!(claims[0], *a.scene.bed.cluster_id());
    assert_eq!(claims[1], *b.scene.bed.cluster_id());
    assert_ne!(claims[0], claims[1]);

    let before = state(&b.doc("app/db"));
    a.scene.set_key("db", "password", "rotated");
    a.doc("app/db")
        .becomes(json!({"password": "rotated"}))
        .is_at_version(2);
    // B has seen to a change of its own since, so it has had its chance.
    b.scene.secret("other", &[("k", "v")]);
    b.scene.app("later", &["other"]);
    b.doc("later/other").becomes(json!({"k": "v"}));
    assert_eq!(state(&b.doc("app/db")), before);

    // Nor does the end of one reach the other.
    a.scene.delete("Deployment", "app");
    a.scene.vanishes("Deployment", "app");
    a.doc("app/db").goes();
    assert_eq!(state(&b.doc("app/db")), before);
}

#[test]
fn setting_a_cluster_up_again_changes_nothing() {
    let [a, _] = two();
    let said = a.set_up(&[]);
    let done: Vec<&str> = said
        .iter()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        done,
        [
            "unchanged",
            "unchanged",
            "unchanged",
            "unchanged",
            "unchanged",
            "works"
        ],
        "{said:#?}"
    );
    let said = a.set_up(&[("PURGE", "1")]);
    assert!(
        said.iter()
            .any(|line| line.starts_with("updated") && line.contains("policy")),
        "{said:#?}"
    );
}

#[test]
fn a_vault_that_reviews_no_tokens_lets_the_operator_in_by_its_signature() {
    let [a, _] = two();
    let auth = format!("jwt-{}", a.name);
    a.set_up(&[
        ("METHOD", "jwt"),
        ("VAULT_SYNC_VAULT_AUTH_PATH", &auth),
        ("TOKEN_AUDIENCE", "https://kubernetes.default.svc.cluster.local"),
    ]);
    a.deploy("one");
    let _operator = a.start(&[("vault-auth-path", &auth)]);
    a.doc("app/db").becomes(json!({"password": "one"}));
}

/// Every way to a document of KV v2, with the method and a body.
fn ways(mount: &str, path: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let data = Some(json!({"data": {"k": "stolen"}}));
    let claim = Some(json!({"custom_metadata": {"cluster-id": "stolen"}}));
    let versions = Some(json!({"versions": [1]}));
    let of = |part: &str| format!("/v1/{mount}/{part}/{path}");
    vec![
        ("GET", of("data"), None),
        ("POST", of("data"), data.clone()),
        ("PUT", of("data"), data.clone()),
        ("PATCH", of("data"), data),
        ("DELETE", of("data"), None),
        ("GET", of("subkeys"), None),
        ("GET", of("metadata"), None),
        ("LIST", of("metadata"), None),
        ("POST", of("metadata"), claim.clone()),
        ("PATCH", of("metadata"), claim),
        ("DELETE", of("metadata"), None),
        ("POST", of("delete"), versions.clone()),
        ("POST", of("undelete"), versions.clone()),
        ("POST", of("destroy"), versions),
    ]
}

#[test]
fn with_the_token_of_one_cluster_nothing_of_another_can_be_read_written_claimed_or_deleted() {
    let [a, b] = two();
    b.deploy("of b");
    let _operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    let document = |cluster: &Cluster| format!("clusters/{}/{}/app/db", cluster.name, cluster.scene.ns);
    let before = state(&b.doc("app/db"));
    let vault = a.logged_in();

    // Its own it can have, by the same ways: so it is not for other reasons that the rest is refused.
    for (method, path, body) in ways("secret", &document(&a)) {
        let status = vault.send(method, &path, body.as_ref()).status;
        let allowed = !["subkeys", "undelete", "destroy"]
            .iter()
            .any(|part| path.contains(part))
            && (method != "PATCH" || !path.contains("/data/"))
            && (method != "DELETE" || !path.contains("/metadata/"));
        assert_eq!(status != 403, allowed, "{method} {path}: {status}");
    }
    for path in [
        document(&b),
        format!("clusters/{}", b.name),
        format!("{}/app/db", b.scene.ns),
    ] {
        for mount in ["secret", "team/kv"] {
            for (method, path, body) in ways(mount, &path) {
                let reply = vault.send(method, &path, body.as_ref());
                assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text);
            }
        }
        for method in ["GET", "POST", "DELETE", "LIST"] {
            let reply = vault.send(method, &format!("/v1/kv1/{path}"), Some(&json!({"k": "stolen"})));
            assert_eq!(reply.status, 403, "{method} kv1/{path}: {}", reply.text);
        }
    }
    // Nor around the fence, nor by another door.
    let more = json!({"policy": "path \"*\" { capabilities = [\"sudo\"] }"});
    for (method, path) in [
        ("LIST", "/v1/secret/metadata/clusters".to_owned()),
        ("LIST", "/v1/secret/metadata".to_owned()),
        (
            "GET",
            format!(
                "/v1/secret/data/clusters/{}/%2e%2e/{}/{}/app/db",
                a.name, b.name, b.scene.ns
            ),
        ),
        ("GET", "/v1/secret/config".to_owned()),
        (
            "PUT",
            format!("/v1/sys/policies/acl/vault-sync-operator-{}", a.name),
        ),
        (
            "GET",
            format!("/v1/auth/clusters/{}/role/vault-sync-operator", b.name),
        ),
        (
            "POST",
            format!("/v1/auth/clusters/{}/role/vault-sync-operator", a.name),
        ),
        ("POST", "/v1/auth/token/create".to_owned()),
        ("GET", "/v1/sys/mounts".to_owned()),
    ] {
        let reply = vault.send(method, &path, Some(&more));
        assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text);
    }
    let reply = a.log_in(&b);
    assert_eq!(reply.status, 403, "a logs in as b: {}", reply.text);
    assert_eq!(state(&b.doc("app/db")), before);
}

#[test]
fn no_annotation_and_no_flag_of_one_cluster_reaches_anothers_documents() {
    let [a, b] = two();
    b.deploy("of b");
    let operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    // It is away while it is attacked: nothing is put right again meanwhile.
    assert_eq!(operator.stop().code(), Some(0));
    let before = state(&b.doc("app/db"));
    let id = b.scene.bed.cluster_id().as_str().unwrap();

    let own = |name: &str, path: &str| {
        a.scene
            .create_secret(name, ours(&[("path", path)]), &[("k", b"stolen")])
    };
    own("db", &a.scene.path("app/db"));
    own("full", &b.full_path("app/db"));
    own(
        "climbing",
        &format!("secret/data/../{}/{}/app/db", b.name, a.scene.ns),
    );
    // As itself: its own prefix is put in front of whatever a path says.
    let operator = a.start(&[("adopt", "all"), ("adopt-cluster-id", id)]);
    a.doc("app/db").becomes(json!({"k": "stolen"}));
    let below = format!("clusters/{}/clusters/{}/{}/app/db", a.name, b.name, b.scene.ns);
    a.scene.doc_in("secret", &below).becomes(json!({"k": "stolen"}));
    a.scene.event("climbing", "InvalidAnnotation", &[".."]);
    assert_eq!(operator.stop().code(), Some(0));

    // As the other, and without a prefix: Vault lets it do nothing, and the source says so.
    for (source, flags) in [
        ("db", [("cluster-name", b.name.as_str()), ("adopt", "all")]),
        ("full", [("cluster-prefix", ""), ("adopt", "all")]),
    ] {
        let mut flags = flags.to_vec();
        flags.push(("adopt-cluster-id", id));
        let operator = a.start(&flags);
        let refused = "permission denied";
        eventually(format!("{source} says that Vault refuses {flags:?}"), || {
            let events = a.scene.events(source);
            let said = events
                .iter()
                .any(|event| event.kind == "Warning" && event.message.contains(refused));
            check(said, format!("{events:#?}"))
        });
        drop(operator);
    }
    assert_eq!(state(&b.doc("app/db")), before);
}

#[test]
fn a_forged_ledger_deletes_nothing_of_another_cluster() {
    let [a, b] = two();
    b.deploy("of b");
    let operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    b.scene.entry_is(
        &format!("clusters/{}/{}/app/db", b.name, b.scene.ns),
        Some("written"),
    );
    assert_eq!(operator.stop().code(), Some(0));
    let before = state(&b.doc("app/db"));
    let id = b.scene.bed.cluster_id().as_str().unwrap();

    // A has the ledger of B, as somebody may write it who may write ConfigMaps there: of sources that are not
    // in A, so that it has every reason to delete what they have left.
    for mut map in b.scene.ledger() {
        let name = map["metadata"]["name"].clone();
        map["metadata"] = json!({"name": name, "labels": map["metadata"]["labels"]});
        let maps = format!("/api/v1/namespaces/{}/configmaps", a.scene.home);
        a.scene.bed.kube.post(&maps, &map).ok();
    }
    let operator = a.start(&[("adopt-cluster-id", id)]);
    operator.says(&["permission denied", "app/db"]);
    assert_eq!(state(&b.doc("app/db")), before);
}
