//! What others do to a document between our look and our write, and no check-and-set hears.

use super::arrival::Bringing;
use super::outcome::Stop;
use domain::document::{Claim, Mark, Mount, Observed};
use domain::plan::{Step, is_overtaken};

impl Bringing<'_> {
    /// Hears by the reply to a write what no check-and-set hears: a mark that others have put there since the look.
    pub(super) async fn heed(&self, seen: &Observed, step: Step, shown: &Mark) -> Result<(), Stop> {
        if is_overtaken(seen, shown) {
            tracing::debug!(source = %self.source.key, document = %self.id(), mark = ?shown, "marked meanwhile");
            return Err(Stop::Moved);
        }
        // Several had claimed it before they wrote: it is the one's whose write has succeeded.
        let is_own = |claim: &Claim| *claim == self.own_claim(step);
        if step.revives && matches!(shown, Mark::Claimed(claim) if !is_own(claim)) {
            self.claim(step.title.adopted).await?;
        }
        Ok(())
    }

    fn own_claim(&self, step: Step) -> Claim {
        self.on.identity.claim(&self.source.key, step.title.adopted)
    }

    /// Our claim, which we put on a deleted document before our write, stands on what another has written first. It
    /// is no title, and a later look would take it for one.
    pub(super) async fn give_claim_back(&self, mount: &Mount, seen: &Observed, step: Step) {
        let (on, id) = (self.on, self.id());
        let own = self.own_claim(step);
        let Some(before) = seen.mark() else { return };
        // Whoever has written may have put its own there by now.
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
