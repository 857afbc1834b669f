//! What a source's annotations ask for, as far as they can be read without Vault.

mod list;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::duration;
use super::names::{
    ADOPT, ASKED, DELETION_POLICY, ENCODING, FORCE_SYNC, PAUSED, PRESERVE, RECONCILE, ROTATION_CHECK,
    SECRETS, is_about_deletion,
};
use super::problem::{Problem, Warning};
use super::settings::DeletionPolicy;
use super::text::{excerpt, nearest};
use crate::words;

pub use super::names::{FINALIZER, PATH, PREFIX, SECRET_VERSIONS};
pub use list::{Entry, KeyPick};

/// Prefix for the name of an annotation that is on the pod template instead of the object. No annotation's
/// own name starts with it, because such a name has no slash.
const ON_TEMPLATE: &str = "template/";
/// Prefix for a full name that is nearly one of ours, such as `Vault-Sync.io/path`. The result has two
/// slashes.
const NEARLY_OURS: &str = "nearly/";
/// How many unknown annotations of an object, and of its pod template, are kept at most.
const MOST_UNKNOWN: usize = 8;
/// How many letters of the prefix may be wrong in a name that is nearly one of ours.
const MOST_WRONG: usize = 2;

/// Whether the operator reads an annotation (its name without `vault-sync.io/`).
fn is_known(name: &str) -> bool {
    ASKED.contains(&name) || name == SECRET_VERSIONS
}

/// The annotation of ours that was probably meant, for a full name with nearly our prefix.
fn nearly_ours(full: &str) -> Option<&'static str> {
    let ours = PREFIX.trim_end_matches('/');
    let (prefix, name) = full.split_once('/')?;
    let near = prefix.len().abs_diff(ours.len()) <= MOST_WRONG
        && strsim::damerau_levenshtein(&prefix.to_lowercase(), ours) <= MOST_WRONG;
    nearest(name, &ASKED).filter(|_| near && prefix != ours)
}

/// Selects which annotations of an object (their full names) and of its pod template are kept. An annotation
/// that only causes a Warning is kept without its value.
pub fn keep<'a>(
    own: impl Iterator<Item = (&'a String, &'a String)>,
    template: &OnTemplate,
) -> BTreeMap<String, String> {
    let mut unknown = 0;
    // One more than is reported, so that the last Warning can say that there are more.
    let mut has_room = || {
        unknown += 1;
        unknown <= MOST_UNKNOWN + 1
    };
    let mut kept: BTreeMap<String, String> = own
        .filter_map(|(full, value)| match full.strip_prefix(PREFIX) {
            Some(name) if is_known(name) => Some((name.to_owned(), value.clone())),
            Some(name) => has_room().then(|| (name.to_owned(), String::new())),
            None => (nearly_ours(full).is_some() && has_room())
                .then(|| (format!("{NEARLY_OURS}{full}"), String::new())),
        })
        .collect();
    for name in &template.0 {
        // Charts put the same annotation on both. That is fine.
        if !kept.contains_key(name) {
            kept.insert(format!("{ON_TEMPLATE}{name}"), String::new());
        }
    }
    kept
}

/// Whether someone meant these annotations for us, even if we do not understand them.
pub fn are_meant_for_us(annotations: &BTreeMap<String, String>) -> bool {
    annotations.keys().any(|name| name != SECRET_VERSIONS)
}

/// The names of our annotations on a pod template, where they have no effect. All other data is dropped while
/// parsing.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct OnTemplate(BTreeSet<String>);

impl OnTemplate {
    /// The names from both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

impl<'de> Deserialize<'de> for OnTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = OnTemplate;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OnTemplate, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((full, _)) = map.next_entry::<String, IgnoredAny>()? {
                    let name = match full.strip_prefix(PREFIX) {
                        Some(SECRET_VERSIONS) => continue,
                        Some(name) => name.to_owned(),
                        None if nearly_ours(&full).is_some() => format!("{NEARLY_OURS}{full}"),
                        None => continue,
                    };
                    if is_known(&name) || names.len() < ASKED.len() {
                        names.insert(name);
                    }
                }
                Ok(OnTemplate(names))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// A full re-check more often than this would be polling.
const SHORTEST_RECHECK: Duration = Duration::from_secs(30);
/// A year.
const LONGEST_RECHECK: Duration = Duration::from_hours(8760);

words! {
    /// How values become text.
    #[derive(Default)]
    pub enum Encoding {
        /// UTF-8 as it is, anything else as standard base64.
        #[default]
        Auto = "auto",
        /// Everything as standard base64.
        Base64 = "base64",
        /// UTF-8 as it is; anything else is a problem.
        Text = "text",
    }
}

/// What the annotations ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The path as it is written; `None`: this is not a source.
    pub path: Option<String>,
    /// The list; `None`: discover the Secrets (a workload), or use the Secret itself.
    pub entries: Option<Vec<Entry>>,
    /// How values become text.
    pub encoding: Encoding,
    /// What happens to documents that the source no longer asks for; `None`: `--deletion-policy` decides.
    pub deletion: Option<DeletionPolicy>,
    /// Whether an existing document may be taken over, as far as `--adopt` allows.
    pub adopt: bool,
    /// Whether nothing is written or deleted.
    pub paused: bool,
    /// The longest time between two full re-checks.
    pub recheck: Option<Duration>,
    /// Fingerprint of the `force-sync` value. A new value asks for a re-check now.
    pub force: Option<u64>,
    /// Whether remembered versions may be trusted.
    pub trust: bool,
    /// Problems that keep the source from being synced.
    pub problems: Vec<Problem>,
    /// Mistakes that do not.
    pub warnings: Vec<Warning>,
}

