//! The quota of a namespace: how many documents its sources may have in Vault. The ledger counts them, so
//! that a restart, a rename or a shared path does not change the count.

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

/// What the ledger does not record about a namespace.
#[derive(Default)]
struct Namespace {
    /// Documents that were admitted, but are not in the ledger yet.
    coming: usize,
    /// Sources that were refused room for their documents.
    refused: HashSet<SourceKey>,
    /// Whether one of them was refused because of admitted documents, which may not be created after all.
    contended: bool,
}

/// Documents that were admitted. They count until this is dropped, when the ledger has them.
pub(super) struct Admitted<'a> {
    quotas: &'a Quotas,
    namespace: Arc<str>,
    count: usize,
}

impl Quotas {
    /// Each namespace may have this many documents.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            namespaces: Mutex::default(),
        }
    }

    /// The problem of a namespace that has no room for this many new documents of a source.
    pub(super) fn full(&self, namespace: &str, count: usize) -> Problem {
        Problem::NamespaceFull {
            namespace: namespace.to_owned(),
            count,
            limit: self.most,
        }
    }

    /// Admits new documents of a source. `there`: the number of documents that its namespace keeps.
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

    /// The sources of a namespace that were refused, and may have room now.
    pub(super) fn waiting(&self, namespace: &str) -> Vec<SourceKey> {
        let namespaces = self.namespaces.lock();
        let room = namespaces.get(namespace);
        room.map_or_else(Vec::new, |room| room.refused.iter().cloned().collect())
    }

    /// The source no longer waits for room.
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
    /// Ends the admission: the ledger has the documents, or they are not created. Returns the sources that
    /// may have been refused without need.
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
    /// Admits the new documents of a source if its namespace has room for all of them, and refuses all of
    /// them otherwise. The source always keeps the documents that its namespace has already, whichever source
    /// holds them.
    pub(super) fn share_out(
        &self,
        seen: &Observation<'_>,
        source: &Source,
    ) -> (Option<Admitted<'_>>, HashSet<DocumentId>) {
        let key = &source.key;
        let is_new = |wanted: &&Wanted| {
            // A remembered document was not looked at, and is not new.
            if !seen.seen.contains_key(&wanted.id) {
                return false;
            }
            let entry = self.ledger.get(&wanted.id);
            let known = entry.is_some_and(|entry| entry.holder.namespace == key.namespace);
            // A document with a missing Secret is not created.
            !known && !self.is_missing(source, wanted)
        };
        let new = seen.wanted.iter().filter(is_new).map(|wanted| wanted.id.clone());
        let new: HashSet<DocumentId> = new.collect();
        if new.is_empty() {
            self.quotas.forget(key);
            return (None, new);
        }
        // A source that changes its path has both documents for a moment, so the old one does not count. A
        // document whose delete failed counts.
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
