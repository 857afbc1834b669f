//! Mounts that are made anew, perhaps with another version of the KV engine, while we write to them.

use super::Reconciler;
use super::arrival::Bringing;
use super::outcome::Stop;
use crate::mounts::Fault;
use domain::document::{DocumentId, KvVersion, Mount, Observed};
use domain::problem::Problem;
use domain::value::Found;

impl Bringing<'_> {
    /// Makes sure that a KV v2 mount has not been made anew as KV v1 since it was seen last. KV v1 takes whatever
    /// it is given: a write in the form of v2 would replace the document that somebody keeps at `data/…` there. Nor
    /// as KV v2, where the version that is remembered can be another's by now.
    pub(super) async fn ensure_versioned(&self, mount: &Mount) -> Result<(), Stop> {
        let (on, id) = (self.on, &self.wanted.id);
        let vouched = || on.mounts.is_vouched_for(mount, self.pass.began);
        // What was looked at in this pass was not there, or had the form of v2.
        let looked = self.pass.seen.contains_key(id);
        if mount.version == KvVersion::V1 || looked {
            return Ok(());
        }
        let known = self.pass.memory.documents.get(id);
        let ensure_same = || match known {
            Some(known) if known.era != on.mounts.era(&mount.path) => Err(Stop::Moved),
            _ => Ok(()),
        };
        if vouched() {
            return ensure_same();
        }
        match on.mounts.confirm(mount).await {
            Ok(now) if now == *mount => {}
            Ok(_) => return Err(Stop::Moved),
            Err(Fault::Path(fault)) => return Err(Problem::from(fault).into()),
            Err(Fault::Vault(error)) => return Err(on.vault_failed(&error).into()),
        }
        if vouched() {
            return ensure_same();
        }
        // The mount is stated by a flag, since nobody may ask about it: the document's own reply must do. What
        // stands there in another form does not fit.
        on.look(mount, id).await?;
        Ok(())
    }
}

impl Reconciler {
    /// KV v1 takes whatever it is given: what was written in the way of v2 to a mount that has been remade
    /// as v1 stands at `data/…` there, where nobody looks for it.
    pub(super) async fn take_back(&self, mount: &Mount, id: &DocumentId) {
        let misplaced = DocumentId {
            mount: id.mount.clone(),
            path: format!("data/{}", id.path).into(),
        };
        let ours = |content: &Found| content.keys().map(String::as_str).eq(["data", "options"]);
        // What somebody else has put there is not ours to delete.
        match self.vault.read(mount, &misplaced).await {
            Ok(Observed::Live { content, .. }) if ours(&content) && self.ensure_leading().is_ok() => {}
            _ => return,
        }
        match self.vault.delete_latest(mount, &misplaced).await {
            Ok(()) => tracing::warn!(
                document = %misplaced,
                "deleted: the mount has become KV v1, and this was written there in the way of v2"
            ),
            Err(error) => tracing::warn!(
                document = %misplaced, %error,
                "the mount has become KV v1, and this was written there in the way of v2; delete it by hand"
            ),
        }
    }
}
