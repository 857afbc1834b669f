//! Recovery from claims. If the ledger is lost while a source is being deleted, the claims still prove
//! ownership. Documents at the source's path that carry exactly its claim are its own.

use super::Reconciler;
use super::observe::Observation;
use domain::ledger::{LedgerEntry, State};
use domain::plan::proof;
use domain::source::Source;

impl Reconciler {
    /// Restores the ledger entries of a source that is being deleted and has none. A document that cannot be
    /// read now stays in Vault, because nothing proves that it is the source's.
    pub(super) async fn reclaim(&self, seen: &Observation<'_>, source: &Source) {
        let Some((mount, ids)) = seen.lost.as_ref().filter(|_| source.finalizer) else {
            return;
        };
        let mut found = Vec::new();
        for id in ids.iter().filter(|id| self.ledger.get(id).is_none()) {
            let Ok(observed) = self.look(mount, id).await else {
                continue;
            };
            if let Some(claim) = proof(&self.identity, &source.key, &observed) {
                tracing::warn!(source = %source.key, document = %id, "the ledger has lost a document that carries the source's claim");
                let entry = LedgerEntry {
                    holder: source.key.clone(),
                    uid: source.uid.clone(),
                    state: State::Written,
                    since: self.clock.seconds(),
                    deletion: self.deletion(&seen.ask),
                    base: 0,
                    adopted: claim.adopted,
                    claimed: true,
                    paused: false,
                };
                found.push((id.clone(), Some(entry)));
            }
        }
        if let Err(error) = self.commit(&source.key, found).await {
            tracing::warn!(source = %source.key, %error, "what the ledger has lost could not be given back to it");
        }
    }
}
