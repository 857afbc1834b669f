//! The `secrets` annotation: a list of Secrets and keys, in JSON or YAML. Each fault says where it is.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::{Encoding, tree};
use crate::problem::Problem;
use crate::text::{excerpt, hidden, nearest, without_mark};

/// Longest list in YAML, in bytes: its parser keeps many times that while it reads.
const LONGEST_YAML: usize = 64 * 1024;
/// Most entries of a list.
const MOST_ENTRIES: usize = 2000;
/// Most Secrets that a list names. Each is kept in memory for as long as the source is there.
const MOST_SECRETS: usize = 500;
/// Most keys in all entries together.
const MOST_KEYS: usize = 2000;
/// Longest name of a key, and longest prefix, in bytes: what Kubernetes allows for a Secret's key.
/// <https://kubernetes.io/docs/concepts/configuration/secret/#restriction-names-data>
const LONGEST_KEY: usize = 253;
/// Deepest nesting of brackets; a list with keys needs four. What stands in quotes counts too.
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
    /// Put in front of each key, with nothing between.
    pub prefix: String,
    /// Whether the Secret, or a key of it, may be missing.
    pub optional: bool,
    /// How its values become text, when not as the source says.
    pub encoding: Option<Encoding>,
}

/// Reads the list: JSON, or else YAML. Each fault says which entry it is in. The bounds are far from what
/// people need, and keep one annotation from costing everybody else's memory.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Problem> {
    let text = without_mark(text);
    // What cannot be seen may well be what is wrong.
    read(text).map_err(|what| Problem::List(what + &hidden(text)))
}

fn read(text: &str) -> Result<Vec<Entry>, String> {
    if nesting(text) > DEEPEST {
        return Err("it nests too deeply".into());
    }
    let json = match tree::from_json(text) {
        Ok(json) => json,
        Err(error) if text.len() > LONGEST_YAML => {
            let error = line(&error);
            return Err(format!(
                "a list longer than {LONGEST_YAML} bytes must be JSON, and this is not: {error}"
            ));
        }
        Err(error) if text.trim_start().starts_with(['[', '{']) => {
            // Flow YAML looks like JSON; only when it is neither do we speak of JSON.
            tree::from_yaml(text).map_err(|_| format!("this is not JSON: {}", line(&error)))?
        }
        Err(_) => tree::from_yaml(text)
            .map_err(|error| format!("this is neither JSON nor YAML: {}", line(&error)))?,
    };
    let list = match json {
        Json::Array(list) => list,
        Json::Null => Vec::new(),
        other => return Err(format!("a list is needed, this is {}", type_of(&other))),
    };
    if list.is_empty() {
        return Err("the list is empty; remove the annotation to discover the Secrets, or name them".into());
    }
    if list.len() > MOST_ENTRIES {
        let count = list.len();
        return Err(format!("it has {count} entries; {MOST_ENTRIES} are allowed"));
    }
    let entries: Vec<Entry> = list
        .into_iter()
        .enumerate()
        .map(|(i, item)| parse_entry(i + 1, item))
        .collect::<Result<_, _>>()?;
    let secrets: HashSet<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    if secrets.len() > MOST_SECRETS {
        let count = secrets.len();
        return Err(format!("it names {count} Secrets; {MOST_SECRETS} are allowed"));
    }
    let keys: usize = entries.iter().flat_map(|entry| &entry.keys).map(Vec::len).sum();
    if keys > MOST_KEYS {
        return Err(format!(
            "its entries name {keys} keys together; {MOST_KEYS} are allowed"
        ));
    }
    Ok(entries)
}

/// How deep brackets nest at most, those in quotes too: a parser of YAML takes time that grows with the
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

/// A parser's words on one line, bounded: they may quote what they could not read.
fn line(words: &str) -> String {
    const LONGEST: usize = 200;
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}

