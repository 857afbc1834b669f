//! The `secrets` annotation: a list of Secrets and keys, in JSON or YAML. Each error says where it is.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::{Encoding, tree};
use crate::names::is_object_name;
use crate::problem::Problem;
use crate::text::{excerpt, hidden, nearest, without_mark};
use crate::yaml::BadYaml;

/// Longest list in YAML, in bytes. The parser needs many times that memory while it reads.
const LONGEST_YAML: usize = 64 * 1024;
/// Most entries of a list.
const MOST_ENTRIES: usize = 2000;
/// Most Secrets that a list names. Each is kept in memory as long as the source exists.
const MOST_SECRETS: usize = 500;
/// Most keys in all entries together.
const MOST_KEYS: usize = 2000;
/// Longest name of a key, and longest prefix, in bytes: what Kubernetes allows for a Secret's key.
/// <https://kubernetes.io/docs/concepts/configuration/secret/#restriction-names-data>
const LONGEST_KEY: usize = 253;
/// Deepest nesting of brackets. A list with keys needs four. Brackets in quotes count too.
const DEEPEST: usize = 64;
/// The fields of an entry.
const FIELDS: [&str; 5] = ["name", "keys", "prefix", "optional", "encoding"];

/// One key taken from a Secret, and its name in Vault before the prefix.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyPick {
    /// Key in the Secret.
    pub from: String,
    /// Key in Vault.
    pub to: String,
}

/// One entry of the `secrets` annotation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// The Secret's name.
    pub name: String,
    /// The keys; `None`: all of them.
    pub keys: Option<Vec<KeyPick>>,
    /// Put before each key, without a separator.
    pub prefix: String,
    /// Whether the Secret, or a key of it, may be missing.
    pub optional: bool,
    /// How its values become text, if different from the source's encoding.
    pub encoding: Option<Encoding>,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
enum ListFault {
    #[error("it nests too deeply")]
    Deep,
    #[error("a list longer than {LONGEST_YAML} bytes must be JSON, and this is not: {}", line(.0))]
    LongYaml(serde_json::Error),
    #[error("this is not JSON: {}", line(.0))]
    NotJson(serde_json::Error),
    #[error("this is neither JSON nor YAML: {}", line(.0))]
    NotYaml(BadYaml),
    #[error("a list is needed, this is {0}")]
    NotList(&'static str),
    #[error("the list is empty; remove the annotation to discover the Secrets, or name them")]
    Empty,
    #[error("it has {0} entries; {MOST_ENTRIES} are allowed")]
    Entries(usize),
    #[error("it names {0} Secrets; {MOST_SECRETS} are allowed")]
    Secrets(usize),
    #[error("its entries name {0} keys together; {MOST_KEYS} are allowed")]
    Keys(usize),
    #[error("entry {number}{}: {fault}", quoted(name.as_deref()))]
    Entry {
        /// Counted from 1.
        number: usize,
        /// The Secret that it names, if it does.
        name: Option<String>,
        fault: EntryFault,
    },
    #[error("entry {number}{} has the unknown field {field:?}; {}", quoted(name.as_deref()), known_field(field))]
    Field {
        number: usize,
        name: Option<String>,
        field: String,
    },
}

/// What is wrong with one entry.
#[derive(Debug, thiserror::Error)]
enum EntryFault {
    #[error("an object with a name is needed, this is {0}")]
    NotObject(&'static str),
    #[error("it has no name of a Secret")]
    NoName,
    #[error("{0:?} cannot be the name of a Secret")]
    BadName(String),
    #[error("{field} must be {wanted}, this is {found}")]
    Type {
        field: &'static str,
        wanted: &'static str,
        found: &'static str,
    },
    #[error("its prefix is {0} bytes long; {LONGEST_KEY} are allowed")]
    LongPrefix(usize),
    #[error("encoding {0:?} is not {allowed}", allowed = Encoding::ALLOWED)]
    Encoding(String),
    #[error("a key must be text, or an object with \"from\" and \"to\"")]
    Key,
    #[error("a key must be text, or an object with \"from\" and \"to\"; this is {0}")]
    KeyType(&'static str),
    #[error("a key is empty")]
    EmptyKey,
    #[error("a key is {0} bytes long; {LONGEST_KEY} are allowed")]
    LongKey(usize),
}

fn quoted(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" ({name:?})"))
}

fn known_field(field: &str) -> String {
    match nearest(field, &FIELDS) {
        Some(known) => format!("did you mean {known:?}?"),
        None => format!("the known ones are {}", FIELDS.join(", ")),
    }
}

/// Reads the list as JSON, or else as YAML. Each error says which entry it is in. The bounds are far above
/// what people need. They keep one annotation from using the memory of all others.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Problem> {
    let text = without_mark(text);
    // An invisible character may be the mistake.
    read(text).map_err(|what| Problem::List(what.to_string() + &hidden(text)))
}

