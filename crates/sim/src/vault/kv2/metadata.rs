//! A document's metadata: its custom metadata, its settings, and the end of all of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::super::document::Document;
use super::super::fields;
use super::super::journal::Deed;
use super::super::mount::Mount;
use super::super::reply::{Reply, collected};
use super::super::request::Verb;
use super::super::task::Task;
use super::super::time;

/// The most keys that custom metadata may have, and the greatest lengths of a key and of a value.
const MOST_KEYS: usize = 64;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 512;
const INVALID: &str = "custom_metadata validation failed";

pub(super) fn serve(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    // To all but a list, `a/` is as good as `a`.
    let document = path.trim_end_matches('/');
    match task.verb {
        Verb::Read => match mount.documents.get(document) {
            Some(document) => Reply::kv(document.metadata()),
            None => Reply::nothing_here(),
        },
        Verb::List => list(mount, path, task),
        Verb::Create | Verb::Update => write(mount, path, task),
        Verb::Patch => patch(mount, path, task),
        Verb::Delete => purge(mount, document, task),
        Verb::Other => Reply::unsupported_operation(),
    }
}

fn list(mount: &Mount, path: &str, task: &Task) -> Reply {
    let mut names = mount.names(path);
    let only_live = task.data.get("exclude_deleted").map(fields::flag);
    if only_live == Some(Ok(true)) {
        names.retain(|name| {
            let latest = mount
                .documents
                .get(&format!("{path}{name}"))
                .and_then(Document::latest);
            latest.is_none_or(|latest| latest.deleted.is_none())
        });
    }
    Reply::names("kv", &names)
}

/// What a request changes of a document.
struct Changes {
    /// A value that is `None` is removed by a patch.
    custom: Option<BTreeMap<String, Option<String>>>,
    max_versions: Option<u32>,
    cas_required: Option<bool>,
    delete_after: Option<i64>,
}

impl Changes {
    fn of(fields: &Map<String, Value>, patch: bool) -> Result<Self, String> {
        let custom = match fields.get("custom_metadata") {
            None => None,
            Some(Value::Object(custom)) => Some(custom_metadata(custom, patch)?),
            Some(_) => Some(BTreeMap::new()),
        };
        Ok(Self {
            custom,
            max_versions: fields.get("max_versions").map(super::most_versions),
            cas_required: fields
                .get("cas_required")
                .map(|flag| fields::flag(flag).unwrap_or_default()),
            delete_after: fields
                .get("delete_version_after")
                .map(|after| time::parse_duration(after).unwrap_or_default()),
        })
    }

    fn is_empty(&self) -> bool {
        self.custom.is_none()
            && self.max_versions.is_none()
            && self.cas_required.is_none()
            && self.delete_after.is_none()
    }

    /// Changes the settings, and says whether there was something to change.
    fn set(&self, document: &mut Document) -> bool {
        let settings = &mut document.settings;
        settings.max_versions = self.max_versions.unwrap_or(settings.max_versions);
        settings.cas_required = self.cas_required.unwrap_or(settings.cas_required);
        settings.delete_after = self.delete_after.unwrap_or(settings.delete_after);
        self.max_versions.is_some() || self.cas_required.is_some() || self.delete_after.is_some()
    }

    /// What is done, and perhaps in vain.
    fn reply(&self, mount: &Mount) -> Reply {
        if self.cas_required == Some(false) && mount.settings.cas_required {
            let warning = "\"cas_required\" set to false, but is mandated by backend config. This value will be ignored.";
            return Reply::kv(Value::Null).warned([warning.to_owned()]);
        }
        Reply::done()
    }
}

fn write(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    if path.is_empty() {
        return Reply::error(400, "missing path");
    }
    let changes = match Changes::of(task.data, false) {
        Ok(changes) if changes.is_empty() => return Reply::done(),
        Ok(changes) => changes,
        Err(why) => return Reply::error(400, why),
    };
    let now = task.now;
    let document = mount
        .documents
        .entry(path.to_owned())
        .or_insert_with(|| Document::new(now));
    if let Some(custom) = &changes.custom {
        let kept = |(key, value): (&String, &Option<String>)| Some((key.clone(), value.clone()?));
        document.custom = custom.iter().filter_map(kept).collect();
    }
    finish(mount, path, task, &changes)
}

