//! Bounds on what is kept for a namespace: the documents that its sources ask for, and the objects that are
//! kept only to report a misspelt annotation.

use super::{Index, Tracked};
use crate::source::SourceKey;

/// The most objects, of a namespace and in total, that are kept only because of a misspelt annotation.
const MOST_MISSPELT: usize = 100;
const MOST_MISSPELT_OF_ALL: usize = 1000;

impl Index {
    /// Whether a namespace has room for a source that asks for `asks` documents and already has `own`.
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

    /// The refused sources that now fit into a namespace, oldest first.
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

    /// Updates `askless` when a source replaces what was known of it before.
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

    /// Whether one more object of the namespace that asks for nothing may be kept, only to report a misspelt
    /// annotation.
    pub fn has_room_for_misspelt(&self, namespace: &str) -> bool {
        let own = self.askless.get(namespace).copied().unwrap_or_default();
        own < MOST_MISSPELT && self.askless.values().sum::<usize>() < MOST_MISSPELT_OF_ALL
    }
}
