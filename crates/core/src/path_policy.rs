//! `--path-policy`: which namespace may write where.
//!
//! The first rule that matches a namespace decides for it. A namespace that no rule matches may write
//! nothing. Paths are matched in one form only, the logical form without the cluster's prefix
//! (`secret/shop/app`), so that another spelling cannot bypass a rule.

use serde::Deserialize;

use super::problem::PathFault;

/// The rules of the file, in their order. Without a file, everything is allowed.
#[derive(Clone, Debug, Default)]
pub struct Policy(Option<Vec<Rule>>);

/// One rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Globs for namespaces.
    namespaces: Vec<String>,
    /// Globs for paths.
    paths: Vec<String>,
    /// Whether existing documents may be adopted, as far as `--adopt` allows.
    #[serde(default = "yes")]
    adopt: bool,
}

fn yes() -> bool {
    true
}

/// A rule that makes no sense as it is written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rule {number}: {fault}")]
pub struct BadRule {
    /// Which rule, counted from 1.
    number: usize,
    fault: RuleFault,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum RuleFault {
    #[error("namespaces is empty; name at least one glob, such as \"*\"")]
    NoNamespaces,
    #[error("a glob is empty")]
    EmptyGlob,
    #[error("{0:?} can match no path: write it as secret/team-a/*")]
    NoPath(String),
}

impl Rule {
    fn check(&self) -> Result<(), RuleFault> {
        if self.namespaces.is_empty() {
            return Err(RuleFault::NoNamespaces);
        }
        if self.namespaces.iter().chain(&self.paths).any(String::is_empty) {
            return Err(RuleFault::EmptyGlob);
        }
        let matches_nothing = |glob: &str| {
            glob.starts_with('/') || glob.split('/').any(|segment| matches!(segment, "." | ".."))
        };
        match self.paths.iter().find(|glob| matches_nothing(glob)) {
            Some(glob) => Err(RuleFault::NoPath(glob.clone())),
            None => Ok(()),
        }
    }
}

impl Policy {
    /// Checks the rules. The error names the first bad one by its number.
    pub fn new(rules: Vec<Rule>) -> Result<Self, BadRule> {
        for (number, rule) in (1..).zip(&rules) {
            rule.check().map_err(|fault| BadRule { number, fault })?;
        }
        Ok(Self(Some(rules)))
    }

    /// Whether `namespace` may write the document at `own` in `mount`, and whether it may adopt there.
    pub fn permit(&self, namespace: &str, mount: &str, own: &str) -> Result<bool, PathFault> {
        let Some(rules) = &self.0 else { return Ok(true) };
        let path = format!("{mount}/{own}");
        rules
            .iter()
            .find(|rule| rule.namespaces.iter().any(|glob| matches(glob, namespace)))
            .filter(|rule| rule.paths.iter().any(|glob| matches(glob, &path)))
            .map(|rule| rule.adopt)
            .ok_or_else(|| PathFault::Policy {
                namespace: namespace.to_owned(),
                path,
            })
    }
}

/// Globs: `*` matches anything inside one segment, `?` one character of a segment, and `**` anything. A `*`
/// at the end of the glob matches everything that follows, as in Vault's own policies.
fn matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // reached[j]: the glob so far matches the first j characters.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut i = 0;
    while i < glob.len() {
        let star = glob[i] == '*';
        let deep = star && (glob.get(i + 1) == Some(&'*') || i + 1 == glob.len());
        let mut next = vec![false; text.len() + 1];
        if star {
            let mut open = false;
            for j in 0..=text.len() {
                open = reached[j] || (open && (deep || text[j - 1] != '/'));
                next[j] = open;
            }
        } else {
            for j in 0..text.len() {
                let hit = glob[i] == text[j] || (glob[i] == '?' && text[j] != '/');
                next[j + 1] = reached[j] && hit;
            }
        }
        reached = next;
        i += if star && glob.get(i + 1) == Some(&'*') {
            2
        } else {
            1
        };
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(namespaces: &[&str], paths: &[&str], adopt: bool) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            namespaces: owned(namespaces),
            paths: owned(paths),
            adopt,
        }
    }

    #[test]
    fn globs() {
        for (glob, text, wanted) in [
            ("secret/a", "secret/a", true),
            ("secret/a", "secret/ab", false),
            ("secret/a/*", "secret/a/b", true),
            ("secret/a/*", "secret/a/b/c", true),
            ("secret/a/*", "secret/a", false),
            ("secret/*/x", "secret/a/x", true),
            ("secret/*/x", "secret/a/b/x", false),
            ("secret/**/x", "secret/a/b/x", true),
            ("secret/a?", "secret/ab", true),
            ("secret?a", "secret/a", false),
            ("*", "shop", true),
            ("team-*", "team-a", true),
            ("team-*", "steam-a", false),
            ("", "", true),
        ] {
            assert_eq!(matches(glob, text), wanted, "{glob} on {text}");
        }
    }

    #[test]
    fn the_first_rule_of_a_namespace_decides() {
        let policy = Policy::new(vec![
            rule(&["shop"], &["secret/shop/*"], false),
            rule(&["shop", "team-*"], &["secret/*"], true),
        ])
        .unwrap();
        assert_eq!(policy.permit("shop", "secret", "shop/app"), Ok(false));
        assert!(policy.permit("shop", "secret", "other/app").is_err());
        assert_eq!(policy.permit("team-a", "secret", "other/app"), Ok(true));
        assert_eq!(
            policy.permit("dev", "secret", "dev/app").unwrap_err().to_string(),
            "the path policy does not let namespace \"dev\" write \"secret/dev/app\""
        );
        assert_eq!(Policy::default().permit("dev", "secret", "x"), Ok(true));
    }

    #[test]
    fn a_second_data_segment_is_another_path() {
        let policy = Policy::new(vec![rule(&["*"], &["secret/shop/*"], true)]).unwrap();
        assert!(policy.permit("shop", "secret", "data/shop/x").is_err());
    }

    #[test]
    fn faults_name_the_rule() {
        let fault = |rules| Policy::new(rules).unwrap_err().to_string();
        assert_eq!(
            fault(vec![rule(&["a"], &["secret/*"], true), rule(&[], &["x"], true)]),
            "rule 2: namespaces is empty; name at least one glob, such as \"*\""
        );
        assert_eq!(
            fault(vec![rule(&["a"], &["secret/../x"], true)]),
            "rule 1: \"secret/../x\" can match no path: write it as secret/team-a/*"
        );
    }
}
