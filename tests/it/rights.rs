//! The chart's rights and its admission policy, tried with the operator's own token.

use serde_json::{Value, json};

use testkit::{Chart, Http, Scene, check, eventually, ours};

fn as_operator(scene: &Scene) -> Http {
    as_account(scene, "operator")
}

fn as_account(scene: &Scene, name: &str) -> Http {
    let bearer = format!("Bearer {}", scene.jwt(name));
    Http::new(
        format!("https://127.0.0.1:{}", scene.bed.kube_port),
        &[("authorization", &bearer)],
        Some(&scene.bed.ca),
    )
}

#[test]
fn of_an_object_the_operator_can_change_its_finalizer_and_nothing_else() {
    let scene = Scene::new();
    let annotations = ours(&[("path", &scene.path("x")), ("secret-versions", "{}")]);
    scene.create_secret("own", annotations.clone(), &[("k", b"v")]);
    scene.deployment(
        "app",
        annotations,
        json!({"containers": [{"name": "main", "image": "none"}]}),
    );
    let me = as_operator(&scene);
    let secret = format!("/api/v1/namespaces/{}/secrets/own", scene.ns);
    let app = format!("/apis/apps/v1/namespaces/{}/deployments/app", scene.ns);
    // The API server has read it some moments after it was created.
    eventually("the admission policy is in force", || {
        let labels = json!({"metadata": {"labels": {"a": "1"}}});
        let reply = me.patch(&format!("{secret}?dryRun=All"), &labels);
        check(reply.status == 422, reply.text)
    });

    for object in [&secret, &app] {
        let kept = json!({"metadata": {"finalizers": ["example.com/other"], "labels": {"a": "1"}}});
        scene.bed.kube.patch(object, &kept).ok();
        for allowed in [
            json!({"metadata": {"finalizers": ["example.com/other", "vault-sync.io/finalizer"]}}),
            json!({"metadata": {"annotations": {"vault-sync.io/secret-versions": null}}}),
            json!({"metadata": {"finalizers": ["example.com/other"]}}),
        ] {
            let reply = me.patch(object, &allowed);
            assert_eq!(reply.status, 200, "{object} {allowed}: {}", reply.text);
        }
        for refused in [
            json!({"metadata": {"finalizers": []}}),
            json!({"metadata": {"finalizers": ["example.com/other", "example.com/more"]}}),
            json!({"metadata": {"annotations": {"vault-sync.io/path": null}}}),
            json!({"metadata": {"annotations": {"vault-sync.io/path": "secret/data/y"}}}),
            json!({"metadata": {"annotations": {"example.com/new": "1"}}}),
            json!({"metadata": {"labels": {"a": "2"}}}),
            json!({"metadata": {"labels": {"b": "1"}}}),
            json!({"metadata": {"labels": null}}),
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
        ] {
            let reply = me.patch(object, &refused);
            assert_eq!(reply.status, 422, "{object} {refused}: {}", reply.text);
            assert!(
                reply.text.contains("vault-sync-operator changes"),
                "{}",
                reply.text
            );
        }
    }
    for (object, refused) in [
        (&secret, json!({"data": {"k": "eA=="}})),
        (&secret, json!({"stringData": {"more": "x"}})),
        (&secret, json!({"data": null})),
        (&secret, json!({"immutable": true})),
        (&app, json!({"spec": {"replicas": 5}})),
        (
            &app,
            json!({"spec": {"template": {"metadata": {"annotations": {"a": "1"}}}}}),
        ),
    ] {
        let reply = me.patch(object, &refused);
        assert_eq!(reply.status, 422, "{refused}: {}", reply.text);
    }
    assert_eq!(scene.get("Secret", "own")["data"], json!({"k": "dg=="}));
    assert_eq!(scene.finalizers("Secret", "own"), ["example.com/other"]);
    for (kind, name) in [("Secret", "own"), ("Deployment", "app")] {
        scene.patch(kind, name, json!({"metadata": {"finalizers": null}}));
    }
}

