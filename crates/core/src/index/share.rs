//! What a namespace may have: so many documents, and so many objects that are kept only to report a misspelt annotation.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Index, Tracked};
use crate::desired::Hint;
use crate::document::DocumentId;
use crate::source::SourceKey;

/// Most objects of a namespace, and of all, that are known only for a misspelt annotation.
const MOST_MISSPELT: usize = 20;
const MOST_MISSPELT_OF_ALL: usize = 1000;

impl Tracked {
    /// The Secrets that the source has as documents already, of those that it asks for now.
    pub(super) fn secrets_it_has(&self, asks: &Hint) -> HashSet<String> {
        match &self.hint {
            Some(had) if self.refused.is_none() && had.each && had.path == asks.path => had
                .secrets
                .iter()
                .map(|reference| reference.secret.clone())
                .collect(),
            // What the ledger gives to it, or what it had before it was refused.
            Some(had) if had.path.is_empty() || had.path == asks.path => self.has.clone(),
            _ => HashSet::new(),
        }
    }
}

/// The Secret of a document that is one Secret's.
fn last_segment(id: &DocumentId) -> String {
    id.path.rsplit('/').next().unwrap_or_default().to_owned()
}

impl Index {
    /// Whether a namespace has room for a source to have so many documents, and not only `own`.
    pub(super) fn fits(&self, namespace: &str, own: usize, asks: usize) -> bool {
        let used = self.documents.get(namespace).copied().unwrap_or(0);
        asks <= own || used - own.min(used) + asks <= self.most
    }

    pub(super) fn count(&mut self, namespace: &str, before: usize, after: usize) {
        let used = self.documents.entry(namespace.to_owned()).or_default();
        *used = (*used + after).saturating_sub(before);
        if *used == 0 {
            self.documents.remove(namespace);
        }
    }

    /// Refused sources of a namespace that has room again, as many as fit.
    pub(super) fn next_in(&self, namespace: &str) -> Vec<SourceKey> {
        let of_it = |(key, tracked): (&SourceKey, &Tracked)| {
            let asks = tracked.refused.filter(|_| *key.namespace == *namespace)?;
            Some((tracked.created, key.clone(), asks, tracked.documents))
        };
        let mut refused: Vec<_> = self.sources.iter().filter_map(of_it).collect();
        refused.sort();
        let mut more = 0;
        refused.retain(|(_, _, asks, own)| {
            let fits = self.fits(namespace, *own, asks + more);
            more += if fits { asks - asks.min(own) } else { 0 };
            fits
        });
        refused.into_iter().map(|(_, key, ..)| key).collect()
    }

    /// Where a namespace has no room for all, those that hold documents by the ledger keep their place, and the
    /// others ask for theirs again: which of them the watch has shown first says nothing.
    pub(super) fn seat(&mut self, holders: &HashMap<SourceKey, Vec<DocumentId>>) {
        let full: HashSet<Arc<str>> = self
            .sources
            .iter()
            .filter(|(_, tracked)| tracked.refused.is_some())
            .map(|(key, _)| key.namespace.clone())
            .collect();
        let keys: Vec<SourceKey> = self.sources.keys().cloned().collect();
        for key in keys.into_iter().filter(|key| full.contains(&key.namespace)) {
            let documents = holders.get(&key).map(Vec::as_slice).unwrap_or_default();
            let held = documents.len();
            let Some(tracked) = self.sources.get(&key) else {
                continue;
            };
            let before = tracked.documents;
            let refused = tracked.refused.or((before > held).then_some(before));
            if refused.is_some() && tracked.refused.is_none() {
                self.unlink(&key);
            }
            let Some(tracked) = self.sources.get_mut(&key) else {
                continue;
            };
            if refused.is_some() {
                tracked.refused = refused;
                tracked.documents = held;
                // Its path may be another by now: then these are none of those that it asks for, and it has none.
                tracked.has = documents.iter().map(last_segment).collect();
                tracked.hint = Some(Hint::unknown());
                tracked.fingerprint = None;
                tracked.memory.documents.clear();
                self.count(&key.namespace, before, held);
            }
        }
    }

    /// Keeps `askless` true when a source takes the place of what was known of it before.
    pub(super) fn count_askless(&mut self, key: &SourceKey, old: Option<&Tracked>, now: bool) {
        let before = old.is_some_and(|old| old.hint.is_none());
        if before == now {
            return;
        }
        let count = self.askless.entry(key.namespace.clone()).or_default();
        *count = if now { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.askless.remove(&key.namespace);
        }
    }

    /// Whether one more object of the namespace may be tracked that asks for nothing, only to report a misspelt
    /// annotation.
    pub fn has_room_for_misspelt(&self, namespace: &str) -> bool {
        let own = self.askless.get(namespace).copied().unwrap_or_default();
        own < MOST_MISSPELT && self.askless.values().sum::<usize>() < MOST_MISSPELT_OF_ALL
    }
}
