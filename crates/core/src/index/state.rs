//! What this process remembers of a source from one reconcile to the next.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::document::DocumentId;
use crate::settings::DeletionPolicy;
use crate::value::Digest;

/// All that is remembered of one source, whether its object exists or not. Times count from the start of the process.
///
/// What the watch shows of the object is no memory: that is [`super::Tracked`], and goes when the object goes.
#[derive(Clone, Default, Debug)]
pub struct SourceState {
    /// What is known of the object. One made anew under the same name is another source, and begins with nothing.
    pub memory: Memory,
    /// Whether something has changed since the last reconcile began.
    pub stirred: bool,
    /// How often in a row a reconcile has failed.
    pub failures: u32,
    /// The object whose deletion was seen, by its UID, and when it was seen first.
    pub deleting: Option<(String, Duration)>,
    /// The mounts on which it has documents that carry no claim.
    pub claimless: BTreeSet<Arc<str>>,
    /// What the object said last about its documents, since it is gone.
    pub last_word: Option<LastWord>,
}

impl SourceState {
    /// Counts a failure, or the end of them; how many there are now.
    pub fn count_failure(&mut self, failed: bool) -> u32 {
        self.failures = if failed {
            self.failures.saturating_add(1)
        } else {
            0
        };
        self.failures
    }

    /// For how long it has been known that this object is being deleted.
    pub fn deleting_for(&mut self, uid: &str, now: Duration) -> Duration {
        let seen = self.deleting.take().filter(|(known, _)| known == uid);
        let (_, since) = self
            .deleting
            .insert(seen.unwrap_or_else(|| (uid.to_owned(), now)));
        now.saturating_sub(*since)
    }
}

/// What a source says about the end of its documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// What shall happen to them; `None`: as the flag says.
    pub deletion: Option<DeletionPolicy>,
    /// Nothing is to be deleted.
    pub paused: bool,
}

/// What a reconcile leaves for the next one of the same object.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// What Vault is known to hold.
    pub documents: HashMap<DocumentId, Remembered>,
    /// The `force-sync` that was obeyed last.
    pub force: Option<u64>,
    /// What was told to people last, so that only a change is told again.
    pub told: Vec<Told>,
    /// Whether the last reconcile brought all documents to Vault.
    pub healthy: Option<bool>,
    /// When all of it was compared with Vault.
    pub checked: Option<Duration>,
    /// When lasting problems are reported again: Kubernetes drops Events after an hour.
    pub repeat_at: Option<Duration>,
}

impl Memory {
    /// The source asks for something else now.
    pub(super) fn wish_changed(&mut self) {
        // What it did not ask for, if only for a moment, may have been given to another since.
        self.documents.clear();
        // What was reported was about another wish: what is still true is reported at the next look.
        self.repeat_at = self.repeat_at.map(|_| Duration::ZERO);
    }
}

/// A problem or Warning that was told to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Fingerprint of its words.
    pub print: Digest,
    /// Whether its Event went out. Otherwise only the log has it: the source had too many.
    pub published: bool,
}

/// One document as we know Vault to hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The version.
    pub version: u64,
    /// A number for its mount: another one when that was made anew.
    pub era: u64,
    /// The content.
    pub content: Digest,
    /// What it was made of: the wish and the resourceVersions of its Secrets.
    pub inputs: Digest,
}
