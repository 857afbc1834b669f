//! Changing what is mounted, and how KV of version 1 becomes version 2.
//! <https://developer.hashicorp.com/vault/api-docs/system/mounts#tune-mount-configuration>

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::super::document::{Attribution, Document};
use super::super::journal::Deed;
use super::super::json::as_floats;
use super::super::mount::{Engine, Mount};
use super::super::reply::{Envelope, Reply};
use super::super::request::Call;
use super::super::{Archived, Caller, Vault, text};
use super::mounts::{options, seconds};

impl Vault {
    /// A write of `sys/mounts/<path>/tune`.
    pub(super) fn tune(&mut self, now: SystemTime, path: &str, call: &Call, caller: &Caller) -> Reply {
        let Some(mut mount) = self.mounts.remove(path) else {
            return Reply::error(
                400,
                format!("tune of path \"{path}/\" failed: no mount entry found"),
            );
        };
        // These are changed even where the version is refused.
        describe(&mut mount, call);
        let given = options(&call.data);
        let reply = match version_change(&mount, &given) {
            Err(why) => Reply::error(400, why),
            Ok(change) => {
                mount.about.options.extend(given);
                let upgrade = change.is_some_and(|(_, to)| to == 2) && mount.engine == Engine::Kv1;
                if upgrade {
                    self.upgrade(now, &caller.who, &mut mount);
                }
                let deed = if upgrade { Deed::Upgrade } else { Deed::Configure };
                self.record_mount(now, &caller.who, deed, &mount);
                change.map_or_else(Reply::done, |(from, to)| announced(from, to))
            }
        };
        self.mounts.insert(path.to_owned(), mount);
        reply
    }

    /// Makes each document the first version of itself. As it was, it is kept in the archive.
    fn upgrade(&mut self, now: SystemTime, who: &str, mount: &mut Mount) {
        mount.engine = Engine::Kv2;
        for (path, document) in &mut mount.documents {
            let upgraded = upgraded(document, now);
            self.archive.push(Archived {
                at: now,
                who: who.to_owned(),
                mount: mount.path.clone(),
                accessor: mount.accessor.clone(),
                path: path.clone(),
                document: std::mem::replace(document, upgraded),
            });
        }
    }
}

fn describe(mount: &mut Mount, call: &Call) {
    if call.data.contains_key("description") {
        text(call, "description").clone_into(&mut mount.about.description);
    }
    for (field, lease) in [
        ("default_lease_ttl", &mut mount.about.default_lease),
        ("max_lease_ttl", &mut mount.about.max_lease),
    ] {
        if let Some(value) = call.data.get(field) {
            *lease = seconds(value);
        }
    }
}

/// From which version to which the options lead, if they do; or why that cannot be.
fn version_change(mount: &Mount, given: &BTreeMap<String, String>) -> Result<Option<(u8, u8)>, String> {
    let Some(wanted) = given.get("version") else {
        return Ok(None);
    };
    let to = match wanted.as_str() {
        "1" => 1,
        "2" => 2,
        other => return Err(format!("invalid version provided: {other}")),
    };
    // A mount that was made without a version says 0.
    let has = mount.about.options.get("version");
    let from = has.and_then(|version| version.parse().ok()).unwrap_or(0);
    match from {
        from if from > to => Err(format!("cannot downgrade mount from version {from}")),
        from if from < to => Ok(Some((from, to))),
        _ => Ok(None),
    }
}

fn announced(from: u8, to: u8) -> Reply {
    let warning = format!(
        "Upgrading mount from version {from} to version {to}. This mount will be unavailable for a brief period and will resume service shortly."
    );
    Reply::from(Envelope {
        mount_type: "system".to_owned(),
        ..Envelope::default()
    })
    .warned([warning])
}

/// What a document held on version 1 is its first version on version 2.
fn upgraded(old: &Document, now: SystemTime) -> Document {
    let upgrade = Attribution {
        actor: "kv_upgrade".to_owned(),
        client: String::new(),
        entity: String::new(),
        operation: "upgrade",
    };
    let mut document = Document::new(now);
    if let Some(latest) = old.latest() {
        let mut version = latest.clone();
        version.created = now;
        version.creator = Some(upgrade.clone());
        as_floats(&mut version.data);
        document.versions.insert(1, version);
    }
    document.current = 1;
    document.oldest = 1;
    document.updated_by = Some(upgrade);
    document
}
