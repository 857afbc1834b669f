//! Tokens: who holds one, for how long, and for how many calls.
//! <https://developer.hashicorp.com/vault/api-docs/auth/token>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::mount::LEASE;
use super::random::Random;
use super::time::{rfc3339, seconds, short_duration, whole};

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    /// By which Vault names it to those who do not hold it.
    pub accessor: String,
    /// The role that it was got by; empty: none.
    pub role: String,
    /// Its policies, in order.
    pub policies: Vec<String>,
    /// When it ends; `None`: never.
    pub expires: Option<SystemTime>,
    pub(super) id: String,
    pub(super) entity: String,
    pub(super) display_name: String,
    /// The path that it was made by.
    pub(super) path: String,
    pub(super) meta: Value,
    issued: SystemTime,
    /// What it was given first, and last.
    first_ttl: u64,
    ttl: u64,
    max_ttl: u64,
    /// The calls that are left; 0: any number, below 0: this is the last one.
    uses: i64,
    /// The calls that it was good for at first.
    all_uses: u64,
    orphan: bool,
    renewed: Option<SystemTime>,
}

/// What a new token shall be.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) role: String,
    pub(super) policies: Vec<String>,
    pub(super) no_default_policy: bool,
    /// In seconds; 0: the usual.
    pub(super) ttl: u64,
    /// In seconds; 0: the usual.
    pub(super) max_ttl: u64,
    pub(super) uses: u64,
    pub(super) display_name: String,
    pub(super) path: String,
    pub(super) meta: Value,
    pub(super) orphan: bool,
}

/// How long a token lives, and what there is to say about that.
pub(super) struct Term {
    pub(super) ttl: u64,
    pub(super) warning: Option<String>,
}

/// All tokens that Vault knows.
#[derive(Default)]
pub(super) struct Tokens {
    tokens: BTreeMap<String, Arc<Token>>,
    by_accessor: BTreeMap<String, String>,
}

impl Tokens {
    /// The token for everything, which never ends.
    pub(super) fn make_root(&mut self, now: SystemTime, random: &mut Random) -> String {
        let wanted = Wanted {
            policies: vec!["root".to_owned()],
            no_default_policy: true,
            display_name: "root".to_owned(),
            path: "auth/token/root".to_owned(),
            orphan: true,
            ..Wanted::default()
        };
        let token = Token {
            expires: None,
            first_ttl: 0,
            ..Token::new(wanted, LEASE, now, random)
        };
        let id = token.id.clone();
        self.keep(token);
        id
    }

    /// Makes a token.
    pub(super) fn make(
        &mut self,
        wanted: Wanted,
        now: SystemTime,
        random: &mut Random,
    ) -> (Arc<Token>, Option<String>) {
        self.tokens.retain(|_, token| token.is_alive(now));
        let tokens = &self.tokens;
        self.by_accessor.retain(|_, id| tokens.contains_key(id));
        // A token that is as old as nothing is never past its end.
        let Term { ttl, warning } = term(now, now, 0, wanted.ttl, wanted.max_ttl).unwrap_or(Term {
            ttl: LEASE,
            warning: None,
        });
        let token = self.keep(Token::new(wanted, ttl, now, random));
        (token, warning)
    }

    fn keep(&mut self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        self.by_accessor.insert(token.accessor.clone(), token.id.clone());
        self.tokens.insert(token.id.clone(), Arc::clone(&token));
        token
    }

    pub(super) fn get(&self, id: &str, now: SystemTime) -> Option<Arc<Token>> {
        self.tokens.get(id).filter(|token| token.is_alive(now)).cloned()
    }

    pub(super) fn by_accessor(&self, accessor: &str, now: SystemTime) -> Option<Arc<Token>> {
        self.get(self.by_accessor.get(accessor)?, now)
    }

    /// The token, with one use less.
    pub(super) fn use_once(&mut self, id: &str, now: SystemTime) -> Option<Arc<Token>> {
        let token = self.tokens.get_mut(id).filter(|token| token.is_alive(now))?;
        match token.uses {
            0 => {}
            1 => Arc::make_mut(token).uses = -1,
            _ => Arc::make_mut(token).uses -= 1,
        }
        Some(Arc::clone(token))
    }

    /// Renews a token: for how long from now on, or why not.
    pub(super) fn renew(
        &mut self,
        id: &str,
        now: SystemTime,
        increment: u64,
        role: Option<(u64, u64)>,
    ) -> Result<Term, String> {
        let Some(token) = self.tokens.get_mut(id) else {
            return Err("invalid lease ID".to_owned());
        };
        let (ttl, max_ttl) = role.unwrap_or((token.ttl, token.max_ttl));
        let term = term(now, token.issued, increment, ttl, max_ttl)?;
        let token = Arc::make_mut(token);
        token.expires = Some(now + Duration::from_secs(term.ttl));
        token.renewed = Some(now);
        // What was given last is given again where nobody says how much.
        if role.is_none() {
            token.ttl = term.ttl;
        }
        Ok(term)
    }

