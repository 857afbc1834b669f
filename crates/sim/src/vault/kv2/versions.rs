//! Deleting, undeleting and destroying versions by their numbers.

use super::super::document::{Attribution, Document, Version};
use super::super::fields;
use super::super::journal::Deed;
use super::super::mount::Mount;
use super::super::reply::Reply;
use super::super::task::Task;
use super::data::deletion_time;

/// The numbers that a request names; none is a fault.
fn numbers(task: &Task) -> Option<Vec<u64>> {
    let named = task.data.get("versions").map(fields::numbers)?.ok()?;
    let positive = |number: &i64| u64::try_from(*number).unwrap_or(0);
    (!named.is_empty()).then(|| named.iter().map(positive).collect())
}

/// Those of the versions that are there and not destroyed, each once.
fn known(document: &Document, numbers: &[u64]) -> Vec<u64> {
    let mut known: Vec<u64> = Vec::new();
    for number in numbers {
        let version = document.versions.get(number);
        if version.is_some_and(|version| !version.destroyed) && !known.contains(number) {
            known.push(*number);
        }
    }
    known
}

fn change(document: &mut Document, numbers: &[u64], mut with: impl FnMut(&mut Version)) {
    for number in numbers {
        if let Some(version) = document.versions.get_mut(number) {
            with(version);
        }
    }
}

pub(super) fn delete(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(numbers) = numbers(task) else {
        return Reply::error(400, "No version number provided");
    };
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::done();
    };
    let (now, who, by) = (task.now, task.who, task.by.clone());
    let mut deleted = known(document, &numbers);
    deleted.retain(|number| document.versions[number].is_live(now));
    change(document, &deleted, |version| {
        version.deleted = Some(now);
        who.clone_into(&mut version.deleted_by);
        version.deleter = Some(by.clone());
    });
    document.updated_by = Some(by);
    if !deleted.is_empty() {
        task.record_at(mount, path, Deed::Delete(deleted));
    }
    Reply::done()
}

pub(super) fn undelete(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(numbers) = numbers(task) else {
        return Reply::error(400, "No version number provided");
    };
    let settings = mount.settings;
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::done();
    };
    let (now, own) = (task.now, document.settings);
    let known = known(document, &numbers);
    let mut revived = known.clone();
    revived.retain(|number| !document.versions[number].is_live(now));
    change(document, &known, |version| {
        version.deleted = deletion_time(settings, own, now);
        version.deleted_by.clear();
        version.deleter = None;
    });
    document.updated_by = Some(Attribution {
        operation: "undelete",
        ..task.by.clone()
    });
    if !revived.is_empty() {
        task.record_at(mount, path, Deed::Undelete(revived));
    }
    Reply::done()
}

pub(super) fn destroy(mount: &mut Mount, path: &str, task: &mut Task) -> Reply {
    let Some(numbers) = numbers(task) else {
        return Reply::error(400, "no version number provided");
    };
    let Some(document) = mount.documents.get_mut(path) else {
        return Reply::done();
    };
    let who = task.who;
    let destroyed = known(document, &numbers);
    change(document, &destroyed, |version| {
        version.destroyed = true;
        who.clone_into(&mut version.destroyed_by);
    });
    if !destroyed.is_empty() {
        task.record_at(mount, path, Deed::Destroy(destroyed));
    }
    Reply::done()
}
