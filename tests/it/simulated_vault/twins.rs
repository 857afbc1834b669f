//! A real Vault and a simulated one, which are asked the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Value, json};
use sim::vault::{Engine, Role, Vault};

use super::compare::{self, Answer};
use super::draw::{Call, DOCUMENTS, Plan};
use testkit::{Http, Testbed, check, eventually};

/// So many calls before a difference are shown.
const SHOWN: usize = 60;

pub(super) struct Twins {
    bed: Arc<Testbed>,
    sim: Vault,
    /// In front of the names of what is made in the real Vault.
    tag: String,
    /// Who asks: a client of the real Vault, and a token of the simulated one.
    callers: BTreeMap<String, (Http, String)>,
    last: VecDeque<String>,
    /// How often there was each status.
    statuses: BTreeMap<u16, usize>,
}

impl Twins {
    pub(super) fn new(bed: &Arc<Testbed>, name: &str, seed: u64) -> Self {
        let mut sim = Vault::new(seed);
        // What the testbed's Vault has.
        for (path, engine) in [
            ("secret", Engine::Kv2),
            ("transit", Engine::Other("transit".to_owned())),
        ] {
            sim.enable(SystemTime::now(), path, engine);
        }
        sim.set_role(SystemTime::now(), "kubernetes", "nothing", Role::default());
        let root = sim.root_token().to_owned();
        let mut twins = Self {
            bed: Arc::clone(bed),
            sim,
            tag: format!("sim-{name}"),
            callers: BTreeMap::new(),
            last: VecDeque::new(),
            statuses: BTreeMap::new(),
        };
        let real = twins.bed.root_token.clone();
        for (name, real, sim) in [
            ("root", real.as_str(), root.as_str()),
            ("junk", "junk", "junk"),
            ("nobody", "", ""),
        ] {
            twins.add_caller(name, real, sim);
        }
        twins
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn statuses(&self) -> &BTreeMap<u16, usize> {
        &self.statuses
    }

    pub(super) fn mount(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    fn add_caller(&mut self, name: &str, real: &str, sim: &str) {
        let base = format!("http://127.0.0.1:{}", self.bed.vault_port);
        let headers: &[(&str, &str)] = if real.is_empty() {
            &[]
        } else {
            &[("x-vault-token", real)]
        };
        self.callers
            .insert(name.to_owned(), (Http::new(base, headers, None), sim.to_owned()));
    }

    /// Asks both, and compares what they answer.
    #[track_caller]
    pub(super) fn ask(&mut self, call: &Call) -> (Value, Value) {
        let real = self.ask_real(call);
        let sim = self.ask_sim(call);
        *self.statuses.entry(real.status).or_default() += 1;
        let shown = format!(
            "{} {} /v1/{} {}\n  real: {} {}\n  sim:  {} {}",
            call.by, call.method, call.path, call.body, real.status, real.body, sim.status, sim.body
        );
        self.last.push_back(shown);
        if self.last.len() > SHOWN {
            self.last.pop_front();
        }
        if let Err(difference) = compare::same(&real, &sim) {
            let story: Vec<&str> = self.last.iter().map(String::as_str).collect();
            panic!(
                "the simulated Vault answers otherwise: {difference}\n{}",
                story.join("\n")
            );
        }
        (real.body, sim.body)
    }

    fn ask_real(&self, call: &Call) -> Answer {
        let (http, _) = &self.callers[&call.by];
        let body = (!call.body.is_null()).then_some(&call.body);
        eventually("the real Vault answers", || {
            let reply = http.try_send(&call.method, &format!("/v1/{}", call.path), body)?;
            // A mount that is new, or on its way to version 2.
            check(!reply.text.contains("Upgrading from non-versioned"), &reply.text)?;
            Ok(Answer {
                status: reply.status,
                body: reply.json(),
            })
        })
    }

    fn ask_sim(&mut self, call: &Call) -> Answer {
        let (_, token) = &self.callers[&call.by];
        let content_type = if call.method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let body = if call.body.is_null() {
            Bytes::new()
        } else {
            call.body.to_string().into()
        };
        let mut request = http::Request::builder()
            .method(call.method.as_str())
            .uri(format!("/v1/{}", call.path))
            .header("x-vault-token", token);
        if !call.body.is_null() {
            request = request.header("content-type", content_type);
        }
        let reply = self.sim.handle(SystemTime::now(), &request.body(body).unwrap());
        Answer {
            status: reply.status().as_u16(),
            body: serde_json::from_slice(reply.body()).unwrap_or_default(),
        }
    }

    #[track_caller]
    pub(super) fn by(&mut self, caller: &str, method: &str, path: &str, body: Value) -> (Value, Value) {
        self.ask(&Call {
            by: caller.to_owned(),
            method: method.to_owned(),
            path: path.to_owned(),
            body,
        })
    }

    #[track_caller]
    pub(super) fn root(&mut self, method: &str, path: &str, body: Value) -> (Value, Value) {
        self.by("root", method, path, body)
    }

    /// Makes a token in both, for a caller of this name.
    pub(super) fn make_token(&mut self, name: &str, wanted: &Value) {
        let (real, sim) = self.root("POST", "auth/token/create", wanted.clone());
        self.add_granted(name, &real, &sim);
    }

    /// One that writes and one that reads, one with no `default` policy, and one that is good for a few calls.
    pub(super) fn make_tokens(&mut self) {
        let (writer, reader) = (self.mount("writer"), self.mount("reader"));
        for (name, wanted) in [
            ("writer", json!({"policies": [writer], "ttl": "24h"})),
            (
                "reader",
                json!({"policies": [reader], "ttl": "2h", "no_default_policy": true}),
            ),
            (
                "both",
                json!({"policies": [reader, writer], "num_uses": 9, "ttl": "30m"}),
            ),
        ] {
            self.make_token(name, &wanted);
        }
    }

    pub(super) fn log_in(&mut self, name: &str, role: &str, jwt: &str) {
        let body = json!({"role": role, "jwt": jwt});
        let (real, sim) = self.by("nobody", "POST", "auth/kubernetes/login", body);
        self.add_granted(name, &real, &sim);
    }

    fn add_granted(&mut self, name: &str, real: &Value, sim: &Value) {
        let token = |granted: &Value| granted["auth"]["client_token"].as_str().unwrap().to_owned();
        self.add_caller(name, &token(real), &token(sim));
    }

    /// In the simulated one only: the scene does it in the real one.
    pub(super) fn set_role(&mut self, name: &str, role: Role) {
        self.sim.set_role(SystemTime::now(), "kubernetes", name, role);
    }

    pub(super) fn set_policy(&mut self, name: &str, policy: &str) {
        self.root(
            "PUT",
            &format!("sys/policies/acl/{name}"),
            json!({"policy": policy}),
        );
    }

    /// Compares all that there is in the mounts at the end.
    pub(super) fn look_at_everything(&mut self, plan: &Plan) {
        for mount in plan.mounts() {
            self.root("GET", &format!("sys/mounts/{mount}"), json!(null));
            self.root("GET", &format!("sys/internal/ui/mounts/{mount}"), json!(null));
            self.root("GET", &format!("{mount}/config"), json!(null));
            for below in ["", "metadata"] {
                self.root("LIST", &format!("{mount}/{below}"), json!(null));
            }
            for path in DOCUMENTS {
                for below in ["", "data/", "metadata/"] {
                    self.root("GET", &format!("{mount}/{below}{path}"), json!(null));
                }
            }
        }
    }

    /// Takes away what was made in the real Vault.
    pub(super) fn clean(&self) {
        let mounts = self.bed.vault.get("/v1/sys/mounts").ok();
        let policies = self.bed.vault.get("/v1/sys/policies/acl?list=true").ok();
        let mounts = mounts["data"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(path, _)| path.as_str());
        let policies = policies["data"]["keys"].as_array().into_iter().flatten();
        let paths = mounts
            .map(|path| ("mounts", path))
            .chain(policies.filter_map(|name| Some(("policies/acl", name.as_str()?))));
        for (kind, name) in paths.filter(|(_, name)| name.starts_with(&format!("{}-", self.tag))) {
            self.bed.vault.delete(&format!("/v1/sys/{kind}/{name}")).ok();
        }
    }
}
