//! The documents that a source asks for, and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::annotations::{Ask, Encoding, Entry, KeyPick};
use super::document::{DocumentId, KvVersion, Mount};
use super::path::{self, Place};
use super::policy::Policy;
use super::problem::{PathFault, Problem, Warning};
use super::settings::Settings;
use super::source::{Kind, Reference, Source, SourceKey};
use super::value::{Content, Payload, Value};

/// A source's documents by name alone: enough to know which they are before anything is fetched,
/// and small enough to keep for every source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hint {
    /// The path as it is written.
    pub path: String,
    /// The Secrets that the documents are made of, each with whether it may be missing.
    pub secrets: Vec<Reference>,
    /// Whether each Secret is a document of its own, below the path.
    pub each: bool,
}

/// Most Secrets that a pod template may use to have each as a document: far more than any has, and
/// what is kept for each lasts as long as its source.
const MOST_REFERENCES: usize = 500;

/// Problems that a document tells of at most, and keys that a problem names: a Secret may have ten
/// thousands.
pub const MOST_TOLD: usize = 20;

/// Whether a source asks for more than one may.
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

impl Hint {
    /// What the source asks for; `None`: it has no path annotation, so it is no source.
    ///
    /// What asks for more than it may is kept as one whose path says nothing: as much as is known of
    /// a source that cannot be read.
    pub fn of(source: &Source, ask: &Ask) -> Option<Self> {
        let path = ask.path.as_ref()?;
        if path.len() > path::LONGEST || check_bounds(source, ask).is_err() {
            return Some(Self {
                path: String::new(),
                secrets: Vec::new(),
                each: false,
            });
        }
        let path = path.clone();
        let reference = |secret: &str, optional| Reference {
            secret: secret.to_owned(),
            optional,
        };
        let (secrets, each) = match &ask.entries {
            Some(entries) => (
                entries
                    .iter()
                    .map(|entry| reference(&entry.name, entry.optional))
                    .collect(),
                false,
            ),
            None if source.key.kind == Kind::Secret => (vec![reference(&source.key.name, false)], false),
            None => (source.references.clone(), true),
        };
        Some(Self { path, secrets, each })
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
    /// The version of its mount.
    pub version: KvVersion,
    /// What it is made of.
    pub entries: Vec<Entry>,
    /// How its values become text, where an entry does not say.
    pub encoding: Encoding,
    /// Whether it is there only as long as its (optional) Secret is.
    pub each: bool,
    /// Whether the path policy lets a document be adopted here.
    pub may_adopt: bool,
}

/// Everything that the source wants, in the mount that holds its path.
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
        /// What its people should know.
        warnings: Vec<Warning>,
    },
    /// Its one Secret is optional and not there: the document is not wanted now.
    Nothing,
    /// It cannot be made; what Vault holds stays.
    Problems(Vec<Problem>),
}

/// Makes a document from the Secrets that were fetched for it; a Secret that is not among them does
/// not exist. Values are moved, not copied, wherever only one entry takes them.
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
                    // What is too large is counted to the end, and not kept.
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

/// Empties the values that no entry takes, as soon as a Secret is fetched. Their keys stay, for those who
/// look for one that is not there.
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

/// The Secret for one entry: a copy only if a later entry names it again.
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
mod tests {
    use super::*;

