//! Clusters that share a Vault: what one does reaches nothing of another, whatever it is told.
//!
//! Each cluster is set up in Vault as people do it, by `deploy/setup-vault.sh`, with a method to log in and a
//! policy of its own. The same application, with the same names, runs in both.

use serde_json::{Value, json};

use testkit::{Cluster, Doc, Scene, check, eventually, ours};

/// Both, set up, before their operators run.
fn two() -> [Cluster; 2] {
    let mut letters = ["a", "b"].into_iter();
    Scene::twins().map(|scene| {
        let cluster = Cluster::new(scene, letters.next().unwrap());
        cluster.set_up(&[]);
        cluster
    })
}

/// The application: a Deployment that reads the Secret `db`.
fn deploy(cluster: &Cluster, password: &str) {
    cluster.scene.secret("db", &[("password", password)]);
    cluster.scene.app("app", &["db"]);
}

/// Content, versions and claim of a document: all that could be done to it. The claim comes after the content.
fn state(doc: &Doc) -> Value {
    let metadata = eventually("the document has a claim", || {
        let metadata = doc.metadata();
        let claimed = metadata["custom_metadata"]["vault-sync.io/cluster-id"].is_string();
        check(claimed, &metadata).map(|()| metadata)
    });
    json!({"data": doc.data(), "metadata": metadata})
}

#[test]
fn the_same_application_in_two_clusters_has_documents_of_its_own() {
    let [a, b] = two();
    deploy(&a, "of a");
    deploy(&b, "of b");
    let _operators = [a.start(&[]), b.start(&[])];
    a.doc("app/db").becomes(json!({"password": "of a"}));
    b.doc("app/db").becomes(json!({"password": "of b"}));
    let claims = [&a, &b].map(|one| {
        state(&one.doc("app/db"))["metadata"]["custom_metadata"]["vault-sync.io/cluster-id"].clone()
    });
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
    deploy(&a, "one");
    let _operator = a.start(&[("vault-auth-path", &auth)]);
    a.doc("app/db").becomes(json!({"password": "one"}));
}

/// Every way to a document of KV v2, with the method and a body.
fn ways(mount: &str, path: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let data = Some(json!({"data": {"k": "stolen"}}));
    let claim = Some(json!({"custom_metadata": {"vault-sync.io/cluster-id": "stolen"}}));
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
    deploy(&b, "of b");
    let _operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    let before = state(&b.doc("app/db"));
    let vault = a.logged_in();

    // Its own it can have, by the same ways: so it is not for other reasons that the rest is refused.
    for (method, path, body) in ways("secret", &a.document("app/db")) {
        let status = vault.send(method, &path, body.as_ref()).status;
        let allowed = !["subkeys", "undelete", "destroy"]
            .iter()
            .any(|part| path.contains(part))
            && (method != "PATCH" || !path.contains("/data/"))
            && (method != "DELETE" || !path.contains("/metadata/"));
        assert_eq!(status != 403, allowed, "{method} {path}: {status}");
    }
    for path in [
        b.document("app/db"),
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
    deploy(&b, "of b");
    let operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    // It is away while it is attacked: nothing is put right again meanwhile.
    assert_eq!(operator.stop().code(), Some(0));
    let before = state(&b.doc("app/db"));
    let id = b.scene.bed.cluster_id().as_str().unwrap();

    let own = |name: &str, path: &str| {
        a.scene
            .create_secret(name, ours(&[("path", path)]), &[("k", b"stolen")]);
    };
    own("db", &a.scene.path("app/db"));
    own("full", &format!("secret/data/{}", b.document("app/db")));
    own(
        "climbing",
        &format!("secret/data/../{}/{}/app/db", b.name, a.scene.ns),
    );
    // As itself: its own prefix is put in front of whatever a path says.
    let operator = a.start(&[("adopt", "all"), ("adopt-cluster-id", id)]);
    a.doc("app/db").becomes(json!({"k": "stolen"}));
    let below = format!("clusters/{}/{}", a.name, b.document("app/db"));
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
    deploy(&b, "of b");
    let operator = b.start(&[]);
    b.doc("app/db").becomes(json!({"password": "of b"}));
    b.scene.entry_is(&b.document("app/db"), Some("written"));
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
