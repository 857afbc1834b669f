//! A document: all that was ever written to a path of a KV engine, and by whom.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::time;

/// How many versions are kept where nobody says how many.
const VERSIONS: u64 = 10;

/// A document of a KV engine. On version 1 it has one version that readers see, and those it replaced.
#[derive(Clone, Debug)]
pub struct Document {
    /// The versions that Vault still knows.
    pub versions: BTreeMap<u64, Version>,
    /// Versions that were replaced, or that fell out at the end of the history. Vault does not know them any more.
    pub pruned: BTreeMap<u64, Version>,
    /// The number of the latest version; 0: none was written yet.
    pub current: u64,
    /// The custom metadata.
    pub custom: BTreeMap<String, String>,
    /// Who wrote the custom metadata last; empty: nobody did.
    pub custom_by: String,
    pub(super) oldest: u64,
    pub(super) created: SystemTime,
    pub(super) updated: SystemTime,
    pub(super) settings: Settings,
    pub(super) updated_by: Option<Attribution>,
}

/// What can be set for a document, and for a whole mount.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Settings {
    pub(super) max_versions: u32,
    pub(super) cas_required: bool,
    /// In seconds; 0: versions live for ever. Below 0, which a mount alone can have: whatever documents say.
    pub(super) delete_after: i64,
}

/// A version of a document.
#[derive(Clone, Debug)]
pub struct Version {
    /// What it holds: an object, or null. It stays here when the version is destroyed.
    pub data: Value,
    /// Who wrote it.
    pub author: String,
    /// When it was written.
    pub created: SystemTime,
    /// When it was deleted, or will be.
    pub deleted: Option<SystemTime>,
    /// Who deleted it; empty: nobody did, or Vault does when its time is over.
    pub deleted_by: String,
    /// Whether its data are gone for good.
    pub destroyed: bool,
    /// Who destroyed it; empty: nobody did.
    pub destroyed_by: String,
    pub(super) creator: Option<Attribution>,
    pub(super) deleter: Option<Attribution>,
}

/// Who did something, in Vault's own metadata.
#[derive(Clone, Debug)]
pub(super) struct Attribution {
    pub(super) actor: String,
    pub(super) client: String,
    pub(super) entity: String,
    pub(super) operation: &'static str,
}

impl Attribution {
    fn shown(of: Option<&Self>) -> Value {
        let Some(of) = of else { return Value::Null };
        let mut shown = json!({"actor": of.actor, "operation": of.operation});
        for (name, value) in [("client_id", &of.client), ("entity_id", &of.entity)] {
            if !value.is_empty() {
                shown[name] = value.as_str().into();
            }
        }
        shown
    }
}

impl Version {
    pub(super) fn new(data: Value, author: &str, now: SystemTime) -> Self {
        Self {
            data,
            author: author.to_owned(),
            created: now,
            deleted: None,
            deleted_by: String::new(),
            destroyed: false,
            destroyed_by: String::new(),
            creator: None,
            deleter: None,
        }
    }

    /// Whether readers see it at this time.
    pub fn is_live(&self, now: SystemTime) -> bool {
        !self.destroyed && !self.is_deleted(now)
    }

    pub(super) fn is_deleted(&self, now: SystemTime) -> bool {
        self.deleted.is_some_and(|deleted| deleted <= now)
    }

    fn deletion_time(&self) -> String {
        self.deleted.map(time::rfc3339).unwrap_or_default()
    }
}

impl Document {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            versions: BTreeMap::new(),
            pruned: BTreeMap::new(),
            current: 0,
            custom: BTreeMap::new(),
            custom_by: String::new(),
            oldest: 0,
            created: now,
            updated: now,
            settings: Settings::default(),
            updated_by: None,
        }
    }

    /// The latest version, live or not.
    pub fn latest(&self) -> Option<&Version> {
        self.versions.get(&self.current)
    }

    /// What its readers see at this time; `None`: nothing.
    pub fn live(&self, now: SystemTime) -> Option<&Value> {
        self.latest()
            .filter(|latest| latest.is_live(now))
            .map(|latest| &latest.data)
    }

    /// A version by its number, also one that Vault does not know any more.
    pub fn ever(&self, number: u64) -> Option<&Version> {
        self.versions.get(&number).or_else(|| self.pruned.get(&number))
    }

    /// Adds the next version, and lets those go that are too many. Gives their numbers.
    pub(super) fn add(&mut self, version: Version, mount: Settings) -> Vec<u64> {
        self.current += 1;
        self.updated = version.created;
        self.versions.insert(self.current, version);
        let most = match self.settings.max_versions.max(mount.max_versions) {
            0 => VERSIONS,
            most => u64::from(most),
        };
        if self.current - self.oldest < most {
            return Vec::new();
        }
        self.oldest = self.current - most + 1;
        let kept = self.versions.split_off(&self.oldest);
        let gone = std::mem::replace(&mut self.versions, kept);
        let numbers = gone.keys().copied().collect();
        self.pruned.extend(gone);
        numbers
    }

    /// The version as KV v2 tells of it.
    pub(super) fn about(&self, number: u64, version: &Version) -> Value {
        json!({
            "version": number,
            "created_time": time::rfc3339(version.created),
            "deletion_time": version.deletion_time(),
            "destroyed": version.destroyed,
            "custom_metadata": self.custom_metadata(),
        })
    }

    /// All that KV v2 tells of the document but its contents.
    pub(super) fn metadata(&self) -> Value {
        let versions: serde_json::Map<String, Value> = self
            .versions
            .iter()
            .map(|(number, version)| {
                let about = json!({
                    "created_time": time::rfc3339(version.created),
                    "deletion_time": version.deletion_time(),
                    "destroyed": version.destroyed,
                    "created_by": Attribution::shown(version.creator.as_ref()),
                    "deleted_by": Attribution::shown(version.deleter.as_ref()),
                });
                (number.to_string(), about)
            })
            .collect();
        json!({
            "versions": versions,
            "current_version": self.current,
            "oldest_version": self.oldest,
            "created_time": time::rfc3339(self.created),
            "updated_time": time::rfc3339(self.updated),
            "max_versions": self.settings.max_versions,
            "cas_required": self.settings.cas_required,
            "delete_version_after": time::go_duration(self.settings.delete_after),
            "custom_metadata": self.custom_metadata(),
            "last_updated_by": Attribution::shown(self.updated_by.as_ref()),
        })
    }

    fn custom_metadata(&self) -> Value {
        if self.custom.is_empty() {
            Value::Null
        } else {
            json!(self.custom)
        }
    }
}
