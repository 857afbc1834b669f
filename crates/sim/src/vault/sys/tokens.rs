//! What tokens can be asked about, and done with.
//! <https://developer.hashicorp.com/vault/api-docs/auth/token>

use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::fields;
use super::super::journal::Deed;
use super::super::reply::{Envelope, Reply};
use super::super::request::{Call, Verb};
use super::super::time;
use super::super::token::Wanted;
use super::super::{Caller, Vault, text};

fn told(envelope: Envelope) -> Reply {
    Envelope {
        mount_type: "token".to_owned(),
        ..envelope
    }
    .into()
}

fn data(data: Value) -> Reply {
    told(Envelope {
        data,
        ..Envelope::default()
    })
}

impl Vault {
    /// `path` is without `auth/token/` in front.
    pub(in super::super) fn serve_tokens(
        &mut self,
        now: SystemTime,
        path: &str,
        verb: Verb,
        call: &Call,
        caller: &Caller,
    ) -> Reply {
        match (path, verb) {
            ("lookup-self", Verb::Read | Verb::Update) => data(caller.token.shown(now)),
            ("renew-self", Verb::Update) => self.renew(now, call, caller),
            ("revoke-self", Verb::Update) => {
                self.revoke(now, &caller.who, &caller.token.id);
                Reply::done()
            }
            ("create", Verb::Update) => self.create(now, call, caller),
            ("lookup", Verb::Update) => match self.tokens.get(text(call, "token"), now) {
                Some(token) => data(token.shown(now)),
                None => Reply::error(403, "bad token"),
            },
            ("revoke", Verb::Update) => {
                self.revoke(now, &caller.who, text(call, "token"));
                Reply::done()
            }
            ("lookup-accessor", Verb::Update) => match self.tokens.by_accessor(text(call, "accessor"), now) {
                Some(token) => data(hidden(token.shown(now))),
                None => Reply::collected(403, &["invalid accessor"]),
            },
            ("revoke-accessor", Verb::Update) => self.revoke_accessor(now, call, caller),
            ("accessors/", Verb::List) => {
                let alive = self.tokens.alive(now);
                let accessors: Vec<String> = alive.map(|token| token.accessor.clone()).collect();
                Reply::list("token", &accessors)
            }
            (
                "lookup-self" | "renew-self" | "revoke-self" | "create" | "lookup" | "revoke"
                | "lookup-accessor" | "revoke-accessor" | "accessors/",
                _,
            ) => Reply::unsupported_operation(),
            _ => Reply::unsupported_path(),
        }
    }

    fn renew(&mut self, now: SystemTime, call: &Call, caller: &Caller) -> Reply {
        let increment = match call.data.get("increment").map(time::parse_duration) {
            None => 0,
            Some(Ok(seconds)) => u64::try_from(seconds).unwrap_or_default(),
            Some(Err(why)) => {
                let fault =
                    format!("Field validation failed: error converting input for field \"increment\": {why}");
                return Reply::error(400, fault);
            }
        };
        let token = &caller.token;
        if token.is_root() {
            return Reply::error(400, "invalid lease ID");
        }
        if token.is_used_up() {
            return Reply::error(400, "token not found");
        }
        let role = self.logins.role_of(&token.path, &token.role);
        if role.is_none() && !token.role.is_empty() {
            let role = &token.role;
            return Reply::collected(500, &[&format!("role {role} does not exist during renewal")]);
        }
        let of_role = role.map(|role| (role.ttl, role.max_ttl));
        match self.tokens.renew(&token.id, now, increment, of_role) {
            Err(why) => Reply::collected(500, &[&why]),
            Ok(term) => told(Envelope {
                auth: token.renewed(term.ttl),
                ..Envelope::default()
            })
            .warned(term.warning),
        }
    }

    fn create(&mut self, now: SystemTime, call: &Call, caller: &Caller) -> Reply {
        let seconds = |field: &str| {
            let given = call.data.get(field).map(time::parse_duration);
            given
                .and_then(Result::ok)
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or_default()
        };
        let whole = |field: &str| call.data.get(field).and_then(Value::as_u64).unwrap_or_default();
        let given = call.data.get("policies").and_then(Value::as_array);
        let policies = match given {
            Some(names) => names
                .iter()
                .filter_map(Value::as_str)
                .map(ToOwned::to_owned)
                .collect(),
            None => caller.token.policies.clone(),
        };
        let name = text(call, "display_name");
        let wanted = Wanted {
            policies,
            no_default_policy: call
                .data
                .get("no_default_policy")
                .is_some_and(|flag| fields::flag(flag) == Ok(true)),
            ttl: seconds("ttl"),
            uses: whole("num_uses"),
            display_name: if name.is_empty() {
                "token".to_owned()
            } else {
                format!("token-{name}")
            },
            path: "auth/token/create".to_owned(),
            ..Wanted::default()
        };
        let (token, warning) = self.tokens.make(wanted, now, &mut self.random);
        self.record(now, &caller.who, Deed::Login, &token.accessor);
        told(Envelope {
            auth: token.granted(token.shown(now)["ttl"].as_u64().unwrap_or_default()),
            ..Envelope::default()
        })
        .warned(warning)
    }

    fn revoke_accessor(&mut self, now: SystemTime, call: &Call, caller: &Caller) -> Reply {
        match self.tokens.by_accessor(text(call, "accessor"), now) {
            Some(token) => {
                self.revoke(now, &caller.who, &token.id);
                Reply::done()
            }
            None => told(Envelope::default()).warned(["No token found with this accessor".to_owned()]),
        }
    }

    /// Revokes a token, if there is one.
    pub(in super::super) fn revoke(&mut self, now: SystemTime, who: &str, id: &str) {
        if let Some(token) = self.tokens.revoke(id) {
            self.record(now, who, Deed::Revoke, &token.accessor);
        }
    }
}

/// What a lookup by the accessor shows: the token itself stays hidden.
fn hidden(mut shown: Value) -> Value {
    shown["id"] = json!("");
    shown
}
