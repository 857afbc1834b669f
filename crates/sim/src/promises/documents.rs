//! What must hold whenever a document changes: by who changes it, and who wrote what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::rest::{RELEASED, loses_the_ledger};
use super::{Promises, cluster_of};
use crate::people::{CONFIDENTIAL, MOUNT};
use crate::plan::{Act, Wires};
use crate::vault::{Change, Deed, Document, Engine, Vault, Version};

/// What was true for so long is known to whoever looks, however slow its wires are; and where nothing is wrong.
const KNOWN_BY_ALL: Duration = Duration::from_secs(100);
const KNOWN_SOON: Duration = Duration::from_secs(2);

fn known_within(all_is_well: bool) -> Duration {
    if all_is_well { KNOWN_SOON } else { KNOWN_BY_ALL }
}

/// What is known of one document.
#[derive(Clone, Default, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(super) struct Known {
    /// The clusters whose operator has written it, and the first version of each.
    writers: BTreeMap<usize, u64>,
    /// The first version of somebody who is no operator.
    stranger: Option<u64>,
    /// The newest value of each Secret that each operator's cluster has put there.
    newest: BTreeMap<(usize, String), u64>,
    /// Whether the last change was a person's.
    pub(super) by_person: bool,
    /// When that was made.
    changed: Option<SystemTime>,
    /// Since when another tool's mark is on it.
    marked: Option<SystemTime>,
    /// Whether that was overwritten.
    overwritten: bool,
    /// Whether somebody has taken the claim off.
    unmarked: bool,
    /// The cluster whose operator has deleted it last, and has written nothing since.
    given_back: Option<usize>,
    /// The cluster whose operator's claim is on it, and since when.
    claimed: Option<(usize, SystemTime)>,
    /// Whether it can be read. A mark on what is deleted does not bind.
    live: bool,
}

impl Known {
    /// Somebody has taken it away under those who have written it: what they put there again is drift that they
    /// repair. What somebody else puts there is older than that.
    fn is_gone(&mut self) {
        for first in self.writers.values_mut() {
            *first = u64::MAX;
        }
        self.stranger = None;
        self.marked = None;
        self.claimed = None;
        self.live = false;
        self.by_person = true;
    }
}

impl Promises {
    pub(super) fn check_change(&mut self, vault: &Vault, change: &Change, now: SystemTime) {
        if matches!(change.deed, Deed::Unmount) {
            for known in self.documents.values_mut() {
                known.is_gone();
            }
            return;
        }
        if change.mount != MOUNT || change.path.is_empty() {
            return;
        }
        let key = (change.mount.clone(), change.path.clone());
        let known = self.documents.remove(&key).unwrap_or_default();
        let v2 = vault
            .mount(MOUNT)
            .is_some_and(|mount| mount.engine == Engine::Kv2);
        let document = vault.document(&change.mount, &change.path);
        if let Some(cluster) = cluster_of(&change.who) {
            self.check_marks(change, &known, now);
            self.check_claims(cluster, change, &known, now);
            self.check_successor(cluster, change, &known, now);
            if !v2 {
                self.check_without_versions(cluster, change, document, &known, now);
            }
        }
        let mut known = match (cluster_of(&change.who), document) {
            (Some(cluster), Some(document)) if v2 => {
                self.check_deed(vault, cluster, change, document, &known, now)
            }
            (Some(cluster), None) if v2 => self.check_purge(cluster, change, &known, now),
            _ => None,
        }
        .unwrap_or(known);
        match (&change.deed, cluster_of(&change.who)) {
            (Deed::Purge, Some(_)) => return,
            (Deed::Purge, None) => known.is_gone(),
            (Deed::Write(version) | Deed::Patch(version), Some(cluster)) => {
                let first = known.writers.entry(cluster).or_insert(*version);
                *first = (*first).min(*version);
            }
            (Deed::Write(version) | Deed::Patch(version), None) => {
                known.stranger.get_or_insert(*version);
            }
            _ => {}
        }
        // A claim that was on its way meets a mark, and no check-and-set keeps it from that.
        if !known.live && matches!(change.deed, Deed::Write(_)) || change.deed == Deed::Claim {
            known.marked = None;
        }
        if change.deed == Deed::Claim {
            let holds = document.is_some_and(|document| {
                !document.custom.is_empty() && !document.custom.contains_key(RELEASED)
            });
            known.claimed = cluster_of(&change.who)
                .filter(|_| holds)
                .map(|cluster| (cluster, now));
            known.unmarked = document.is_some_and(|document| document.custom.is_empty());
        }
        if cluster_of(&change.who).is_none() && change.deed == Deed::Claim {
            let mark = document.is_some_and(|document| document.custom.contains_key("managed-by"));
            known.marked = mark.then_some(now);
            known.overwritten = false;
        }
        if change.deed != Deed::Claim {
            known.by_person = cluster_of(&change.who).is_none();
        }
        match (&change.deed, cluster_of(&change.who)) {
            (Deed::Delete(_), Some(cluster)) => known.given_back = Some(cluster),
            (Deed::Write(_), Some(_)) => {
                known.given_back = None;
                known.overwritten = true;
            }
            (Deed::Undelete(_), _) => known.given_back = None,
            _ => {}
        }
        known.changed = Some(now);
        known.live = document.is_some_and(|document| document.live(now).is_some());
        self.documents.insert(key, known);
    }

