//! People and accidents: carries out what a plan says, at the servers, as `kubectl` and `vault` would.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::kubernetes::{Answer, Resource};
use crate::plan::{
    Act, Denied, Document, Edit, Few, Hand, NAMESPACES, PATHS, SECRETS, SOURCES, Setup, Wanted, Who, Wires,
};
use crate::pod::Pod;
use crate::vault::{Capability, Engine, Role};
use crate::world::{State, World};

/// The mount that everything is in.
pub const MOUNT: &str = "secret";
/// What stands in front of every value: whoever finds it elsewhere has found a leak.
pub const CONFIDENTIAL: &str = "hunter2";
/// Where the operators live.
pub const HOME: &str = "vault-sync";
/// The role that they log in as.
pub const ROLE: &str = "vault-sync-operator";

/// Those who do something.
pub struct People<'a> {
    world: Arc<World>,
    setup: &'a Setup,
    /// Counts the values, so that it is known which is newer.
    count: u64,
}

impl<'a> People<'a> {
    /// Sets the servers up, as administrators do.
    pub fn new(world: &Arc<World>, setup: &'a Setup) -> Self {
        let people = Self {
            world: Arc::clone(world),
            setup,
            count: 0,
        };
        people.world.act(|state, now| {
            for cluster in 0..setup.clusters {
                for name in NAMESPACES.into_iter().chain([HOME]) {
                    let namespace = json!({"metadata": {"name": name}});
                    kubernetes(state, now, cluster, "POST", "/api/v1/namespaces", &namespace);
                }
            }
            state.weather.login = Duration::from_secs(u64::from(setup.login));
            state.vault.enable(now, MOUNT, engine(setup.kv));
            set_policy(state, now, setup, Denied::Nothing);
            set_role(state, now);
        });
        people
    }

    /// Carries one act out.
    pub fn act(&mut self, act: &Act, pods: &[Pod]) {
        self.world.tell("people", || format!("{act:?}"));
        match act {
            Act::Kill(pod) => pods[*pod].kill(),
            Act::Stop(pod) => pods[*pod].stop(),
            _ => {
                let world = Arc::clone(&self.world);
                world.act(|state, now| self.at_the_servers(act, state, now));
            }
        }
        let now = self.world.now();
        self.world.look().promises.trouble.hears(act, now);
    }

    fn at_the_servers(&mut self, act: &Act, state: &mut State, now: SystemTime) {
        match act {
            Act::Rotate(cluster, namespace, secret) => {
                let name = SECRETS[usize::from(*secret)];
                let value = self.value(NAMESPACES[usize::from(*namespace)], name);
                put(state, now, *cluster, &secret_at(*namespace, name), &value);
            }
            Act::DropSecret(cluster, namespace, secret) => {
                let at = secret_at(*namespace, SECRETS[usize::from(*secret)]);
                kubernetes(state, now, *cluster, "DELETE", &at, &Value::Null);
            }
            Act::Apply(who, wanted) => self.apply(state, now, *who, wanted),
            Act::Annotate(who, name, value) => annotate(state, now, *who, name, *value),
            Act::Move(who, path) => {
                let path = annotation(*path);
                annotate(state, now, *who, "path", Some(&path));
            }
            Act::Remove(who) => {
                kubernetes(state, now, who.cluster, "DELETE", &source_at(*who), &Value::Null);
            }
            Act::Strip(who) => {
                let nothing = json!({"metadata": {"finalizers": null}});
                kubernetes(state, now, who.cluster, "PATCH", &source_at(*who), &nothing);
            }
            Act::Hand(document, hand) => self.by_hand(state, now, *document, *hand),
            Act::LoseLedger(cluster) => {
                let all = format!("/api/v1/namespaces/{HOME}/configmaps");
                kubernetes(state, now, *cluster, "DELETE", &all, &Value::Null);
            }
            Act::EditLedger(cluster, edit) => edit_ledger(state, now, *cluster, *edit),
            Act::Remount(version) => {
                state.vault.disable(now, MOUNT);
                state.vault.enable(now, MOUNT, engine(*version));
            }
            Act::Policy(denied) => set_policy(state, now, self.setup, *denied),
            Act::Seal => state.vault.seal(now),
            Act::Unseal => state.vault.unseal(now),
            Act::Revoke => state.vault.revoke_tokens(now, ROLE),
            Act::SlowLogins(seconds) => state.weather.login = Duration::from_secs(u64::from(*seconds)),
            Act::Weather(Wires::Kubernetes, sky) => state.weather.kubernetes = sky.clone(),
            Act::Weather(Wires::Vault, sky) => state.weather.vault = sky.clone(),
            Act::CutWatches(cluster) => state.clusters[*cluster].cut_watches(),
            Act::Compact(cluster) => state.clusters[*cluster].compact(),
            Act::Kill(_) | Act::Stop(_) => {}
        }
    }

