//! The settings of a mount.

use serde_json::json;

use super::super::fields;
use super::super::journal::Deed;
use super::super::mount::Mount;
use super::super::reply::Reply;
use super::super::request::Verb;
use super::super::task::Task;
use super::super::time;

pub(super) fn serve(mount: &mut Mount, task: &mut Task) -> Reply {
    if task.verb == Verb::Read {
        return Reply::kv(json!({
            "max_versions": mount.settings.max_versions,
            "cas_required": mount.settings.cas_required,
            "delete_version_after": time::go_duration(mount.settings.delete_after),
        }));
    }
    if let Some(most) = task.data.get("max_versions") {
        mount.settings.max_versions = super::most_versions(most);
    }
    if let Some(required) = task.data.get("cas_required") {
        mount.settings.cas_required = fields::flag(required).unwrap_or_default();
    }
    if let Some(after) = task.data.get("delete_version_after") {
        mount.settings.delete_after = time::parse_duration(after).unwrap_or_default().max(-1);
    }
    task.record(mount, Deed::Configure);
    Reply::done()
}
