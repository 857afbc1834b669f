//! What this process remembers of a source from one reconcile to the next.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::document::DocumentId;
use crate::settings::DeletionPolicy;
use crate::value::Digest;

/// Everything that is remembered of one source, whether or not its object exists. Times are measured from the
/// start of the process.
///
/// What the watch shows of the object is in [`super::Tracked`], and is removed with the object.
#[derive(Clone, Default, Debug)]
pub struct SourceState {
    /// What is known of the object. An object that is created again under the same name starts without any.
    pub memory: Memory,
    /// Whether something has changed since the last reconcile began.
    pub stirred: bool,
    /// How many reconciles have failed in a row.
    pub failures: u32,
    /// UID of the object whose deletion was seen, and when it was first seen.
    pub deleting: Option<(String, Duration)>,
    /// The mounts on which it has documents without a claim.
    pub claimless: BTreeSet<Arc<str>>,
    /// What the object last said about deleting its documents. It is set when the object is gone.
    pub last_word: Option<LastWord>,
}

impl SourceState {
    /// Counts a failure, or resets the count after a success. Returns the count.
    pub fn count_failure(&mut self, failed: bool) -> u32 {
        self.failures = if failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        self.failures
    }

    /// How long ago the deletion of this object was first seen.
    pub fn deleting_for(&mut self, uid: &str, now: Duration) -> Duration {
        let seen = self.deleting.take().filter(|(known, _)| known == uid);
        let (_, since) = self
            .deleting
            .insert(seen.unwrap_or_else(|| (uid.to_owned(), now)));
        now.saturating_sub(*since)
    }
}

/// What a source says about deleting its documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// What happens to them; `None`: `--deletion-policy` decides.
    pub deletion: Option<DeletionPolicy>,
    /// Whether the source is paused: then nothing is deleted.
    pub paused: bool,
}

/// What a reconcile passes on to the next one of the same object.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// What Vault is known to hold.
    pub documents: HashMap<DocumentId, Remembered>,
    /// Fingerprint of the last `force-sync` that was obeyed.
    pub force: Option<u64>,
    /// What was last reported, so that only a change is reported again.
    pub told: Vec<Told>,
    /// Whether the last reconcile brought all documents to Vault.
    pub healthy: Option<bool>,
    /// When all its documents were last compared with Vault.
    pub checked: Option<Duration>,
    /// When lasting problems are reported again, because Kubernetes drops Events after an hour.
    pub repeat_at: Option<Duration>,
}

impl Memory {
    /// The source asks for something else now.
    pub(super) fn wish_changed(&mut self) {
        // Another source may have got a document that this one did not ask for, even if only for a moment.
        self.documents.clear();
        // Earlier reports are about what it asked for before. Problems that still exist are reported at the
        // next look.
        self.repeat_at = self.repeat_at.map(|_| Duration::ZERO);
    }
}

/// A problem or warning that was reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Fingerprint of its text.
    pub print: Digest,
    /// Whether its Event was published. Otherwise only the log has it, because the source had too many
    /// Events.
    pub published: bool,
}

/// One document as Vault is known to hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The version.
    pub version: u64,
    /// Number of its mount's era, which changes when the mount is created again.
    pub era: u64,
    /// Fingerprint of the content.
    pub content: Digest,
    /// Fingerprint of what it was made of: what the source asks for, and the resourceVersions of its Secrets.
    pub inputs: Digest,
}
