//! Documents that carry no claim: where one was denied last, and on how many mounts there are such documents.
//!
//! A denial concerns the document that it met. Another path of the same mount may well allow claims, and must
//! not lose their protection for it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::outcome::Findings;
use domain::document::{DocumentId, KvVersion};
use domain::problem::{PathFault, Problem};
use domain::source::SourceKey;

/// Rights are granted without telling us: a claim that was denied is tried again after a while.
const DENIED_FOR: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Claims {
    /// Documents on KV v2 mounts on which a claim was denied last, and when.
    denied: HashMap<DocumentId, Instant>,
    /// The mounts with documents that carry no claim, and how many sources have some there.
    without: HashMap<Arc<str>, usize>,
}

impl Claims {
    /// A claim was denied; whether that is the first denial in this mount.
    pub fn deny(&mut self, id: &DocumentId) -> bool {
        let first = !self.denied.keys().any(|denied| denied.mount == id.mount);
        self.denied.insert(id.clone(), Instant::now());
        first
    }

    /// A claim was taken, or the document is no longer ours.
    pub fn forget(&mut self, id: &DocumentId) {
        self.denied.remove(id);
    }

    /// Whether a claim is worth a try.
    fn may_try(&self, id: &DocumentId) -> bool {
        self.denied
            .get(id)
            .is_none_or(|denied| denied.elapsed() > DENIED_FOR)
    }

    /// Whether the last claim on this document was denied.
    fn is_denied(&self, id: &DocumentId) -> bool {
        self.denied.contains_key(id)
    }

    /// A source has documents without a claim on these mounts now. On how many mounts there are any.
    fn count(&mut self, before: &BTreeSet<Arc<str>>, now: &BTreeSet<Arc<str>>) -> usize {
        for mount in now.difference(before) {
            *self.without.entry(mount.clone()).or_default() += 1;
        }
        for mount in before.difference(now) {
            if let Some(sources) = self.without.get_mut(mount) {
                *sources -= 1;
            }
        }
        self.without.retain(|_, sources| *sources > 0);
        self.without.len()
    }
}

impl Reconciler {
    /// Whether a claim can be put on a document.
    pub(super) fn takes_claims(&self, id: &DocumentId, version: KvVersion) -> bool {
        version == KvVersion::V2 && self.notes.claims.lock().may_try(id)
    }

    /// Counts the mounts without claims anew, by what this pass knows of its source's. A mount that could not
    /// be asked for stays what it was.
    pub(super) fn recount_claimless(&self, key: &SourceKey, findings: &Findings) {
        let no_mount = |problem: &Problem| {
            matches!(
                problem,
                Problem::Path(PathFault::NoMount(_) | PathFault::NotKv { .. } | PathFault::Hidden(_))
            )
        };
        let gone = findings.problems().any(|(_, problem)| no_mount(problem));
        let documents = self.ledger.of(key).into_iter().map(|(id, _)| id);
        let mut index = self.index();
        let before = &mut index.state_mut(key).claimless;
        let is_claimless = |id: &DocumentId| match self
            .mounts
            .known(&id.mount)
            .filter(|mount| mount.path == id.mount)
        {
            Some(mount) => mount.version == KvVersion::V1 || self.notes.claims.lock().is_denied(id),
            None => !gone && before.contains(&id.mount),
        };
        let now = documents.filter(is_claimless).map(|id| id.mount).collect();
        let before = std::mem::replace(before, now);
        self.count_claimless(&before, &index.state_mut(key).claimless);
    }

    /// The mounts on which a source has documents without a claim were these, and are those.
    pub(super) fn count_claimless(&self, before: &BTreeSet<Arc<str>>, now: &BTreeSet<Arc<str>>) {
        let mounts = self.notes.claims.lock().count(before, now);
        self.metrics.claims_unavailable(mounts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_was_denied_is_denied_for_its_document_alone() {
        let mut claims = Claims::default();
        let [app, other] = ["app", "other"].map(|path| DocumentId::new("secret", path));
        assert!(claims.may_try(&app));
        assert!(claims.deny(&app) && !claims.may_try(&app));
        assert!(claims.may_try(&other), "it was denied elsewhere");
        assert!(!claims.deny(&other), "it is not the first in its mount");
        claims.forget(&app);
        assert!(claims.may_try(&app) && !claims.may_try(&other));
    }

    #[test]
    fn a_mount_counts_while_a_source_has_documents_without_a_claim_there() {
        let mut claims = Claims::default();
        let mounts = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        for (before, now, count) in [
            (mounts(&[]), mounts(&["secret"]), 1),
            (mounts(&[]), mounts(&["secret", "kv1"]), 2),
            (mounts(&["secret", "kv1"]), mounts(&["secret"]), 1),
            (mounts(&["secret"]), mounts(&["secret"]), 1),
            (mounts(&["secret"]), mounts(&[]), 1),
            (mounts(&["secret"]), mounts(&[]), 0),
        ] {
            assert_eq!(claims.count(&before, &now), count, "{before:?} to {now:?}");
        }
        assert!(claims.without.is_empty());
    }
}
