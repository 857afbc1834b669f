//! A simulated Vault: KV of both versions, logins by Kubernetes, policies, a seal.
//!
//! [`Vault`] is a value: a request and the time are put in, a reply is returned. Who tests reads what happened
//! from its [journal](Vault::journal), and from the documents, which keep the author of each version also when Vault
//! itself has forgotten it. What it answers is held against a real Vault by `tests/it/simulated_vault.rs`.

mod acl;
mod admin;
mod document;
mod fields;
mod journal;
mod json;
mod kv1;
mod kv2;
mod login;
mod mount;
mod policy;
mod random;
mod reply;
mod request;
mod seal;
mod sys;
mod task;
mod time;
mod token;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::Value;

use acl::Acl;
use document::Attribution;
pub use document::{Document, Version};
pub use journal::{Change, Deed};
use login::Logins;
pub use login::Role;
pub use mount::{Engine, Mount};
pub use policy::Capability;
use policy::Policy;
use random::Random;
use reply::{Envelope, Reply};
use request::{Call, Verb};
pub use seal::Node;
use seal::Seal;
use task::Task;
pub use token::Token;
use token::Tokens;

/// Vault and what it stores.
pub struct Vault {
    random: Random,
    /// The latest moment. Each request has one of its own.
    now: SystemTime,
    seal: Seal,
    root_token: String,
    mounts: BTreeMap<String, Mount>,
    tokens: Tokens,
    logins: Logins,
    policies: BTreeMap<String, Policy>,
    /// What policies allow together, as far as somebody has asked.
    acls: BTreeMap<Vec<String>, Arc<Acl>>,
    journal: Vec<Change>,
    archive: Vec<Archived>,
}

/// A document that Vault does not know any more: it was deleted for good, or its mount was taken away.
#[derive(Debug)]
pub struct Archived {
    /// When.
    pub at: SystemTime,
    /// By whom.
    pub who: String,
    /// The mount that it was in.
    pub mount: String,
    /// The mount's accessor.
    pub accessor: String,
    /// Its path in the mount.
    pub path: String,
    /// As it was.
    pub document: Document,
}

/// Who makes a request.
struct Caller {
    token: Arc<Token>,
    acl: Arc<Acl>,
    /// For the journal.
    who: String,
}

