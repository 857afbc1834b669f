//! The testbed itself: when this fails, nothing else means anything.

use std::fs;

use serde_json::json;

use testkit::{Http, Scene, check, eventually};

#[test]
fn the_operators_identity_works_in_both_worlds_and_ends_at_its_fences() {
    let scene = Scene::new();
    let jwt = fs::read_to_string(scene.dir.join("token")).unwrap();
    let vault = |token: &str| {
        Http::new(
            format!("http://127.0.0.1:{}", scene.vault.port),
            &[("x-vault-token", token)],
            None,
        )
    };
    let login = json!({"role": scene.ns, "jwt": jwt});
    let reply = vault("none").post("/v1/auth/kubernetes/login", &login).ok();
    let token = reply["auth"]["client_token"].as_str().unwrap();
    assert_eq!(scene.logins().len(), 1);
    for (path, status) in [
        (format!("/v1/secret/data/{}/x", scene.ns), 404),
        (format!("/v1/secret/data/{}x/x", scene.ns), 403),
        ("/v1/sys/internal/ui/mounts/team/kv".into(), 200),
        ("/v1/sys/internal/ui/mounts/nowhere".into(), 403),
    ] {
        assert_eq!(vault(token).get(&path).status, status, "{path}");
    }
    assert_eq!(scene.tokens(), [token, "none"]);
    scene.revoke_logins();
    assert!(scene.logins().is_empty());

    let bearer = format!("Bearer {jwt}");
    let kube = format!("https://127.0.0.1:{}", scene.kube_wire.port);
    let kube = Http::new(kube, &[("authorization", &bearer)], Some(&scene.bed.ca));
    for (path, status) in [
        (format!("/api/v1/namespaces/{}/secrets", scene.ns), 200),
        (format!("/api/v1/namespaces/{}/configmaps", scene.home), 200),
        ("/api/v1/secrets".into(), 403),
        ("/api/v1/namespaces/kube-system".into(), 200),
    ] {
        assert_eq!(kube.get(&path).status, status, "{path}");
    }
    eventually("the audit log has it", || {
        let log = scene.audit();
        check(log.len() >= 4, format!("{log:?}"))
    });
}

#[test]
fn a_wire_that_is_cut_refuses_connections_until_it_is_restored() {
    let scene = Scene::new();
    let health = Http::new(format!("http://127.0.0.1:{}", scene.vault.port), &[], None);
    assert_eq!(health.get("/v1/sys/health").status, 200);
    scene.vault.cut();
    assert!(
        health
            .try_send("GET", "/v1/sys/health", None)
            .unwrap_err()
            .contains("refused")
    );
    scene.vault.restore();
    assert_eq!(health.get("/v1/sys/health").status, 200);
}
