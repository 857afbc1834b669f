//! What must hold of the objects in a cluster; and what its sources ask for, and since when.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::rest::{FINALIZER, documents_of, is_clear, lines, lines_of, loses_the_ledger, source_of};
use super::{Promises, cluster_of, holds};
use crate::kubernetes::{ApiServer, Change, Resource};
use crate::people::{CONFIDENTIAL, HOME};

/// An object that is being deleted waits at most so long where nothing is wrong.
const LET_GO_WITHIN: Duration = Duration::from_secs(15);

/// A source that has lost a document is looked at once more: when it is woken, or at its next try, which is at most so
/// long after the last one.
const WOKEN_WITHIN: Duration = Duration::from_mins(6);

/// Whoever watches a kind knows after so long that an object is gone.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(150);

/// A source: its kind, and namespace and name.
pub(super) type Holder = (Resource, String);

/// Documents, and since when each is asked for.
pub(super) type Asked = BTreeMap<String, SystemTime>;

/// What the changes in the clusters have taught.
#[derive(Default)]
pub(super) struct Clusters {
    /// The documents that each source asks for, and since when.
    asks: BTreeMap<(usize, Resource, String), Asked>,
    /// Since when each source asks for anything.
    began: BTreeMap<(usize, Resource, String), SystemTime>,
    /// Whom the ledger gave a document last, and before.
    held: BTreeMap<(usize, String), VecDeque<Holder>>,
    /// Whom the ledger names for a document, and whether the document is to stand.
    named: BTreeMap<(usize, String), (Holder, bool)>,
    /// When another became the holder of a document that this source had: it is woken then.
    lost: BTreeMap<(usize, Resource, String), SystemTime>,
    /// When an object of this name was deleted last.
    gone: BTreeMap<(usize, Resource, String), SystemTime>,
    /// When an operator has read an object last.
    read: BTreeMap<(usize, Resource, String), SystemTime>,
    /// The newest term that a leader has put on each ConfigMap of a ledger.
    terms: BTreeMap<(usize, String), u64>,
}

impl Clusters {
    /// The source whose document this is, by the ledger; none, if it is about to go.
    pub(super) fn holder(&self, cluster: usize, path: &str) -> Option<&Holder> {
        let named = self.named.get(&(cluster, path.to_owned()));
        named.and_then(|(holder, stands)| stands.then_some(holder))
    }

    /// What this source asks for, and since when, if it has asked for something ever since then.
    pub(super) fn asked_by(
        &self,
        cluster: usize,
        (resource, key): &Holder,
        then: SystemTime,
    ) -> Option<&Asked> {
        let source = (cluster, *resource, key.clone());
        let ever_since = self.began.get(&source).is_some_and(|&began| began <= then);
        self.asks.get(&source).filter(|_| ever_since)
    }

    /// Another source than its holder that asks for the document, and has asked since then.
    pub(super) fn successor(
        &self,
        cluster: usize,
        path: &str,
        then: SystemTime,
    ) -> Option<&(usize, Resource, String)> {
        let holder = self.named.get(&(cluster, path.to_owned()));
        let is_other = |key: &(usize, Resource, String)| {
            holder.is_none_or(|((resource, name), _)| (key.1, &key.2) != (*resource, name))
        };
        let asks = |documents: &Asked| documents.get(path).is_some_and(|&since| since < then);
        self.asks.iter().find_map(|(key, documents)| {
            (key.0 == cluster && is_other(key) && asks(documents)).then_some(key)
        })
    }

    /// When the source was read last, by any operator.
    pub(super) fn last_read(&self, cluster: usize, (resource, key): &Holder) -> Option<SystemTime> {
        self.read.get(&(cluster, *resource, key.clone())).copied()
    }

    /// Whether the last holder of the document in this namespace has asked for it without a break since then.
    pub(super) fn is_kept_from(&self, cluster: usize, namespace: &str, path: &str, then: SystemTime) -> bool {
        let of = (cluster, path.to_owned());
        let held = self.held.get(&of).into_iter().flatten();
        held.rev()
            .find(|(_, key)| key.split_once('/').is_some_and(|(there, _)| there == namespace))
            .and_then(|(resource, key)| self.asks.get(&(cluster, *resource, key.clone())))
            .is_some_and(|documents| documents.get(path).is_some_and(|&since| since <= then))
    }

    fn learn(&mut self, cluster: usize, change: &Change, isolation: &str) {
        if change.resource == Resource::ConfigMaps {
            self.learn_of_holders(cluster, &change.after, change.time);
        }
        if !matches!(change.resource, Resource::Deployments | Resource::Secrets) {
            return;
        }
        let key = (cluster, change.resource, change.key.to_string());
        if change.is_deletion {
            self.gone.insert(key.clone(), change.time);
            self.began.remove(&key);
            self.asks.remove(&key);
            return;
        }
        let before = self.asks.remove(&key).unwrap_or_default();
        let now = if is_clear(&change.after) {
            documents_of(change.resource, &change.after, isolation)
        } else {
            Vec::new()
        };
        let since = |path: String| {
            let since = before.get(&path).copied().unwrap_or(change.time);
            (path, since)
        };
        let now: BTreeMap<_, _> = now.into_iter().map(|(path, _)| since(path)).collect();
        if now.is_empty() {
            self.began.remove(&key);
        } else {
            self.began.entry(key.clone()).or_insert(change.time);
            self.asks.insert(key, now);
        }
    }

