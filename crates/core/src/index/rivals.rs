//! Which sources want which document.
//!
//! The mount of a source's path is not known when the source is indexed. So the path is indexed in a form
//! that does not depend on the mount. The documents that it names are resolved when they are first needed,
//! and cached.

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

/// The documents of a source, if its path is in this mount.
#[derive(Debug)]
pub(super) struct Resolved {
    mount: Mount,
    /// For each document, by a hash of its path, its position in [`Hint::secrets`]. `None`: the documents are
    /// not known, because the path cannot be resolved.
    places: Option<HashMap<u64, usize>>,
}

impl Index {
    /// What ranks a live source among those that want the same document.
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

    /// The other live sources that want the document `id` of this mount, which `me` wants or gives up.
    /// `places` resolves where in the mount a source's documents are. It is called once for each source and
    /// mount until the source changes, so that the cost of a query depends only on how many sources share the
    /// path. `holders` are the sources that the ledger and the claim name. A holder whose path or list cannot
    /// be read now still wants what it holds, because a source with a problem loses nothing.
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

    /// A source's documents in a mount, from the cache if that is for this mount.
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
        // A path in another mount is detected quickly, and must not replace what is cached for its own mount.
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

    /// Keyed at random, so that nobody can construct two paths with the same hash.
    pub(super) fn hashed(&self, path: &str) -> u64 {
        self.hasher.hash_one(path)
    }

    /// Whether a source that discovers its Secrets has no document for this Secret now, because it is
    /// optional and does not exist.
    fn is_dropped(&self, key: &SourceKey, named: &Reference) -> bool {
        named.optional && self.is_missing(&key.namespace, &named.secret)
    }

    /// Hash of a path in a form that does not depend on the mount, so that all paths of one document have the
    /// same form. The form has no `data` segments, and with `--namespace-isolation=prefix` no segment that is
    /// the namespace. Paths of different documents may have the same form too; [`Index::rivals`]
    /// distinguishes them.
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

    /// The forms under which sources that want `id` may be indexed: the document's own path, without any
    /// number of leading segments that may be the cluster's prefix.
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
        // With the prefix in front of the mount, the written path may begin inside the mount, or inside its
        // name.
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

    /// The sources that may want a document that `me` has given up.
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
