//! One test's corner of the testbed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::doc::Doc;
use super::gate::Gate;
use super::operator::{Operator, Run};
use super::testbed::{Audited, Testbed};
use super::{check, eventually};

/// A namespace for sources, one for the operator, its identity and rights in both worlds.
pub struct Scene {
    pub bed: Arc<Testbed>,
    /// The operator's wire to Vault.
    pub vault: Gate,
    /// The operator's wire to Kubernetes.
    pub kube_wire: Gate,
    /// The sources' namespace. Also the prefix of every document, and the name of the Vault role.
    pub ns: String,
    /// The operator's own namespace.
    pub home: String,
    /// The operator's files.
    pub dir: PathBuf,
    marks: AtomicU32,
}

/// An Event about a source.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: String,
    pub reason: String,
    pub message: String,
}

/// Annotations of ours: the part after `vault-sync.io/`, and the value.
pub fn ours(pairs: &[(&str, &str)]) -> Value {
    pairs
        .iter()
        .map(|(name, value)| (format!("vault-sync.io/{name}"), json!(value)))
        .collect::<Map<_, _>>()
        .into()
}

/// A pod that reads these Secrets whole, by `envFrom`.
pub fn env_from(secrets: &[&str]) -> Value {
    let from: Vec<Value> = secrets
        .iter()
        .map(|name| json!({"secretRef": {"name": name}}))
        .collect();
    json!({"containers": [{"name": "main", "image": "none", "envFrom": from}]})
}

impl Scene {
    /// In the shared testbed.
    pub fn new() -> Self {
        Self::on(Testbed::shared())
    }

    /// Two of the same name, each in a cluster of its own; both clusters have one Vault.
    pub fn twins() -> [Self; 2] {
        let name = Self::next_name();
        [Testbed::shared(), Testbed::another_cluster()].map(|bed| Self::named(bed, name.clone()))
    }

    pub fn on(bed: Arc<Testbed>) -> Self {
        Self::named(bed, Self::next_name())
    }

