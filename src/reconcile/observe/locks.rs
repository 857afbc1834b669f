//! One reconcile at a time for each document. Two sources take turns if they want the same document, or if
//! one gives it up while the other takes it.
//!
//! A pass takes its locks once, while it observes: [`Locks::acquire`] is visible only there. If a pass waited
//! for a second lock, it could wait for one that it holds itself.

use std::collections::HashSet;

use parking_lot::Mutex;

use tokio::sync::Notify;

use domain::document::DocumentId;

/// The documents that passes are working on.
#[derive(Default)]
pub struct Locks {
    held: Mutex<HashSet<DocumentId>>,
    freed: Notify,
}

/// The right to work on some documents, until it is dropped.
pub struct Guard<'a> {
    locks: &'a Locks,
    ids: HashSet<DocumentId>,
}

impl Locks {
    /// Waits until all of these documents are free, and takes them at once, so that no two waiters can block
    /// each other.
    pub(super) async fn acquire(&self, ids: HashSet<DocumentId>) -> Guard<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Register before checking, or a release in between would be missed.
            freed.as_mut().enable();
            if self.try_take(&ids) {
                return Guard { locks: self, ids };
            }
            freed.await;
        }
    }

    fn try_take(&self, ids: &HashSet<DocumentId>) -> bool {
        let mut held = self.held.lock();
        if ids.iter().any(|id| held.contains(id)) {
            return false;
        }
        held.extend(ids.iter().cloned());
        true
    }
}

impl Guard<'_> {
    /// The locked documents.
    pub(super) fn ids(&self) -> impl Iterator<Item = &DocumentId> {
        self.ids.iter()
    }

    /// Whether this guard covers the document.
    pub(super) fn covers(&self, id: &DocumentId) -> bool {
        self.ids.contains(id)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held.lock();
        for id in &self.ids {
            held.remove(id);
        }
        drop(held);
        self.locks.freed.notify_waiters();
    }
}
