//! Policies: which paths a token may use, and how.
//! <https://developer.hashicorp.com/vault/docs/concepts/policies>

mod hcl;

use super::request::Verb;

/// What a policy allows at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capability {
    /// Write what is not there.
    Create,
    /// Read.
    Read,
    /// Write what is there.
    Update,
    /// Change a part.
    Patch,
    /// Delete.
    Delete,
    /// List names.
    List,
    /// Use paths that are for administrators.
    Sudo,
    /// Nothing at all, whatever other policies say.
    Deny,
}

impl Capability {
    /// In the order in which Vault tells them.
    const ALL: [(Self, &'static str); 8] = [
        (Self::Create, "create"),
        (Self::Delete, "delete"),
        (Self::Deny, "deny"),
        (Self::List, "list"),
        (Self::Patch, "patch"),
        (Self::Read, "read"),
        (Self::Sudo, "sudo"),
        (Self::Update, "update"),
    ];

    fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, word)| *word == name)?;
        Some(found.0)
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Capabilities(u8);

impl Capabilities {
    pub(super) fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    pub(super) fn is_denied(self) -> bool {
        self.has(Capability::Deny)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn allow(self, verb: Verb) -> bool {
        match verb {
            Verb::Read => self.has(Capability::Read),
            Verb::List => self.has(Capability::List),
            Verb::Create => self.has(Capability::Create),
            Verb::Update => self.has(Capability::Update),
            Verb::Patch => self.has(Capability::Patch),
            Verb::Delete => self.has(Capability::Delete),
            Verb::Other => false,
        }
    }

    /// Their names, in the order in which Vault tells them; `deny` where there is none.
    pub(super) fn names(self) -> Vec<&'static str> {
        if self.is_denied() || self.is_empty() {
            return vec!["deny"];
        }
        let all = Capability::ALL.iter();
        all.filter(|(capability, _)| self.has(*capability))
            .map(|(_, name)| *name)
            .collect()
    }

    /// What two policies allow together. A denial stays alone.
    pub(super) fn with(self, other: Self) -> Self {
        let both = Self(self.0 | other.0);
        if both.is_denied() {
            Self::from_iter([Capability::Deny])
        } else {
            both
        }
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let set = Self(capabilities.into_iter().fold(0, |set, one| set | 1 << one as u8));
        if set.is_denied() {
            Self(1 << Capability::Deny as u8)
        } else {
            set
        }
    }
}

/// A policy.
#[derive(Clone)]
pub(super) struct Policy {
    /// As it was written.
    pub(super) text: String,
    pub(super) rules: Vec<(String, Capabilities)>,
}

impl Policy {
    /// Of paths and what is allowed there.
    pub(super) fn of(rules: &[(&str, &[Capability])]) -> Self {
        let rules = rules
            .iter()
            .map(|(path, capabilities)| ((*path).to_owned(), capabilities.iter().copied().collect()))
            .collect();
        Self {
            text: String::new(),
            rules,
        }
    }

    /// Of the text that people write.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let rules = hcl::rules(text)?;
        Ok(Self {
            text: text.to_owned(),
            rules,
        })
    }

    /// What each token may do, unless its role says that it shall not.
    pub(super) fn default_policy() -> Self {
        use Capability::{Create, Delete, List, Read, Update};
        const OWN: &[Capability] = &[Create, Read, Update, Delete, List];
        Self::of(&[
            ("auth/token/lookup-self", &[Read]),
            ("auth/token/renew-self", &[Update]),
            ("auth/token/revoke-self", &[Update]),
            ("sys/capabilities-self", &[Update]),
            ("sys/internal/ui/resultant-acl", &[Read]),
            ("sys/renew", &[Update]),
            ("sys/leases/renew", &[Update]),
            ("sys/leases/lookup", &[Update]),
            ("cubbyhole/*", OWN),
            ("sys/wrapping/wrap", &[Update]),
            ("sys/wrapping/lookup", &[Update]),
            ("sys/wrapping/unwrap", &[Update]),
            ("sys/tools/hash", &[Update]),
            ("sys/tools/hash/*", &[Update]),
            ("sys/control-group/request", &[Update]),
            ("identity/oidc/provider/+/authorize", &[Read, Update]),
        ])
    }
}
