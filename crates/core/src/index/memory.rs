//! What is kept of a source beside what it asks for: its mistakes, its last word, and what the last reconcile learnt.

use std::collections::HashMap;
use std::time::Duration;

use crate::annotations::Ask;
use crate::desired;
use crate::document::DocumentId;
use crate::problem::{Problem, Warning};
use crate::settings::DeletionPolicy;
use crate::source::Source;
use crate::value::Digest;

/// What a source says about the end of its documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastWord {
    /// What shall happen to them; `None`: as the flag says.
    pub deletion: Option<DeletionPolicy>,
    /// Nothing is to be deleted.
    pub paused: bool,
}

/// What a reconcile leaves for the next one.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// What Vault is known to hold.
    pub documents: HashMap<DocumentId, Remembered>,
    /// The `force-sync` that was obeyed last.
    pub force: Option<u64>,
    /// What was told to people last, so that only a change is told again.
    pub told: Vec<Told>,
    /// Whether something has changed since the last reconcile began.
    pub stirred: bool,
    /// Whether the last reconcile brought all documents to Vault.
    pub healthy: Option<bool>,
    /// When all of it was compared with Vault, since the process began.
    pub checked: Option<Duration>,
    /// When lasting problems are reported again, since the process began: Kubernetes drops Events after an hour.
    pub repeat_at: Option<Duration>,
}

/// A problem or Warning that was told to people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// Fingerprint of its words.
    pub print: Digest,
    /// Whether its Event went out. Otherwise only the log has it: the source had too many.
    pub published: bool,
}

/// What is wrong with a source by what it says alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes {
    /// What keeps it from being synced.
    pub problems: Vec<Problem>,
    /// What does not.
    pub warnings: Vec<Warning>,
}

impl Mistakes {
    /// `None`: nothing is wrong.
    pub(super) fn of(source: &Source, ask: &Ask) -> Option<Box<Self>> {
        let asks = ask.path.is_some();
        let problems = if asks {
            desired::mistakes(source, ask)
        } else {
            Vec::new()
        };
        let unused = desired::nothing_used(source, ask).filter(|_| asks);
        let warnings: Vec<_> = ask.warnings.iter().cloned().chain(unused).collect();
        (!problems.is_empty() || !warnings.is_empty()).then(|| Box::new(Self { problems, warnings }))
    }
}

/// One document as we know Vault to hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The version.
    pub version: u64,
    /// The content.
    pub content: Digest,
    /// What it was made of: the wish and the resourceVersions of its Secrets.
    pub inputs: Digest,
}