    fn learn_of_holders(&mut self, cluster: usize, map: &Value, now: SystemTime) {
        for line in lines_of(map) {
            let holder = source_of(&line);
            let document = (cluster, line["path"].as_str().unwrap_or_default().to_owned());
            let stands = line["state"] == "written";
            let named = (holder.clone(), stands);
            if let Some((before, _)) = self.named.insert(document.clone(), named)
                && before != holder
            {
                self.lost.insert((cluster, before.0, before.1), now);
            }
            if !stands {
                continue;
            }
            let held = self.held.entry(document).or_default();
            if held.back() != Some(&holder) {
                held.push_back(holder);
            }
            if held.len() > 2 {
                held.pop_front();
            }
        }
    }
}

impl Promises {
    /// An object has changed.
    pub(super) fn check_object(&mut self, cluster: usize, change: &Change) {
        self.clusters.learn(cluster, change, self.setup.isolation);
        if cluster_of(&change.actor).is_none() {
            return;
        }
        if change.resource != Resource::Secrets && holds(&change.after, CONFIDENTIAL) {
            let how = format!("{:?} {} by {}", change.resource, change.key, change.actor);
            self.record_broken("no value leaves Vault", &how);
        }
        if change.resource == Resource::ConfigMaps && change.namespace() == HOME && !change.is_deletion {
            self.check_term(cluster, change);
        }
    }

    /// A leader never goes over what a later one has put on the ledger.
    fn check_term(&mut self, cluster: usize, change: &Change) {
        let term = |object: &Value| -> Option<u64> {
            let term = &object["metadata"]["annotations"]["vault-sync.io/term"];
            // A number, and the Lease's uid, which nobody changes here.
            term.as_str()?.split_once('/')?.0.parse().ok()
        };
        let Some(term) = term(&change.after) else { return };
        let key = (cluster, change.key.to_string());
        let newest = self.clusters.terms.entry(key).or_default();
        if term < *newest {
            let how = format!("{} puts {term} on {} after {newest}", change.actor, change.key);
            self.record_broken("a ledger's term never goes back", &how);
        } else {
            *newest = term;
        }
    }

    /// An operator has read an object.
    pub fn has_read(&mut self, cluster: usize, path: &str, now: SystemTime) {
        if let Some((resource, key)) = object_of(path) {
            self.clusters.read.insert((cluster, resource, key), now);
        }
    }

    /// An operator has asked for an object that does not exist.
    pub fn asked_in_vain(
        &mut self,
        cluster: usize,
        server: &ApiServer,
        who: &str,
        path: &str,
        now: SystemTime,
    ) {
        let Some((Resource::Deployments, name)) = object_of(path) else {
            return;
        };
        let key = (cluster, Resource::Deployments, name);
        let long_gone = |gone: &SystemTime| *gone + FORGOTTEN_WITHIN < now;
        let woken = |lost: &SystemTime| *lost + WOKEN_WITHIN > now;
        if self.clusters.lost.get(&key).is_some_and(woken) {
            return;
        }
        let named = |line: Value| source_of(&line) == (key.1, key.2.clone());
        if self.trouble.watches_are_well(now)
            && !self.purges_for_ever()
            && !self.acts.iter().any(loses_the_ledger)
            && self.clusters.gone.get(&key).is_some_and(long_gone)
            && !lines(server).into_iter().any(named)
        {
            let how = format!("{who} asks for Deployment {}", key.2);
            self.record_broken("nobody remembers what is gone", &how);
        }
    }

    /// What goes by the clock: nobody waits without a reason.
    pub fn check_waits(&mut self, clusters: &[ApiServer], now: SystemTime) {
        if !self.trouble.is_over(now) || self.purges_for_ever() {
            return;
        }
        for server in clusters {
            for resource in [Resource::Deployments, Resource::Secrets] {
                for object in server.objects(resource) {
                    let metadata = &object["metadata"];
                    let Some(deleted) = metadata["deletionTimestamp"].as_str() else {
                        continue;
                    };
                    let ours = metadata["finalizers"].as_array();
                    let ours = ours.is_some_and(|all| all.iter().any(|one| one == FINALIZER));
                    let deleted: Option<jiff::Timestamp> = deleted.parse().ok();
                    let deleted = deleted.map_or(now, SystemTime::from);
                    if ours && deleted + LET_GO_WITHIN < now && self.trouble.is_over(deleted) {
                        let how = format!(
                            "{} {}/{} is being deleted since {:?}",
                            resource.kind(),
                            metadata["namespace"],
                            metadata["name"],
                            now.duration_since(deleted).unwrap_or_default()
                        );
                        self.record_broken("an object is let go in seconds where nothing is wrong", &how);
                    }
                }
            }
        }
    }
}

/// The Deployment or Secret that a URL's path names: its kind, and namespace and name.
fn object_of(path: &str) -> Option<Holder> {
    let (resource, rest) = match path.strip_prefix("/apis/apps/v1/namespaces/") {
        Some(rest) => (Resource::Deployments, rest.split_once("/deployments/")?),
        None => (
            Resource::Secrets,
            path.strip_prefix("/api/v1/namespaces/")?
                .split_once("/secrets/")?,
        ),
    };
    Some((resource, format!("{}/{}", rest.0, rest.1)))
}