    /// What another tool has marked stays as it is, and so does the mark, as long as it can be read.
    fn check_marks(&mut self, change: &Change, known: &Known, now: SystemTime) {
        // One write may be by what was remembered: its reply shows the mark.
        let first = matches!(change.deed, Deed::Write(_)) && !known.overwritten;
        let within = known_within(self.trouble.is_over(now));
        let known_by_all = known.marked.is_some_and(|since| since + within < now);
        if known_by_all && known.live && !first && !self.may_adopt() {
            let how = told(change);
            self.record_broken("another tool's mark is a claim", &how);
        }
    }

    /// What another cluster's operator has claimed is not taken away.
    fn check_claims(&mut self, cluster: usize, change: &Change, known: &Known, now: SystemTime) {
        let takes = matches!(change.deed, Deed::Delete(_) | Deed::Destroy(_) | Deed::Purge);
        let within = known_within(self.trouble.wires_are_well(now));
        let of_another = known
            .claimed
            .is_some_and(|(other, since)| other != cluster && since + within < now);
        if takes && of_another {
            let how = told(change);
            self.record_broken("what another cluster has claimed is not taken away", &how);
        }
    }

    /// What another source asks for is handed over, and stands all the time.
    fn check_successor(&mut self, cluster: usize, change: &Change, known: &Known, now: SystemTime) {
        let takes = matches!(change.deed, Deed::Delete(_) | Deed::Purge);
        if !takes || known.by_person || !self.trouble.is_over(now) {
            return;
        }
        if let Some((_, _, successor)) = self.clusters.successor(cluster, &change.path, now - KNOWN_SOON) {
            let how = format!("{}, which {successor} asks for", told(change));
            self.record_broken("what another source asks for stands all the time", &how);
        }
    }

    /// An operator has changed a document in a mount without versions: there is no check-and-set there, and who is
    /// late overwrites what is newer. So it is only looked at while all is well.
    fn check_without_versions(
        &mut self,
        cluster: usize,
        change: &Change,
        document: Option<&Document>,
        known: &Known,
        now: SystemTime,
    ) {
        let age = known.changed.and_then(|changed| now.duration_since(changed).ok());
        if self.trouble.wires_are_well(now)
            && known.live
            && known.by_person
            && change.path.starts_with("data/")
            && age.is_some_and(|age| age.as_secs() > 1)
        {
            let how = told(change);
            self.record_broken("a mount made anew loses nothing", &how);
        }
        if self.trouble.is_over(now)
            && let (Deed::Write(number), Some(document)) = (&change.deed, document)
        {
            let before = number.checked_sub(1).and_then(|number| document.ever(number));
            if let (Some(before), Some(written)) = (before, document.ever(*number)) {
                let (before, written) = (before.clone(), written.data.clone());
                self.check_holder(cluster, change, &before, &written);
            }
        }
    }

    /// Who has a document keeps it while it asks for it.
    fn check_holder(&mut self, cluster: usize, change: &Change, before: &Version, written: &Value) {
        if self.setup.adopt != "never"
            || self.acts.iter().any(loses_the_ledger)
            || cluster_of(&before.author) != Some(cluster)
        {
            return;
        }
        let (theirs, ours) = (namespaces(&before.data), namespaces(written));
        for namespace in theirs.difference(&ours) {
            if self
                .clusters
                .is_kept_from(cluster, namespace, &change.path, before.created)
            {
                let how = format!(
                    "{} writes {} over what {} has put there for {namespace}",
                    change.who, change.path, before.author
                );
                self.record_broken("who has a document keeps it while it asks for it", &how);
            }
        }
    }

