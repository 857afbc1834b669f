//! The quota of a namespace: how many documents its sources may have in Vault. The ledger counts them, and so a
//! restart, a rename and whoever shares a path change nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Reconciler;
use super::observe::Observation;
use domain::desired::Wanted;
use domain::document::DocumentId;
use domain::ledger::{LedgerEntry, State};
use domain::problem::Problem;
use domain::source::{Source, SourceKey};

/// The quotas of all namespaces.
pub struct Quotas {
    most: usize,
    namespaces: Mutex<HashMap<Arc<str>, Namespace>>,
}

/// What the ledger does not say of a namespace.
#[derive(Default)]
struct Namespace {
    /// Documents that were let in, and that the ledger does not have yet.
    coming: usize,
    /// Sources for whose documents there was no room.
    refused: HashSet<SourceKey>,
    /// One of them was refused for documents that were just coming: perhaps they did not come.
    contended: bool,
}

/// Documents that were let in. They count until this is dropped: then the ledger has them.
pub(super) struct Admitted<'a> {
    quotas: &'a Quotas,
    namespace: Arc<str>,
    count: usize,
}

impl Quotas {
    /// Each namespace may have so many documents.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            namespaces: Mutex::default(),
        }
    }

    /// A namespace has no room for so many new documents of a source.
    pub(super) fn full(&self, namespace: &str, count: usize) -> Problem {
        Problem::NamespaceFull {
            namespace: namespace.to_owned(),
            count,
            limit: self.most,
        }
    }

    /// Lets new documents of a source in. `there`: those of its namespace that stay.
    fn admit(&self, key: &SourceKey, there: usize, new: usize) -> Option<Admitted<'_>> {
        let mut namespaces = self.namespaces.lock();
        let room = namespaces.entry(key.namespace.clone()).or_default();
        if there + room.coming + new > self.most {
            room.refused.insert(key.clone());
            room.contended |= room.coming > 0;
            return None;
        }
        room.refused.remove(key);
        room.coming += new;
        Some(Admitted {
            quotas: self,
            namespace: key.namespace.clone(),
            count: new,
        })
    }

    /// The sources of a namespace for whose documents there may be room now.
    pub(super) fn waiting(&self, namespace: &str) -> Vec<SourceKey> {
        let namespaces = self.namespaces.lock();
        let room = namespaces.get(namespace);
        room.map_or_else(Vec::new, |room| room.refused.iter().cloned().collect())
    }

    /// A source waits for no room any more.
    pub(super) fn forget(&self, key: &SourceKey) {
        let mut namespaces = self.namespaces.lock();
        let Some(room) = namespaces.get_mut(&key.namespace) else {
            return;
        };
        room.refused.remove(key);
        if room.refused.is_empty() && room.coming == 0 {
            namespaces.remove(&key.namespace);
        }
    }
}

impl Admitted<'_> {
    /// The ledger has them, or they do not come. Those who may have been refused for nothing.
    pub(super) fn release(self) -> Vec<SourceKey> {
        let (quotas, namespace) = (self.quotas, self.namespace.clone());
        drop(self);
        let contended = {
            let mut namespaces = quotas.namespaces.lock();
            let room = namespaces.get_mut(&namespace);
            room.is_some_and(|room| std::mem::take(&mut room.contended))
        };
        if contended {
            quotas.waiting(&namespace)
        } else {
            Vec::new()
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(room) = self.quotas.namespaces.lock().get_mut(&self.namespace) {
            room.coming -= self.count;
        }
    }
}

impl Reconciler {
    /// Lets the new documents of a source in, if its namespace has room for all of them. Otherwise they are refused:
    /// it keeps those that its namespace has already, whichever source holds them.
    pub(super) fn share_out(
        &self,
        seen: &Observation<'_>,
        source: &Source,
    ) -> (Option<Admitted<'_>>, HashSet<DocumentId>) {
        let key = &source.key;
        let is_new = |wanted: &&Wanted| {
            // What is remembered was not looked at, and is not new.
            if !seen.seen.contains_key(&wanted.id) {
                return false;
            }
            let entry = self.ledger.get(&wanted.id);
            let known = entry.is_some_and(|entry| entry.holder.namespace == key.namespace);
            // One whose Secret does not exist does not come.
            !known && !self.is_missing(source, wanted)
        };
        let new = seen.wanted.iter().filter(is_new).map(|wanted| wanted.id.clone());
        let new: HashSet<DocumentId> = new.collect();
        if new.is_empty() {
            self.quotas.forget(key);
            return (None, new);
        }
        // A source that moves has both for a moment. What could not be deleted before counts.
        let stays: HashSet<&DocumentId> = seen.wanted.iter().map(|wanted| &wanted.id).collect();
        let goes =
            |(id, entry): &(DocumentId, LedgerEntry)| entry.state == State::Written && !stays.contains(id);
        let going = self.ledger.of(key).iter().filter(|held| goes(held)).count();
        let there = self.ledger.documents_in(&key.namespace) - going;
        match self.quotas.admit(key, there, new.len()) {
            Some(admitted) => (Some(admitted), HashSet::new()),
            None => (None, new),
        }
    }

    /// Whether a Secret of the document is known not to exist.
    pub(super) fn is_missing(&self, source: &Source, wanted: &Wanted) -> bool {
        let index = self.index();
        let mut names = wanted.entries.iter().map(|entry| &entry.name);
        names.any(|name| index.is_missing(&source.key.namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::source::Kind;

    fn key(name: &str) -> SourceKey {
        SourceKey {
            kind: Kind::Secret,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn what_is_coming_counts_until_the_ledger_has_it() {
        let quotas = Quotas::new(3);
        let (a, b) = (key("a"), key("b"));
        let first = quotas.admit(&a, 0, 2).unwrap();
        assert!(quotas.admit(&b, 0, 2).is_none());
        assert_eq!(quotas.waiting("shop"), std::slice::from_ref(&b));
        // The two have not come, after all.
        assert_eq!(first.release(), std::slice::from_ref(&b));
        let second = quotas.admit(&b, 0, 2).unwrap();
        assert_eq!(quotas.waiting("shop"), []);
        assert_eq!(second.release(), []);
        assert!(quotas.admit(&a, 2, 2).is_none());
        assert!(quotas.admit(&a, 2, 1).is_some());
        quotas.forget(&a);
        assert!(quotas.namespaces.lock().is_empty());
    }
}