#[test]
fn a_secret_as_large_as_kubernetes_takes_can_get_its_finalizer() {
    let scene = Scene::new();
    let half = "x".repeat(500 * 1024);
    scene.create_secret(
        "large",
        json!({}),
        &[("a", half.as_bytes()), ("b", half.as_bytes())],
    );
    let path = format!("/api/v1/namespaces/{}/secrets/large", scene.ns);
    let finalizer = json!({"metadata": {"finalizers": ["vault-sync.io/finalizer"]}});
    let reply = as_operator(&scene).patch(&path, &finalizer);
    assert_eq!(reply.status, 200, "{:.300}", reply.text);
    scene.patch("Secret", "large", json!({"metadata": {"finalizers": null}}));
}

#[test]
fn the_operator_may_call_what_it_calls_and_nothing_more() {
    let scene = Scene::new();
    scene.secret("db", &[("k", "v")]);
    let me = as_operator(&scene);
    let (ns, home) = (&scene.ns, &scene.home);
    let none = json!({});
    let secrets = format!("/api/v1/namespaces/{ns}/secrets");
    let named = json!({"metadata": {"name": "new"}});
    let refused: [(&str, String, Option<&Value>); 12] = [
        ("POST", secrets.clone(), Some(&named)),
        ("DELETE", format!("{secrets}/db"), None),
        ("PUT", format!("{secrets}/db"), Some(&named)),
        ("GET", "/api/v1/secrets".to_owned(), None),
        ("GET", format!("/api/v1/namespaces/{home}/secrets"), None),
        ("GET", format!("/api/v1/namespaces/{ns}/configmaps"), None),
        ("GET", format!("/api/v1/namespaces/{ns}/pods"), None),
        ("GET", "/api/v1/namespaces".to_owned(), None),
        ("DELETE", format!("/api/v1/namespaces/{home}/configmaps/x"), None),
        (
            "GET",
            format!("/apis/coordination.k8s.io/v1/namespaces/{home}/leases/other"),
            None,
        ),
        ("POST", format!("{secrets}/db/token"), Some(&none)),
        ("GET", format!("/apis/apps/v1/namespaces/{ns}/statefulsets"), None),
    ];
    for (method, path, body) in refused {
        let reply = me.send(method, &path, body);
        assert_eq!(reply.status, 403, "{method} {path}: {}", reply.text);
    }
    assert_eq!(me.get(&format!("{secrets}/db")).status, 200);
}

/// Somebody who may do this to Secrets of the sources' namespace, and create Deployments there.
fn author(scene: &Scene, verbs: &[&str]) -> Http {
    scene.create_account("author");
    permit(
        scene,
        "author",
        &[
            json!({"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}),
            json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "patch"]}),
        ],
    );
    let me = as_account(scene, "author");
    let secrets = format!("/api/v1/namespaces/{}/secrets?dryRun=All", scene.ns);
    eventually("the API server knows the Role", || {
        let reply = me.post(&secrets, &annotated("plain", &[]));
        check(reply.status == 201, reply.text)
    });
    if !verbs.contains(&"get") {
        // The API server has read it some moments after it was created.
        eventually("the admission policy is in force", || {
            let reply = me.post(&secrets, &annotated("source", &[("path", "secret/data/x")]));
            check(reply.status == 403, reply.text)
        });
    }
    me
}

/// Gives that person more permissions in the sources' namespace, by a Role of this name.
fn permit(scene: &Scene, role: &str, rules: &[Value]) {
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}", scene.ns);
    let made = json!({"metadata": {"name": role}, "rules": rules});
    scene.bed.kube.post(&format!("{rbac}/roles"), &made).ok();
    let binding = json!({
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "author", "namespace": scene.home}],
    });
    scene
        .bed
        .kube
        .post(&format!("{rbac}/rolebindings"), &binding)
        .ok();
}

/// An annotated object without content.
fn annotated(name: &str, pairs: &[(&str, &str)]) -> Value {
    json!({"metadata": {"name": name, "annotations": ours(pairs)}})
}

