//! A second memory beside the ledger: the claims. Should the ledger be lost while a source goes, the
//! documents at its path that carry exactly its claim are still known to be its own.

use super::{Run, now};
use crate::domain::annotations::Ask;
use crate::domain::desired::Hint;
use crate::domain::ledger::{LedgerEntry, State};
use crate::domain::plan::is_proven;
use crate::domain::source::Source;
use crate::domain::{document::DocumentId, path};

impl Run<'_> {
    /// Gives the ledger back what it should know of a source that is being deleted and of which it
    /// knows nothing. What cannot be asked now stays: nothing proves that there is anything.
    pub(super) async fn reclaim(&mut self, source: &Source, ask: &Ask) {
        let on = self.on;
        if !source.finalizer || !on.ledger.of(&source.key).is_empty() {
            return;
        }
        let Some(hint) = Hint::of(source, ask).filter(|hint| path::check(&hint.path).is_ok()) else {
            return;
        };
        let Ok(mount) = on
            .mounts
            .resolve(&path::mount_query(&hint.path, &on.settings), false)
            .await
        else {
            return;
        };
        let Ok(places) = hint.places(&source.key, &mount, &on.settings) else {
            return;
        };
        let ids: Vec<DocumentId> = places.into_iter().map(|place| place.id).collect();
        // The ledger gives it nothing, so the pass holds no other locks that these could wait for.
        let _lock = on.locks.acquire(ids.clone()).await;
        let mut found = Vec::new();
        for id in ids.into_iter().filter(|id| on.ledger.get(id).is_none()) {
            let Ok(seen) = on.look(&mount, &id).await else {
                continue;
            };
            if is_proven(&on.identity, &source.key, &seen) {
                tracing::warn!(source = %source.key, document = %id, "the ledger has lost a document that carries the source's claim");
                let entry = LedgerEntry {
                    holder: source.key.clone(),
                    uid: source.uid.clone(),
                    state: State::Written,
                    since: now(),
                    deletion: ask.deletion.unwrap_or(on.settings.deletion),
                    // Nobody knows any more: what may have been there before us is not purged.
                    adopted: true,
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