fn parse_entry(number: usize, item: Json) -> Result<Entry, String> {
    let fault = |what: String| format!("entry {number}: {what}");
    let Json::Object(mut fields) = item else {
        return Err(fault(format!(
            "an object with a name is needed, this is {}",
            type_of(&item)
        )));
    };
    check_fields(number, &fields)?;
    let name = match fields.remove("name") {
        Some(Json::String(name)) if !name.is_empty() => name,
        None | Some(Json::Null | Json::String(_)) => return Err(fault("it has no name of a Secret".into())),
        Some(other) => {
            return Err(fault(format!(
                "its name must be text, this is {}",
                type_of(&other)
            )));
        }
    };
    if !is_object_name(&name) {
        return Err(fault(format!(
            "{:?} cannot be the name of a Secret",
            excerpt(&name)
        )));
    }
    let fault = |what: String| format!("entry {number} ({name:?}): {what}");
    let keys = match fields.remove("keys") {
        None | Some(Json::Null) => None,
        Some(Json::Array(keys)) if keys.is_empty() => None,
        Some(Json::Array(keys)) => {
            let mut picks: Vec<KeyPick> = Vec::with_capacity(keys.len());
            let mut known = HashSet::with_capacity(keys.len());
            for key in keys {
                let pick = parse_key(key).map_err(&fault)?;
                // The same key named twice says nothing new; another key for the same name does.
                if known.insert(pick.clone()) {
                    picks.push(pick);
                }
            }
            Some(picks)
        }
        Some(other) => {
            return Err(fault(format!(
                "its keys must be a list, this is {}",
                type_of(&other)
            )));
        }
    };
    let prefix = match fields.remove("prefix") {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(prefix)) if prefix.len() > LONGEST_KEY => {
            let length = prefix.len();
            return Err(fault(format!(
                "its prefix is {length} bytes long; {LONGEST_KEY} are allowed"
            )));
        }
        Some(Json::String(prefix)) => prefix,
        Some(other) => {
            return Err(fault(format!(
                "its prefix must be text, this is {}",
                type_of(&other)
            )));
        }
    };
    let optional = match fields.remove("optional") {
        None | Some(Json::Null) => false,
        Some(Json::Bool(optional)) => optional,
        Some(other) => {
            return Err(fault(format!(
                "optional must be true or false, this is {}",
                type_of(&other)
            )));
        }
    };
    let encoding = match fields.remove("encoding") {
        None | Some(Json::Null) => None,
        Some(Json::String(text)) => Some(Encoding::named(&text).ok_or_else(|| {
            fault(format!(
                "encoding {:?} is not {}",
                excerpt(&text),
                Encoding::ALLOWED
            ))
        })?),
        Some(other) => {
            return Err(fault(format!(
                "encoding must be text, this is {}",
                type_of(&other)
            )));
        }
    };
    Ok(Entry {
        name,
        keys,
        prefix,
        optional,
        encoding,
    })
}

/// Refuses a field that nobody reads: a mistyped `keys` must not send all of them.
fn check_fields(number: usize, fields: &Map<String, Json>) -> Result<(), String> {
    let Some(field) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) else {
        return Ok(());
    };
    let entry = match fields.get("name") {
        Some(Json::String(name)) => format!("entry {number} ({:?})", excerpt(name)),
        _ => format!("entry {number}"),
    };
    let meant = match nearest(field, &FIELDS) {
        Some(known) => format!("did you mean {known:?}?"),
        None => format!("the known ones are {}", FIELDS.join(", ")),
    };
    let field = excerpt(field);
    Err(format!("{entry} has the unknown field {field:?}; {meant}"))
}

fn parse_key(key: Json) -> Result<KeyPick, String> {
    const NEEDED: &str = "a key must be text, or an object with \"from\" and \"to\"";
    let name = |key: String| {
        if key.len() > LONGEST_KEY {
            let length = key.len();
            return Err(format!("a key is {length} bytes long; {LONGEST_KEY} are allowed"));
        }
        Ok(key)
    };
    match key {
        Json::String(key) if key.is_empty() => Err("a key is empty".into()),
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
            _ => Err(NEEDED.into()),
        },
        other => Err(format!("{NEEDED}; this is {}", type_of(&other))),
    }
}