/// A change of annotations; `None` removes one.
fn set(pairs: &[(&str, Option<&str>)]) -> Value {
    let annotations: serde_json::Map<String, Value> = pairs
        .iter()
        .map(|(name, value)| (format!("vault-sync.io/{name}"), json!(value)))
        .collect();
    json!({"metadata": {"annotations": annotations}})
}

const LIST: &str = r#"[{"name": "payroll"}]"#;

#[test]
fn a_user_who_may_create_secrets_and_not_get_them_makes_no_secret_a_source() {
    let scene = Scene::new();
    let me = author(&scene, &["create", "patch", "update"]);
    let secrets = format!("/api/v1/namespaces/{}/secrets", scene.ns);
    let source = [("path", "secret/data/mine"), ("secrets", LIST)];
    let refused = |method: &str, path: &str, body: &Value| {
        let reply = me.send(method, path, Some(body));
        assert_eq!(reply.status, 403, "{method} {path} {body}: {}", reply.text);
        for words in [
            format!(
                "\\\"system:serviceaccount:{}:author\\\" may not get Secrets in namespace \\\"{}\\\"",
                scene.home, scene.ns
            ),
            "Ask an administrator of the namespace for the permission \\\"get\\\" on \\\"secrets\\\""
                .to_owned(),
        ] {
            assert!(reply.text.contains(&words), "{words}: {}", reply.text);
        }
    };
    refused("POST", &secrets, &annotated("mine", &source));
    refused("POST", &secrets, &annotated("mine", &source[..1]));
    refused("POST", &secrets, &annotated("mine", &source[1..]));
    let generated = json!({"metadata": {"generateName": "mine-", "annotations": ours(&source)}});
    refused("POST", &secrets, &generated);

    // What is no source is created, and does not become one.
    me.post(&secrets, &annotated("mine", &[("encoding", "text")]))
        .ok();
    let mine = format!("{secrets}/mine");
    refused("PATCH", &mine, &set(&[("path", Some("secret/data/mine"))]));
    refused("PATCH", &mine, &set(&[("secrets", Some(LIST))]));
    refused("PUT", &mine, &annotated("mine", &source));

    // Of a source that somebody else has made, everything else can be changed, and the annotations removed.
    scene.create_secret("theirs", ours(&source), &[("k", b"v")]);
    let theirs = format!("{secrets}/theirs");
    for allowed in [
        json!({"stringData": {"k": "w"}}),
        json!({"metadata": {"labels": {"a": "1"}, "annotations": {"example.com/a": "1"}}}),
    ] {
        me.patch(&theirs, &allowed).ok();
    }
    let same =
        json!({"metadata": {"name": "theirs", "annotations": ours(&source)}, "stringData": {"k": "x"}});
    me.send("PUT", &theirs, Some(&same)).ok();
    refused("PATCH", &theirs, &set(&[("path", Some("secret/data/other"))]));
    refused("PATCH", &theirs, &set(&[("secrets", Some("[]"))]));
    refused(
        "PATCH",
        &theirs,
        &set(&[("path", Some("secret/data/other")), ("secrets", None)]),
    );
    // Without the list, the whole Secret would be copied.
    refused("PATCH", &theirs, &set(&[("secrets", None)]));
    me.patch(&theirs, &set(&[("path", None)])).ok();
    me.patch(&theirs, &set(&[("secrets", None)])).ok();
    refused("PATCH", &theirs, &set(&[("path", Some("secret/data/mine"))]));

    // Workloads are not asked about by default: who may create pods reads the Secrets of the namespace.
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", scene.ns);
    me.post(&deployments, &workload("app")).ok();
}

/// An annotated Deployment.
fn workload(name: &str) -> Value {
    let pod = json!({"containers": [{"name": "main", "image": "none"}]});
    json!({
        "metadata": {"name": name, "annotations": ours(&[("path", "secret/data/app")])},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        },
    })
}

