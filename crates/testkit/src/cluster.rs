//! A cluster of a fleet: set up in Vault as people do it, by `deploy/setup-vault.sh`.

use std::process::Command;

use serde_json::json;

use super::doc::Doc;
use super::http::{Http, Reply};
use super::operator::Operator;
use super::scene::Scene;

/// A scene with a method of its own to log in to Vault, and a policy for its own prefix.
pub struct Cluster {
    pub scene: Scene,
    /// As Vault and paths know it.
    pub name: String,
}

impl Cluster {
    /// Vault does not know it yet.
    pub fn new(scene: Scene, suffix: &str) -> Self {
        let name = format!("{}-{suffix}", scene.ns);
        Self { scene, name }
    }

    /// What `deploy/setup-vault.sh` says that it did, a line each: how, and what.
    pub fn set_up(&self, env: &[(&str, &str)]) -> Vec<String> {
        let (scene, bed) = (&self.scene, &self.scene.bed);
        let script = super::project().join("deploy/setup-vault.sh");
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

    /// Its operator, with more flags.
    pub fn start(&self, flags: &[(&str, &str)]) -> Operator<'_> {
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

    /// A document of its scene, below the prefix of this cluster.
    pub fn doc(&self, name: &str) -> Doc<'_> {
        self.scene.doc_in("secret", &self.document(name))
    }

    /// Where that is inside the mount.
    pub fn document(&self, name: &str) -> String {
        format!("clusters/{}/{}/{name}", self.name, self.scene.ns)
    }

    /// Vault, with a token as the operator has one.
    pub fn logged_in(&self) -> Http {
        let reply = self.log_in(self).ok();
        let token = reply["auth"]["client_token"].as_str().unwrap();
        let vault = format!("http://127.0.0.1:{}", self.scene.bed.vault_port);
        Http::new(vault, &[("x-vault-token", token)], None)
    }

    /// Shows its operator's ServiceAccount token where a cluster logs in.
    pub fn log_in(&self, at: &Self) -> Reply {
        let login = json!({"role": "vault-sync-operator", "jwt": self.scene.jwt("operator")});
        let path = format!("/v1/auth/clusters/{}/login", at.name);
        self.scene.bed.vault.post(&path, &login)
    }
}
