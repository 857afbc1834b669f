//! What tests do to Vault without a request, and what they read of it.

use std::time::SystemTime;

use super::document::Document;
use super::journal::{Change, Deed};
use super::login::Role;
use super::mount::{About, Engine, Mount};
use super::policy::{Capability, Policy};
use super::seal::Node;
use super::token::{Token, Wanted};
use super::{Archived, Vault};

/// Who does what is done here.
const ADMINISTRATOR: &str = "administrator";

/// What tests read.
impl Vault {
    /// All that has changed, in order.
    pub fn journal(&self) -> &[Change] {
        &self.journal
    }

    /// The mounted secrets engines, in the order of their paths.
    pub fn mounts(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.values()
    }

    /// A mount by its path, without slashes at the ends.
    pub fn mount(&self, path: &str) -> Option<&Mount> {
        self.mounts.get(path)
    }

    /// A document, with all its versions.
    pub fn document(&self, mount: &str, path: &str) -> Option<&Document> {
        self.mounts.get(mount)?.documents.get(path)
    }

    /// All documents of a mount, in the order of their paths.
    pub fn documents(&self, mount: &str) -> impl Iterator<Item = (&str, &Document)> {
        self.mounts.get(mount).into_iter().flat_map(Mount::documents)
    }

    /// The documents that Vault does not know any more, in the order in which they went.
    pub fn archive(&self) -> &[Archived] {
        &self.archive
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// The key that opens the seal.
    pub fn unseal_key(&self) -> &str {
        &self.seal.key
    }

    /// Whether Vault is sealed.
    pub fn is_sealed(&self) -> bool {
        self.seal.sealed
    }

    /// The tokens that are good at this time, but for the root token.
    pub fn tokens(&self, now: SystemTime) -> impl Iterator<Item = &Token> {
        self.tokens.alive(now).filter(|token| !token.is_root())
    }
}

/// What tests do.
impl Vault {
    /// Mounts a secrets engine, in place of one that is there.
    pub fn enable(&mut self, now: SystemTime, path: &str, engine: Engine) {
        self.disable(now, path);
        let mut about = About::default();
        let version = match engine {
            Engine::Kv1 => Some("1"),
            Engine::Kv2 => Some("2"),
            Engine::Other(_) => None,
        };
        about
            .options
            .extend(version.map(|version| ("version".to_owned(), version.to_owned())));
        self.put_mount(now, ADMINISTRATOR, path, engine, about);
    }

    /// Takes a secrets engine away, with all that is in it.
    pub fn disable(&mut self, now: SystemTime, path: &str) {
        self.take_mount(now, ADMINISTRATOR, path);
    }

    /// Lets a mount say that it is on its way from version 1 to version 2, or no more.
    pub fn set_upgrading(&mut self, path: &str, upgrading: bool) {
        if let Some(mount) = self.mounts.get_mut(path) {
            mount.upgrading = upgrading;
        }
    }

    /// Writes a policy.
    pub fn set_policy(&mut self, now: SystemTime, name: &str, rules: &[(&str, &[Capability])]) {
        self.put_policy(now, ADMINISTRATOR, name, Policy::of(rules));
    }

    /// Deletes a policy.
    pub fn delete_policy(&mut self, now: SystemTime, name: &str) {
        self.take_policy(now, ADMINISTRATOR, name);
    }

    /// Writes a role of the Kubernetes auth method at this path, which is there from then on.
    pub fn set_role(&mut self, now: SystemTime, auth: &str, name: &str, role: Role) {
        self.logins.set(auth, name, role);
        self.record(now, ADMINISTRATOR, Deed::Role, name);
    }

    /// Deletes a role.
    pub fn delete_role(&mut self, now: SystemTime, auth: &str, name: &str) {
        if self.logins.remove(auth, name).is_some() {
            self.record(now, ADMINISTRATOR, Deed::Role, name);
        }
    }

    /// Makes a token with these policies and `default`, for 32 days.
    pub fn make_token(&mut self, now: SystemTime, name: &str, policies: &[&str]) -> String {
        let wanted = Wanted {
            policies: policies.iter().map(|policy| (*policy).to_owned()).collect(),
            display_name: name.to_owned(),
            path: "auth/token/create".to_owned(),
            ..Wanted::default()
        };
        let (token, _) = self.tokens.make(wanted, now, &mut self.random);
        self.record(now, ADMINISTRATOR, Deed::Login, &token.accessor);
        token.id.clone()
    }

    /// Revokes all tokens that were got by a role.
    pub fn revoke_tokens(&mut self, now: SystemTime, role: &str) {
        let of_role = self.tokens.alive(now).filter(|token| token.role == role);
        let ids: Vec<String> = of_role.map(|token| token.id.clone()).collect();
        for id in ids {
            self.revoke(now, ADMINISTRATOR, &id);
        }
    }

    /// Seals Vault.
    pub fn seal(&mut self, now: SystemTime) {
        self.set_sealed(now, ADMINISTRATOR, true);
    }

    /// Unseals Vault.
    pub fn unseal(&mut self, now: SystemTime) {
        self.set_sealed(now, ADMINISTRATOR, false);
    }

    /// What this node is in its cluster from now on.
    pub fn set_node(&mut self, node: Node) {
        self.seal.node = node;
    }
}