#[test]
fn a_user_who_may_get_the_secrets_of_a_namespace_makes_a_source_of_one() {
    let scene = Scene::new();
    let me = author(&scene, &["create", "patch", "get"]);
    let secrets = format!("/api/v1/namespaces/{}/secrets", scene.ns);
    let source = [("path", "secret/data/mine"), ("secrets", LIST)];
    me.post(&secrets, &annotated("mine", &source)).ok();
    let generated = json!({"metadata": {"generateName": "mine-", "annotations": ours(&source)}});
    me.post(&secrets, &generated).ok();
    me.patch(
        &format!("{secrets}/mine"),
        &set(&[("path", Some("secret/data/other"))]),
    )
    .ok();
}

#[test]
fn a_user_who_may_get_one_secret_makes_a_source_of_that_one_without_a_list() {
    let scene = Scene::new();
    let me = author(&scene, &["create", "patch"]);
    let one =
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["get"]});
    permit(&scene, "one", &[one]);
    let secrets = format!("/api/v1/namespaces/{}/secrets", scene.ns);
    me.post(&secrets, &annotated("mine", &[])).ok();
    me.post(&secrets, &annotated("other", &[])).ok();
    eventually("the API server knows the Role", || {
        let reply = me.get(&format!("{secrets}/mine"));
        check(reply.status == 200, reply.text)
    });
    let path = set(&[("path", Some("secret/data/mine"))]);
    me.patch(&format!("{secrets}/mine"), &path).ok();
    for (name, change) in [("other", &path), ("mine", &set(&[("secrets", Some(LIST))]))] {
        let reply = me.patch(&format!("{secrets}/{name}"), change);
        assert_eq!(reply.status, 403, "{name} {change}: {}", reply.text);
    }
}

#[test]
fn workloads_are_asked_about_too_where_the_chart_says_so() {
    let scene = Scene::new();
    let me = author(&scene, &["create", "patch"]);
    let bed = &scene.bed;
    let chart = Chart::render(&bed.bin, &["admissionPolicy.requireSecretRead=all"]);
    let name = format!("{}-all", scene.ns);
    let admission = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
    for (kind, path) in [("Policy", "ies"), ("PolicyBinding", "ybindings")] {
        let mut object = chart
            .object(&format!("ValidatingAdmission{kind}"), None, "-secret-read")
            .clone();
        object["metadata"]["name"] = json!(name);
        if kind == "PolicyBinding" {
            object["spec"]["policyName"] = json!(name);
            // It is for this test alone.
            object["spec"]["matchResources"] = json!({
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": scene.ns}},
            });
        }
        bed.kube.post(&format!("{admission}{path}"), &object).ok();
    }
    let deployments = format!("/apis/apps/v1/namespaces/{}/deployments", scene.ns);
    eventually("the policy is in force", || {
        let reply = me.post(&format!("{deployments}?dryRun=All"), &workload("app"));
        check(reply.status == 403, reply.text)
    });
    let mut plain = workload("app");
    plain["metadata"]["annotations"] = json!({});
    me.post(&deployments, &plain).ok();
    let app = format!("{deployments}/app");
    let path = set(&[("path", Some("secret/data/app"))]);
    // A change of the status can bring annotations too.
    let status = json!({"apiGroups": ["apps"], "resources": ["deployments/status"], "verbs": ["patch"]});
    permit(&scene, "status", &[status]);
    let of_status = format!("{app}/status");
    eventually("the API server knows the Role", || {
        let reply = me.patch(&of_status, &json!({"status": {"observedGeneration": 1}}));
        check(reply.status == 200, reply.text)
    });
    for object in [&app, &of_status] {
        let reply = me.patch(object, &path);
        assert_eq!(reply.status, 403, "{object}: {}", reply.text);
        assert!(
            reply.text.contains("on a Secret or a workload there"),
            "{}",
            reply.text
        );
    }
    bed.kube.patch(&app, &path).ok();
    me.patch(&app, &json!({"spec": {"replicas": 3}})).ok();
    // The operator changes neither.
    let finalizer = json!({"metadata": {"finalizers": ["vault-sync.io/finalizer"]}});
    as_operator(&scene).patch(&app, &finalizer).ok();
    bed.kube
        .patch(&app, &json!({"metadata": {"finalizers": null}}))
        .ok();
}
