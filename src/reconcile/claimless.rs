//! Mounts whose documents carry no claims: where one was denied last, and which sources use such mounts now.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Run;
use crate::domain::document::KvVersion;
use crate::domain::problem::{PathFault, Problem};
use crate::domain::source::SourceKey;

/// Rights are granted without telling us: a claim that was denied is tried again after a while.
const DENIED_FOR: Duration = Duration::from_hours(1);

#[derive(Default)]
pub(super) struct Claimless {
    /// KV v2 mounts on which a claim was denied last, and when.
    denied: HashMap<String, Instant>,
    /// The mounts without claims that each source has documents on; of whom none is named, has none.
    users: HashMap<SourceKey, BTreeSet<String>>,
    /// How many sources there are for each of these.
    in_use: HashMap<String, usize>,
}

impl Claimless {
    /// A claim was denied; whether that is news.
    pub(super) fn deny(&mut self, mount: &str) -> bool {
        self.denied.insert(mount.to_owned(), Instant::now()).is_none()
    }

    /// A claim was taken.
    pub(super) fn grant(&mut self, mount: &str) {
        if self.denied.remove(mount).is_some() && self.in_use.remove(mount).is_some() {
            self.users.retain(|_, mounts| {
                mounts.remove(mount);
                !mounts.is_empty()
            });
        }
    }

    /// Whether a claim is worth a try.
    pub(super) fn may_try(&self, mount: &str) -> bool {
        let denied = self.denied.get(mount);
        denied.is_none_or(|denied| denied.elapsed() > DENIED_FOR)
    }

    /// On which mounts without claims a source has documents now.
    fn uses(&mut self, source: &SourceKey, mounts: BTreeSet<String>) {
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
        let mounts: BTreeSet<_> = documents.into_iter().map(|(id, _)| id.mount).collect();
        let gone = self.report.has(|problem| {
            matches!(
                problem,
                Problem::Path(PathFault::NoMount(_) | PathFault::NotKv { .. } | PathFault::Hidden(_))
            )
        });
        let mut claimless = on.notes.claimless();
        for path in mounts {
            match on.mounts.known(&path).filter(|mount| mount.path == path) {
                Some(mount) if mount.version == KvVersion::V1 || claimless.denied.contains_key(&path) => {
                    unclaimed.insert(path);
                }
                None if !gone => {
                    unknown.insert(path);
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
    use crate::domain::source::Kind;

    #[test]
    fn a_mount_counts_while_somebody_uses_it_and_it_takes_no_claims() {
        let source = |name: &str| SourceKey {
            kind: Kind::Secret,
            namespace: "ns".to_owned(),
            name: name.to_owned(),
        };
        let mounts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut claimless = Claimless::default();
        assert!(claimless.may_try("secret"));
        assert!(claimless.deny("secret") && !claimless.deny("secret") && !claimless.may_try("secret"));
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
        claimless.grant("kv1");
        assert_eq!(claimless.count(), 2, "it was never denied there");
        claimless.grant("secret");
        assert_eq!(claimless.count(), 1);
        assert!(claimless.may_try("secret"));
        // They are asked one after the other afterwards.
        claimless.uses(&source("a"), mounts(&[]));
        claimless.uses(&source("b"), mounts(&[]));
        assert_eq!(claimless.count(), 0);
        assert!(claimless.users.is_empty() && claimless.in_use.is_empty());
    }
}
