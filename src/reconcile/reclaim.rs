//! A second memory beside the ledger: the claims. Should the ledger be lost while a source goes, the
//! documents at its path that carry exactly its claim are still known to be its own.

use super::Run;
use domain::annotations::Ask;
use domain::ledger::{LedgerEntry, State};
use domain::plan::proof;
use domain::source::Source;

impl Run<'_> {
    /// Gives the ledger back what it should know of a source that is being deleted and of which it
    /// knows nothing. What cannot be asked now stays: nothing proves that there is anything.
    pub(super) async fn reclaim(&mut self, source: &Source, ask: &Ask) {
        let on = self.on;
        let Some((mount, ids)) = self.gathered.lost.take().filter(|_| source.finalizer) else {
            return;
        };
        let mut found = Vec::new();
        for id in ids.into_iter().filter(|id| on.ledger.get(id).is_none()) {
            let Ok(seen) = on.look(&mount, &id).await else {
                continue;
            };
            if let Some(claim) = proof(&on.identity, &source.key, &seen) {
                tracing::warn!(source = %source.key, document = %id, "the ledger has lost a document that carries the source's claim");
                let entry = LedgerEntry {
                    holder: source.key.clone(),
                    uid: source.uid.clone(),
                    state: State::Written,
                    since: on.clock.seconds(),
                    deletion: ask.deletion.unwrap_or(on.settings.deletion),
                    base: 0,
                    adopted: claim.adopted,
                    claimed: true,
                    paused: false,
                };
                found.push((id, Some(entry)));
            }
        }
        if let Err(error) = on.ledger.commit(found).await {
            tracing::warn!(source = %source.key, %error, "what the ledger has lost could not be given back to it");
        }
    }
}
