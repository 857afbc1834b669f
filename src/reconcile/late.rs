//! Calls that change a document: whether we may send them, and what is recorded if one has an unknown
//! outcome.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Reconciler;
use crate::vault;
use domain::document::DocumentId;
use domain::ledger::{LedgerEntry, State};
use domain::problem::{Problem, Retry};

/// The documents for which a call of ours got no answer, and when the call ended.
#[derive(Default)]
pub(super) struct Late(Mutex<HashMap<DocumentId, Instant>>);

/// A call that changes a document. Dropping it ends the call, also when a deadline, the deletion of its
/// source or a panic cuts it off.
pub(super) struct Open<'a> {
    on: &'a Reconciler,
    id: &'a DocumentId,
    answered: bool,
}

impl Late {
    fn note(&self, id: &DocumentId, window: Duration) {
        let mut late = self.0.lock();
        // A call whose window is over can no longer change the document.
        late.retain(|_, since| since.elapsed() < window);
        late.insert(id.clone(), Instant::now());
    }

    /// Forgets the document's calls: no content is left that could be mistaken for theirs.
    pub fn forget(&self, id: &DocumentId) {
        self.0.lock().remove(id);
    }
}

impl Open<'_> {
    /// Ends the call with its result.
    pub fn end<T>(mut self, result: Result<T, vault::Error>) -> Result<T, vault::Error> {
        self.answered = !result.as_ref().is_err_and(|error| error.outcome_unknown);
        result
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.on.notes.late.note(self.id, self.on.late_window);
        let ledger = &self.on.ledger;
        if let Some(entry) = ledger.get(self.id).filter(|entry| entry.state == State::Creating) {
            let entry = LedgerEntry {
                state: State::OutcomeUnknown,
                ..entry
            };
            ledger.commit_later(vec![(self.id.clone(), Some(entry))]);
        }
    }
}

impl Reconciler {
    /// Begins a call that changes this document. If the outcome stays unknown, or no caller waits for it, the
    /// call is recorded as one that may still arrive.
    pub(super) fn open<'a>(&'a self, id: &'a DocumentId) -> Open<'a> {
        Open {
            on: self,
            id,
            answered: false,
        }
    }

    /// To be asked before each change in Vault: whether we may still make it. Where there is a
    /// check-and-set, that would keep a late write from harm; this keeps those to KV v1 from it too.
    pub(super) fn ensure_leading(&self) -> Result<(), Problem> {
        if self.tenure.lasts() {
            return Ok(());
        }
        Err(Problem::Kubernetes {
            message: "the lease has not been renewed in time; nothing is written to Vault".into(),
            hint: "another replica takes over; see whether the API server answers".into(),
            retry: Retry::Backoff,
        })
    }

    /// Until when a write of ours to this document may still land, if that is not over.
    pub(super) fn unsettled_until(&self, id: &DocumentId) -> Option<Instant> {
        let unanswered = self.notes.late.0.lock().get(id).copied();
        let inherited = self.ledger.is_unclean(id).then_some(self.notes.started);
        let latest = unanswered.max(inherited)? + self.late_window;
        (latest > Instant::now()).then_some(latest)
    }

    /// Whether a write of ours may still reach any document.
    pub fn is_unsettled(&self) -> bool {
        let lands = |since: &Instant| since.elapsed() < self.late_window;
        let inherited = self.ledger.is_unclean_at_all().then_some(self.notes.started);
        self.notes.late.0.lock().values().any(lands) || inherited.is_some_and(|at| lands(&at))
    }
}
