//! `release` and `doctor`, the commands of the chart's hooks, and `deploy/setup-vault.sh`.

use serde_json::{Value, json};

use testkit::{Cluster, Scene, check, env_from, eventually, ours};

const FINALIZER: &str = "vault-sync.io/finalizer";

/// A scene whose account may do what the chart's uninstall hook may.
fn about_to_uninstall() -> Scene {
    let scene = Scene::new();
    for (namespace, role) in [(&scene.ns, "it-release"), (&scene.home, "it-release-home")] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": scene.home}],
        });
        scene.bed.kube.post(&path, &binding).ok();
    }
    scene
}

/// Two sources of each kind, synced by an operator that has ended since.
fn synced(scene: &Scene) {
    scene.secret("db", &[("k", "v")]);
    scene.app("app", &["db"]);
    scene.deployment(
        "kept",
        ours(&[("path", &scene.path("kept")), ("preserve-on-delete", "true")]),
        env_from(&["db"]),
    );
    scene.own("own", "v");
    let operator = scene.start();
    scene.doc("app/db").becomes(json!({"k": "v"}));
    scene.doc("kept/db").becomes(json!({"k": "v"}));
    scene.doc("own").becomes(json!({"k": "v"}));
    for (kind, name) in [("Deployment", "app"), ("Deployment", "kept"), ("Secret", "own")] {
        assert_eq!(scene.finalizers(kind, name), [FINALIZER], "{kind} {name}");
    }
    assert!(operator.stop().success());
}

fn has_no_finalizers(scene: &Scene) {
    for (kind, name) in [("Deployment", "app"), ("Deployment", "kept"), ("Secret", "own")] {
        assert_eq!(scene.finalizers(kind, name), [""; 0], "{kind} {name}");
    }
}

#[test]
fn release_takes_finalizers_off_and_leaves_documents_and_ledger() {
    let scene = about_to_uninstall();
    synced(&scene);
    let other = json!({"metadata": {"finalizers": [FINALIZER, "example.com/other"]}});
    scene.patch("Secret", "db", other);
    let before = scene.ledger();
    let (code, text) = scene.run().ended(&["release"]);
    assert_eq!(code, 0, "{text}");
    has_no_finalizers(&scene);
    assert_eq!(scene.finalizers("Secret", "db"), ["example.com/other"]);
    scene.patch("Secret", "db", json!({"metadata": {"finalizers": null}}));
    for document in ["app/db", "kept/db", "own"] {
        assert_eq!(scene.doc(document).version(), 1, "{document}");
    }
    assert_eq!(scene.ledger(), before);
    // Nothing waits for anybody now.
    scene.delete("Deployment", "app");
    scene.vanishes("Deployment", "app");
}

#[test]
fn release_can_delete_the_documents_by_their_policies_and_forget_the_rest() {
    let scene = about_to_uninstall();
    synced(&scene);
    let (code, text) = scene.run().ended(&["release", "--delete-documents", "--forget"]);
    assert_eq!(code, 0, "{text}");
    scene.doc("app/db").goes();
    scene.doc("own").goes();
    scene.doc("kept/db").becomes(json!({"k": "v"}));
    assert_eq!(
        scene.doc("kept/db").metadata()["custom_metadata"]["vault-sync.io/released"],
        "true"
    );
    has_no_finalizers(&scene);
    assert_eq!(scene.ledger(), [Value::Null; 0]);
}

