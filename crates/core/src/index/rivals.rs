//! Who wants which document.
//!
//! A source's path is written before anybody knows its mount. It is found under a form that does not depend on the
//! mount; which documents it names is resolved when somebody asks, and kept.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;

use super::{Index, Tracked};
use crate::desired::Hint;
use crate::document::{DocumentId, Mount};
use crate::path::Place;
use crate::plan::Contender;
use crate::problem::PathFault;
use crate::settings::NamespaceIsolation;
use crate::source::{Reference, SourceKey};

/// Where the documents of a source are, if its path lies in this mount.
#[derive(Debug)]
pub(super) struct Resolved {
    mount: Mount,
    /// The documents by a hash of their paths, each with its place in [`Hint::secrets`]; `None`: they cannot
    /// be told.
    places: Option<HashMap<u64, usize>>,
}

impl Index {
    /// How a live source ranks among those that want the same document.
    pub fn contender(&self, key: &SourceKey) -> Option<Contender> {
        let tracked = self
            .sources
            .get(key)
            .filter(|tracked| tracked.deleting.is_none() && tracked.hint.is_some())?;
        Some(Contender {
            key: key.clone(),
            created: tracked.created,
            uid: tracked.uid.clone(),
            annotated: tracked.annotated,
        })
    }

    /// The other live sources that want the document `id` of this mount, which `me` wants or leaves. `places` says
    /// where in the mount a source's documents are; it is asked once for each source and mount, as long as the
    /// source stays as it is, so that a question costs no more than there are sharers. `holders` are
    /// those that the ledger and the claim name: one of these whose path or list cannot be read now
    /// still wants what it holds, since a source with a problem loses nothing.
    pub fn rivals(
        &self,
        me: &SourceKey,
        mount: &Mount,
        id: &DocumentId,
        holders: &[&SourceKey],
        places: impl Fn(&SourceKey, &Hint) -> Result<Vec<Place>, PathFault>,
    ) -> Vec<Contender> {
        let mut keys: Vec<&SourceKey> = holders.to_vec();
        for loose in self.loose_forms(me, id) {
            keys.extend(self.neighbours.get(&loose).into_iter().flatten());
        }
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .filter(|key| *key != me)
            .filter_map(|key| {
                if !self.watches(key) {
                    return Some(Contender::unseen(key));
                }
                let contender = self.contender(key)?;
                let tracked = self.sources.get(key)?;
                let hint = tracked.hint.as_ref()?;
                let resolved = self.resolve(key, tracked, hint, mount, &places);
                let (wants, unclear) = match &resolved.places {
                    Some(places) => {
                        let wants = |at: usize| !hint.each || !self.is_dropped(key, &hint.secrets[at]);
                        let at = places.get(&self.hashed(&id.path)).copied();
                        (at.is_some_and(wants), tracked.unclear)
                    }
                    None => (false, true),
                };
                (wants || (unclear && holders.contains(&key))).then_some(contender)
            })
            .collect()
    }

    /// A source's documents in a mount, from what was resolved before if that was for this mount.
    fn resolve(
        &self,
        key: &SourceKey,
        tracked: &Tracked,
        hint: &Hint,
        mount: &Mount,
        places: impl Fn(&SourceKey, &Hint) -> Result<Vec<Place>, PathFault>,
    ) -> Arc<Resolved> {
        let known = tracked.resolved.borrow().clone();
        if let Some(known) = known.filter(|known| known.mount == *mount) {
            return known;
        }
        let places = places(key, hint).ok();
        // That its path lies in another mount is found out fast, and must not displace what was resolved there.
        let elsewhere = places.as_ref().is_some_and(Vec::is_empty);
        let by_path = |places: Vec<Place>| {
            let mut by_path = HashMap::with_capacity(places.len());
            for (at, place) in places.into_iter().enumerate() {
                by_path.entry(self.hashed(&place.id.path)).or_insert(at);
            }
            by_path
        };
        let resolved = Arc::new(Resolved {
            mount: mount.clone(),
            places: places.map(by_path),
        });
        if !elsewhere {
            tracked.resolved.replace(Some(Arc::clone(&resolved)));
        }
        resolved
    }

    /// Keyed at random, so that nobody can make two paths that are taken for one.
    pub(super) fn hashed(&self, path: &str) -> u64 {
        self.hasher.hash_one(path)
    }

    /// Whether a source that discovers its Secrets has no document for this one now.
    fn is_dropped(&self, key: &SourceKey, named: &Reference) -> bool {
        named.optional && self.is_missing(&key.namespace, &named.secret)
    }

    /// A source's paths in a form that does not depend on the mount, so that any two paths of one
    /// document share it: without `data` segments, and, where namespaces are put in front, without
    /// the namespace. Paths of different documents may share it too; [`Index::rivals`] tells them apart.
    fn loose(&self, namespace: &str, segments: impl Iterator<Item = impl AsRef<str>>) -> u64 {
        let mut loose = String::new();
        for segment in segments {
            let segment = segment.as_ref();
            let fence = self.isolation == NamespaceIsolation::Prefix && segment == namespace;
            if segment != "data" && !fence {
                loose.push('/');
                loose.push_str(segment);
            }
        }
        self.hashed(&loose)
    }

    pub(super) fn loose_paths(&self, key: &SourceKey, hint: &Hint) -> Vec<u64> {
        let path = || hint.path.split('/');
        if !hint.each {
            return vec![self.loose(&key.namespace, path())];
        }
        hint.secrets
            .iter()
            .map(|named| self.loose(&key.namespace, path().chain([named.secret.as_str()])))
            .collect()
    }

    /// The forms under which sources that want `id` can stand: the document's own path, with as many
    /// leading segments (the cluster's prefix) left out as may have been put there.
    pub(super) fn loose_forms(&self, me: &SourceKey, id: &DocumentId) -> Vec<u64> {
        let segments: Vec<&str> = id.path.split('/').collect();
        let mut forms: Vec<u64> = (0..segments.len())
            .map(|skip| {
                self.loose(
                    &me.namespace,
                    id.mount.split('/').chain(segments[skip..].iter().copied()),
                )
            })
            .collect();
        // A prefix in front of the mount: the path as written begins inside the mount.
        forms.extend((0..segments.len()).map(|skip| self.loose(&me.namespace, segments[skip..].iter())));
        let mounts: Vec<&str> = id.mount.split('/').collect();
        forms.extend(
            (1..mounts.len())
                .map(|skip| self.loose(&me.namespace, mounts[skip..].iter().chain(segments.iter()))),
        );
        forms.sort_unstable();
        forms.dedup();
        forms
    }

    /// The sources that may want a document which `me` has left.
    pub fn sharers(&self, me: &SourceKey, id: &DocumentId) -> Vec<SourceKey> {
        let forms = self.loose_forms(me, id);
        let keys = forms
            .iter()
            .filter_map(|loose| self.neighbours.get(loose))
            .flatten();
        let others: HashSet<&SourceKey> = keys.filter(|key| *key != me).collect();
        others.into_iter().cloned().collect()
    }
}
