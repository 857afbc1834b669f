//! Invariants for any input, defined once for the property tests and for the fuzzer. Each function panics if
//! its invariant does not hold.
#![allow(clippy::missing_panics_doc, reason = "panicking is how these tell")]

use std::collections::BTreeMap;

use super::annotations;
use super::desired::{Hint, check_bounds};
use super::document::{KvVersion, Mount};
use super::duration;
use super::ledger::LedgerEntry;
use super::path;
use super::path_policy::{Policy, Rule};
use super::problem::Problem;
use super::settings::{Adopt, DeletionPolicy, NamespaceIsolation, PrefixStyle, Settings};
use super::source::{Kind, Reference, Source, SourceKey};

/// The longest message for people, in bytes. It is far shorter than the input that a message may quote.
const READABLE: usize = 2000;

/// A message for people: it is not empty, it is bounded, and it has no control characters.
pub fn readable(words: &str) {
    assert!(!words.trim().is_empty(), "nothing is said");
    assert!(words.len() <= READABLE, "{} bytes are said", words.len());
    assert!(!words.chars().any(char::is_control), "{words:?}");
}

fn told(problem: &Problem) {
    readable(&problem.to_string());
    readable(&problem.hint());
}

/// Any annotations (their names without `vault-sync.io/`), and a pod template with this many references to
/// Secrets: what is read is within bounds, and what is refused has a message.
pub fn annotations(annotations: BTreeMap<String, String>, references: usize) {
    let asked = annotations::parse(&annotations);
    asked.problems.iter().for_each(told);
    for warning in &asked.warnings {
        readable(&warning.to_string());
    }
    assert!(asked.warnings.len() <= 20, "{} warnings", asked.warnings.len());
    if let Some(Err(fault)) = asked.path.as_deref().map(path::check) {
        told(&fault.into());
    }
    let reference = |n| Reference {
        secret: format!("s{n}"),
        optional: false,
    };
    let source = Source {
        key: SourceKey {
            kind: Kind::Deployment,
            namespace: "shop".into(),
            name: "web".into(),
        },
        uid: "u".into(),
        created: 0,
        deleting: None,
        finalizer: false,
        annotations,
        references: (0..references).map(reference).collect(),
    };
    if let Err(problem) = check_bounds(&source, &asked) {
        told(&problem);
    }
    // What is kept as long as the source exists.
    let hint = Hint::of(&source, &asked);
    assert_eq!(hint.is_some(), asked.path.is_some());
    if let Some(hint) = hint {
        assert!(hint.path.len() <= 512);
        assert!(hint.secrets.len() <= 500);
        assert!(hint.secrets.iter().all(|named| named.secret.len() <= 253));
    }
}

/// Any line of the ledger: an accepted entry is read again as it was written, and names a document that an
/// annotation could name.
pub fn ledger_line(line: &str) {
    match LedgerEntry::from_line(line) {
        Ok((id, entry)) => {
            assert_eq!(
                LedgerEntry::from_line(&entry.to_line(&id)),
                Ok((id.clone(), entry)),
                "{line}"
            );
            for part in [&id.mount, &id.path] {
                assert!(!part.is_empty() && !part.starts_with('/') && !part.ends_with('/'));
                assert!(part.split('/').all(|segment| !matches!(segment, "" | "." | "..")));
                assert!(!part.contains(['%', '\\', '\0', '\n']));
            }
        }
        Err(fault) => assert!(!fault.to_string().trim().is_empty()),
    }
}

/// Any path policy file, and any path: the answer comes in bounded time, and is the same twice.
pub fn policy(file: &str, namespace: &str, mount: &str, own: &str) {
    let rules = match crate::yaml::from_str::<Vec<Rule>>(file) {
        Ok(rules) => rules,
        Err(fault) => return assert!(!fault.to_string().trim().is_empty()),
    };
    match Policy::new(rules) {
        Ok(policy) => {
            let answer = policy.permit(namespace, mount, own);
            assert_eq!(answer, policy.permit(namespace, mount, own));
        }
        Err(fault) => assert!(!fault.to_string().trim().is_empty()),
    }
}

/// Any path in any mount, under any settings: an accepted path has no `..`, and stays within
/// its cluster prefix and namespace.
pub fn path(written: &str, leaf: Option<&str>, mount: &str, choices: u8) {
    let chosen = |bit: u8| choices & (1 << bit) != 0;
    let settings = Settings {
        cluster_name: "c1".into(),
        cluster_prefix: if chosen(0) { "clusters/c1" } else { "" }.into(),
        prefix_style: if chosen(1) {
            PrefixStyle::BeforeMount
        } else {
            PrefixStyle::InsideMount
        },
        isolation: match (chosen(2), chosen(3)) {
            (true, true) => NamespaceIsolation::Enforce,
            (true, false) => NamespaceIsolation::Prefix,
            _ => NamespaceIsolation::Off,
        },
        adopt: Adopt::Equal,
        adopt_cluster_ids: Vec::new(),
        deletion: DeletionPolicy::Soft,
        max_document_size: None,
        finalizers: true,
        mounts: Vec::new(),
    };
    let mount = Mount {
        path: mount.into(),
        version: if chosen(4) { KvVersion::V2 } else { KvVersion::V1 },
    };
    match path::resolve(written, leaf, "shop", &mount, &settings) {
        Ok(place) => {
            let inside = &*place.id.path;
            assert!(
                inside
                    .split('/')
                    .all(|segment| !matches!(segment, "" | "." | "..")),
                "{inside}"
            );
            assert!(!inside.contains(['%', '\\', '\0', '\n']), "{inside}");
            if settings.prefix_style == PrefixStyle::InsideMount && chosen(0) {
                assert!(inside.starts_with("clusters/c1/"), "{inside}");
            }
            if settings.isolation != NamespaceIsolation::Off {
                assert!(place.own.starts_with("shop/"), "{inside}");
            }
        }
        Err(fault) => told(&fault.into()),
    }
}

/// Any duration: an accepted one can be written and read again.
pub fn duration(text: &str) {
    match duration::parse(text) {
        Ok(read) => assert_eq!(duration::parse(&duration::display(read)), Ok(read)),
        Err(fault) => readable(&fault.to_string()),
    }
}

#[cfg(test)]
mod tests;