fn read(text: &str) -> Result<Vec<Entry>, ListFault> {
    if nesting(text) > DEEPEST {
        return Err(ListFault::Deep);
    }
    let json = match tree::from_json(text) {
        Ok(json) => json,
        Err(error) if text.len() > LONGEST_YAML => return Err(ListFault::LongYaml(error)),
        // Flow YAML looks like JSON. The message is about JSON only if the text is neither.
        Err(error) if text.trim_start().starts_with(['[', '{']) => {
            tree::from_yaml(text).map_err(|_| ListFault::NotJson(error))?
        }
        Err(_) => tree::from_yaml(text).map_err(ListFault::NotYaml)?,
    };
    let list = match json {
        Json::Array(list) => list,
        Json::Null => Vec::new(),
        other => return Err(ListFault::NotList(type_of(&other))),
    };
    if list.is_empty() {
        return Err(ListFault::Empty);
    }
    if list.len() > MOST_ENTRIES {
        return Err(ListFault::Entries(list.len()));
    }
    let entries: Vec<Entry> = (1..)
        .zip(list)
        .map(|(number, item)| parse_entry(number, item))
        .collect::<Result<_, _>>()?;
    let secrets: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    if secrets.len() > MOST_SECRETS {
        return Err(ListFault::Secrets(secrets.len()));
    }
    let keys: usize = entries.iter().flat_map(|entry| &entry.keys).map(Vec::len).sum();
    if keys > MOST_KEYS {
        return Err(ListFault::Keys(keys));
    }
    Ok(entries)
}

/// The deepest nesting of brackets, including those in quotes. A YAML parser takes time that grows with the
/// square of it.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// A parser's message on one line, and bounded, because it may quote its input.
fn line(words: &impl ToString) -> String {
    const LONGEST: usize = 200;
    let words = words.to_string();
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}

fn parse_entry(number: usize, item: Json) -> Result<Entry, ListFault> {
    let fault = |name, fault| ListFault::Entry { number, name, fault };
    let Json::Object(mut fields) = item else {
        return Err(fault(None, EntryFault::NotObject(type_of(&item))));
    };
    if let Some(field) = unknown_field(&fields) {
        let name = fields.get("name").and_then(Json::as_str).map(excerpt);
        let field = excerpt(field);
        return Err(ListFault::Field { number, name, field });
    }
    let name = parse_name(fields.remove("name")).map_err(|what| fault(None, what))?;
    parse_fields(name.clone(), fields).map_err(|what| fault(Some(name), what))
}

/// An unknown field. It must be refused: with a mistyped `keys`, all keys would be sent.
fn unknown_field(fields: &Map<String, Json>) -> Option<&String> {
    fields.keys().find(|field| !FIELDS.contains(&field.as_str()))
}

fn parse_name(name: Option<Json>) -> Result<String, EntryFault> {
    let name = text_of("its name", name)?.unwrap_or_default();
    if name.is_empty() {
        return Err(EntryFault::NoName);
    }
    if !is_object_name(&name) {
        return Err(EntryFault::BadName(excerpt(&name)));
    }
    Ok(name)
}

/// Reads the other fields of the entry with this name.
fn parse_fields(name: String, mut fields: Map<String, Json>) -> Result<Entry, EntryFault> {
    let keys = match fields.remove("keys") {
        None | Some(Json::Null) => None,
        Some(Json::Array(keys)) if keys.is_empty() => None,
        Some(Json::Array(keys)) => {
            let mut picks: Vec<KeyPick> = Vec::with_capacity(keys.len());
            let mut known = HashSet::with_capacity(keys.len());
            for key in keys {
                let pick = parse_key(key)?;
                // The same pick again adds nothing. Another key with the same name in Vault does.
                if known.insert(pick.clone()) {
                    picks.push(pick);
                }
            }
            Some(picks)
        }
        Some(other) => return Err(wrong_type("its keys", "a list", &other)),
    };
    let prefix = text_of("its prefix", fields.remove("prefix"))?.unwrap_or_default();
    if prefix.len() > LONGEST_KEY {
        return Err(EntryFault::LongPrefix(prefix.len()));
    }
    let optional = match fields.remove("optional") {
        None | Some(Json::Null) => false,
        Some(Json::Bool(optional)) => optional,
        Some(other) => return Err(wrong_type("optional", "true or false", &other)),
    };
    let encoding = text_of("encoding", fields.remove("encoding"))?
        .map(|text| Encoding::named(&text).ok_or_else(|| EntryFault::Encoding(excerpt(&text))))
        .transpose()?;
    Ok(Entry {
        name,
        keys,
        prefix,
        optional,
        encoding,
    })
}

fn text_of(field: &'static str, value: Option<Json>) -> Result<Option<String>, EntryFault> {
    match value {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(field, "text", &other)),
    }
}

fn wrong_type(field: &'static str, wanted: &'static str, found: &Json) -> EntryFault {
    EntryFault::Type {
        field,
        wanted,
        found: type_of(found),
    }
}

fn parse_key(key: Json) -> Result<KeyPick, EntryFault> {
    let name = |key: String| match key.len() {
        0..=LONGEST_KEY => Ok(key),
        length => Err(EntryFault::LongKey(length)),
    };
    match key {
        Json::String(key) if key.is_empty() => Err(EntryFault::EmptyKey),
        Json::String(key) => name(key).map(|key| KeyPick {
            from: key.clone(),
            to: key,
        }),
        Json::Object(mut fields) => match (fields.remove("from"), fields.remove("to")) {
            (Some(Json::String(from)), Some(Json::String(to)))
                if !from.is_empty() && !to.is_empty() && fields.is_empty() =>
            {
                Ok(KeyPick {
                    from: name(from)?,
                    to: name(to)?,
                })
            }
            _ => Err(EntryFault::Key),
        },
        other => Err(EntryFault::KeyType(type_of(&other))),
    }
}

fn type_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