    /// A Secret's body with a value that was never before.
    fn value(&mut self, namespace: &str, name: &str) -> Value {
        self.count += 1;
        let value = format!("{CONFIDENTIAL}:{namespace}/{name}:{}", self.count);
        json!({"metadata": {"name": name}, "stringData": {(name): value}})
    }

    fn apply(&mut self, state: &mut State, now: SystemTime, who: Who, wanted: &Wanted) {
        let name = SOURCES[usize::from(who.name)];
        let mut annotations = serde_json::Map::new();
        if let Some(path) = wanted.path {
            annotations.insert("vault-sync.io/path".to_owned(), annotation(path).into());
        }
        if wanted.adopt {
            annotations.insert("vault-sync.io/adopt".to_owned(), "true".into());
        }
        let used = (0..SECRETS.len()).filter(|bit| wanted.uses & (1 << bit) != 0);
        let used: Vec<&str> = used.map(|secret| SECRETS[secret]).collect();
        let mut body = if is_secret(who) {
            self.value(NAMESPACES[usize::from(who.namespace)], name)
        } else {
            if wanted.lists {
                let list: Vec<Value> = used.iter().map(|name| json!({"name": name})).collect();
                annotations.insert("vault-sync.io/secrets".to_owned(), json!(list).to_string().into());
            }
            let from: Vec<Value> = used
                .iter()
                .map(|name| json!({"secretRef": {"name": name}}))
                .collect();
            let pod = json!({"containers": [{"name": "main", "image": "none", "envFrom": from}]});
            json!({"metadata": {"name": name}, "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            }})
        };
        body["metadata"]["annotations"] = annotations.into();
        put(state, now, who.cluster, &source_at(who), &body);
    }

    fn by_hand(&mut self, state: &mut State, now: SystemTime, document: Document, hand: Hand) {
        let path = document.path();
        let found = state.vault.document(MOUNT, &path);
        let latest = found.map_or(0, |document| document.current);
        let v2 = state
            .vault
            .mount(MOUNT)
            .is_some_and(|mount| mount.engine == Engine::Kv2);
        let data = match hand {
            Hand::Write | Hand::Manage => {
                self.count += 1;
                json!({"theirs": format!("{CONFIDENTIAL}:theirs:{}", self.count)})
            }
            Hand::Copy => {
                let name = SECRETS[usize::from(document.secret.unwrap_or(0))];
                let secrets = &state.clusters[0];
                let secret = secrets.object(Resource::Secrets, NAMESPACES[0], name);
                secret.map_or_else(|| json!({"k": "v"}), content)
            }
            _ => Value::Null,
        };
        let versions = json!({"versions": [latest]});
        let at = |api: &str| format!("{MOUNT}/{api}/{path}");
        let plain = format!("{MOUNT}/{path}");
        let (method, target, body) = match (hand, v2) {
            (Hand::Write | Hand::Copy | Hand::Manage, true) => ("POST", at("data"), json!({"data": data})),
            (Hand::Write | Hand::Copy | Hand::Manage, false) => ("POST", plain, data),
            (Hand::Delete, true) => ("DELETE", at("data"), Value::Null),
            (_, false) => ("DELETE", plain, Value::Null),
            (Hand::Undelete, true) => ("POST", at("undelete"), versions),
            (Hand::Destroy, true) => ("POST", at("destroy"), versions),
            (Hand::Purge, true) => ("DELETE", at("metadata"), Value::Null),
            (Hand::Mark, true) => ("POST", at("metadata"), mark()),
            (Hand::Unmark, true) => ("POST", at("metadata"), json!({"custom_metadata": {}})),
        };
        vault(state, now, method, &target, &body);
        if hand == Hand::Manage && v2 {
            vault(state, now, "POST", &at("metadata"), &mark());
        }
    }
}

/// Another tool's mark.
fn mark() -> Value {
    json!({"custom_metadata": {"managed-by": "external-secrets"}})
}

/// Changes the first line of a ledger.
fn edit_ledger(state: &mut State, now: SystemTime, cluster: usize, edit: Edit) {
    let found = state.clusters[cluster]
        .objects(Resource::ConfigMaps)
        .find_map(|map| {
            let (key, line) = map["data"].as_object()?.iter().next()?;
            let name = map["metadata"]["name"].as_str()?;
            (map["metadata"]["namespace"] == HOME).then(|| (name.to_owned(), key.clone(), line.clone()))
        });
    let Some((name, key, line)) = found else { return };
    let line = match edit {
        Edit::Drop => Value::Null,
        Edit::Garble => "{not a line".into(),
        Edit::Give => {
            let mut given: Value =
                serde_json::from_str(line.as_str().unwrap_or_default()).unwrap_or_default();
            if !given.is_object() {
                return;
            }
            given["name"] = "nobody".into();
            given.to_string().into()
        }
    };
    let at = format!("/api/v1/namespaces/{HOME}/configmaps/{name}");
    kubernetes(state, now, cluster, "PATCH", &at, &json!({"data": {key: line}}));
}

/// The annotation of a path.
fn annotation(path: Few) -> String {
    format!("{MOUNT}/{}", PATHS[usize::from(path)])
}

/// What a Secret holds, as a document would.
pub fn content(secret: &Value) -> Value {
    use base64::Engine as _;
    let data = secret["data"].as_object().into_iter().flatten();
    let plain = |text: &Value| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap_or_default());
        String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
    };
    data.map(|(key, text)| (key.clone(), Value::from(plain(text))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Whether a source is an annotated Secret.
pub fn is_secret(who: Who) -> bool {
    who.name >= 2
}

fn secret_at(namespace: Few, name: &str) -> String {
    format!(
        "/api/v1/namespaces/{}/secrets/{name}",
        NAMESPACES[usize::from(namespace)]
    )
}

fn source_at(who: Who) -> String {
    let name = SOURCES[usize::from(who.name)];
    if is_secret(who) {
        return secret_at(who.namespace, name);
    }
    let namespace = NAMESPACES[usize::from(who.namespace)];
    format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
}

fn annotate(state: &mut State, now: SystemTime, who: Who, name: &str, value: Option<&str>) {
    let patch = json!({"metadata": {"annotations": {format!("vault-sync.io/{name}"): value}}});
    kubernetes(state, now, who.cluster, "PATCH", &source_at(who), &patch);
}

/// The role that the operators log in as.
pub(crate) fn set_role(state: &mut State, now: SystemTime) {
    let role = Role {
        jwts: Vec::new(),
        policies: vec![ROLE.to_owned()],
        no_default_policy: false,
        ttl: 3600,
        max_ttl: 0,
        num_uses: 0,
    };
    state.vault.set_role(now, "kubernetes", ROLE, role);
}

/// Creates an object, or puts this in the place of what it has, as `kubectl replace` does.
pub(crate) fn put(state: &mut State, now: SystemTime, cluster: usize, at: &str, body: &Value) {
    if kubernetes(state, now, cluster, "PUT", at, body) == 404 {
        let all = at.rsplit_once('/').map_or(at, |(all, _)| all);
        kubernetes(state, now, cluster, "POST", all, body);
    }
}

/// One call of a person to an API server. What it refuses, it refuses; the status is returned.
pub(crate) fn kubernetes(
    state: &mut State,
    now: SystemTime,
    cluster: usize,
    method: &str,
    at: &str,
    body: &Value,
) -> u16 {
    let content = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(at)
        .header("content-type", content)
        .header("x-sim-actor", "person")
        .body(text(body));
    let Ok(request) = request else { return 0 };
    match state.clusters[cluster].handle(now, &request) {
        Answer::Whole(response) => response.status().as_u16(),
        Answer::Watch(_) => 200,
    }
}

/// The body of a call; null: there is none.
fn text(body: &Value) -> Bytes {
    if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    }
}

/// One call of a person to Vault.
fn vault(state: &mut State, now: SystemTime, method: &str, target: &str, body: &Value) {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{target}"))
        .header("x-vault-token", state.vault.root_token())
        .header("x-sim-actor", "person")
        .body(text(body));
    if let Ok(request) = request {
        state.vault.handle(now, &request);
    }
}

fn engine(version: u8) -> Engine {
    if version == 1 { Engine::Kv1 } else { Engine::Kv2 }
}

/// What the operators may do, but for what is denied.
fn set_policy(state: &mut State, now: SystemTime, setup: &Setup, denied: Denied) {
    use Capability::{Create, Delete, Deny, List, Patch, Read, Update};
    let data: &[Capability] = match denied {
        Denied::Everything => &[Deny],
        Denied::Writes => &[Read, Delete],
        Denied::Deletes => &[Create, Read, Update],
        _ => &[Create, Read, Update, Delete],
    };
    let metadata: &[Capability] = match denied {
        Denied::Everything => &[Deny],
        _ if setup.claimless => &[Read, List],
        Denied::Deletes => &[Create, Read, Update, Patch, List],
        _ => &[Create, Read, Update, Patch, List, Delete],
    };
    let delete: &[Capability] = match denied {
        Denied::Everything | Denied::Deletes => &[Deny],
        _ => &[Update],
    };
    let mut rules = vec![
        ("secret/data/*", data),
        ("secret/metadata/*", metadata),
        ("secret/delete/*", delete),
        ("secret/*", data),
    ];
    if denied == Denied::OnePath {
        rules.push(("secret/data/a/*", &[Deny]));
        rules.push(("secret/a/*", &[Deny]));
    }
    state.vault.set_policy(now, ROLE, &rules);
}
