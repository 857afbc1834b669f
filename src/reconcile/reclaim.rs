//! A second memory beside the ledger: the claims. Should the ledger be lost while a source goes, the
//! documents at its path that carry exactly its claim are still known to be its own.

use super::Reconciler;
use super::observe::Observation;
use domain::ledger::{LedgerEntry, State};
use domain::plan::proof;
use domain::source::Source;

impl Reconciler {
    /// Gives the ledger back what it should know of a source that is being deleted and of which it
    /// knows nothing. What cannot be asked now stays: nothing proves that there is anything.
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