#[test]
fn documents_that_cannot_be_deleted_keep_finalizers_and_ledger() {
    let scene = about_to_uninstall();
    synced(&scene);
    scene.vault.cut();
    let before = scene.ledger().len();
    let (code, text) = scene
        .run()
        .ended(&["release", "--delete-documents", "--forget", "--timeout=3s"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not done within 3s"), "{text}");
    assert_eq!(scene.finalizers("Deployment", "app"), [FINALIZER]);
    assert_eq!(scene.ledger().len(), before);
    scene.vault.restore();
}

#[test]
fn release_stops_the_operator_first_and_waits_for_its_lease() {
    let scene = about_to_uninstall();
    let name = "it-vault-sync-operator-controller-manager";
    let pod = json!({"serviceAccountName": "operator", "containers": [{"name": "c", "image": "none"}]});
    let labelled = json!({"labels": {"app": name}});
    let deployment = json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": labelled, "spec": pod},
        },
    });
    let kube = &scene.bed.kube;
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", scene.home);
    let pods = format!("/api/v1/namespaces/{}/pods", scene.home);
    kube.post(&deployments, &deployment).ok();
    // The testbed has no controller that would make it.
    let named = json!({"metadata": {"name": "operator-0", "labels": {"app": name}}, "spec": pod});
    kube.post(&pods, &named).ok();
    synced(&scene);
    std::thread::scope(|threads| {
        let releasing = threads.spawn(|| {
            let run = scene.run().candidate("release-0");
            run.ended(&["release", &format!("--scale-down={name}")])
        });
        eventually("the Deployment is scaled to zero", || {
            let found = kube.get(&format!("{deployments}/{name}")).ok();
            check(found["spec"]["replicas"] == 0, &found["spec"]["replicas"])
        });
        assert_eq!(
            scene.finalizers("Deployment", "app"),
            [FINALIZER],
            "a pod is still there"
        );
        assert_eq!(scene.at_home("leases").len(), 0);
        kube.delete(&format!("{pods}/operator-0")).ok();
        let (code, text) = releasing.join().unwrap();
        assert_eq!(code, 0, "{text}");
    });
    assert_eq!(scene.at_home("leases").len(), 0, "it has deleted the Lease");
    has_no_finalizers(&scene);
}