    fn payload(pairs: &[(&str, &[u8])]) -> Payload {
        Payload {
            resource_version: "1".into(),
            data: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), Value::new(v.to_vec())))
                .collect(),
        }
    }

    fn entry(name: &str, keys: &[&str], prefix: &str) -> Entry {
        let keys = keys
            .iter()
            .map(|k| KeyPick {
                from: (*k).into(),
                to: (*k).into(),
            })
            .collect::<Vec<_>>();
        Entry {
            name: name.into(),
            keys: (!keys.is_empty()).then_some(keys),
            prefix: prefix.into(),
            optional: false,
            encoding: None,
        }
    }

    fn document(entries: Vec<Entry>) -> Wanted {
        Wanted {
            id: DocumentId::new("secret", "app"),
            version: KvVersion::V2,
            entries,
            encoding: Encoding::Auto,
            each: false,
            may_adopt: true,
        }
    }

    fn made(
        wanted: &Wanted,
        secrets: &[(&str, Payload)],
        limit: Option<usize>,
    ) -> Result<Vec<(String, String)>, String> {
        let secrets = secrets
            .iter()
            .map(|(name, payload)| ((*name).to_owned(), payload.clone()))
            .collect();
        match assemble(wanted, "shop", secrets, limit) {
            Assembled::Content { content, .. } => Ok(content
                .into_iter()
                .map(|(k, v)| (k, v.expose_text().unwrap().to_owned()))
                .collect()),
            Assembled::Nothing => Ok(vec![]),
            Assembled::Problems(problems) => Err(problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")),
        }
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn chosen_keys_of_all_entries_are_merged_under_their_prefixes() {
        let mut renamed = entry("b", &[], "");
        renamed.keys = Some(vec![
            KeyPick {
                from: "x".into(),
                to: "y".into(),
            },
            KeyPick {
                from: "x".into(),
                to: "z".into(),
            },
        ]);
        let wanted = document(vec![entry("a", &["k1"], "A_"), renamed, entry("a", &[], "ALL_")]);
        let secrets = [
            ("a", payload(&[("k1", b"1"), ("k2", b"2")])),
            ("b", payload(&[("x", b"3")])),
        ];
        assert_eq!(
            made(&wanted, &secrets, None).unwrap(),
            pairs(&[
                ("ALL_k1", "1"),
                ("ALL_k2", "2"),
                ("A_k1", "1"),
                ("y", "3"),
                ("z", "3")
            ])
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_there_is() {
        let wanted = document(vec![entry("a", &["k1", "nope"], ""), entry("gone", &[], "")]);
        let secrets = [("a", payload(&[("k1", b"1"), ("k2", b"2")]))];
        assert_eq!(
            made(&wanted, &secrets, None).unwrap_err(),
            "key not found: secret \"a\" has no key \"nope\"; available_keys: [k1, k2]; \
             failed to get secret \"gone\": it does not exist in namespace \"shop\""
        );
    }

    #[test]
    fn two_entries_for_one_key_are_both_named() {
        let wanted = document(vec![entry("a", &["k"], ""), entry("b", &[], "")]);
        let secrets = [("a", payload(&[("k", b"1")])), ("b", payload(&[("k", b"1")]))];
        assert_eq!(
            made(&wanted, &secrets, None).unwrap_err(),
            "key \"k\" of secret/app would come from entry 1 (secret \"a\", key \"k\") and from entry 2 (secret \"b\", key \"k\")"
        );
    }

    #[test]
    fn optional_contributes_nothing_when_it_is_not_there() {
        let mut gone = entry("gone", &[], "");
        gone.optional = true;
        let mut part = entry("a", &["k", "nope"], "");
        part.optional = true;
        let secrets = [("a", payload(&[("k", b"1")]))];
        assert_eq!(
            made(&document(vec![gone.clone(), part]), &secrets, None).unwrap(),
            pairs(&[("k", "1")])
        );
        let alone = Wanted {
            each: true,
            ..document(vec![gone])
        };
        assert!(matches!(
            assemble(&alone, "shop", BTreeMap::new(), None),
            Assembled::Nothing
        ));
    }

    #[test]
    fn nothing_is_mangled() {
        let binary = [("a", payload(&[("k", &[0xff, 0x00]), ("t", "ü".as_bytes())]))];
        let mut wanted = document(vec![entry("a", &[], "")]);
        assert_eq!(
            made(&wanted, &binary, None).unwrap(),
            pairs(&[("k", "/wA="), ("t", "ü")])
        );
        wanted.encoding = Encoding::Base64;
        assert_eq!(
            made(&wanted, &binary, None).unwrap(),
            pairs(&[("k", "/wA="), ("t", "w7w=")])
        );
        wanted.encoding = Encoding::Text;
        assert_eq!(
            made(&wanted, &binary, None).unwrap_err(),
            "secret \"a\" key \"k\" is not UTF-8 text, and encoding is \"text\""
        );
        wanted.entries[0].encoding = Some(Encoding::Base64);
        assert_eq!(
            made(&wanted, &binary, None).unwrap(),
            pairs(&[("k", "/wA="), ("t", "w7w=")])
        );
    }

    #[test]
    fn sizes_and_empty_documents() {
        let secrets = [("a", payload(&[("key", b"12345")]))];
        let mut wanted = document(vec![entry("a", &[], "")]);
        assert!(made(&wanted, &secrets, Some(8)).is_ok());
        assert_eq!(
            made(&wanted, &secrets, Some(7)).unwrap_err(),
            "secret/app would be 8 bytes, more than the allowed 7"
        );
        let empty = [("a", payload(&[]))];
        assert_eq!(made(&wanted, &empty, None).unwrap(), vec![]);
        wanted.version = KvVersion::V1;
        assert_eq!(
            made(&wanted, &empty, None).unwrap_err(),
            "secret/app would have no keys, which a KV v1 mount cannot hold"
        );
    }

    #[test]
    fn a_document_that_grows_too_large_is_counted_and_not_kept() {
        // Forty kilobytes, taken a hundred times over.
        let again: Vec<Entry> = (0..100).map(|n| entry("a", &[], &format!("{n}_"))).collect();
        let secrets = [("a", payload(&[("k", &[b'x'; 40_000])]))];
        assert_eq!(
            made(&document(again), &secrets, Some(1000)).unwrap_err(),
            "secret/app would be 4000390 bytes, more than the allowed 1000"
        );
    }

    #[test]
    fn of_a_great_many_problems_the_first_are_told() {
        let data: Vec<(String, Vec<u8>)> = (0..3000).map(|n| (format!("k{n:04}"), vec![0xff])).collect();
        let data: Vec<(&str, &[u8])> = data.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let secrets = [("a", payload(&data))];
        let absent: Vec<String> = (0..2000).map(|n| format!("no{n}")).collect();
        let absent: Vec<&str> = absent.iter().map(String::as_str).collect();
        for entries in [
            vec![entry("a", &absent, "")],
            vec![entry("a", &[], ""), entry("a", &[], "")],
        ] {
            let told = made(&document(entries), &secrets, None).unwrap_err();
            assert_eq!(told.matches("secret \"a\"").count() % 20, 0, "{told}");
            assert!(told.len() < 20_000, "{}", told.len());
        }
    }

    #[test]
    fn values_that_no_entry_takes_are_dropped_as_they_are_fetched() {
        let mut some = payload(&[("a", b"1"), ("b", b"22"), ("c", b"333")]);
        keep_picked(
            &document(vec![entry("s", &["a"], ""), entry("s", &["c"], "")]),
            "s",
            &mut some,
        );
        let lengths: Vec<usize> = some.data.values().map(Value::len).collect();
        assert_eq!(lengths, [1, 0, 3]);
        let mut all = payload(&[("a", b"1"), ("b", b"22")]);
        keep_picked(
            &document(vec![entry("s", &["a"], ""), entry("s", &[], "")]),
            "s",
            &mut all,
        );
        assert_eq!(all.data.values().map(Value::len).collect::<Vec<_>>(), [1, 2]);
    }
}
