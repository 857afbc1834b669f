//! The chart's rights and its admission policy, tried with the operator's own token.

use serde_json::{Value, json};

use crate::harness::{Http, Scene, ours};

fn as_operator(scene: &Scene) -> Http {
    let bearer = format!("Bearer {}", scene.jwt("operator"));
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