    /// Whether another's document may be taken over at all.
    fn may_adopt(&self) -> bool {
        self.setup.adopt == "all" || self.setup.adopt == "annotated" && self.somebody_adopts
    }

    /// An operator has changed a document.
    fn check_deed(
        &mut self,
        vault: &Vault,
        cluster: usize,
        change: &Change,
        document: &Document,
        known: &Known,
        now: SystemTime,
    ) -> Option<Known> {
        match &change.deed {
            Deed::Write(number) => Some(self.check_write(cluster, change, document, known, *number, now)),
            Deed::Delete(numbers) | Deed::Destroy(numbers) => {
                self.check_order(vault, cluster, change, document);
                for number in numbers {
                    let author = document.ever(*number).map(|version| version.author.clone());
                    let author = author.unwrap_or_default();
                    let ours = cluster_of(&author) == Some(cluster);
                    let was_ours = known.writers.contains_key(&cluster);
                    let of_another = cluster_of(&author).is_some_and(|other| other != cluster);
                    let given_back = known.given_back == Some(cluster)
                        && !self
                            .acts
                            .iter()
                            .any(|act| may_end_early(act) || loses_the_ledger(act));
                    // A delete without an answer is repeated, and what was written meanwhile goes with it.
                    let repeated = !self.trouble.is_forgotten(now) && self.acts.iter().any(may_end_early);
                    let theirs = !repeated && (!was_ours || of_another || given_back);
                    // Without claims, nothing tells the clusters' operators apart.
                    let alike = of_another && (self.setup.claimless || self.setup.kv == 1);
                    if !ours && theirs && !alike && self.setup.adopt == "never" {
                        let how = format!(
                            "{} deletes version {number} of {}, which is {author}'s",
                            change.who, change.path
                        );
                        self.record_broken("nothing of another's is deleted", &how);
                    }
                }
                None
            }
            _ => None,
        }
    }

    /// What a source does not ask for any more goes after what it asks for now stands.
    fn check_order(&mut self, vault: &Vault, cluster: usize, change: &Change, document: &Document) {
        let holder = self.clusters.holder(cluster, &change.path).cloned();
        let written = document.latest().map(|latest| latest.created);
        let asked = holder
            .as_ref()
            .zip(written)
            .and_then(|(holder, written)| self.clusters.asked_by(cluster, holder, written));
        // What it asks for since the operator has looked is not known yet.
        let read = holder
            .as_ref()
            .and_then(|holder| self.clusters.last_read(cluster, holder));
        let asked = asked.into_iter().flatten();
        let mut missing = asked
            .filter(|(_, since)| read.is_some_and(|read| **since <= read))
            .filter(|(path, _)| {
                let document = vault.document(&change.mount, path);
                let known = self.documents.get(&(change.mount.clone(), (*path).clone()));
                document.is_none_or(|document| document.latest().is_none()) && known.is_none()
            });
        if let Some((path, _)) = missing.next() {
            let how = format!("{} deletes {} before {path} stands", change.who, change.path);
            self.record_broken("new documents stand before old ones go", &how);
        }
    }