/// Reads the annotations (their names without `vault-sync.io/`).
pub fn parse(annotations: &BTreeMap<String, String>) -> Ask {
    let get = |name: &str| annotations.get(name).map(String::as_str);
    let mut problems = Vec::new();
    let mut warnings = Vec::new();

    let entries = get(SECRETS).and_then(|text| match list::parse(text) {
        Ok(entries) => Some(entries),
        Err(problem) => {
            problems.push(problem);
            None
        }
    });
    let encoding = match get(ENCODING).map(|text| Encoding::named(text).ok_or(text)) {
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
    let deletion = deletion(get(PRESERVE), get(DELETION_POLICY), &mut warnings);
    let trust = trust(get(ROTATION_CHECK), &mut warnings);
    let unclear = misspelt(annotations, &mut warnings);
    without_path(annotations, &mut warnings);
    Ask {
        path: get(PATH).map(str::to_owned),
        entries,
        encoding,
        deletion: if unclear {
            Some(DeletionPolicy::Retain)
        } else {
            deletion
        },
        adopt,
        paused,
        recheck: recheck(get(RECONCILE), &mut warnings),
        force: get(FORCE_SYNC).map(|text| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        }),
        trust,
        problems,
        warnings,
    }
}

/// Warns of unknown annotations. Returns whether one of them may have been meant to retain documents.
fn misspelt(annotations: &BTreeMap<String, String>, warnings: &mut Vec<Warning>) -> bool {
    let mut unclear = false;
    let mut unknown = 0;
    for name in annotations.keys().filter(|name| !is_known(name)) {
        let on_template = name.strip_prefix(ON_TEMPLATE);
        if let Some(name) = on_template.and_then(|name| ASKED.into_iter().find(|asked| *asked == name)) {
            unclear |= is_about_deletion(name);
            warnings.push(Warning::OnTemplate { name });
            continue;
        }
        unclear = true;
        unknown += 1;
        if unknown > MOST_UNKNOWN {
            continue;
        }
        let name = on_template.unwrap_or(name);
        let on_template = on_template.is_some();
        warnings.push(if let Some(full) = name.strip_prefix(NEARLY_OURS) {
            let name = in_one_line(full);
            Warning::NearlyOurs { name, on_template }
        } else {
            let name = in_one_line(name);
            Warning::UnknownKey { name, on_template }
        });
    }
    if unknown > MOST_UNKNOWN {
        warnings.push(Warning::MoreKeys);
    }
    unclear
}

/// A name in a form for messages. The API allows only plain names, but whatever the name is, the message
/// stays one line.
fn in_one_line(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() { c } else { '\u{fffd}' };
    excerpt(&name.chars().map(plain).collect::<String>())
}

/// Warns of annotations that have no effect because there is no path.
fn without_path(annotations: &BTreeMap<String, String>, warnings: &mut Vec<Warning>) {
    let idle = ASKED.into_iter().filter(|name| annotations.contains_key(*name));
    let idle: Vec<_> = idle.map(|name| format!("{PREFIX}{name}")).collect();
    if !idle.is_empty() && !annotations.contains_key(PATH) {
        warnings.push(Warning::NoPath {
            names: idle.join(", "),
        });
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

/// `preserve-on-delete` takes precedence. A value that cannot be read counts as `retain`, because a document
/// that was kept by mistake can be deleted later, but a deleted one cannot be brought back.
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

/// Whether remembered versions may be trusted. The predecessor treated every other value as `enabled`.
fn trust(text: Option<&str>, warnings: &mut Vec<Warning>) -> bool {
    match text {
        None | Some("" | "enabled") => true,
        Some("disabled") => false,
        Some(text) => {
            warnings.push(warn(
                ROTATION_CHECK,
                text,
                "enabled or disabled",
                "It counts as enabled.",
            ));
            true
        }
    }
}

fn recheck(text: Option<&str>, warnings: &mut Vec<Warning>) -> Option<Duration> {
    match text {
        None | Some("" | "off") => None,
        Some(text) => match duration::parse(text) {
            Ok(period) if period.is_zero() => None,
            Ok(period) if period <= LONGEST_RECHECK => Some(period.max(SHORTEST_RECHECK)),
            _ => {
                warnings.push(warn(
                    RECONCILE,
                    text,
                    "off, or a duration up to 8760h, such as 90s or 1h30m",
                    "It counts as off.",
                ));
                None
            }
        },
    }
}

#[cfg(test)]
mod tests;
