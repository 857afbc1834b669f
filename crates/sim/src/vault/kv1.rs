//! KV, version 1: a path holds what was written last.
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v1>

use serde_json::{Map, Value};

use super::document::{Document, Settings, Version};
use super::journal::Deed;
use super::mount::Mount;
use super::reply::{Envelope, Reply};
use super::request::Verb;
use super::task::Task;
use super::time;

/// One version is all that there is.
const ONE: Settings = Settings {
    max_versions: 1,
    cas_required: false,
    delete_after: 0,
};

/// Answers a request below a mount.
pub(super) fn serve(mount: &mut Mount, task: &mut Task) -> Reply {
    match task.verb {
        Verb::Read => read(mount, task.path),
        Verb::List => Reply::list("kv", &mount.names(task.path)),
        Verb::Create | Verb::Update => write(mount, task),
        Verb::Delete => delete(mount, task),
        Verb::Patch | Verb::Other => Reply::unsupported_operation(),
    }
}

fn read(mount: &Mount, path: &str) -> Reply {
    let Some(latest) = mount.documents.get(path).and_then(Document::latest) else {
        return Reply::nothing_here();
    };
    Envelope {
        data: latest.data.clone(),
        lease_duration: lease(&latest.data).unwrap_or_else(|| mount.default_lease()),
        mount_type: "kv".to_owned(),
        ..Envelope::default()
    }
    .into()
}

/// The lease that a document asks for.
fn lease(data: &Value) -> Option<u64> {
    let asked = data.get("ttl").or_else(|| data.get("lease"))?;
    time::parse_duration(asked).ok()?.try_into().ok()
}

fn write(mount: &mut Mount, task: &mut Task) -> Reply {
    if task.path.is_empty() {
        return Reply::error(400, "missing path");
    }
    if task.data.is_empty() {
        return Reply::error(400, "missing data fields");
    }
    let now = task.now;
    let document = mount
        .documents
        .entry(task.path.to_owned())
        .or_insert_with(|| Document::new(now));
    document.add(
        Version::new(Value::Object(Map::clone(task.data)), task.who, now),
        ONE,
    );
    let number = document.current;
    task.record(mount, Deed::Write(number));
    Reply::done()
}

fn delete(mount: &mut Mount, task: &mut Task) -> Reply {
    if let Some(document) = mount.documents.remove(task.path) {
        task.record(mount, Deed::Purge);
        task.archive(mount, document);
    }
    Reply::done()
}
