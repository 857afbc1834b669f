//! Documents that carry no claims: where one was denied last, and which sources use mounts with such documents.
//!
//! A denial concerns the document that it met. Another path of the same mount may well allow claims, and must
//! not lose their protection for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::Run;
use domain::document::{DocumentId, KvVersion};
use domain::problem::{PathFault, Problem};
use domain::source::SourceKey;

/// Rights are granted without telling us: a claim that was denied is tried again after a while.
const DENIED_FOR: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Claimless {
    /// Documents on KV v2 mounts on which a claim was denied last, and when; by mount.
    denied: HashMap<Arc<str>, BTreeMap<Arc<str>, Instant>>,
    /// The mounts without claims that each source has documents on; of whom none is named, has none.
    users: HashMap<SourceKey, BTreeSet<Arc<str>>>,
    /// How many sources there are for each of these.
    in_use: HashMap<Arc<str>, usize>,
}

impl Claimless {
    /// A claim was denied; whether that is the first denial in this mount.
    pub(super) fn deny(&mut self, id: &DocumentId) -> bool {
        let paths = self.denied.entry(id.mount.clone()).or_default();
        let first = paths.is_empty();
        paths.insert(id.path.clone(), Instant::now());
        first
    }

    /// A claim was taken, or the document is no longer ours.
    pub(super) fn forget(&mut self, id: &DocumentId) {
        let Some(paths) = self.denied.get_mut(&id.mount) else {
            return;
        };
        paths.remove(&id.path);
        if !paths.is_empty() {
            return;
        }
        self.denied.remove(&id.mount);
        if self.in_use.remove(&id.mount).is_some() {
            self.users.retain(|_, mounts| {
                mounts.remove(&id.mount);
                !mounts.is_empty()
            });
        }
    }

    /// Whether a claim is worth a try.
    pub(super) fn may_try(&self, id: &DocumentId) -> bool {
        let denied = self.denied.get(&id.mount).and_then(|paths| paths.get(&id.path));
        denied.is_none_or(|denied| denied.elapsed() > DENIED_FOR)
    }

    /// Whether the last claim on this document was denied.
    fn is_denied(&self, id: &DocumentId) -> bool {
        self.denied
            .get(&id.mount)
            .is_some_and(|paths| paths.contains_key(&id.path))
    }

    /// On which mounts without claims a source has documents now.
    fn uses(&mut self, source: &SourceKey, mounts: BTreeSet<Arc<str>>) {
        for mount in &mounts {
            *self.in_use.entry(mount.clone()).or_default() += 1;
        }
        let before = if mounts.is_empty() {
            self.users.remove(source)
        } else {
            self.users.insert(source.clone(), mounts)
        };
        for mount in before.into_iter().flatten() {
            if let Some(users) = self.in_use.get_mut(&mount) {
                *users -= 1;
                if *users == 0 {
                    self.in_use.remove(&mount);
                }
            }
        }
    }

    /// How many such mounts are in use.
    fn count(&self) -> usize {
        self.in_use.len()
    }
}

impl Run<'_> {
    /// Counts the mounts without claims anew, by what this pass knows of its source's. A mount that could not
    /// be asked for stays what it was.
    pub(super) fn count_claimless(&self) {
        let on = self.on;
        let (mut unclaimed, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        let documents = on.ledger.of(self.key());
        let gone = self.report.has(|problem| {
            matches!(
                problem,
                Problem::Path(PathFault::NoMount(_) | PathFault::NotKv { .. } | PathFault::Hidden(_))
            )
        });
        let mut claimless = on.notes.claimless();
        for (id, _) in documents {
            match on.mounts.known(&id.mount).filter(|mount| mount.path == id.mount) {
                Some(mount) if mount.version == KvVersion::V1 || claimless.is_denied(&id) => {
                    unclaimed.insert(id.mount);
                }
                None if !gone => {
                    unknown.insert(id.mount);
                }
                _ => {}
            }
        }
        if let Some(before) = claimless.users.get(self.key()) {
            unclaimed.extend(unknown.into_iter().filter(|path| before.contains(path)));
        }
        claimless.uses(self.key(), unclaimed);
        on.metrics.claims_unavailable(claimless.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::source::Kind;

    #[test]
    fn a_mount_counts_while_somebody_uses_it_and_it_takes_no_claims() {
        let source = |name: &str| SourceKey {
            kind: Kind::Secret,
            namespace: "ns".into(),
            name: name.into(),
        };
        let mounts = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let mut claimless = Claimless::default();
        let [app, other] = ["app", "other"].map(|path| DocumentId::new("secret", path));
        assert!(claimless.may_try(&app));
        assert!(claimless.deny(&app) && !claimless.deny(&app) && !claimless.may_try(&app));
        assert!(claimless.may_try(&other), "it was denied elsewhere");
        assert_eq!(claimless.count(), 0, "nobody uses it yet");
        for (who, uses, count) in [
            ("a", mounts(&["secret"]), 1),
            ("b", mounts(&["secret", "kv1"]), 2),
            ("b", mounts(&["secret", "kv1"]), 2),
            ("c", mounts(&[]), 2),
            ("b", mounts(&["secret"]), 1),
            ("b", mounts(&[]), 1),
            ("a", mounts(&[]), 0),
            ("a", mounts(&["secret"]), 1),
            ("b", mounts(&["secret", "kv1"]), 2),
        ] {
            claimless.uses(&source(who), uses);
            assert_eq!(claimless.count(), count, "{who}");
        }
        claimless.forget(&DocumentId::new("kv1", "app"));
        assert_eq!(claimless.count(), 2, "it was never denied there");
        claimless.deny(&other);
        claimless.forget(&other);
        assert_eq!(claimless.count(), 2, "one is still denied");
        claimless.forget(&app);
        assert_eq!(claimless.count(), 1);
        assert!(claimless.may_try(&app) && claimless.denied.is_empty());
        // They are asked one after the other afterwards.
        claimless.uses(&source("a"), mounts(&[]));
        claimless.uses(&source("b"), mounts(&[]));
        assert_eq!(claimless.count(), 0);
        assert!(claimless.users.is_empty() && claimless.in_use.is_empty());
    }
}