/// DNS subdomain: what Kubernetes takes for the name of a Secret. A name that is none must be
/// refused here, since it becomes part of an API request's path.
pub fn is_object_name(name: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let label = label.as_bytes();
            label.first().is_some_and(|&c| alphanumeric(c))
                && label.last().is_some_and(|&c| alphanumeric(c))
                && label.iter().all(|&c| alphanumeric(c) || c == b'-')
        })
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
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<Entry>, String> {
        parse(text).map_err(|problem| problem.to_string())
    }

    fn pick(from: &str, to: &str) -> KeyPick {
        KeyPick {
            from: from.into(),
            to: to.into(),
        }
    }

    #[test]
    fn a_list_is_json_or_yaml() {
        let wanted = vec![
            Entry {
                name: "db".into(),
                keys: Some(vec![pick("user", "user"), pick("pass", "password")]),
                prefix: "DB_".into(),
                optional: false,
                encoding: None,
            },
            Entry {
                name: "tls".into(),
                keys: None,
                prefix: String::new(),
                optional: true,
                encoding: Some(Encoding::Base64),
            },
        ];
        let json = r#"[{"name":"db","keys":["user",{"from":"pass","to":"password"},"user"],"prefix":"DB_"},
                       {"name":"tls","optional":true,"encoding":"base64","keys":[]}]"#;
        let yaml = "- name: db\n  keys: [user, {from: pass, to: password}]\n  prefix: DB_\n\
                    - {name: tls, optional: true, encoding: base64}\n";
        assert_eq!(list(json).unwrap(), wanted);
        assert_eq!(list(yaml).unwrap(), wanted);
    }

    #[test]
    fn a_list_that_cannot_be_read_says_where() {
        for (text, words) in [
            (
                "[{\"name\": \"db\"",
                "vault-sync.io/secrets: this is not JSON: EOF while parsing an object at line 1 column 14",
            ),
            (
                "{\"name\":\"db\"}",
                "vault-sync.io/secrets: a list is needed, this is an object",
            ),
            ("\"db\"", "vault-sync.io/secrets: a list is needed, this is text"),
            ("db", "vault-sync.io/secrets: a list is needed, this is text"),
            ("7", "vault-sync.io/secrets: a list is needed, this is a number"),
            (
                "[\"db\"]",
                "vault-sync.io/secrets: entry 1: an object with a name is needed, this is text",
            ),
            (
                "[{\"name\":\"db\"},{\"keys\":[\"a\"]}]",
                "vault-sync.io/secrets: entry 2: it has no name of a Secret",
            ),
            (
                "[{\"name\":\"\"}]",
                "vault-sync.io/secrets: entry 1: it has no name of a Secret",
            ),
            (
                "[{\"name\":7}]",
                "vault-sync.io/secrets: entry 1: its name must be text, this is a number",
            ),
            (
                "[{\"name\":\"../x\"}]",
                "vault-sync.io/secrets: entry 1: \"../x\" cannot be the name of a Secret",
            ),
            (
                "[{\"name\":\"a\",\"keys\":\"k\"}]",
                "vault-sync.io/secrets: entry 1 (\"a\"): its keys must be a list, this is text",
            ),
            (
                "[{\"name\":\"a\",\"keys\":[1]}]",
                "vault-sync.io/secrets: entry 1 (\"a\"): a key must be text, or an object with \"from\" and \"to\"; this is a number",
            ),
            (
                "[{\"name\":\"a\",\"keys\":[\"\"]}]",
                "vault-sync.io/secrets: entry 1 (\"a\"): a key is empty",
            ),
            (
                "[{\"name\":\"a\",\"optional\":\"yes\"}]",
                "vault-sync.io/secrets: entry 1 (\"a\"): optional must be true or false, this is text",
            ),
        ] {
            assert_eq!(list(text).unwrap_err(), words, "{text}");
        }
        for text in ["", "null", "[]"] {
            assert_eq!(
                list(text).unwrap_err(),
                "vault-sync.io/secrets: the list is empty; remove the annotation to discover the Secrets, or name them",
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_list_has_bounds_and_says_which() {
        let entries = |count: usize, secrets: usize| {
            let entry = |n| format!(r#"{{"name":"a{}"}}"#, n % secrets);
            format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(","))
        };
        assert_eq!(list(&entries(2000, 500)).unwrap().len(), 2000);
        let keys = |count: usize, name: &str| {
            let keys = vec![format!(r#""{name}""#); count].join(",");
            format!(r#"[{{"name":"a","keys":[{keys}]}}]"#)
        };
        // The same key once more is none more.
        assert_eq!(list(&keys(2001, "k")).unwrap().len(), 1);
        let many = (0..2001)
            .map(|n| format!(r#""k{n}""#))
            .collect::<Vec<_>>()
            .join(",");
        let many = format!(r#"[{{"name":"a","keys":[{many}]}}]"#);
        let (key, longer) = ("k".repeat(253), "k".repeat(254));
        assert_eq!(list(&keys(1, &key)).unwrap().len(), 1);
        for (text, words) in [
            (entries(2001, 1), "it has 2001 entries; 2000 are allowed"),
            (entries(501, 501), "it names 501 Secrets; 500 are allowed"),
            (many, "its entries name 2001 keys together; 2000 are allowed"),
            (
                keys(1, &longer),
                "entry 1 (\"a\"): a key is 254 bytes long; 253 are allowed",
            ),
            (
                format!(r#"[{{"name":"a","keys":[{{"from":"k","to":"{longer}"}}]}}]"#),
                "entry 1 (\"a\"): a key is 254 bytes long; 253 are allowed",
            ),
            (
                format!(r#"[{{"name":"a","prefix":"{longer}"}}]"#),
                "entry 1 (\"a\"): its prefix is 254 bytes long; 253 are allowed",
            ),
            ("[".repeat(131_072), "it nests too deeply"),
            (format!("{{a: {}", "[".repeat(100_000)), "it nests too deeply"),
            (
                format!("[{}]", vec!["{}"; 40_000].join(",")),
                "a list longer than 65536 bytes must be JSON, and this is not: \
                 it says more than a list has room for at line 1 column 20973",
            ),
        ] {
            assert_eq!(
                list(&text).unwrap_err(),
                format!("vault-sync.io/secrets: {words}")
            );
        }
    }

    #[test]
    fn aliases_of_yaml_cannot_blow_a_list_up() {
        // Each alias is three characters, and stands for thirty thousand.
        let scalar = format!("- &a {}\n- [{}]\n", "x".repeat(30_000), "*a,".repeat(10_000));
        assert_eq!(
            list(&scalar).unwrap_err(),
            "vault-sync.io/secrets: this is neither JSON nor YAML: \
             .[1][138]: it says more than a list has room for at line 1 column 3"
        );
        let honest = "- &db {name: db, keys: &keys [user, pass]}\n- {name: other, keys: *keys}\n";
        assert_eq!(list(honest).unwrap()[1].keys.as_ref().unwrap().len(), 2);
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        for (text, words) in [
            (
                r#"[{"name":"s1","key":["user"]}]"#,
                "entry 1 (\"s1\") has the unknown field \"key\"; did you mean \"keys\"?",
            ),
            (
                r#"[{"name":"db"},{"name":"db","perfix":"X"}]"#,
                "entry 2 (\"db\") has the unknown field \"perfix\"; did you mean \"prefix\"?",
            ),
            (
                "- Name: db\n",
                "entry 1 has the unknown field \"Name\"; did you mean \"name\"?",
            ),
            (
                "- &a {name: db}\n- <<: *a\n",
                "entry 2 has the unknown field \"<<\"; the known ones are name, keys, prefix, optional, encoding",
            ),
            (
                "[{\"name\":\"db\",\"keys\u{200b}\":[]}]",
                "entry 1 (\"db\") has the unknown field \"keys\\u{200b}\"; did you mean \"keys\"? \
                 (the text has the invisible character U+200B)",
            ),
        ] {
            assert_eq!(
                list(text).unwrap_err(),
                format!("vault-sync.io/secrets: {words}"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_field_that_is_given_twice_is_refused() {
        for text in [
            r#"[{"name":"db","keys":["a"],"keys":["b"]}]"#,
            "- name: db\n  keys: [a]\n  keys: [b]\n",
        ] {
            let said = list(text).unwrap_err();
            assert!(said.contains("\"keys\" is given twice"), "{said}");
        }
    }

    #[test]
    fn a_byte_order_mark_in_front_is_skipped_and_other_invisible_characters_are_named() {
        for text in ["\u{feff}[{\"name\":\"db\"}]", "\u{feff}- name: db\n"] {
            assert_eq!(list(text).unwrap()[0].name, "db", "{text:?}");
        }
        // Too long for YAML, whose parser skips one by itself.
        let long = format!("\u{feff}[{{\"name\":\"db\"}}{}]", " ".repeat(70_000));
        assert_eq!(list(&long).unwrap().len(), 1);
        for (text, words) in [
            (
                "-\u{a0}name: db\n",
                "a list is needed, this is an object (the text has the invisible character U+00A0)",
            ),
            (
                "- name:\u{a0}db\n",
                "entry 1: an object with a name is needed, this is text (the text has the invisible character U+00A0)",
            ),
            (
                "[{\"name\":\"db\"}]\u{200b}",
                "this is not JSON: trailing characters at line 1 column 16 (the text has the invisible character U+200B)",
            ),
            (
                "- name: \u{feff}db\n",
                "entry 1: \"\\u{feff}db\" cannot be the name of a Secret (the text has the invisible character U+FEFF)",
            ),
            (
                "- name: db\u{2060}\n",
                "entry 1: \"db\\u{2060}\" cannot be the name of a Secret (the text has the invisible character U+2060)",
            ),
        ] {
            assert_eq!(
                list(text).unwrap_err(),
                format!("vault-sync.io/secrets: {words}"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn names_of_secrets() {
        for good in ["db", "a.b-c", "0", "x1.y2"] {
            assert!(is_object_name(good), "{good}");
        }
        for bad in ["", "Db", "a/b", "..", "-a", "a-", "a..b", "a b", "ä"] {
            assert!(!is_object_name(bad), "{bad}");
        }
    }
}
