//! What the policies of a token allow together, path by path.
//! <https://developer.hashicorp.com/vault/docs/concepts/policies#policy-syntax> tells the order of precedence.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::policy::{Capabilities, Capability, Policy};
use super::request::Verb;

/// All rules of some policies.
#[derive(Default)]
pub(super) struct Acl {
    /// Everything is allowed.
    root: bool,
    exact: BTreeMap<String, Capabilities>,
    /// Rules that end with `*`, without it.
    prefixes: BTreeMap<String, Capabilities>,
    /// Rules with `+` for a segment.
    patterns: BTreeMap<String, Capabilities>,
}

impl Acl {
    pub(super) fn root() -> Self {
        Self {
            root: true,
            ..Self::default()
        }
    }

    pub(super) fn of<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut acl = Self::default();
        for (path, capabilities) in policies.flat_map(|policy| &policy.rules) {
            let path = path.as_str();
            let is_pattern = path.split('/').any(|segment| segment.starts_with('+'));
            let (rules, path) = match path.strip_suffix('*') {
                _ if is_pattern => (&mut acl.patterns, path),
                Some(prefix) => (&mut acl.prefixes, prefix),
                None => (&mut acl.exact, path),
            };
            let rule = rules.entry(path.to_owned()).or_default();
            *rule = rule.with(*capabilities);
        }
        acl
    }

    /// Whether this may be done at the path. `sudo`: it is for administrators.
    pub(super) fn allows(&self, verb: Verb, path: &str, sudo: bool) -> bool {
        let allowed = || {
            let capabilities = self.at(path, verb == Verb::List);
            capabilities.allow(verb) && (!sudo || capabilities.has(Capability::Sudo))
        };
        self.root || allowed()
    }

    /// What is allowed at the path, in words.
    pub(super) fn names(&self, path: &str) -> Vec<&'static str> {
        if self.root {
            vec!["root"]
        } else {
            self.at(path, true).names()
        }
    }

    /// The rule that counts for the path. To a list, `a/` is as good as `a`.
    fn at(&self, path: &str, list: bool) -> Capabilities {
        let bare = path.strip_suffix('/').unwrap_or(path);
        let exact = self.exact.get(path);
        let exact = exact.or_else(|| self.exact.get(bare).filter(|_| list));
        let without_slash = || self.best(bare).filter(|_| list && bare != path);
        exact
            .copied()
            .or_else(without_slash)
            .or_else(|| self.best(path))
            .unwrap_or_default()
    }

    /// The most specific of the rules with `*` or `+` that fit the path.
    fn best(&self, path: &str) -> Option<Capabilities> {
        let prefix = self.prefix_of(path);
        let Some(pattern) = self
            .patterns
            .iter()
            .filter(|(rule, _)| fits(rule, path))
            .max_by_key(|(rule, _)| rank(rule))
        else {
            return prefix.map(|(_, capabilities)| capabilities);
        };
        let (rule, capabilities) = pattern;
        match prefix {
            Some((prefix, of_prefix)) if prefix_rank(prefix) > rank(rule) => Some(of_prefix),
            _ => Some(*capabilities),
        }
    }

    fn prefix_of(&self, path: &str) -> Option<(&str, Capabilities)> {
        let fitting = self
            .prefixes
            .iter()
            .filter(|(prefix, _)| path.starts_with(prefix.as_str()));
        fitting
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(prefix, capabilities)| (prefix.as_str(), *capabilities))
    }

    /// Whether anything is allowed below a mount, so that its name is no secret. `path` ends with a slash.
    pub(super) fn knows_mount(&self, path: &str) -> bool {
        let allows = |capabilities: &Capabilities| capabilities.names() != ["deny"];
        let below = |rules: &BTreeMap<String, Capabilities>| {
            let mut rules = rules
                .range(path.to_owned()..)
                .take_while(|(rule, _)| rule.starts_with(path));
            rules.any(|(_, capabilities)| allows(capabilities))
        };
        self.root
            || allows(&self.at(path, true))
            || below(&self.exact)
            || below(&self.prefixes)
            || (self.patterns.is_empty() && self.prefix_of(path).is_some())
            || self
                .patterns
                .iter()
                .any(|(rule, capabilities)| reaches(rule, path) && allows(capabilities))
    }
}

