//! Our claim on documents, and documents without one: where a claim was last denied, and on how many mounts such
//! documents exist.
//!
//! A denial applies only to its document. Another path of the same mount may allow claims, and must not lose
//! their protection.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::arrival::Bringing;
use super::outcome::Findings;
use crate::vault::ErrorKind;
use domain::document::{DocumentId, KvVersion};
use domain::ledger::LedgerEntry;
use domain::problem::{PathFault, Problem};
use domain::source::SourceKey;

/// How long a denial counts. We get no notice when a permission is granted, so the claim is tried again after
/// a while.
const DENIED_FOR: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Claims {
    /// Documents on KV v2 mounts whose last claim was denied, and when.
    denied: HashMap<DocumentId, Instant>,
    /// The mounts with documents that carry no claim, and how many sources have such documents there.
    without: HashMap<Arc<str>, usize>,
}

impl Claims {
    /// Records that a claim was denied. Returns whether this is the first denial in its mount.
    pub fn deny(&mut self, id: &DocumentId) -> bool {
        let first = !self.denied.keys().any(|denied| denied.mount == id.mount);
        self.denied.insert(id.clone(), Instant::now());
        first
    }

    /// Records that a claim succeeded, or that the document is no longer ours.
    pub fn forget(&mut self, id: &DocumentId) {
        self.denied.remove(id);
    }

    /// Whether to try a claim.
    fn may_try(&self, id: &DocumentId) -> bool {
        self.denied
            .get(id)
            .is_none_or(|denied| denied.elapsed() > DENIED_FOR)
    }

    /// Whether the last claim on this document was denied.
    fn is_denied(&self, id: &DocumentId) -> bool {
        self.denied.contains_key(id)
    }

    /// Records on which mounts a source has documents without a claim: `before`, and `now`. Returns the
    /// number of all such mounts.
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

impl Bringing<'_> {
    /// Puts our claim on the document. If a policy denies metadata, the document has no claim: syncing
    /// continues, and relies on the ledger.
    pub(super) async fn claim(&self, adopted: bool) -> Result<(), Problem> {
        let (on, id) = (self.on, self.id());
        on.ensure_leading()?;
        let claim = on.identity.claim(&self.source.key, adopted);
        let open = on.open(id);
        match open.end(on.vault.patch_metadata(id, &claim.patch()).await) {
            Ok(()) => on.notes.claims.lock().forget(id),
            Err(error) if error.kind == ErrorKind::Denied || error.status == Some(405) => {
                on.ledger.hurry();
                if on.notes.claims.lock().deny(id) {
                    tracing::warn!(
                        document = %id, %error,
                        "the document carries no claim, and perhaps others of its mount do not either: grant create, \
                         read, update and patch on metadata/ to tell other clusters' documents apart"
                    );
                }
            }
            Err(error) => return Err(on.vault_failed(&error)),
        }
        Ok(())
    }

    /// Records that the document exists, and whether it can carry our claim.
    pub(super) fn note_claim(&self) {
        let claimed = self.takes_claims();
        if let Some(entry) = self.own_entry().filter(|entry| entry.claimed != claimed) {
            self.enter_lazily(LedgerEntry { claimed, ..entry });
        }
    }
}

impl Reconciler {
    /// Whether a document can carry our claim.
    pub(super) fn takes_claims(&self, id: &DocumentId, version: KvVersion) -> bool {
        version == KvVersion::V2 && self.notes.claims.lock().may_try(id)
    }

    /// Updates a source's mounts without claims from what this pass knows. A mount that could not be resolved
    /// keeps its last state.
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

    /// Counts a change from `before` to `now` in the mounts where a source has documents without a claim.
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
