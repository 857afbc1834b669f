//! KV, version 2: each path has its versions, and metadata.
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>

mod config;
mod data;
mod metadata;
mod versions;

use serde_json::Value;

use super::fields::{self, Kind, Schema};
use super::mount::Mount;
use super::reply::Reply;
use super::request::Verb;
use super::task::Task;

/// Fields of `data/`.
const DATA: Schema = &[
    ("path", Kind::Text),
    ("version", Kind::Whole),
    ("options", Kind::Object),
    ("data", Kind::Object),
];
/// Fields of `metadata/`.
const METADATA: Schema = &[
    ("path", Kind::Text),
    ("exclude_deleted", Kind::Flag),
    ("cas_required", Kind::Flag),
    ("max_versions", Kind::Whole),
    ("delete_version_after", Kind::Duration),
    ("custom_metadata", Kind::Object),
];
/// Fields of `delete/`, `undelete/` and `destroy/`.
const VERSIONS: Schema = &[("path", Kind::Text), ("versions", Kind::Numbers)];
/// Fields of `config`.
const CONFIG: Schema = &[
    ("max_versions", Kind::Whole),
    ("cas_required", Kind::Flag),
    ("delete_version_after", Kind::SignedDuration),
];

/// What a path below a mount is about.
enum Place<'a> {
    Config,
    Data(&'a str),
    Metadata(&'a str),
    Delete(&'a str),
    Undelete(&'a str),
    Destroy(&'a str),
    Invalid,
}

impl<'a> Place<'a> {
    fn of(path: &'a str) -> Self {
        if path == "config" {
            return Self::Config;
        }
        match path.split_once('/') {
            Some(("data", path)) if !path.is_empty() && !path.ends_with('/') => Self::Data(path),
            Some(("metadata", path)) => Self::Metadata(path),
            Some(("delete", path)) => Self::Delete(path),
            Some(("undelete", path)) => Self::Undelete(path),
            Some(("destroy", path)) => Self::Destroy(path),
            _ => Self::Invalid,
        }
    }

    fn schema(&self) -> Schema {
        match self {
            Self::Config => CONFIG,
            Self::Data(_) => DATA,
            Self::Metadata(_) => METADATA,
            Self::Delete(_) | Self::Undelete(_) | Self::Destroy(_) => VERSIONS,
            Self::Invalid => &[],
        }
    }

    fn serves(&self, verb: Verb) -> bool {
        match self {
            Self::Config => matches!(verb, Verb::Read | Verb::Update),
            Self::Data(_) => !matches!(verb, Verb::List | Verb::Other),
            Self::Metadata(_) | Self::Invalid => verb != Verb::Other,
            Self::Delete(_) | Self::Undelete(_) | Self::Destroy(_) => verb == Verb::Update,
        }
    }
}

/// Whether there is already what a write writes; `None`: the path does not say. Vault looks before it looks at
/// policies, and refuses fields that do not fit.
pub(super) fn exists(
    mount: &Mount,
    path: &str,
    fields: &serde_json::Map<String, Value>,
) -> Result<Option<bool>, String> {
    let place = Place::of(path);
    let (Place::Data(document) | Place::Metadata(document)) = place else {
        return Ok(None);
    };
    fields::check(fields, place.schema())?;
    Ok(Some(mount.documents.contains_key(document)))
}

/// Answers a request below a mount.
pub(super) fn serve(mount: &mut Mount, task: &mut Task) -> Reply {
    let place = Place::of(task.path);
    if !place.serves(task.verb) {
        return Reply::unsupported_operation();
    }
    if let Err(why) = fields::check(task.data, place.schema()) {
        return Reply::error(400, format!("Field validation failed: {why}"));
    }
    if mount.upgrading && !matches!(place, Place::Invalid) {
        return Reply::error(
            400,
            "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period and will resume service shortly.",
        );
    }
    let reply = match place {
        Place::Config => config::serve(mount, task),
        Place::Data(path) => data::serve(mount, path, task),
        Place::Metadata(path) => metadata::serve(mount, path, task),
        Place::Delete(path) => versions::delete(mount, path, task),
        Place::Undelete(path) => versions::undelete(mount, path, task),
        Place::Destroy(path) => versions::destroy(mount, path, task),
        Place::Invalid => return invalid(task),
    };
    let reply = reply.warned(unused(&place, task));
    if task.verb == Verb::List {
        reply.unless_empty()
    } else {
        reply
    }
}

/// What the path made nothing of.
fn unused(place: &Place, task: &Task) -> Vec<String> {
    let unknown = fields::unknown(task.data, place.schema());
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        let list = unknown.join(" ");
        warnings.push(format!(
            "Endpoint ignored these unrecognized parameters: [{list}]"
        ));
    }
    if !matches!(place, Place::Config) && task.data.get("path").is_some_and(|path| !path.is_null()) {
        let text = "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: [path]";
        warnings.push(text.to_owned());
    }
    warnings
}

fn invalid(task: &Task) -> Reply {
    let warning = match task.path {
        "metadata" | "data" | "delete" | "undelete" | "destroy" => {
            "Non-listing operations on the root of a K/V v2 mount are not supported.".to_owned()
        }
        _ => {
            let command = match task.verb {
                Verb::Create | Verb::Update => "put",
                Verb::Patch => "patch",
                Verb::List => "list",
                Verb::Delete => "delete",
                Verb::Read | Verb::Other => "get",
            };
            format!(
                "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. If using the Vault CLI, use 'vault kv {command}' for this operation."
            )
        }
    };
    Reply::no_path(warning)
}

/// A number of versions to keep, as Vault takes it.
fn most_versions(value: &Value) -> u32 {
    let number = fields::whole(value).unwrap_or_default();
    u32::try_from(number & i64::from(u32::MAX)).unwrap_or_default()
}
