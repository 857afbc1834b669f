//! TLS to Vault, and what Vault's environment variables say of the way to it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use testkit::{Answer, Authority, ForwardProxy, Front, Scene};

const HERE: &str = "IP:127.0.0.1";

/// A Secret `db` that goes whole to `db`, and an authority of the test's own.
fn scene() -> (Scene, Authority) {
    let scene = Scene::new();
    scene.own("db", "one");
    let authority = Authority::new(scene.dir.join("authority"));
    (scene, authority)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file as Kubernetes mounts it: a link by way of `..data`, which is what changes.
struct Mounted {
    dir: PathBuf,
    count: u32,
}

impl Mounted {
    fn new(dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        Self { dir, count: 0 }
    }

    /// All files change at the same moment.
    fn show(&mut self, files: &[(&str, &Path)]) {
        self.count += 1;
        let name = format!("..{}", self.count);
        let version = self.dir.join(&name);
        fs::create_dir(&version).unwrap();
        for (file, from) in files {
            fs::copy(from, version.join(file)).unwrap();
            if self.count == 1 {
                symlink(Path::new("..data").join(file), self.dir.join(file)).unwrap();
            }
        }
        symlink(&name, self.dir.join("..new")).unwrap();
        fs::rename(self.dir.join("..new"), self.dir.join("..data")).unwrap();
    }

    fn file(&self, name: &str) -> String {
        text(&self.dir.join(name)).to_owned()
    }
}

#[test]
fn vault_capath_trusts_every_certificate_in_a_folder() {
    let (scene, authority) = scene();
    let other = Authority::new(scene.dir.join("other"));
    let front = Front::to(scene.vault.port, &authority.issue("vault", HERE));
    let mut folder = Mounted::new(scene.dir.join("capath"));
    folder.show(&[("a.crt", &other.cert()), ("b.crt", &authority.cert())]);
    let _operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CAPATH", text(&folder.dir))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn vault_skip_verify_trusts_any_server() {
    let (scene, authority) = scene();
    let front = Front::to(
        scene.vault.port,
        &authority.issue("vault", "DNS:elsewhere.example"),
    );
    let _operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_SKIP_VERIFY", "true")
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn vault_tls_server_name_is_the_name_that_counts() {
    let (scene, authority) = scene();
    let front = Front::to(scene.vault.port, &authority.issue("vault", "DNS:vault.example"));
    let run = || {
        scene
            .run()
            .flag("vault-addr", &front.address())
            .env("VAULT_CACERT", text(&authority.cert()))
    };
    let nameless = run().start();
    nameless.says(&["login to Vault failed", "not valid for name", "vault.example"]);
    nameless.stop();
    let wrong = run().env("VAULT_TLS_SERVER_NAME", "other.example").start();
    wrong.says(&["login to Vault failed", "not valid for name", "other.example"]);
    wrong.stop();
    assert_eq!(scene.doc("db").data(), None);
    let _named = run().env("VAULT_TLS_SERVER_NAME", "vault.example").start();
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn a_vault_that_asks_for_client_certificates_gets_them_and_tells_who_has_none() {
    let scene = Scene::new();
    scene.own("db", "one");
    let run = || {
        scene
            .run()
            .flag(
                "vault-addr",
                &format!("https://127.0.0.1:{}", scene.bed.vault_mutual_port),
            )
            .env("VAULT_CACERT", text(&scene.bed.dir.join("tls.crt")))
    };
    let without = run().start();
    without.says(&["login to Vault failed", "CertificateRequired"]);
    without.probe("/readyz", 500);
    without.stop();
    let stranger = Authority::new(scene.dir.join("stranger")).issue("client", "DNS:operator");
    let unknown = run()
        .env("VAULT_CLIENT_CERT", text(&stranger.cert))
        .env("VAULT_CLIENT_KEY", text(&stranger.key))
        .start();
    unknown.says(&["login to Vault failed", "fatal alert"]);
    unknown.stop();
    assert_eq!(scene.doc("db").data(), None);
    let known = scene.bed.clients.issue(&scene.ns, "DNS:operator");
    let _with = run()
        .env("VAULT_CLIENT_CERT", text(&known.cert))
        .env("VAULT_CLIENT_KEY", text(&known.key))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn a_new_ca_is_trusted_without_a_restart() {
    let (scene, old) = scene();
    let new = Authority::new(scene.dir.join("new"));
    let front = Front::to(scene.vault.port, &old.issue("vault", HERE));
    let file = scene.dir.join("ca.crt");
    fs::copy(old.cert(), &file).unwrap();
    let mut operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CACERT", text(&file))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    front.change(&new.issue("vault", HERE), None);
    scene.set_key("db", "k", "two");
    operator.probe("/readyz", 500);
    scene.doc("db").holds(json!({"k": "one"}));
    // A file that is only half there is none.
    fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
    operator.says(&["certificates for Vault have changed and are not usable yet"]);
    fs::copy(new.cert(), &file).unwrap();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    operator.ready();
    assert!(operator.is_running());
}

#[test]
fn a_new_ca_is_trusted_when_kubernetes_swaps_the_mounted_file() {
    let (scene, old) = scene();
    let new = Authority::new(scene.dir.join("new"));
    let front = Front::to(scene.vault.port, &old.issue("vault", HERE));
    let mut mount = Mounted::new(scene.dir.join("mounted"));
    mount.show(&[("ca.crt", &old.cert())]);
    let operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CACERT", &mount.file("ca.crt"))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    // The file changes first, as a careful person does it.
    mount.show(&[("ca.crt", &new.cert())]);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"}));
    front.change(&new.issue("vault", HERE), None);
    scene.set_key("db", "k", "three");
    scene.doc("db").becomes(json!({"k": "three"})).is_at_version(3);
    operator.ready();
}

#[test]
fn a_new_ca_is_trusted_when_a_file_of_a_folder_is_rewritten() {
    let (scene, old) = scene();
    let new = Authority::new(scene.dir.join("new"));
    let front = Front::to(scene.vault.port, &old.issue("vault", HERE));
    let folder = scene.dir.join("capath");
    fs::create_dir(&folder).unwrap();
    fs::copy(old.cert(), folder.join("ca.crt")).unwrap();
    let _operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CAPATH", text(&folder))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    // The folder itself does not change.
    fs::copy(new.cert(), folder.join("ca.crt")).unwrap();
    front.change(&new.issue("vault", HERE), None);
    scene.set_key("db", "k", "two");
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_new_client_certificate_is_used_without_a_restart() {
    let (scene, authority) = scene();
    let server = authority.issue("vault", HERE);
    let [old, new] = ["old", "new"].map(|name| Authority::new(scene.dir.join(name)));
    let front = Front::to(scene.vault.port, &server);
    front.change(&server, Some(&old));
    let mut mount = Mounted::new(scene.dir.join("mounted"));
    let client = old.issue("client", "DNS:operator");
    mount.show(&[("tls.crt", &client.cert), ("tls.key", &client.key)]);
    let mut operator = scene
        .run()
        .flag("vault-addr", &front.address())
        .env("VAULT_CACERT", text(&authority.cert()))
        .env("VAULT_CLIENT_CERT", &mount.file("tls.crt"))
        .env("VAULT_CLIENT_KEY", &mount.file("tls.key"))
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    // In TLS 1.3 the refusal comes after the handshake: it is no failure to connect.
    front.change(&server, Some(&new));
    scene.set_key("db", "k", "two");
    operator.probe("/healthz", 500);
    let client = new.issue("client", "DNS:operator");
    mount.show(&[("tls.crt", &client.cert), ("tls.key", &client.key)]);
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    operator.ready();
    assert!(operator.is_running());
    // The token was good all the time.
    assert_eq!(scene.logins().len(), 1);
}

#[test]
fn vault_client_timeout_ends_a_call_that_hangs() {
    let (scene, _) = scene();
    scene.vault.hold(&format!("GET /v1/secret/data/{}/db", scene.ns));
    let operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1").start();
    scene.event("db", "SyncFailed", &["timed out"]);
    operator.probe("/livez", 200);
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
}

#[test]
fn vault_max_retries_is_how_often_a_read_is_tried_again_at_once() {
    let failed = |scene: &Scene, retries: &str, failures: usize| {
        let read = format!("GET /v1/secret/data/{}/db", scene.ns);
        scene
            .vault
            .answer_first(failures, &read, Answer::errors(500, &["internal error"]));
        let operator = scene.run().env("VAULT_MAX_RETRIES", retries).start();
        scene.doc("db").becomes(json!({"k": "one"}));
        scene.vault.answers(failures);
        scene.settle();
        let labels = [("resource", "db"), ("result", "failed")];
        let metrics = operator.metrics();
        metrics
            .value("vault_sync_operator_sync_attempts_total", &labels)
            .unwrap_or_default()
    };
    for (retries, failures, gave_up) in [("3", 3, 0.0), ("3", 4, 1.0), ("0", 1, 1.0)] {
        let (scene, _) = scene();
        let seen = failed(&scene, retries, failures);
        assert!(
            (seen - gave_up).abs() < 0.1,
            "{retries} retries, {failures} failures: {seen}"
        );
    }
}

#[test]
fn vault_proxy_addr_is_the_way_to_vault() {
    let (scene, authority) = scene();
    let proxy = ForwardProxy::to(scene.vault.port);
    let with_password = proxy.address().replace("http://", "http://me:hunter2@");
    let plain = scene
        .run()
        .flag("vault-addr", "http://vault.example:8200")
        .env("VAULT_PROXY_ADDR", &with_password)
        // It wins.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    let heads = proxy.heads();
    for head in &heads {
        assert!(head.contains(" http://vault.example:8200/v1/"), "{head}");
        // me:hunter2
        assert!(
            head.to_lowercase().contains("proxy-authorization: basic "),
            "{head}"
        );
        assert!(head.contains("bWU6aHVudGVyMg=="), "{head}");
    }
    assert!(!heads.is_empty());
    assert!(!plain.log().contains("hunter2"), "{}", plain.log());
    plain.stop();

    let front = Front::to(scene.vault.port, &authority.issue("vault", "DNS:vault.example"));
    let proxy = ForwardProxy::to(front.number());
    scene.set_key("db", "k", "two");
    let _tls = scene
        .run()
        .flag("vault-addr", "https://vault.example:8200")
        .env("VAULT_CACERT", text(&authority.cert()))
        .env("VAULT_PROXY_ADDR", &proxy.address())
        .start();
    scene.doc("db").becomes(json!({"k": "two"}));
    assert!(
        proxy
            .heads()
            .iter()
            .all(|head| head.starts_with("CONNECT vault.example:8200 ")),
        "{:?}",
        proxy.heads()
    );
}

#[test]
fn http_proxy_and_https_proxy_are_the_way_and_no_proxy_is_not() {
    let (scene, authority) = scene();
    let proxy = ForwardProxy::to(scene.vault.port);
    let plain = scene
        .run()
        .flag("vault-addr", "http://vault.example:8200")
        .env("HTTP_PROXY", &proxy.address())
        .start();
    scene.doc("db").becomes(json!({"k": "one"}));
    assert!(!proxy.heads().is_empty());
    plain.stop();

    let front = Front::to(scene.vault.port, &authority.issue("vault", "DNS:vault.example"));
    let proxy = ForwardProxy::to(front.number());
    scene.set_key("db", "k", "two");
    let tls = scene
        .run()
        .flag("vault-addr", "https://vault.example:8200")
        .env("VAULT_CACERT", text(&authority.cert()))
        .env("HTTPS_PROXY", &proxy.address())
        .env("NO_PROXY", "127.0.0.1")
        .start();
    scene.doc("db").becomes(json!({"k": "two"}));
    let heads = proxy.heads();
    assert!(
        heads
            .iter()
            .any(|head| head.starts_with("CONNECT vault.example:8200 ")),
        "{heads:?}"
    );
    assert!(heads.iter().all(|head| head.starts_with("CONNECT ")), "{heads:?}");
    tls.stop();

    let unused = ForwardProxy::to(scene.vault.port);
    scene.set_key("db", "k", "three");
    let _direct = scene
        .run()
        .env("HTTP_PROXY", &unused.address())
        .env("NO_PROXY", "localhost,127.0.0.1")
        .start();
    scene.doc("db").becomes(json!({"k": "three"}));
    assert!(unused.heads().is_empty(), "{:?}", unused.heads());
}
