//! What a source's annotations ask for, as far as that can be read without Vault.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::duration;
use super::problem::{Problem, Warning, excerpt};
use super::settings::DeletionPolicy;

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
    /// A new value asks for a re-check now.
    pub force: Option<String>,
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

    let entries = get(SECRETS).and_then(|text| match parse_list(text, &mut warnings) {
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
        force: get(FORCE_SYNC).map(str::to_owned),
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

/// Reads the list: JSON, or else YAML. Each fault says which entry it is in.
fn parse_list(text: &str, warnings: &mut Vec<Warning>) -> Result<Vec<Entry>, Problem> {
    let fault = |what: String| Problem::List(what);
    let json = match serde_json::from_str::<Json>(text) {
        Ok(json) => json,
        Err(error) if text.trim_start().starts_with(['[', '{']) => {
            // Flow YAML looks like JSON; only when it is neither do we speak of JSON.
            crate::yaml::from_str(text).map_err(|_| fault(format!("this is not JSON: {error}")))?
        }
        Err(_) => crate::yaml::from_str(text)
            .map_err(|error| fault(format!("this is neither JSON nor YAML: {error}")))?,
    };
    let list = match json {
        Json::Array(list) => list,
        Json::Null => Vec::new(),
        other => return Err(fault(format!("a list is needed, this is {}", type_of(&other)))),
    };
    if list.is_empty() {
        return Err(fault(
            "the list is empty; remove the annotation to discover the Secrets, or name them".into(),
        ));
    }
    list.into_iter()
        .enumerate()
        .map(|(i, item)| parse_entry(i + 1, item, warnings))
        .collect()
}

fn parse_entry(number: usize, item: Json, warnings: &mut Vec<Warning>) -> Result<Entry, Problem> {
    let fault = |what: String| Problem::List(format!("entry {number}: {what}"));
    let Json::Object(mut fields) = item else {
        return Err(fault(format!(
            "an object with a name is needed, this is {}",
            type_of(&item)
        )));
    };
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
    let fault = |what: String| Problem::List(format!("entry {number} ({name:?}): {what}"));
    let keys = match fields.remove("keys") {
        None | Some(Json::Null) => None,
        Some(Json::Array(keys)) if keys.is_empty() => None,
        Some(Json::Array(keys)) => {
            let mut picks: Vec<KeyPick> = Vec::with_capacity(keys.len());
            for key in keys {
                let pick = parse_key(key).map_err(&fault)?;
                // The same key named twice says nothing new; another key for the same name does.
                if !picks.contains(&pick) {
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
        Some(Json::String(text)) => Some(Encoding::parse(&text).ok_or_else(|| {
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
    warnings.extend(fields.into_iter().map(|(field, _)| Warning::UnknownField {
        entry: number,
        name: name.clone(),
        field: excerpt(&field),
    }));
    Ok(Entry {
        name,
        keys,
        prefix,
        optional,
        encoding,
    })
}

fn parse_key(key: Json) -> Result<KeyPick, String> {
    const NEEDED: &str = "a key must be text, or an object with \"from\" and \"to\"";
    match key {
        Json::String(key) if key.is_empty() => Err("a key is empty".into()),
        Json::String(key) => Ok(KeyPick {
            from: key.clone(),
            to: key,
        }),
        Json::Object(mut fields) => match (fields.remove("from"), fields.remove("to")) {
            (Some(Json::String(from)), Some(Json::String(to)))
                if !from.is_empty() && !to.is_empty() && fields.is_empty() =>
            {
                Ok(KeyPick { from, to })
            }
            _ => Err(NEEDED.into()),
        },
        other => Err(format!("{NEEDED}; this is {}", type_of(&other))),
    }
}

/// DNS subdomain: what Kubernetes takes for the name of a Secret. A name that is none must be
/// refused here, since it becomes part of an API request's path.
fn is_object_name(name: &str) -> bool {
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

    fn ask(pairs: &[(&str, &str)]) -> Ask {
        parse(
            &pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        )
    }

    fn list(text: &str) -> Result<Vec<Entry>, String> {
        parse_list(text, &mut Vec::new()).map_err(|problem| problem.to_string())
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
