//! What a source's annotations ask for, as far as that can be read without Vault.

mod list;
mod tree;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::duration;
use super::problem::{Problem, Warning, excerpt};
use super::settings::DeletionPolicy;

pub(super) use list::is_object_name;
pub use list::{Entry, KeyPick};

/// What stands in front of every annotation of ours.
pub const PREFIX: &str = "vault-sync.io/";
/// The finalizer, which is the predecessor's too.
pub const FINALIZER: &str = "vault-sync.io/finalizer";
/// Turns sync on.
pub const PATH: &str = "path";
/// The predecessor's notes, which we take away.
pub const SECRET_VERSIONS: &str = "secret-versions";

const SECRETS: &str = "secrets";
const PRESERVE: &str = "preserve-on-delete";
const DELETION_POLICY: &str = "deletion-policy";
const RECONCILE: &str = "reconcile";
const ROTATION_CHECK: &str = "rotation-check";
const ENCODING: &str = "encoding";
const ADOPT: &str = "adopt";
const PAUSED: &str = "paused";
const FORCE_SYNC: &str = "force-sync";

/// All that are read, in the order of the alphabet. Others are dropped as they arrive.
const KNOWN: [&str; 11] = [
    ADOPT,
    DELETION_POLICY,
    ENCODING,
    FORCE_SYNC,
    PATH,
    PAUSED,
    PRESERVE,
    RECONCILE,
    ROTATION_CHECK,
    SECRET_VERSIONS,
    SECRETS,
];

/// Whether anybody reads an annotation (its name without the `vault-sync.io/` in front).
pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// A full re-check more often than this would be a poll.
const SHORTEST_RECHECK: Duration = Duration::from_secs(30);

/// How values become text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Encoding {
    /// UTF-8 as it is, anything else as standard base64.
    #[default]
    Auto,
    /// Everything as standard base64.
    Base64,
    /// UTF-8 as it is; anything else is a problem.
    Text,
}

impl Encoding {
    const ALLOWED: &str = "auto, base64 or text";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "base64" => Some(Self::Base64),
            "text" => Some(Self::Text),
            _ => None,
        }
    }
}

/// What the annotations ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The path as it is written; `None`: this is no source.
    pub path: Option<String>,
    /// The list; `None`: discover (a workload), or the Secret itself.
    pub entries: Option<Vec<Entry>>,
    /// How values become text.
    pub encoding: Encoding,
    /// What happens to documents that the source no longer asks for; `None`: as the flag says.
    pub deletion: Option<DeletionPolicy>,
    /// Whether an existing document may be taken over, as far as `--adopt` allows.
    pub adopt: bool,
    /// Nothing is written or deleted.
    pub paused: bool,
    /// Upper bound between two full re-checks.
    pub recheck: Option<Duration>,
    /// A new value asks for a re-check now. Only whether it is new matters: this is a fingerprint of it.
    pub force: Option<u64>,
    /// Whether remembered versions may be trusted.
    pub trust: bool,
    /// What keeps the source from being synced.
    pub problems: Vec<Problem>,
    /// What does not.
    pub warnings: Vec<Warning>,
}

/// Reads the annotations (their names without the `vault-sync.io/` in front).
pub fn parse(annotations: &BTreeMap<String, String>) -> Ask {
    let get = |name: &str| annotations.get(name).map(String::as_str);
    let mut problems = Vec::new();
    let mut warnings = Vec::new();

    let entries = get(SECRETS).and_then(|text| match list::parse(text, &mut warnings) {
        Ok(entries) => Some(entries),
        Err(problem) => {
            problems.push(problem);
            None
        }
    });
    let encoding = match get(ENCODING).map(|text| Encoding::parse(text).ok_or(text)) {
        None => Encoding::default(),
        Some(Ok(encoding)) => encoding,
        Some(Err(text)) => {
            problems.push(Problem::Value {
                annotation: ENCODING,
                value: excerpt(text),
                allowed: Encoding::ALLOWED,
            });
            Encoding::default()
        }
    };
    let paused = match get(PAUSED) {
        None | Some("false") => false,
        Some("true") => true,
        Some(text) => {
            problems.push(Problem::Value {
                annotation: PAUSED,
                value: excerpt(text),
                allowed: "true or false",
            });
            true
        }
    };
    let adopt = match get(ADOPT) {
        None | Some("false") => false,
        Some("true") => true,
        Some(text) => {
            warnings.push(warn(ADOPT, text, "true or false", "Nothing is adopted."));
            false
        }
    };
    Ask {
        path: get(PATH).map(str::to_owned),
        entries,
        encoding,
        deletion: deletion(get(PRESERVE), get(DELETION_POLICY), &mut warnings),
        adopt,
        paused,
        recheck: recheck(get(RECONCILE), &mut warnings),
        force: get(FORCE_SYNC).map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        }),
        trust: get(ROTATION_CHECK) != Some("disabled"),
        problems,
        warnings,
    }
}

