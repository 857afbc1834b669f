//! Changes that other clients make between our look and our write, and that check-and-set does not detect.

use super::arrival::Bringing;
use super::outcome::Stop;
use domain::document::{Claim, Mark, Mount, Observed};
use domain::plan::{Step, is_overtaken};

impl Bringing<'_> {
    /// Checks the reply to a write for a mark that others have added since the look; check-and-set does not
    /// detect it.
    pub(super) async fn heed(&self, seen: &Observed, step: Step, shown: &Mark) -> Result<(), Stop> {
        if is_overtaken(seen, shown) {
            tracing::debug!(source = %self.source.key, document = %self.id(), mark = ?shown, "marked meanwhile");
            return Err(Stop::Moved);
        }
        // Others had claimed the document too before they wrote. It belongs to the one whose write succeeded:
        // ours did.
        let is_own = |claim: &Claim| *claim == self.own_claim(step);
        if step.revives && matches!(shown, Mark::Claimed(claim) if !is_own(claim)) {
            self.claim(step.title.adopted).await?;
        }
        Ok(())
    }

    fn own_claim(&self, step: Step) -> Claim {
        self.on.identity.claim(&self.source.key, step.title.adopted)
    }

    /// Takes our claim off a document that another client wrote first. We put the claim on the deleted
    /// document before our own write. It gives no right, but a later look would accept it as one.
    pub(super) async fn give_claim_back(&self, mount: &Mount, seen: &Observed, step: Step) {
        let (on, id) = (self.on, self.id());
        let own = self.own_claim(step);
        let Some(before) = seen.mark() else { return };
        // The other client may have put its own claim on the document by now.
        if !matches!(on.look(mount, id).await, Ok(now) if now.claim() == Some(&own))
            || on.ensure_leading().is_err()
        {
            return;
        }
        let open = on.open(id);
        let given = open.end(on.vault.patch_metadata(id, &before.restoring()).await);
        if let Err(error) = given {
            tracing::warn!(source = %self.source.key, document = %id, %error, "our claim stays on what another has written");
        }
    }
}