impl Vault {
    /// One that is unsealed and has no mounts.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut tokens = Tokens::default();
        let now = SystemTime::UNIX_EPOCH;
        Self {
            now,
            seal: Seal::new(&mut random),
            root_token: tokens.make_root(now, &mut random),
            mounts: mount::built_in(&mut random),
            random,
            tokens,
            logins: Logins::default(),
            policies: BTreeMap::from([("default".to_owned(), Policy::default_policy())]),
            acls: BTreeMap::new(),
            journal: Vec::new(),
            archive: Vec::new(),
        }
    }

    /// Answers a request that arrives at this time.
    pub fn handle(&mut self, now: SystemTime, request: &Request<Bytes>) -> Response<Bytes> {
        let moment = self.moment(now);
        let reply = self.answer(moment, request);
        let id = self.random.uuid();
        reply.into_http(now, id, request.method() == Method::HEAD)
    }

    /// A moment after all before: also where the clock stands still, no two requests come at the same time.
    fn moment(&mut self, now: SystemTime) -> SystemTime {
        self.now = now.max(self.now + Duration::from_nanos(1));
        self.now
    }

    fn answer(&mut self, now: SystemTime, request: &Request<Bytes>) -> Reply {
        let path = match request::path(request.uri()) {
            Ok(path) => path,
            Err(reply) => return self.seal.refusal().unwrap_or(reply),
        };
        if let Some(reply) = self.answer_anybody(now, request, &path) {
            return reply;
        }
        let call = match Call::read(request, path) {
            Ok(call) => call,
            Err(reply) => return reply,
        };
        if let Some(refusal) = self.seal.refusal() {
            return refusal;
        }
        if call.verb.writes() && call.path.ends_with('/') {
            return Reply::error(400, "cannot write to a path ending in '/'");
        }
        if let Some(auth) = self.logins.method(&call.path).map(ToOwned::to_owned) {
            return self.log_in(now, &auth, &call);
        }
        if let Some(path) = call.path.strip_prefix("sys/internal/ui/mounts/") {
            return self.tell_mount(now, path, &call);
        }
        let Some(id) = &call.token else {
            return Reply::error(403, "permission denied");
        };
        let Some(token) = self.tokens.use_once(id, now) else {
            return Reply::invalid_token();
        };
        let used_up = token.is_used_up();
        let caller = Caller {
            acl: self.acl(&token.policies),
            who: call.actor.clone().unwrap_or_else(|| token.holder()),
            token,
        };
        let reply = self.serve(now, &call, &caller);
        if used_up {
            self.tokens.revoke(id);
        }
        reply
    }

    /// Serves a caller whose token is good.
    fn serve(&mut self, now: SystemTime, call: &Call, caller: &Caller) -> Reply {
        let verb = match self.verb(call) {
            Ok(verb) => verb,
            Err(why) => return Reply::error(400, why),
        };
        let sudo = sys::is_for_administrators(&call.path);
        if !caller.acl.allows(verb, &self.checked_path(call), sudo) {
            return Reply::denied();
        }
        if let Some(path) = call.path.strip_prefix("sys/") {
            return self.serve_sys(now, path, verb, call, caller);
        }
        if let Some(path) = call.path.strip_prefix("auth/token/") {
            return self.serve_tokens(now, path, verb, call, caller);
        }
        self.serve_mount(now, verb, call, caller)
    }

    /// The path that policies are asked about. By the search for what is there already, a write to a mount itself
    /// has got a slash.
    fn checked_path<'a>(&self, call: &'a Call) -> Cow<'a, str> {
        if call.verb == Verb::Update && self.mounts.contains_key(&call.path) {
            Cow::Owned(format!("{}/", call.path))
        } else {
            Cow::Borrowed(&call.path)
        }
    }

    /// Whether a write creates or updates.
    fn verb(&self, call: &Call) -> Result<Verb, String> {
        if call.verb != Verb::Update {
            return Ok(call.verb);
        }
        let Some((mount, below)) = self.mount_at(&call.path) else {
            return Ok(Verb::Update);
        };
        let exists = match mount.engine {
            Engine::Kv1 => Some(mount.documents.contains_key(below)),
            Engine::Kv2 => kv2::exists(mount, below, &call.data)?,
            Engine::Other(_) => None,
        };
        Ok(if exists == Some(false) {
            Verb::Create
        } else {
            Verb::Update
        })
    }

    fn serve_mount(&mut self, now: SystemTime, verb: Verb, call: &Call, caller: &Caller) -> Reply {
        let Some((mount, below)) = mount_at_mut(&mut self.mounts, &call.path) else {
            let path = &call.path;
            return Reply::error(
                404,
                format!("no handler for route {path:?}. route entry not found."),
            );
        };
        let mut task = Task {
            now,
            verb,
            path: below,
            data: &call.data,
            who: &caller.who,
            by: attribution(caller, verb),
            journal: &mut self.journal,
            archive: &mut self.archive,
        };
        match mount.engine {
            Engine::Kv1 => kv1::serve(mount, &mut task),
            Engine::Kv2 => kv2::serve(mount, &mut task),
            Engine::Other(_) => Reply::unsupported_path(),
        }
    }

    /// The mount that a path belongs to, and the path below it.
    fn mount_at<'a>(&self, path: &'a str) -> Option<(&Mount, &'a str)> {
        let (mount, below) = split(&self.mounts, path)?;
        Some((self.mounts.get(mount)?, below))
    }

    /// What these policies allow together.
    fn acl(&mut self, policies: &[String]) -> Arc<Acl> {
        if let Some(acl) = self.acls.get(policies) {
            return Arc::clone(acl);
        }
        let acl = Arc::new(if policies == ["root"] {
            Acl::root()
        } else {
            Acl::of(policies.iter().filter_map(|name| self.policies.get(name)))
        });
        self.acls.insert(policies.to_vec(), Arc::clone(&acl));
        acl
    }

    fn log_in(&mut self, now: SystemTime, auth: &str, call: &Call) -> Reply {
        if call.verb != Verb::Update {
            return Reply::error(405, "unsupported operation");
        }
        let wanted = match self.logins.check(auth, &call.data) {
            Ok(wanted) => wanted,
            Err(reply) => return reply,
        };
        let ttl_asked = wanted.ttl;
        let (token, warning) = self.tokens.make(wanted, now, &mut self.random);
        let who = call.actor.clone().unwrap_or_else(|| token.holder());
        self.record(now, &who, Deed::Login, &token.accessor);
        let ttl = token.expires.and_then(|end| end.duration_since(now).ok());
        let ttl = ttl.map_or(ttl_asked, |ttl| ttl.as_secs());
        Reply::from(Envelope {
            auth: token.granted(ttl),
            ..Envelope::default()
        })
        .warned(warning)
    }

    /// Writes down what is not about a document.
    fn record(&mut self, at: SystemTime, who: &str, deed: Deed, path: &str) {
        self.journal.push(Change {
            at,
            who: who.to_owned(),
            deed,
            mount: String::new(),
            accessor: String::new(),
            path: path.to_owned(),
        });
    }
}

/// Splits a path into that of its mount and the rest.
fn split<'a>(mounts: &BTreeMap<String, Mount>, path: &'a str) -> Option<(&'a str, &'a str)> {
    let mut end = path.len();
    loop {
        let candidate = &path[..end];
        if mounts.contains_key(candidate) {
            let below = path.get(end + 1..).unwrap_or_default();
            return Some((candidate, below));
        }
        end = candidate.rfind('/')?;
    }
}

fn mount_at_mut<'m, 'a>(
    mounts: &'m mut BTreeMap<String, Mount>,
    path: &'a str,
) -> Option<(&'m mut Mount, &'a str)> {
    let (mount, below) = split(mounts, path)?;
    Some((mounts.get_mut(mount)?, below))
}

fn attribution(caller: &Caller, verb: Verb) -> Attribution {
    let token = &caller.token;
    Attribution {
        actor: token.display_name.clone(),
        client: if token.entity.is_empty() {
            token.policies.join(",")
        } else {
            token.entity.clone()
        },
        entity: token.entity.clone(),
        operation: match verb {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::Read => "read",
            Verb::List => "list",
            Verb::Other => "",
        },
    }
}

/// A field of a request that is a text.
fn text<'a>(call: &'a Call, field: &str) -> &'a str {
    call.data.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;
