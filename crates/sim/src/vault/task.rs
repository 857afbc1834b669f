//! What a secrets engine is asked, and where it tells what it did.

use std::time::SystemTime;

use serde_json::{Map, Value};

use super::Archived;
use super::document::{Attribution, Document};
use super::journal::{Change, Deed};
use super::mount::Mount;
use super::request::Verb;

/// A request to a secrets engine.
pub(super) struct Task<'a> {
    pub(super) now: SystemTime,
    pub(super) verb: Verb,
    /// Below the mount.
    pub(super) path: &'a str,
    pub(super) data: &'a Map<String, Value>,
    /// Who asks, for the journal.
    pub(super) who: &'a str,
    /// Who asks, for Vault's metadata.
    pub(super) by: Attribution,
    pub(super) journal: &'a mut Vec<Change>,
    pub(super) archive: &'a mut Vec<Archived>,
}

impl Task<'_> {
    /// Writes down what was done to the mount's document at the path.
    pub(super) fn record_at(&mut self, mount: &Mount, path: &str, deed: Deed) {
        self.journal.push(Change {
            at: self.now,
            who: self.who.to_owned(),
            deed,
            mount: mount.path.clone(),
            accessor: mount.accessor.clone(),
            path: path.to_owned(),
        });
    }

    /// The same of the task's own path.
    pub(super) fn record(&mut self, mount: &Mount, deed: Deed) {
        self.record_at(mount, self.path, deed);
    }

    /// Keeps a document that Vault does not know any more.
    pub(super) fn archive_at(&mut self, mount: &Mount, path: &str, document: Document) {
        self.archive.push(Archived {
            at: self.now,
            who: self.who.to_owned(),
            mount: mount.path.clone(),
            accessor: mount.accessor.clone(),
            path: path.to_owned(),
            document,
        });
    }

    /// The same of the task's own path.
    pub(super) fn archive(&mut self, mount: &Mount, document: Document) {
        self.archive_at(mount, self.path, document);
    }
}
