//! The documents that a source asks for, and what they hold.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::annotations::{Ask, Encoding, Entry, KeyPick};
use super::document::{DocumentId, KvVersion, Mount};
use super::path::{self, Place};
use super::path_policy::Policy;
use super::problem::{PathFault, Problem, Warning};
use super::settings::Settings;
use super::source::{Kind, Reference, Source, SourceKey};
use super::value::{Content, Payload, Value};

/// A source's documents by name only. This is enough to identify them before anything is fetched, and small
/// enough to keep for every source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The path as it is written.
    pub path: String,
    /// The Secrets that the documents are made of, each with whether it may be missing.
    pub secrets: Vec<Reference>,
    /// Whether each Secret is a separate document, below the path.
    pub each: bool,
}

/// The most Secrets that a pod template may use if each becomes a document. This is far more than any
/// template has. Each one takes memory as long as the source exists.
const MOST_REFERENCES: usize = 500;

/// The most problems that a document reports, and the most keys that a problem names. A Secret may have tens
/// of thousands of keys.
pub const MOST_TOLD: usize = 20;

/// Refuses a source that asks for more than a source may.
pub fn check_bounds(source: &Source, ask: &Ask) -> Result<(), Problem> {
    let count = source.references.len();
    if ask.entries.is_none() && count > MOST_REFERENCES {
        return Err(Problem::TooMany {
            count,
            limit: MOST_REFERENCES,
        });
    }
    Ok(())
}

/// The mistakes in a source that are visible in the source alone, without Vault.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mistakes {
    /// Problems that keep it from being synced.
    pub problems: Vec<Problem>,
    /// Mistakes that do not.
    pub warnings: Vec<Warning>,
}

impl Mistakes {
    /// In a source that asks for nothing (any more), only the annotations can be wrong.
    pub fn of(source: &Source, ask: &Ask) -> Self {
        let mut warnings = ask.warnings.clone();
        let Some(path) = ask.path.as_deref().filter(|_| source.deleting.is_none()) else {
            let problems = Vec::new();
            return Self { problems, warnings };
        };
        // A path on a workload that uses no Secret.
        let discovers = source.key.kind != Kind::Secret && ask.entries.is_none() && ask.problems.is_empty();
        if discovers && source.references.is_empty() {
            warnings.push(Warning::NothingUsed);
        }
        let whole = path::check(path)
            .map(drop)
            .map_err(Problem::from)
            .and_then(|()| check_bounds(source, ask));
        let mut problems = ask.problems.clone();
        problems.extend(whole.err());
        Self { problems, warnings }
    }