fn warn(annotation: &'static str, value: &str, allowed: &'static str, meaning: &'static str) -> Warning {
    Warning::Value {
        annotation,
        value: excerpt(value),
        allowed,
        meaning,
    }
}

/// `preserve-on-delete` is the stronger word. What cannot be read is taken for `retain`: a document
/// too many can be deleted later, one too few cannot be brought back.
fn deletion(
    preserve: Option<&str>,
    policy: Option<&str>,
    warnings: &mut Vec<Warning>,
) -> Option<DeletionPolicy> {
    const RETAINED: &str = "Until it is corrected, documents are retained.";
    let stated = policy.map(|text| {
        text.parse().unwrap_or_else(|_| {
            warnings.push(warn(DELETION_POLICY, text, "soft, purge or retain", RETAINED));
            DeletionPolicy::Retain
        })
    });
    match preserve {
        None | Some("false") => stated,
        Some("true") => Some(DeletionPolicy::Retain),
        Some(text) => {
            warnings.push(warn(PRESERVE, text, "true or false", RETAINED));
            Some(DeletionPolicy::Retain)
        }
    }
}

fn recheck(text: Option<&str>, warnings: &mut Vec<Warning>) -> Option<Duration> {
    match text {
        None | Some("" | "off") => None,
        Some(text) => match duration::parse(text) {
            Ok(period) if period.is_zero() => None,
            Ok(period) => Some(period.max(SHORTEST_RECHECK)),
            Err(_) => {
                warnings.push(warn(
                    RECONCILE,
                    text,
                    "off, or a duration such as 90s or 1h30m",
                    "It counts as off.",
                ));
                None
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(pairs: &[(&str, &str)]) -> Ask {
        parse(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn unknown_fields_are_told_and_ignored() {
        let asked = ask(&[
            ("path", "secret/a"),
            ("secrets", r#"[{"name":"db","perfix":"X"}]"#),
        ]);
        assert_eq!(asked.problems, []);
        assert_eq!(
            asked.warnings,
            [Warning::UnknownField {
                entry: 1,
                name: "db".into(),
                field: "perfix".into()
            }]
        );
    }

    #[test]
    fn periods() {
        for (text, period) in [
            ("off", None),
            ("", None),
            ("0", None),
            ("90s", Some(90)),
            ("1.5h", Some(5400)),
            ("1h30m", Some(5400)),
            ("1s", Some(30)),
        ] {
            assert_eq!(
                ask(&[("reconcile", text)]).recheck,
                period.map(Duration::from_secs),
                "{text}"
            );
        }
        let bad = ask(&[("reconcile", "often")]);
        assert_eq!(bad.recheck, None);
        assert_eq!(
            bad.warnings[0].to_string(),
            "vault-sync.io/reconcile: \"often\" is not allowed; use off, or a duration such as 90s or 1h30m. It counts as off."
        );
    }

    #[test]
    fn what_cannot_be_read_about_deletion_retains() {
        for (annotations, wanted) in [
            (vec![], None),
            (vec![("preserve-on-delete", "true")], Some(DeletionPolicy::Retain)),
            (vec![("preserve-on-delete", "false")], None),
            (vec![("preserve-on-delete", "yes")], Some(DeletionPolicy::Retain)),
            (vec![("deletion-policy", "purge")], Some(DeletionPolicy::Purge)),
            (vec![("deletion-policy", "PURGE")], Some(DeletionPolicy::Retain)),
            (
                vec![("deletion-policy", "purge"), ("preserve-on-delete", "true")],
                Some(DeletionPolicy::Retain),
            ),
            (
                vec![("deletion-policy", "soft"), ("preserve-on-delete", "false")],
                Some(DeletionPolicy::Soft),
            ),
        ] {
            assert_eq!(ask(&annotations).deletion, wanted, "{annotations:?}");
        }
    }

    #[test]
    fn an_unclear_pause_pauses() {
        assert!(!ask(&[]).paused);
        assert!(ask(&[("paused", "true")]).paused);
        let unclear = ask(&[("paused", "yes")]);
        assert!(unclear.paused);
        assert_eq!(unclear.problems.len(), 1);
    }
}