    fn check_purge(
        &mut self,
        cluster: usize,
        change: &Change,
        known: &Known,
        now: SystemTime,
    ) -> Option<Known> {
        let first = known.writers.get(&cluster).copied();
        // After a crash, or without an answer, nobody can tell a first version from the one that was to be written.
        let inherited = known.stranger == Some(1) && self.acts.iter().any(may_end_early);
        // Where there was no claim, only the ledger knows what was ours, and it does not know of another mount.
        let remade = first == Some(u64::MAX) && (self.setup.claimless || self.setup.kv == 1);
        let before_us = match (known.stranger, first) {
            _ if inherited || remade => false,
            (Some(theirs), Some(ours)) => theirs < ours,
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let mut writers = known.writers.iter();
        // Metadata know no check-and-set: a purge hits what another cluster has written a moment before.
        let within = known_within(self.trouble.wires_are_well(now));
        let settled = known.changed.is_none_or(|changed| changed + within < now);
        let of_another = settled && writers.any(|(&other, &first)| other != cluster && first != u64::MAX);
        if before_us || of_another {
            let how = format!("{} purges {}, of which {known:?}", change.who, change.path);
            self.record_broken("a purge destroys only what we made", &how);
        }
        None
    }

    fn check_write(
        &mut self,
        cluster: usize,
        change: &Change,
        document: &Document,
        known: &Known,
        number: u64,
        now: SystemTime,
    ) -> Known {
        let who = &change.who;
        let path = &change.path;
        let mut known = known.clone();
        // A later try of the same write arrives, or the first one after all.
        let is_slow = |act: &Act| matches!(act, Act::Weather(Wires::Vault, sky) if sky.is_slow());
        let late = self.acts.iter().any(is_slow) && !self.trouble.is_forgotten(now);
        let Some(written) = document.ever(number) else {
            return known;
        };
        let before = number.checked_sub(1).and_then(|number| document.ever(number));
        if let Some(before) = before.filter(|before| before.is_live(now)) {
            // What stands there may have been put at the version that is remembered since somebody has purged ours.
            let purged = known.writers.get(&cluster) == Some(&u64::MAX);
            if before.data == written.data && !purged && !late {
                let how = format!("{who} writes version {number} of {path}, which is as the one before");
                self.record_broken("no version without a difference", &how);
            }
            let of_us = cluster_of(&before.author) == Some(cluster);
            let of_another = cluster_of(&before.author).is_some_and(|other| other != cluster);
            let was_ours = known.writers.contains_key(&cluster);
            // After a crash, or without an answer, nobody can tell a first version from the one that was to be written.
            let earlier = number.checked_sub(2).and_then(|number| document.ever(number));
            let was_created = earlier.is_none_or(|earlier| !earlier.is_live(now));
            let inherited =
                was_created && !self.trouble.is_forgotten(now) && self.acts.iter().any(may_end_early);
            // Without claims, nothing tells the clusters' operators apart.
            let alike = self.setup.claimless && self.setup.clusters > 1;
            // What somebody writes where our claim is stands to be repaired.
            let claimed = known.claimed.is_some_and(|(claimant, _)| claimant == cluster);
            let theirs = !of_us && !claimed && !alike && (!was_ours || of_another && !known.unmarked);
            if theirs && !inherited && self.setup.adopt == "never" {
                let how = format!("{who} writes version {number} of {path} over {}'s", before.author);
                self.record_broken("nothing of another's is overwritten", &how);
            }
            self.check_holder(cluster, change, before, &written.data);
        }
        // A mount that is made anew counts its versions anew, so that a check-and-set from before can fit.
        if late && self.acts.iter().any(|act| matches!(act, Act::Remount(_))) {
            return known;
        }
        for (name, count) in counts(&written.data) {
            let newest = known.newest.entry((cluster, name.clone())).or_insert(count);
            if count < *newest {
                let how =
                    format!("{who} writes version {number} of {path} with {name} {count} after {newest}");
                self.record_broken("no older value after a newer", &how);
            }
            *newest = count.max(*newest);
        }
        known
    }
}

/// The values that our Secrets have given a document: whose, and how many values before it.
fn counts(data: &Value) -> Vec<(String, u64)> {
    let values = data.as_object().into_iter().flatten();
    values
        .filter_map(|(_, value)| {
            let (name, count) = value.as_str()?.strip_prefix(CONFIDENTIAL)?[1..].rsplit_once(':')?;
            Some((name.to_owned(), count.parse().ok()?))
        })
        .collect()
}

/// A change, for people.
fn told(change: &Change) -> String {
    format!("{} does {:?} to {}", change.who, change.deed, change.path)
}

/// Whether a creation may stay without an end by this.
pub(super) fn may_end_early(act: &Act) -> bool {
    match act {
        Act::Kill(_) | Act::Stop(_) => true,
        Act::Weather(_, sky) => sky.loses() || sky.is_slow(),
        _ => false,
    }
}

/// The namespaces whose Secrets have given a document its values.
fn namespaces(data: &Value) -> BTreeSet<String> {
    let of = |(name, _): (String, u64)| Some(name.split_once('/')?.0.to_owned());
    counts(data).into_iter().filter_map(of).collect()
}
