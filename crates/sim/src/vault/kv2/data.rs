//! Reading, writing, patching and deleting what a document holds.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::super::document::{Document, Settings, Version};
use super::super::fields;
use super::super::journal::Deed;
use super::super::json::{as_floats, merge};
use super::super::mount::Mount;
use super::super::reply::Reply;
use super::super::request::Verb;
use super::super::task::Task;

pub(super) fn serve(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    match task.verb {
        Verb::Read => read(mount, path, task),
        Verb::Create | Verb::Update => write(mount, path, task),
        Verb::Patch => patch(mount, path, task),
        Verb::Delete => delete(mount, path, task),
        Verb::List | Verb::Other => Reply::unsupported_operation(),
    }
}

fn read(mount: &Mount, path: &str, task: &Task) -> Reply {
    let Some(document) = mount.documents.get(path) else {
        return Reply::nothing_here();
    };
    let asked = task.data.get("version").map(fields::whole);
    let number = match asked {
        Some(Ok(number)) if number > 0 => number.unsigned_abs(),
        _ => document.current,
    };
    let Some(version) = document.versions.get(&number) else {
        return Reply::nothing_here();
    };
    let metadata = document.about(number, version);
    if version.is_live(task.now) {
        Reply::kv(json!({"data": version.data, "metadata": metadata}))
    } else {
        Reply::absent(json!({"data": null, "metadata": metadata}))
    }
}

fn write(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(data) = task.data.get("data") else {
        return Reply::error(400, "no data provided");
    };
    let now = task.now;
    let settings = mount.settings;
    let (current, own) = mount
        .documents
        .get(path)
        .map_or((0, Settings::default()), |document| {
            (document.current, document.settings)
        });
    if let Err(why) = check_and_set(task.data, settings, own, current) {
        return Reply::error(400, why);
    }
    let document = mount
        .documents
        .entry(path.to_owned())
        .or_insert_with(|| Document::new(now));
    let mut data = data.clone();
    as_floats(&mut data);
    let (number, pruned, about) = add(document, settings, data, task);
    task.record_at(mount, path, Deed::Write(number));
    record_pruned(mount, path, task, pruned);
    Reply::kv(about)
}

fn patch(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(changes) = task.data.get("data") else {
        return Reply::error(400, "no data provided");
    };
    let settings = mount.settings;
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::Empty(404);
    };
    if let Err(why) = check_and_set(task.data, settings, document.settings, document.current) {
        return Reply::error(400, why);
    }
    let Some(latest) = document.latest() else {
        return Reply::Empty(404);
    };
    if !latest.is_live(task.now) {
        return Reply::absent(document.about(document.current, latest));
    }
    if latest.data.is_null() {
        return Reply::collected(500, &["resource does not exist"]);
    }
    let mut data = latest.data.clone();
    let mut changes = changes.clone();
    as_floats(&mut changes);
    merge(&mut data, &changes);
    let (number, pruned, about) = add(document, settings, data, task);
    task.record_at(mount, path, Deed::Patch(number));
    record_pruned(mount, path, task, pruned);
    Reply::kv(about)
}

/// Adds a version: its number, those that fell out, and what Vault tells of it.
fn add(document: &mut Document, mount: Settings, data: Value, task: &Task) -> (u64, Vec<u64>, Value) {
    let version = Version {
        deleted: deletion_time(mount, document.settings, task.now),
        creator: Some(task.by.clone()),
        ..Version::new(data, task.who, task.now)
    };
    document.updated_by = Some(task.by.clone());
    let pruned = document.add(version, mount);
    let number = document.current;
    let about = document
        .latest()
        .map_or(Value::Null, |latest| document.about(number, latest));
    (number, pruned, about)
}

fn record_pruned(mount: &Mount, path: &str, task: &mut Task, pruned: Vec<u64>) {
    if !pruned.is_empty() {
        task.record_at(mount, path, Deed::Prune(pruned));
    }
}

fn delete(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::done();
    };
    let number = document.current;
    let Some(latest) = document.versions.get_mut(&number) else {
        return Reply::done();
    };
    if !latest.is_live(task.now) {
        return Reply::done();
    }
    latest.deleted = Some(task.now);
    task.who.clone_into(&mut latest.deleted_by);
    latest.deleter = Some(task.by.clone());
    document.updated_by = Some(task.by.clone());
    task.record_at(mount, path, Deed::Delete(vec![number]));
    Reply::done()
}

/// Whether the write knows the version that it replaces.
fn check_and_set(
    fields: &Map<String, Value>,
    mount: Settings,
    document: Settings,
    current: u64,
) -> Result<(), &'static str> {
    let cas = fields.get("options").and_then(|options| options.get("cas"));
    match cas.map(fields::whole) {
        Some(Err(_)) => Err("error parsing check-and-set parameter"),
        Some(Ok(cas)) if u64::try_from(cas) == Ok(current) => Ok(()),
        Some(Ok(_)) => Err("check-and-set parameter did not match the current version"),
        None if mount.cas_required || document.cas_required => {
            Err("check-and-set parameter required for this call")
        }
        None => Ok(()),
    }
}

/// When a version that comes to life at this time is deleted by itself.
pub(super) fn deletion_time(mount: Settings, document: Settings, from: SystemTime) -> Option<SystemTime> {
    if mount.delete_after < 0 {
        return None;
    }
    let shortest = [mount.delete_after, document.delete_after]
        .into_iter()
        .filter(|after| *after > 0)
        .min()?;
    Some(from + Duration::from_secs(shortest.unsigned_abs()))
}
