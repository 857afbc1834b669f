//! tmp
use crate::harness::*;
use serde_json::json;

#[test]
fn testbed_comes_up() {
    let started = std::time::Instant::now();
    let s = Scene::new();
    eprintln!("up {:?}", started.elapsed());
    let started = std::time::Instant::now();
    let s2 = Scene::new();
    eprintln!("second scene {:?}", started.elapsed());
    s2.secret("db", &[("a", "b")]);
    s2.deployment("app", ours(&[("path", &s2.path("app"))]), env_from(&["db"]));
    assert!(s2.exists("Deployment", "app"));
    s.doc("x").write(json!({"a": "1"}));
    s.doc("x").becomes(json!({"a": "1"})).is_at_version(1);
    s.doc_in("kv1", "x").write(json!({"a": "1"}));
    s.doc_in("kv1", "x").holds(json!({"a": "1"}));
    // login through the gate
    let anon = Http::new(format!("http://127.0.0.1:{}", s.vault.port), &[], None);
    let jwt = std::fs::read_to_string(s.dir.join("token")).unwrap();
    let got = anon.post("/v1/auth/kubernetes/login", &json!({"role": s.ns, "jwt": jwt})).ok();
    let token = got["auth"]["client_token"].as_str().unwrap().to_owned();
    assert_eq!(s.logins().len(), 1);
    let me = Http::new(format!("http://127.0.0.1:{}", s.vault.port), &[("x-vault-token", &token)], None);
    eprintln!("{:?}", me.get(&format!("/v1/secret/data/{}/x", s.ns)));
    eprintln!("{:?}", me.get(&format!("/v1/secret/data/{}/x", "other")));
    eprintln!("{:?}", me.get("/v1/sys/internal/ui/mounts/secret"));
    eprintln!("{:?}", s.vault.requests());
    eprintln!("{:?}", s.tokens());
    s.vault.cut();
    eprintln!("{:?}", anon.try_send("GET", "/v1/sys/health", None));
    s.vault.restore();
    eprintln!("{:?}", anon.try_send("GET", "/v1/sys/health", None));
    let k = Http::new(format!("https://127.0.0.1:{}", s.kube_wire.port), &[("authorization", &format!("Bearer {jwt}"))], Some(&s.bed.ca));
    eprintln!("{:?}", k.get(&format!("/api/v1/namespaces/{}/secrets", s.ns)).status);
    eprintln!("{:?}", k.get(&format!("/api/v1/namespaces/{}/secrets", s2.ns)).status);
    eprintln!("{:?}", s.audit());
    let started = std::time::Instant::now();
    s.bed.kube.delete(&format!("/api/v1/namespaces/{}", s2.ns)).ok();
    eventually("ns gone", || { let r = s.bed.kube.get(&format!("/api/v1/namespaces/{}", s2.ns)); if r.status == 404 {Ok(())} else {Err(r.text)} });
    eprintln!("namespace gone {:?}", started.elapsed());
    let p = Testbed::private();
    p.seal();
    eprintln!("{:?}", p.vault.get("/v1/sys/health"));
    p.unseal();
    if std::env::var_os("PAUSE").is_some() { loop { std::thread::park() } }
}
