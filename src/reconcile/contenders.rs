//! The other sources that want a document.

use super::Reconciler;
use domain::document::{DocumentId, Mount};
use domain::path;
use domain::plan::Contender;
use domain::source::SourceKey;

impl Reconciler {
    /// The other live sources that want a document of this mount, and are allowed to have it.
    pub(super) fn rivals(
        &self,
        me: &SourceKey,
        mount: &Mount,
        id: &DocumentId,
        holders: &[&SourceKey],
    ) -> Vec<Contender> {
        self.index().rivals(me, mount, id, holders, |key, hint| {
            path::check(&hint.path)?;
            // Mounts never nest: a path outside this one names no document of it.
            if !path::is_within(&path::mount_query(&hint.path, &self.settings), &mount.path) {
                return Ok(Vec::new());
            }
            let places = hint.places(key, mount, &self.settings)?;
            for place in &places {
                self.policy.permit(&key.namespace, &mount.path, &place.own)?;
            }
            Ok(places)
        })
    }
}
