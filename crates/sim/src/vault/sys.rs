//! The paths below `sys/` and `auth/token/`.

mod mounts;
mod policies;
mod tokens;
mod tune;

use std::time::SystemTime;

use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Map, Value, json};

use super::journal::Deed;
use super::reply::{Envelope, Reply};
use super::request::{self, Call, Verb};
use super::{Caller, Vault};

/// Whether a path needs the capability `sudo`.
pub(super) fn is_for_administrators(path: &str) -> bool {
    path == "sys/seal" || path == "auth/token/accessors/" || path.starts_with("sys/auth/")
}

/// The usual envelope of `sys/`, with the data on the top level too.
fn told(data: Value) -> Reply {
    Envelope {
        data,
        mount_type: "system".to_owned(),
        spread: true,
        ..Envelope::default()
    }
    .into()
}

impl Vault {
    /// What is answered without a token.
    pub(super) fn answer_anybody(
        &mut self,
        now: SystemTime,
        request: &Request<Bytes>,
        path: &str,
    ) -> Option<Reply> {
        let method = request.method();
        let reads = method == Method::GET || method == Method::HEAD;
        let writes = method == Method::PUT || method == Method::POST;
        Some(match path {
            "sys/health" if reads => self.seal.health(&request::query(request.uri()), now),
            "sys/leader" if method == Method::GET => self.seal.leader(),
            "sys/seal-status" if method == Method::GET => self.seal.status(),
            "sys/unseal" if writes => self.open_seal(now, request),
            "sys/seal" if writes && self.seal.sealed => Reply::done(),
            "sys/health" | "sys/leader" | "sys/seal-status" | "sys/unseal" => Reply::Errors(405, Vec::new()),
            _ => return None,
        })
    }

    fn open_seal(&mut self, now: SystemTime, request: &Request<Bytes>) -> Reply {
        let data = match request::body(request) {
            Ok(data) => data,
            Err(reply) => return reply,
        };
        if let Err(reply) = self.seal.check(data.get("key").and_then(Value::as_str)) {
            return reply;
        }
        if self.seal.sealed {
            let who = request
                .headers()
                .get("x-sim-actor")
                .and_then(|who| who.to_str().ok());
            self.set_sealed(now, who.unwrap_or("anybody"), false);
        }
        self.seal.status()
    }

    pub(super) fn set_sealed(&mut self, now: SystemTime, who: &str, sealed: bool) {
        self.seal.sealed = sealed;
        self.record(now, who, if sealed { Deed::Seal } else { Deed::Unseal }, "");
    }

    /// `path` is without `sys/` in front.
    pub(super) fn serve_sys(
        &mut self,
        now: SystemTime,
        path: &str,
        verb: Verb,
        call: &Call,
        caller: &Caller,
    ) -> Reply {
        let trimmed = path.trim_end_matches('/');
        match trimmed.split_once('/') {
            Some(("mounts", mount)) => self.serve_mounts(now, mount, verb, call, caller),
            Some(("policies", rest)) if rest == "acl" || rest.starts_with("acl/") => {
                let name = rest.strip_prefix("acl/").unwrap_or_default();
                self.serve_policies(now, name, verb, call, caller)
            }
            None => match (trimmed, verb) {
                ("mounts", Verb::Read) => self.list_mounts(),
                ("mounts", _) => Reply::unsupported_operation(),
                ("seal", Verb::Update) => {
                    self.set_sealed(now, &caller.who, true);
                    Reply::done()
                }
                ("capabilities-self", Verb::Update) => capabilities(call, caller),
                _ => Reply::unsupported_path(),
            },
            Some(_) => Reply::unsupported_path(),
        }
    }
}

/// `sys/capabilities-self`.
fn capabilities(call: &Call, caller: &Caller) -> Reply {
    let paths = match call.data.get("paths").or_else(|| call.data.get("path")) {
        Some(Value::Array(paths)) => paths.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(path)) => path.split(',').collect(),
        _ => Vec::new(),
    };
    if paths.is_empty() {
        return Reply::error(400, "paths must be supplied");
    }
    // Vault looks the token up once more, and does not find one whose last use this is.
    if caller.token.is_used_up() {
        return Reply::collected(400, &["invalid token"]);
    }
    let mut data = Map::new();
    for path in &paths {
        data.insert((*path).to_owned(), json!(caller.acl.names(path)));
    }
    if let [path] = paths.as_slice() {
        data.insert("capabilities".to_owned(), json!(caller.acl.names(path)));
    }
    told(data.into())
}