#[test]
fn release_says_what_it_may_not_do() {
    let scene = Scene::new();
    synced(&scene);
    // The operator's own rights do not reach StatefulSets here.
    let (code, text) = scene.run().ended(&["release"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("list StatefulSets: Kubernetes denied it"), "{text}");
    has_no_finalizers(&scene);
}

#[test]
fn doctor_tries_everything_and_leaves_nothing() {
    let scene = Scene::new();
    let path = format!("--probe={}", scene.path("probe"));
    for _ in 0..2 {
        let (code, text) = scene.run().ended(&["doctor", &path]);
        assert_eq!(code, 0, "{text}");
        for line in [
            "login as role",
            "rights in Kubernetes: all",
            "write",
            "claim",
            "read",
            "delete",
        ] {
            assert!(text.contains(&format!("ok    {line}")), "{line}: {text}");
        }
        assert_eq!(scene.doc("probe").data(), None);
    }
    assert_eq!(scene.logins(), [""; 0], "its token is revoked");
}

/// The content that only doctor writes.
fn mark() -> Value {
    json!({"written-by": "vault-sync-operator doctor"})
}

/// Runs doctor on the scene's document `probe`: exit code, and what it printed.
fn doctor(scene: &Scene) -> (i32, String) {
    let path = format!("--probe={}", scene.path("probe"));
    scene.run().ended(&["doctor", &path])
}

/// Lets the operator do this to the scene's documents and nothing else.
fn only_on_data(scene: &Scene, capabilities: &str) {
    let path = format!("secret/data/{}/*", scene.ns);
    scene.set_policy(&format!("path \"{path}\" {{ capabilities = [{capabilities}] }}"));
}

#[test]
fn doctor_leaves_a_document_that_exists() {
    let scene = Scene::new();
    for content in [
        json!({"mine": "1"}),
        json!({"written-by": "vault-sync-operator doctor", "mine": "1"}),
        json!({"written-by": "me"}),
    ] {
        scene.doc("probe").write(content.clone());
        let version = scene.doc("probe").version();
        let (code, text) = doctor(&scene);
        assert_eq!(code, 1, "{text}");
        let words =
            "it exists, and doctor did not write it; nothing was changed; choose another path with --probe";
        assert!(text.contains(words), "{text}");
        scene.doc("probe").holds(content).is_at_version(version);
    }
}

#[test]
fn doctor_leaves_the_versions_of_a_document_that_a_person_deleted() {
    let scene = Scene::new();
    scene.doc("probe").write(json!({"mine": "1"}));
    scene.doc("probe").write(json!({"mine": "2"}));
    scene.doc("probe").delete();
    let (code, text) = doctor(&scene);
    assert_eq!(code, 1, "{text}");
    let words = "its latest version is deleted, and doctor did not write that one; nothing was changed";
    assert!(text.contains(words), "{text}");
    scene.doc("probe").undelete(2);
    scene.doc("probe").holds(json!({"mine": "2"})).is_at_version(2);
}

#[test]
fn doctor_leaves_what_a_person_writes_and_deletes_where_it_has_been() {
    let scene = Scene::new();
    let (code, text) = doctor(&scene);
    assert_eq!(code, 0, "{text}");
    scene.doc("probe").write(json!({"mine": "1"}));
    let version = scene.doc("probe").version();
    scene.doc("probe").delete();
    let (code, text) = doctor(&scene);
    assert_eq!(code, 1, "{text}");
    scene.doc("probe").undelete(version);
    scene
        .doc("probe")
        .holds(json!({"mine": "1"}))
        .is_at_version(version);
}

#[test]
fn doctor_deletes_its_own_version_and_not_what_a_person_writes_meanwhile() {
    let scene = Scene::new();
    let claim = format!("PATCH /v1/secret/metadata/{}/probe", scene.ns);
    scene.vault.hold(&claim);
    let path = format!("--probe={}", scene.path("probe"));
    let (code, text) = std::thread::scope(|threads| {
        let running = threads.spawn(|| {
            let run = scene.run().env("VAULT_CLIENT_TIMEOUT", "3s");
            run.ended(&["doctor", &path])
        });
        scene.vault.holds(1);
        scene.doc("probe").write(json!({"mine": "1"}));
        running.join().unwrap()
    });
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does somebody else write it?"), "{text}");
    scene.doc("probe").holds(json!({"mine": "1"}));
    scene.vault.land();
}

#[test]
fn without_permissions_on_metadata_doctor_warns_and_can_be_run_again() {
    let scene = Scene::new();
    only_on_data(&scene, r#""create", "read", "update", "delete""#);
    for _ in 0..3 {
        let (code, text) = doctor(&scene);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("WARN  claim: "), "{text}");
        assert!(text.contains("ok    delete"), "{text}");
        assert_eq!(scene.doc("probe").data(), None);
    }
    // A person's document is still told from its own.
    scene.doc("probe").write(json!({"mine": "1"}));
    scene.doc("probe").delete();
    let version = scene.doc("probe").version();
    let (code, text) = doctor(&scene);
    assert_eq!(code, 1, "{text}");
    assert_eq!(scene.doc("probe").version(), version);
}

#[test]
fn doctor_recognises_the_probe_of_an_earlier_run_and_takes_it_away() {
    let scene = Scene::new();
    only_on_data(&scene, r#""create", "read", "update""#);
    for _ in 0..2 {
        let (code, text) = doctor(&scene);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("FAIL  delete secret/"), "{text}");
        scene.doc("probe").holds(mark());
    }
    scene.set_policy(&scene.policy());
    let (code, text) = doctor(&scene);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("note  an earlier run left its document"), "{text}");
    assert_eq!(scene.doc("probe").data(), None);
    let (code, text) = doctor(&scene);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn doctor_recognises_its_document_where_vault_keeps_one_version() {
    let scene = Scene::new();
    let metadata = format!("/v1/secret/metadata/{}/probe", scene.ns);
    scene.bed.vault.post(&metadata, &json!({"max_versions": 1})).ok();
    for _ in 0..2 {
        let (code, text) = doctor(&scene);
        assert_eq!(code, 0, "{text}");
        assert_eq!(scene.doc("probe").data(), None);
    }
}

#[test]
fn doctor_takes_its_own_document_of_kv_version_1_away_and_no_other() {
    let scene = Scene::new();
    let path = format!("{}/probe", scene.ns);
    let probe = || scene.doc_in("kv1", &path);
    let flag = format!("--probe=kv1/{path}");
    let run = || scene.run().ended(&["doctor", &flag]);
    probe().write(mark());
    for _ in 0..2 {
        let (code, text) = run();
        assert_eq!(code, 0, "{text}");
        assert_eq!(probe().data(), None);
    }
    probe().write(json!({"mine": "1"}));
    let (code, text) = run();
    assert_eq!(code, 1, "{text}");
    probe().holds(json!({"mine": "1"}));
}

#[test]
fn doctor_says_what_is_wrong() {
    let scene = Scene::new();
    let probe = format!("--probe={}", scene.path("probe"));
    let run = |flag: &str, value: &str| scene.run().flag(flag, value).ended(&["doctor", &probe]);
    for (flag, value, words) in [
        (
            "vault-role",
            "nobody",
            "FAIL  login as role \"nobody\" of auth/kubernetes",
        ),
        ("vault-auth-path", "nowhere", "FAIL  login as role"),
        (
            "vault-addr",
            "http://127.0.0.1:9",
            "FAIL  Vault at http://127.0.0.1:9",
        ),
        ("kinds", "CronJob,Deployment", "may not get cronjobs in"),
    ] {
        let (code, text) = run(flag, value);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(words), "{text}");
    }
    scene.set_policy("path \"secret/data/x\" { capabilities = [\"read\"] }");
    let (code, text) = scene.run().ended(&["doctor", &probe]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("FAIL  "), "{text}");
}