    /// Revokes a token, and gives it.
    pub(super) fn revoke(&mut self, id: &str) -> Option<Arc<Token>> {
        let token = self.tokens.remove(id)?;
        self.by_accessor.remove(&token.accessor);
        Some(token)
    }

    /// All that are alive at this time.
    pub(super) fn alive(&self, now: SystemTime) -> impl Iterator<Item = &Token> {
        self.tokens
            .values()
            .map(AsRef::as_ref)
            .filter(move |token| token.is_alive(now))
    }
}

impl Token {
    fn new(wanted: Wanted, ttl: u64, now: SystemTime, random: &mut Random) -> Self {
        let mut policies = wanted.policies;
        if !wanted.no_default_policy {
            policies.push("default".to_owned());
        }
        policies.sort();
        policies.dedup();
        Self {
            accessor: random.letters(24),
            id: format!("hvs.{}", random.letters(24)),
            entity: if wanted.role.is_empty() {
                String::new()
            } else {
                random.uuid()
            },
            role: wanted.role,
            policies,
            expires: Some(now + Duration::from_secs(ttl)),
            display_name: wanted.display_name,
            path: wanted.path,
            meta: wanted.meta,
            issued: now,
            first_ttl: ttl,
            ttl,
            max_ttl: wanted.max_ttl,
            all_uses: wanted.uses,
            uses: i64::try_from(wanted.uses).unwrap_or(i64::MAX),
            orphan: wanted.orphan,
            renewed: None,
        }
    }

    fn is_alive(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    pub(super) fn is_root(&self) -> bool {
        self.expires.is_none()
    }

    /// Whether this call was the last one that it was good for.
    pub(super) fn is_used_up(&self) -> bool {
        self.uses < 0
    }

    /// Who holds it, for the journal.
    pub(super) fn holder(&self) -> String {
        if self.is_root() {
            return "root".to_owned();
        }
        let name = if self.role.is_empty() {
            &self.display_name
        } else {
            &self.role
        };
        format!("{name}/{}", self.accessor)
    }

    /// What a renewal is answered. It does not say whose child the token is.
    pub(super) fn renewed(&self, ttl: u64) -> Value {
        let mut granted = self.granted(ttl);
        granted["orphan"] = false.into();
        granted
    }

    /// What a login is answered.
    pub(super) fn granted(&self, ttl: u64) -> Value {
        json!({
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.meta,
            "lease_duration": ttl,
            "renewable": true,
            "entity_id": self.entity,
            "token_type": "service",
            "orphan": self.orphan,
            "mfa_requirement": null,
            "num_uses": self.all_uses,
        })
    }

    /// What a lookup is answered.
    pub(super) fn shown(&self, now: SystemTime) -> Value {
        let left = |end: SystemTime| end.duration_since(now).unwrap_or_default().as_secs();
        let mut shown = Map::new();
        for (name, value) in [
            ("accessor", json!(self.accessor)),
            ("creation_time", json!(seconds(self.issued))),
            ("creation_ttl", json!(self.first_ttl)),
            ("display_name", json!(self.display_name)),
            ("entity_id", json!(self.entity)),
            ("expire_time", json!(self.expires.map(rfc3339))),
            ("explicit_max_ttl", json!(0)),
            ("id", json!(self.id)),
            ("meta", self.meta.clone()),
            ("num_uses", json!(self.uses)),
            ("orphan", json!(self.orphan)),
            ("path", json!(self.path)),
            ("policies", json!(self.policies)),
            ("ttl", json!(self.expires.map_or(0, left))),
            ("type", json!("service")),
        ] {
            shown.insert(name.to_owned(), value);
        }
        if !self.is_root() {
            shown.insert("issue_time".to_owned(), json!(rfc3339(self.issued)));
            shown.insert("renewable".to_owned(), json!(true));
        }
        if let Some(renewed) = self.renewed {
            shown.insert("last_renewal".to_owned(), json!(rfc3339(renewed)));
            shown.insert("last_renewal_time".to_owned(), json!(seconds(renewed)));
        }
        shown.into()
    }
}

/// How long a token lives that was issued at a time: as long as is asked for, but not beyond its end.
fn term(now: SystemTime, issued: SystemTime, asked: u64, ttl: u64, max_ttl: u64) -> Result<Term, String> {
    let longest = match max_ttl {
        0 => LEASE,
        max => max.min(LEASE),
    };
    let wanted = match (asked, ttl) {
        (0, 0) => LEASE,
        (0, ttl) => ttl,
        (asked, _) => asked,
    };
    let end = whole(issued) + Duration::from_secs(longest);
    let left = end.duration_since(whole(now)).unwrap_or_default().as_secs();
    if left == 0 {
        return Err("past the max TTL, cannot renew".to_owned());
    }
    let warning = (wanted > left).then(|| {
        format!(
            "TTL of {:?} exceeded the effective max_ttl of {:?}; TTL value is capped accordingly",
            short_duration(wanted),
            short_duration(left)
        )
    });
    Ok(Term {
        ttl: wanted.min(left),
        warning,
    })
}