/// Orders rules by how specific they are: where the first wildcard is, whether it ends with `*`, how many `+` it
/// has, its length, its text.
type Rank<'a> = (usize, Reverse<bool>, Reverse<usize>, usize, &'a str);

fn rank(rule: &str) -> Rank<'_> {
    let first = rule.find('+').unwrap_or(rule.len());
    let is_prefix = rule.ends_with('*');
    let text = rule.strip_suffix('*').unwrap_or(rule);
    let wildcards = text.split('/').filter(|segment| *segment == "+").count();
    (first, Reverse(is_prefix), Reverse(wildcards), text.len(), text)
}

fn prefix_rank(prefix: &str) -> Rank<'_> {
    (prefix.len(), Reverse(true), Reverse(0), prefix.len(), prefix)
}

/// Whether a rule with `+` fits a path.
fn fits(rule: &str, path: &str) -> bool {
    let (rule, is_prefix) = match rule.strip_suffix('*') {
        Some(rule) => (rule, true),
        None => (rule, false),
    };
    let mut segments = path.split('/');
    let mut parts = rule.split('/').peekable();
    while let Some(part) = parts.next() {
        let Some(segment) = segments.next() else {
            return false;
        };
        let last = parts.peek().is_none();
        let same = part == "+" || part == segment || (is_prefix && last && segment.starts_with(part));
        if !same {
            return false;
        }
    }
    is_prefix || segments.next().is_none()
}

/// Whether a rule with `+` is about paths in a mount.
fn reaches(rule: &str, mount: &str) -> bool {
    let (rule, is_prefix) = match rule.strip_suffix('*') {
        Some(rule) => (rule, true),
        None => (rule, false),
    };
    let parts: Vec<&str> = rule.split('/').collect();
    let segments: Vec<&str> = mount.trim_end_matches('/').split('/').collect();
    parts.len() >= segments.len()
        && segments
            .iter()
            .zip(&parts)
            .enumerate()
            .all(|(at, (segment, part))| {
                let last = at + 1 == parts.len();
                *part == "+" || part == segment || (is_prefix && last && segment.starts_with(part))
            })
}

#[cfg(test)]
mod tests {
    use super::super::policy::Capability::{Deny, List, Read, Update};
    use super::*;

    fn acl(rules: &[(&str, &[Capability])]) -> Acl {
        Acl::of([Policy::of(rules)].iter())
    }

    #[test]
    fn the_most_specific_rule_counts() {
        let acl = acl(&[
            ("a/*", &[Read]),
            ("a/b", &[Update]),
            ("a/c/*", &[Deny]),
            ("a/+/d", &[List]),
            ("a/e/+/*", &[List]),
            ("+/x", &[Update]),
        ]);
        for (path, names) in [
            ("a/z", "read"),
            ("a/b", "update"),
            ("a/b/c", "read"),
            ("a/c/z", "deny"),
            ("a/q/d", "list"),
            ("a/c/d", "deny"),
            ("a/e/f/g", "list"),
            ("b/x", "update"),
            ("a/x", "read"),
            ("b/y", "deny"),
        ] {
            assert_eq!(acl.names(path).join(","), names, "{path}");
        }
    }

    #[test]
    fn policies_add_up_and_a_denial_wins() {
        let policies = [
            Policy::of(&[("a", &[Read]), ("b", &[Read])]),
            Policy::of(&[("a", &[Update]), ("b", &[Deny])]),
        ];
        let acl = Acl::of(policies.iter());
        assert_eq!(acl.names("a"), ["read", "update"]);
        assert_eq!(acl.names("b"), ["deny"]);
    }

    #[test]
    fn a_mount_is_known_to_who_may_use_something_in_it() {
        let acl = acl(&[
            ("kv/data/app", &[Read]),
            ("+/+/team/*", &[Read]),
            ("no/*", &[Deny]),
        ]);
        for (mount, known) in [("kv/", true), ("other/", true), ("a/b/", true), ("a/b/c/", false)] {
            assert_eq!(acl.knows_mount(mount), known, "{mount}");
        }
    }

    #[test]
    fn a_list_needs_no_slash_in_the_rule() {
        let acl = acl(&[("kv/metadata/app", &[List])]);
        assert!(acl.allows(Verb::List, "kv/metadata/app/", false));
        assert!(!acl.allows(Verb::Read, "kv/metadata/app/", false));
    }
}