fn patch(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    if path.is_empty() {
        return Reply::error(400, "missing path");
    }
    let changes = match Changes::of(task.data, true) {
        Ok(changes) => changes,
        Err(why) => return Reply::error(400, why),
    };
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::Empty(404);
    };
    let whole = task.data.get("custom_metadata").and_then(Value::as_object);
    if let Some(why) = whole.and_then(unpatchable) {
        return Reply::collected(500, &[&why]);
    }
    match (&changes.custom, whole) {
        (Some(custom), Some(_)) => {
            for (key, value) in custom {
                match value {
                    Some(value) => document.custom.insert(key.clone(), value.clone()),
                    None => document.custom.remove(key),
                };
            }
        }
        (Some(_), None) => document.custom.clear(),
        (None, _) => {}
    }
    finish(mount, path, task, &changes)
}

/// A patch takes texts alone, other than a write.
fn unpatchable(custom: &Map<String, Value>) -> Option<String> {
    let unfit = custom
        .values()
        .find(|value| !value.is_string() && !value.is_null())?;
    let kind = match unfit {
        Value::Bool(_) => "bool",
        _ => "number",
    };
    Some(format!(
        "json: cannot unmarshal {kind} into Go struct field KeyMetadata.custom_metadata of type string"
    ))
}

/// What a write and a patch have in common, once the custom metadata are right.
fn finish(mount: &mut Mount, path: &str, task: &mut Task, changes: &Changes) -> Reply {
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::nothing_here();
    };
    if changes.custom.is_some() {
        task.who.clone_into(&mut document.custom_by);
    }
    let configured = changes.set(document);
    if changes.custom.is_some() {
        task.record_at(mount, path, Deed::Claim);
    }
    if configured {
        task.record_at(mount, path, Deed::Configure);
    }
    changes.reply(mount)
}

fn purge(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    if let Some(document) = mount.documents.remove(path) {
        task.record_at(mount, path, Deed::Purge);
        task.archive_at(mount, path, document);
    }
    Reply::done()
}

/// Reads and checks custom metadata. In a patch, `null` removes a key.
fn custom_metadata(
    given: &Map<String, Value>,
    patch: bool,
) -> Result<BTreeMap<String, Option<String>>, String> {
    let mut custom = BTreeMap::new();
    for (key, value) in given {
        let value = if patch && value.is_null() {
            None
        } else {
            Some(fields::text(value).map_err(|why| format!("{INVALID}: {why}"))?)
        };
        custom.insert(key.clone(), value);
    }
    let faults = faults(&custom);
    if faults.is_empty() {
        Ok(custom)
    } else {
        Err(collected(&faults))
    }
}

fn faults(custom: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let set: Vec<(&str, &str)> = custom
        .iter()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)))
        .collect();
    if set.len() > MOST_KEYS {
        let count = set.len();
        return vec![format!(
            "{INVALID}: payload must contain at most {MOST_KEYS} keys, provided {count}"
        )];
    }
    let mut faults = Vec::new();
    for (key, value) in set {
        if key.is_empty() || key.len() > LONGEST_KEY {
            let length = key.len();
            faults.push(format!(
                "{INVALID}: length of key {key:?} is {length} but must be 0 < len(key) <= {LONGEST_KEY}"
            ));
        }
        if value.is_empty() || value.len() > LONGEST_VALUE {
            let length = value.len();
            faults.push(format!(
                "{INVALID}: length of value for key {key:?} is {length} but must be 0 < len(value) <= {LONGEST_VALUE}"
            ));
        }
        if !is_printable(key) {
            let quoted = quoted(key);
            faults.push(format!(
                "{INVALID}: key {quoted} ({key}) contains unprintable characters"
            ));
        }
        if !is_printable(value) {
            let quoted = quoted(key);
            faults.push(format!(
                "{INVALID}: value for key {quoted} contains unprintable characters"
            ));
        }
    }
    faults
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// In quotes, as Go writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
