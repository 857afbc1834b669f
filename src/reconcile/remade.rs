//! Mounts that are recreated while we write to them, perhaps with another version of the KV engine.

use super::Reconciler;
use super::arrival::Bringing;
use super::outcome::Stop;
use crate::mounts::Fault;
use domain::document::{DocumentId, KvVersion, Mount, Observed};
use domain::problem::Problem;
use domain::value::Found;

impl Bringing<'_> {
    /// Makes sure that a KV v2 mount has not been recreated since it was last seen. As KV v1, the mount
    /// accepts any write: one in the form of v2 would replace another client's document at `data/…`. As KV
    /// v2, the remembered version may now belong to another client's document.
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
        // A flag states the mount, because the policy does not allow asking about it. Only the document's own
        // reply can show the KV version: a reply in another form is an error.
        on.look(mount, id).await?;
        Ok(())
    }
}

impl Reconciler {
    /// Deletes a KV v2 write that a mount recreated as v1 has accepted. KV v1 accepts any write, so the
    /// content is now at `data/…`, where no client looks for it.
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