    fn next_name() -> String {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    fn named(bed: Arc<Testbed>, ns: String) -> Self {
        let home = format!("{ns}-operator");
        let dir = bed.dir.join(&ns);
        fs::create_dir(&dir).unwrap();
        let (vault, kube_wire) = (Gate::to(bed.vault_port), Gate::to(bed.kube_port));
        let scene = Self {
            bed,
            vault,
            kube_wire,
            ns,
            home,
            dir,
            marks: AtomicU32::new(0),
        };
        for namespace in [&scene.ns, &scene.home] {
            scene
                .bed
                .kube
                .post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}}))
                .ok();
        }
        scene.create_account("operator");
        scene.bind("operator", "it-cluster");
        scene.bind("operator", "it-delegator");
        for (namespace, role) in [(&scene.ns, "it-sources"), (&scene.home, "it-home")] {
            let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings");
            scene.bed.kube.post(&path, &scene.binding("operator", role)).ok();
        }
        fs::write(scene.dir.join("token"), scene.jwt("operator")).unwrap();
        scene.set_policy(&scene.policy());
        scene.set_role(json!({}));
        scene
    }

    // ---- the operator ----------------------------------------------------------------------

    /// The operator as most tests want it.
    pub fn start(&self) -> Operator<'_> {
        self.run().start()
    }

    pub fn run(&self) -> Run<'_> {
        Run::new(self)
    }

    /// What Kubernetes says the operator asked of it.
    pub fn audit(&self) -> Vec<Audited> {
        self.bed
            .audit(&format!("system:serviceaccount:{}:operator", self.home))
    }

    /// Waits until the operator has seen to whatever was changed before: a later change has gone all
    /// the way, twice, since two sources may be worked on at the same time.
    pub fn settle(&self) {
        for _ in 0..2 {
            let mark = self.marks.fetch_add(1, Ordering::Relaxed).to_string();
            if mark == "0" {
                self.create_secret(
                    "marker",
                    ours(&[("path", &self.path("marker"))]),
                    &[("mark", b"0")],
                );
            } else {
                self.set_key("marker", "mark", &mark);
            }
            self.doc("marker").becomes(json!({"mark": mark}));
        }
    }

    // ---- Kubernetes ------------------------------------------------------------------------

    /// A ServiceAccount in the operator's namespace.
    pub fn create_account(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{}/serviceaccounts", self.home);
        self.bed
            .kube
            .post(&path, &json!({"metadata": {"name": name}}))
            .ok();
    }

    /// Gives such an account a role in the whole cluster.
    pub fn bind(&self, account: &str, role: &str) {
        self.bed
            .kube
            .post(
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                &self.binding(account, role),
            )
            .ok();
    }

    fn binding(&self, account: &str, role: &str) -> Value {
        json!({
            "metadata": {"name": format!("{}-{account}-{role}", self.ns)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.home}],
        })
    }

    /// Another namespace for sources, with the same rights. Its documents lie below the same prefix.
    pub fn another_namespace(&self, suffix: &str) -> String {
        let name = format!("{}-{suffix}", self.ns);
        let namespace = json!({"metadata": {"name": name}});
        self.bed.kube.post("/api/v1/namespaces", &namespace).ok();
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings");
        self.bed
            .kube
            .post(&path, &self.binding("operator", "it-sources"))
            .ok();
        name
    }

    /// The identity that holds the Lease; empty: nobody.
    pub fn leader(&self) -> String {
        self.lease()["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The Lease; `Null`: there is none.
    pub fn lease(&self) -> Value {
        let leases = self.at_home("leases");
        let lease = leases
            .into_iter()
            .find(|lease| lease["metadata"]["name"] == "vault-sync-operator.io");
        lease.unwrap_or_default()
    }

    /// Waits until the candidate with this name holds the Lease.
    pub fn leads(&self, name: &str) {
        eventually(format!("{name} leads"), || {
            let leader = self.leader();
            check(leader.starts_with(name), leader)
        });
    }

    /// A token of such an account.
    pub fn jwt(&self, account: &str) -> String {
        self.bed.service_account_token(&self.home, account)
    }

    fn list_path(&self, kind: &str) -> String {
        match kind {
            "Deployment" => format!("/apis/apps/v1/namespaces/{}/deployments", self.ns),
            "Secret" => format!("/api/v1/namespaces/{}/secrets", self.ns),
            other => panic!("no path known for a {other}"),
        }
    }

    fn object_path(&self, kind: &str, name: &str) -> String {
        format!("{}/{name}", self.list_path(kind))
    }

    /// A Secret without annotations, of text.
    pub fn secret(&self, name: &str, data: &[(&str, &str)]) {
        let data: Vec<(&str, &[u8])> = data.iter().map(|(k, v)| (*k, v.as_bytes())).collect();
        self.create_secret(name, json!({}), &data);
    }

    pub fn create_secret(&self, name: &str, annotations: Value, data: &[(&str, &[u8])]) {
        let data: Map<String, Value> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value))))
            .collect();
        let secret = json!({"metadata": {"name": name, "annotations": annotations}, "data": data});
        self.bed.kube.post(&self.list_path("Secret"), &secret).ok();
    }

    /// Sets one key of a Secret, and leaves the others.
    pub fn set_key(&self, secret: &str, key: &str, value: &str) {
        self.patch("Secret", secret, json!({"stringData": {key: value}}));
    }

    pub fn remove_key(&self, secret: &str, key: &str) {
        self.patch("Secret", secret, json!({"data": {key: null}}));
    }

    pub fn deployment(&self, name: &str, annotations: Value, pod: Value) {
        let deployment = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            },
        });
        self.bed
            .kube
            .post(&self.list_path("Deployment"), &deployment)
            .ok();
    }

    /// A Deployment that is annotated with a path of its own name, and reads these Secrets whole.
    pub fn app(&self, name: &str, secrets: &[&str]) {
        self.deployment(name, ours(&[("path", &self.path(name))]), env_from(secrets));
    }

    /// A Deployment that is annotated with a path of its own name and a list, and reads nothing itself.
    pub fn listing(&self, name: &str, list: &str) {
        let annotations = ours(&[("path", &self.path(name)), ("secrets", list)]);
        self.deployment(name, annotations, env_from(&[]));
    }

    /// A Secret that is annotated with a path of its own name, and has one key, `k`.
    pub fn own(&self, name: &str, value: &str) {
        let annotations = ours(&[("path", &self.path(name))]);
        self.create_secret(name, annotations, &[("k", value.as_bytes())]);
    }

    pub fn patch(&self, kind: &str, name: &str, patch: Value) -> Value {
        self.bed.kube.patch(&self.object_path(kind, name), &patch).ok()
    }

    /// Changes annotations of ours; `None` removes one.
    pub fn annotate(&self, kind: &str, name: &str, pairs: &[(&str, Option<&str>)]) {
        let annotations: Map<String, Value> = pairs
            .iter()
            .map(|(name, value)| (format!("vault-sync.io/{name}"), json!(value)))
            .collect();
        self.patch(kind, name, json!({"metadata": {"annotations": annotations}}));
    }

    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.bed.kube.get(&self.object_path(kind, name)).ok()
    }

    /// Everything of a kind in the sources' namespace.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let list = self.bed.kube.get(&self.list_path(kind)).ok();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    pub fn exists(&self, kind: &str, name: &str) -> bool {
        self.bed.kube.get(&self.object_path(kind, name)).status == 200
    }

    pub fn delete(&self, kind: &str, name: &str) {
        self.bed.kube.delete(&self.object_path(kind, name)).ok();
    }

    /// Waits until an object is gone altogether.
    pub fn vanishes(&self, kind: &str, name: &str) {
        eventually(format!("{kind} {name} is gone"), || {
            let reply = self.bed.kube.get(&self.object_path(kind, name));
            check(reply.status == 404, reply.text)
        });
    }

    pub fn finalizers(&self, kind: &str, name: &str) -> Vec<String> {
        let list = &self.get(kind, name)["metadata"]["finalizers"];
        list.as_array()
            .into_iter()
            .flatten()
            .map(|f| f.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Everything of a kind in the operator's own namespace.
    pub fn at_home(&self, resource: &str) -> Vec<Value> {
        let group = if resource == "leases" {
            "/apis/coordination.k8s.io/v1"
        } else {
            "/api/v1"
        };
        let list = self
            .bed
            .kube
            .get(&format!("{group}/namespaces/{}/{resource}", self.home))
            .ok();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The ledger's ConfigMaps.
    pub fn ledger(&self) -> Vec<Value> {
        let mut maps = self.at_home("configmaps");
        maps.retain(|map| {
            map["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.contains("ledger"))
        });
        maps
    }

    /// The ledger's entries but for the marker's, by the document's path below this scene's prefix.
    pub fn entries(&self) -> BTreeMap<String, Value> {
        let prefix = format!("{}/", self.ns);
        let maps = self.ledger();
        let lines = maps.iter().filter_map(|map| map["data"].as_object()).flatten();
        lines
            .filter_map(|(_, line)| serde_json::from_str::<Value>(line.as_str()?).ok())
            .map(|entry| {
                let path = entry["path"].as_str().unwrap_or_default();
                (path.strip_prefix(&prefix).unwrap_or(path).to_owned(), entry)
            })
            .filter(|(path, _)| path != "marker")
            .collect()
    }

    /// Waits until the ledger says this of a document; `None`: nothing.
    #[track_caller]
    pub fn entry_is(&self, document: &str, state: Option<&str>) {
        eventually(format!("the ledger says {state:?} of {document}"), || {
            let entries = self.entries();
            let seen = entries.get(document).and_then(|entry| entry["state"].as_str());
            check(seen == state, format!("{entries:#?}"))
        });
    }

    /// Where a ConfigMap of the operator's is.
    pub fn configmap(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{name}", self.home)
    }

    pub fn events(&self, source: &str) -> Vec<Event> {
        let path = format!(
            "/api/v1/namespaces/{}/events?fieldSelector=involvedObject.name%3D{source}",
            self.ns
        );
        let list = self.bed.kube.get(&path).ok();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let items = list["items"].as_array().into_iter().flatten();
        items
            .map(|e| Event {
                kind: word(&e["type"]),
                reason: word(&e["reason"]),
                message: word(&e["message"]),
            })
            .collect()
    }

    /// Waits for an Event with this reason whose message has all these words.
    pub fn event(&self, source: &str, reason: &str, words: &[&str]) -> Event {
        eventually(format!("an Event {reason} on {source} with {words:?}"), || {
            let events = self.events(source);
            let found = events
                .iter()
                .find(|e| e.reason == reason && words.iter().all(|w| e.message.contains(w)));
            found.cloned().ok_or_else(|| format!("{events:#?}"))
        })
    }

    // ---- Vault -----------------------------------------------------------------------------

    /// What people write into the path annotation, in API form.
    pub fn path(&self, name: &str) -> String {
        format!("secret/data/{}/{name}", self.ns)
    }

    /// A document in `secret`, below this scene's prefix.
    pub fn doc(&self, name: &str) -> Doc<'_> {
        self.doc_in("secret", &format!("{}/{name}", self.ns))
    }

    /// Any document.
    pub fn doc_in(&self, mount: &'static str, path: &str) -> Doc<'_> {
        Doc {
            scene: self,
            mount,
            path: path.to_owned(),
        }
    }

    /// Changes the role that the operator logs in with, such as its TTL.
    pub fn set_role(&self, changes: Value) {
        self.set_role_at("kubernetes", changes);
    }

    /// The same, of an auth method that is mounted elsewhere.
    pub fn set_role_at(&self, auth_path: &str, mut changes: Value) {
        let role = changes.as_object_mut().unwrap();
        role.insert("bound_service_account_names".into(), json!(["operator"]));
        role.insert("bound_service_account_namespaces".into(), json!([self.home]));
        role.entry("token_policies").or_insert(json!([self.ns]));
        self.bed
            .vault
            .post(&format!("/v1/auth/{auth_path}/role/{}", self.ns), &changes)
            .ok();
    }

    /// Takes that role away.
    pub fn delete_role(&self) {
        let role = format!("/v1/auth/kubernetes/role/{}", self.ns);
        self.bed.vault.delete(&role).ok();
    }

    /// The accessors of the operator's live tokens.
    pub fn logins(&self) -> Vec<String> {
        let list = self.bed.vault.get("/v1/auth/token/accessors?list=true").ok();
        let accessors = list["data"]["keys"].as_array().cloned().unwrap_or_default();
        let ours = |accessor: &Value| {
            let found = self
                .bed
                .vault
                .post("/v1/auth/token/lookup-accessor", &json!({"accessor": accessor}));
            found.json()["data"]["meta"]["role"] == self.ns.as_str()
        };
        accessors
            .iter()
            .filter(|a| ours(a))
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect()
    }

    /// Ends all of the operator's tokens, as an operator of Vault can.
    pub fn revoke_logins(&self) {
        for accessor in self.logins() {
            let body = json!({"accessor": accessor});
            self.bed.vault.post("/v1/auth/token/revoke-accessor", &body).ok();
        }
    }

    /// The tokens that the operator has shown to Vault.
    pub fn tokens(&self) -> Vec<String> {
        let heard = self.vault.heard();
        let lines = heard.iter().flat_map(|text| text.lines());
        let mut tokens: Vec<String> = lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.eq_ignore_ascii_case("x-vault-token"))
            .map(|(_, token)| token.trim().to_owned())
            .filter(|token| !token.is_empty())
            .collect();
        tokens.sort();
        tokens.dedup();
        tokens
    }

    /// The requests that may have changed something in Vault, but for the session's and the
    /// marker's own.
    pub fn vault_writes(&self) -> Vec<String> {
        let mut requests = self.vault.requests();
        requests.retain(|request| {
            !request.starts_with("GET ")
                && !request.starts_with("HEAD ")
                && !request.contains("/v1/auth/")
                && !request.ends_with("/marker")
        });
        requests
    }

    /// Gives the operator these rights in Vault instead of the usual ones.
    pub fn set_policy(&self, policy: &str) {
        let path = format!("/v1/sys/policies/acl/{}", self.ns);
        self.bed
            .vault
            .send("PUT", &path, Some(&json!({"policy": policy})))
            .ok();
    }

    /// What design.md lists under "Rights on a v2 mount", for this scene's prefix.
    pub fn policy(&self) -> String {
        let mut policy = String::new();
        let mut allow = |path: &str, capabilities: &str| {
            let _ = writeln!(policy, "path \"{path}\" {{ capabilities = [{capabilities}] }}");
        };
        for prefix in [self.ns.clone(), format!("clusters/+/{}", self.ns)] {
            for mount in ["secret", "team/kv", "strict"] {
                allow(
                    &format!("{mount}/data/{prefix}/*"),
                    r#""create", "read", "update", "delete""#,
                );
                allow(
                    &format!("{mount}/metadata/{prefix}/*"),
                    r#""create", "read", "update", "patch", "list", "delete""#,
                );
                allow(&format!("{mount}/delete/{prefix}/*"), r#""update""#);
            }
            allow(
                &format!("kv1/{prefix}/*"),
                r#""create", "read", "update", "delete""#,
            );
        }
        // Not a KV engine, but one of which the operator may know.
        allow("transit/keys/app", r#""read""#);
        allow(
            &format!("clusters/+/secret/data/{}/*", self.ns),
            r#""create", "read", "update", "delete""#,
        );
        policy
    }
}

impl Scene {
    /// The names of the sources that have an Event with this reason.
    pub fn all_events_of(&self, reason: &str) -> BTreeSet<String> {
        let list = self
            .bed
            .kube
            .get(&format!(
                "/api/v1/namespaces/{}/events?fieldSelector=reason%3D{reason}",
                self.ns
            ))
            .ok();
        let items = list["items"].as_array().into_iter().flatten();
        items
            .filter_map(|event| event["involvedObject"]["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Every Event in the sources' namespace, for the words of a failure.
    pub(super) fn all_events(&self) -> Vec<String> {
        let list = self
            .bed
            .kube
            .get(&format!("/api/v1/namespaces/{}/events", self.ns))
            .json();
        let items = list["items"].as_array().into_iter().flatten();
        items
            .map(|e| format!("{} {} {}", e["involvedObject"]["name"], e["reason"], e["message"]))
            .collect()
    }
}
