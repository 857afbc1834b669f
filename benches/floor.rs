//! The calls that a first sync cannot avoid, made one after the other for each document, with credentials of the
//! operator's role.

use serde_json::json;
use testkit::{Http, Scene, env_from, ours};

use super::cost::{Cost, quiet};
use super::workers::each;

/// Which calls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// Look at Vault, read the source, put the finalizer on, read the Secret, write, claim.
    Six,
    /// Without looking at Vault, and without reading the source, which the finalizer's patch returns.
    Four,
}

impl Floor {
    /// What they cost for so many sources, which are made before.
    pub fn run(self, scene: &Scene, sources: usize) -> Cost {
        populate(scene, sources);
        let (kube, vault) = clients(scene);
        let ns = &scene.ns;
        quiet(&scene.bed);
        let call = |number: usize| {
            let document = format!("{ns}/{}", document(number));
            let source = format!("/apis/apps/v1/namespaces/{ns}/deployments/app-{number}");
            if self == Self::Six {
                assert_eq!(vault.get(&format!("/v1/secret/data/{document}")).status, 404);
                kube.get(&source).ok();
            }
            let finalizer = json!({"metadata": {"finalizers": ["vault-sync.io/finalizer"]}});
            kube.patch(&source, &finalizer).ok();
            kube.get(&format!("/api/v1/namespaces/{ns}/secrets/secret-{number}"))
                .ok();
            let body = json!({"data": {"password": "first"}, "options": {"cas": 0}});
            vault.post(&format!("/v1/secret/data/{document}"), &body).ok();
            let claim = json!({"custom_metadata": {"managed-by": "floor"}});
            let metadata = format!("/v1/secret/metadata/{document}");
            vault.patch(&metadata, &claim).ok();
        };
        let (cost, ()) = Cost::of(&scene.bed, || each(sources, call));
        for number in 0..sources {
            let without = json!({"metadata": {"finalizers": null}});
            scene.patch("Deployment", &format!("app-{number}"), without);
        }
        cost
    }
}

/// Clients for both servers that may do what the operator may.
pub fn clients(scene: &Scene) -> (Http, Http) {
    let (bed, jwt) = (&scene.bed, scene.jwt("operator"));
    let bearer = format!("Bearer {jwt}");
    let kube = Http::new(
        format!("https://127.0.0.1:{}", bed.kube_port),
        &[("authorization", &bearer)],
        Some(&bed.ca),
    );
    let login = json!({"role": scene.ns, "jwt": jwt});
    let login = bed.vault.post("/v1/auth/kubernetes/login", &login).ok();
    let token = login["auth"]["client_token"].as_str().expect("a token");
    let vault = Http::new(
        format!("http://127.0.0.1:{}", bed.vault_port),
        &[("x-vault-token", token)],
        None,
    );
    (kube, vault)
}

/// A source's document, below the scene's path.
pub fn document(number: usize) -> String {
    format!("app-{number}/secret-{number}")
}

/// So many Deployments, each with a Secret of its own.
pub fn populate(scene: &Scene, sources: usize) {
    each(sources, |number| {
        let secret = format!("secret-{number}");
        scene.secret(&secret, &[("password", "first")]);
        let annotations = ours(&[("path", &scene.path(&format!("app-{number}")))]);
        scene.deployment(&format!("app-{number}"), annotations, env_from(&[&secret]));
    });
}
