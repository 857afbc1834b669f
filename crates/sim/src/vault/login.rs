//! Logins with the token of a Kubernetes ServiceAccount.
//! <https://developer.hashicorp.com/vault/api-docs/auth/kubernetes#login>

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fields;
use super::reply::Reply;
use super::token::Wanted;

/// A role of the Kubernetes auth method: who logs in by it gets a token with these policies.
#[derive(Clone, Default, Debug)]
pub struct Role {
    /// The JWTs that are taken; empty: any.
    pub jwts: Vec<String>,
    /// The policies of its tokens.
    pub policies: Vec<String>,
    /// Whether its tokens go without the policy `default`.
    pub no_default_policy: bool,
    /// How long a token lives, in seconds; 0: the usual, 32 days.
    pub ttl: u64,
    /// How long a token can be renewed, in seconds; 0: the usual, 32 days.
    pub max_ttl: u64,
    /// How many calls a token is good for; 0: any number.
    pub num_uses: u64,
}

/// The auth methods for Kubernetes, by their paths, each with its roles.
#[derive(Default)]
pub(super) struct Logins(BTreeMap<String, BTreeMap<String, Role>>);

impl Logins {
    pub(super) fn set(&mut self, auth: &str, name: &str, role: Role) {
        self.0
            .entry(auth.to_owned())
            .or_default()
            .insert(name.to_owned(), role);
    }

    pub(super) fn remove(&mut self, auth: &str, name: &str) -> Option<Role> {
        self.0.get_mut(auth)?.remove(name)
    }

    /// Where the auth method is that a login's path names.
    pub(super) fn method<'a>(&self, path: &'a str) -> Option<&'a str> {
        let auth = path.strip_prefix("auth/")?.strip_suffix("/login")?;
        self.0.contains_key(auth).then_some(auth)
    }

    /// The role that a token was got by. `path` is that of the login.
    pub(super) fn role_of(&self, path: &str, role: &str) -> Option<&Role> {
        self.0.get(self.method(path)?)?.get(role)
    }

    /// What a login is worth.
    pub(super) fn check(&self, auth: &str, data: &Map<String, Value>) -> Result<Wanted, Reply> {
        let field = |name: &str| {
            let text = data.get(name).map(fields::text).and_then(Result::ok);
            text.filter(|text| !text.is_empty())
                .ok_or_else(|| Reply::error(400, format!("missing {name}")))
        };
        let (name, jwt) = (field("role")?, field("jwt")?);
        let Some(role) = self.0.get(auth).and_then(|roles| roles.get(&name)) else {
            return Err(Reply::error(400, format!("invalid role name {name:?}")));
        };
        if !role.jwts.is_empty() && !role.jwts.contains(&jwt) {
            return Err(Reply::error(403, "permission denied"));
        }
        Ok(Wanted {
            policies: role.policies.clone(),
            no_default_policy: role.no_default_policy,
            ttl: role.ttl,
            max_ttl: role.max_ttl,
            uses: role.num_uses,
            display_name: format!("{auth}-{name}"),
            path: format!("auth/{auth}/login"),
            meta: json!({ "role": name }),
            orphan: true,
            role: name,
        })
    }
}