#[test]
fn what_keeps_a_pod_from_being_ready_is_told_on_the_pod() {
    let scene = Scene::new();
    let pod = json!({"metadata": {"name": "operator-0"}, "spec": {"serviceAccountName": "operator", "containers": [{"name": "c", "image": "none"}]}});
    let made = scene
        .bed
        .kube
        .post(&format!("/api/v1/namespaces/{}/pods", scene.home), &pod)
        .ok();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let told = |reason: &str, words: &str| {
        eventually(format!("an Event {reason} on the pod with {words:?}"), || {
            let list = scene.at_home("events");
            let found = list.iter().any(|event| {
                event["reason"] == reason
                    && event["involvedObject"]["uid"] == uid.as_str()
                    && event["message"]
                        .as_str()
                        .is_some_and(|message| message.contains(words))
            });
            check(found, format!("{list:#?}"))
        });
    };
    // No rights on CronJobs, and no such role.
    let operator = scene
        .run()
        .env("POD_UID", &uid)
        .flag("vault-role", "nobody")
        .flag("kinds", "Deployment,CronJob")
        .start();
    operator.probe("/readyz", 500);
    told("NotReady", "token: ");
    drop(operator);
    let operator = scene
        .run()
        .env("POD_UID", &uid)
        .flag("kinds", "Deployment,CronJob")
        .start();
    operator.probe("/readyz", 500);
    eventually("the probe names the right that is missing", || {
        let reply = operator.health.get("/readyz");
        let words = ["[+]vault ok", "[-]kubernetes failed: watching CronJobs in"];
        check(words.iter().all(|word| reply.text.contains(word)), reply.text)
    });
    told("NotReady", "kubernetes: watching CronJobs in");
    // The right is given.
    let rules = json!({"metadata": {"name": "cronjobs"}, "rules": [
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["get", "list", "watch"]}]});
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", scene.ns);
    scene.bed.kube.post(&format!("{rbac}/roles"), &rules).ok();
    let binding = json!({
        "metadata": {"name": "cronjobs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cronjobs"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": scene.home}],
    });
    scene
        .bed
        .kube
        .post(&format!("{rbac}/rolebindings"), &binding)
        .ok();
    operator.probe("/readyz", 200);
    told("Ready", "nothing keeps the operator");
}

/// The audience that the role of a cluster asks of tokens.
fn audience(cluster: &Cluster) -> Value {
    let role = format!("/v1/auth/clusters/{}/role/vault-sync-operator", cluster.name);
    let role = cluster.scene.bed.vault.get(&role).ok();
    role["data"]["audience"].clone()
}

#[track_caller]
fn says(said: &[String], words: &str) {
    assert!(said.iter().any(|line| line.contains(words)), "{words}: {said:#?}");
}

#[test]
fn the_setup_binds_the_role_to_the_audience_of_the_clusters_tokens() {
    let cluster = Cluster::new(Scene::new(), "a");
    let said = cluster.set_up(&[]);
    assert_eq!(
        audience(&cluster),
        "https://kubernetes.default.svc.cluster.local",
        "{said:#?}"
    );
    says(&said, "works      a login as ServiceAccount");
    // Without a token to look at, it keeps what it has found before.
    let said = cluster.set_up(&[("SERVICE_ACCOUNT", "not-there-yet")]);
    assert_eq!(
        audience(&cluster),
        "https://kubernetes.default.svc.cluster.local",
        "{said:#?}"
    );
    let other = Cluster::new(Scene::new(), "b");
    let said = other.set_up(&[("SERVICE_ACCOUNT", "not-there-yet")]);
    says(&said, "role vault-sync-operator takes tokens of any audience");
}

#[test]
fn the_setup_warns_of_addresses_that_only_one_machine_can_use() {
    let cluster = Cluster::new(Scene::new(), "a");
    let said = cluster.set_up(&[("SERVICE_ACCOUNT", "not-there-yet")]);
    says(&said, "warning: VAULT_ADDR is http://127.0.0.1:");
    says(&said, "warning: the API server's address is https://127.0.0.1:");
}