    /// The mistakes to keep, or `None` if there are none, as in most sources.
    pub fn some(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Hint {
    /// What the source asks for. `None`: it has no path annotation, so it is not a source.
    ///
    /// If it asks for more than it may, the result has no path: as much as is known of a source that cannot
    /// be read.
    pub fn of(source: &Source, ask: &Ask) -> Option<Self> {
        let path = ask.path.as_ref()?;
        if path.len() > path::LONGEST || check_bounds(source, ask).is_err() {
            return Some(Self::unknown());
        }
        let path = path.clone();
        let reference = |secret: &str, optional| Reference {
            secret: secret.to_owned(),
            optional,
        };
        let (secrets, each) = match &ask.entries {
            Some(entries) => {
                let mut named = HashSet::new();
                let once = entries.iter().filter(|entry| named.insert(entry.name.as_str()));
                let once = once.map(|entry| reference(&entry.name, entry.optional));
                (once.collect(), false)
            }
            None if source.key.kind == Kind::Secret => (vec![reference(&source.key.name, false)], false),
            None => (source.references.clone(), true),
        };
        Some(Self { path, secrets, each })
    }

    /// For a source that asks for more than it may: it asks for something, and nothing else is kept.
    pub fn unknown() -> Self {
        Self {
            path: String::new(),
            secrets: Vec::new(),
            each: false,
        }
    }

    /// How many documents it asks for.
    pub fn documents(&self) -> usize {
        match (self.path.is_empty(), self.each) {
            (true, _) => 0,
            (false, true) => self.secrets.len(),
            (false, false) => 1,
        }
    }

    /// The documents, in the mount that holds the path.
    pub fn places(
        &self,
        key: &SourceKey,
        mount: &Mount,
        settings: &Settings,
    ) -> Result<Vec<Place>, PathFault> {
        let place = |leaf| path::resolve(&self.path, leaf, &key.namespace, mount, settings);
        if !self.each {
            return Ok(vec![place(None)?]);
        }
        self.secrets
            .iter()
            .map(|reference| place(Some(reference.secret.as_str())))
            .collect()
    }
}

/// One document that a source wants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wanted {
    /// Which document.
    pub id: DocumentId,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// What it is made of.
    pub entries: Vec<Entry>,
    /// How its values become text, unless an entry says otherwise.
    pub encoding: Encoding,
    /// Whether it exists only while its optional Secret does.
    pub each: bool,
    /// Whether the path policy allows adopting a document here.
    pub may_adopt: bool,
}

impl Wanted {
    /// The mount that holds it.
    pub fn mount(&self) -> Mount {
        Mount {
            path: self.id.mount.clone(),
            version: self.version,
        }
    }
}

/// All documents that the source wants, in the mount that holds its path.
pub fn wanted(
    source: &Source,
    ask: &Ask,
    mount: &Mount,
    settings: &Settings,
    policy: &Policy,
) -> Result<Vec<Wanted>, Problem> {
    let Some(hint) = Hint::of(source, ask) else {
        return Ok(Vec::new());
    };
    let places = hint.places(&source.key, mount, settings)?;
    let namespace = &source.key.namespace;
    let whole = |name: &str, optional| Entry {
        name: name.to_owned(),
        keys: None,
        prefix: String::new(),
        optional,
        encoding: None,
    };
    let entries: Vec<Vec<Entry>> = match &ask.entries {
        Some(entries) => vec![entries.clone()],
        None if hint.each => source
            .references
            .iter()
            .map(|r| vec![whole(&r.secret, r.optional)])
            .collect(),
        None => vec![vec![whole(&source.key.name, false)]],
    };
    places
        .into_iter()
        .zip(entries)
        .map(|(Place { id, own }, entries)| {
            let may_adopt = policy.permit(namespace, &mount.path, &own)?;
            let (version, encoding, each) = (mount.version, ask.encoding, hint.each);
            Ok(Wanted {
                id,
                version,
                entries,
                encoding,
                each,
                may_adopt,
            })
        })
        .collect()
}

/// What a document is to hold.
pub enum Assembled {
    /// All of it.
    Content {
        /// Keys and values, as text.
        content: Content,
        /// What the source's users should know.
        warnings: Vec<Warning>,
    },
    /// Its only Secret is optional and missing: the document is not wanted now.
    Nothing,
    /// It cannot be made, so the content in Vault stays.
    Problems(Vec<Problem>),
}

/// Makes a document from the Secrets that were fetched for it. A Secret that is not among them does not
/// exist. Values are moved, not copied, if only one entry takes them.
pub fn assemble(
    wanted: &Wanted,
    namespace: &str,
    mut secrets: BTreeMap<String, Payload>,
    limit: Option<usize>,
) -> Assembled {
    let mut content = Content::new();
    let mut origins: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut contributed = false;
    let limit = limit.unwrap_or(usize::MAX);
    let mut total = 0;

    for (index, entry) in wanted.entries.iter().enumerate() {
        let Some(payload) = take(&mut secrets, &entry.name, &wanted.entries[index + 1..]) else {
            if !entry.optional {
                problems.push(Problem::MissingSecret {
                    namespace: namespace.to_owned(),
                    secret: entry.name.clone(),
                });
            }
            continue;
        };
        contributed = true;
        for (pick, value) in picked(entry, payload, &mut problems) {
            let encoding = entry.encoding.unwrap_or(wanted.encoding);
            let value = match encode(value, encoding, &entry.name, &pick.from, &mut warnings) {
                Ok(value) => value,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            let key = format!("{}{}", entry.prefix, pick.to);
            match origins.get(&key) {
                None => {
                    total += key.len() + value.len();
                    // If the content is too large, its size is still counted to the end, but the rest is not
                    // kept.
                    if total <= limit {
                        origins.insert(key.clone(), (index, pick.from));
                        content.insert(key, value);
                    }
                }
                Some(_) if problems.len() >= MOST_TOLD => {}
                Some((first, from)) => problems.push(Problem::Collision {
                    document: wanted.id.clone(),
                    first: origin(*first, &wanted.entries[*first], from),
                    second: origin(index, entry, &pick.from),
                    key,
                }),
            }
        }
    }
    if problems.is_empty() && total > limit {
        problems.push(Problem::TooLarge {
            document: wanted.id.clone(),
            size: total,
            limit,
        });
    }
    match (problems.is_empty(), contributed) {
        (false, _) => Assembled::Problems(problems),
        (true, false) if wanted.each => Assembled::Nothing,
        (true, _) if content.is_empty() && wanted.version == KvVersion::V1 => {
            Assembled::Problems(vec![Problem::Empty {
                document: wanted.id.clone(),
            }])
        }
        (true, _) => Assembled::Content { content, warnings },
    }
}

/// Empties the values that no entry takes, as soon as a Secret is fetched. Their keys stay, because the
/// message about a missing key names them.
pub fn keep_picked(wanted: &Wanted, secret: &str, payload: &mut Payload) {
    let entries = wanted.entries.iter().filter(|entry| entry.name == secret);
    let mut picked = BTreeSet::new();
    for entry in entries {
        let Some(keys) = &entry.keys else { return };
        picked.extend(keys.iter().map(|pick| pick.from.as_str()));
    }
    for (key, value) in &mut payload.data {
        if !picked.contains(key.as_str()) {
            *value = Value::new(Vec::new());
        }
    }
}

/// The Secret for one entry. It is copied only if a later entry names it again.
fn take(secrets: &mut BTreeMap<String, Payload>, name: &str, later: &[Entry]) -> Option<Payload> {
    if later.iter().any(|entry| entry.name == name) {
        secrets.get(name).cloned()
    } else {
        secrets.remove(name)
    }
}

/// The values that an entry takes from its Secret.
fn picked(entry: &Entry, mut payload: Payload, problems: &mut Vec<Problem>) -> Vec<(KeyPick, Value)> {
    let Some(keys) = &entry.keys else {
        return payload
            .data
            .into_iter()
            .map(|(key, value)| {
                (
                    KeyPick {
                        from: key.clone(),
                        to: key,
                    },
                    value,
                )
            })
            .collect();
    };
    let available = || {
        let more = payload.data.len().saturating_sub(MOST_TOLD);
        let names = payload.data.keys().take(MOST_TOLD).cloned();
        names
            .chain((more > 0).then(|| format!("and {more} more")))
            .collect::<Vec<_>>()
    };
    let missing: Vec<Problem> = keys
        .iter()
        .filter(|pick| !entry.optional && !payload.data.contains_key(&pick.from))
        .take(MOST_TOLD)
        .map(|pick| Problem::MissingKey {
            secret: entry.name.clone(),
            key: pick.from.clone(),
            available: available(),
        })
        .collect();
    problems.extend(missing);
    let mut values = Vec::with_capacity(keys.len());
    for (index, pick) in keys.iter().enumerate() {
        let again = keys[index + 1..].iter().any(|later| later.from == pick.from);
        let value = if again {
            payload.data.get(&pick.from).cloned()
        } else {
            payload.data.remove(&pick.from)
        };
        values.extend(value.map(|value| (pick.clone(), value)));
    }
    values
}

fn encode(
    value: Value,
    encoding: Encoding,
    secret: &str,
    key: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Value, Problem> {
    let text = value.expose_text().is_some();
    match encoding {
        Encoding::Auto | Encoding::Text if text => Ok(value),
        Encoding::Text => Err(Problem::NotText {
            secret: secret.to_owned(),
            key: key.to_owned(),
        }),
        Encoding::Base64 => Ok(STANDARD.encode(value.expose()).into()),
        Encoding::Auto => {
            if warnings.len() < MOST_TOLD {
                warnings.push(Warning::Binary {
                    secret: secret.to_owned(),
                    key: key.to_owned(),
                });
            }
            Ok(STANDARD.encode(value.expose()).into())
        }
    }
}

fn origin(index: usize, entry: &Entry, key: &str) -> String {
    format!("entry {} (secret {:?}, key {key:?})", index + 1, entry.name)
}

#[cfg(test)]
mod tests;
