//! What must hold, whatever happens. Some of it at each step, by who wrote which version; the rest when everything
//! has come to rest.

mod rest;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::kubernetes::{ApiServer, Resource};
use crate::people::{CONFIDENTIAL, MOUNT};
use crate::plan::{Act, Plan, Setup};
use crate::story::Story;
use crate::vault::{Change, Deed, Document, Engine, Vault};

/// Looks after the promises.
pub struct Promises {
    setup: Setup,
    /// Whether some source may ask for adoption at some time.
    somebody_adopts: bool,
    /// What of Vault's journal has been seen.
    seen: usize,
    /// What of each API server's journal has been seen.
    read: Vec<usize>,
    /// The documents as they are now: from their creation until they are purged.
    documents: BTreeMap<(String, String), Known>,
    broken: Option<Broken>,
}

/// A promise that is broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Which.
    pub promise: String,
    /// By what.
    pub how: String,
}

/// What is known of one document.
#[derive(Clone, Default, Debug)]
struct Known {
    /// The clusters whose operator has written it, and the first version of each.
    writers: BTreeMap<usize, u64>,
    /// The first version of somebody who is no operator.
    stranger: Option<u64>,
    /// The newest value of each Secret that each operator's cluster has put there.
    newest: BTreeMap<(usize, String), u64>,
    /// Whether the last change was a person's.
    by_person: bool,
}

impl Known {
    /// Somebody has taken it away under those who have written it: what they put there again is drift that they
    /// repair. What somebody else puts there is older than that.
    fn is_gone(&mut self) {
        for first in self.writers.values_mut() {
            *first = u64::MAX;
        }
        self.stranger = None;
        self.by_person = true;
    }
}

/// The cluster whose operator this is; `None`: somebody else.
fn cluster_of(who: &str) -> Option<usize> {
    who.strip_prefix("op")?.split('-').next()?.parse().ok()
}

impl Promises {
    /// For a world with this plan.
    pub fn new(plan: &Plan) -> Self {
        let adopts = |act: &Act| match act {
            Act::Apply(_, wanted) => wanted.adopt,
            Act::Annotate(_, name, value) => *name == "adopt" && value.is_some(),
            _ => false,
        };
        Self {
            somebody_adopts: plan.acts.iter().any(|(_, act)| adopts(act)),
            setup: plan.setup.clone(),
            seen: 0,
            read: vec![0; plan.setup.clusters],
            documents: BTreeMap::new(),
            broken: None,
        }
    }

    /// The first promise that was broken.
    pub fn is_broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// This one is broken. The first counts.
    pub fn broken(&mut self, promise: &str, how: &str) {
        self.broken.get_or_insert_with(|| Broken {
            promise: promise.to_owned(),
            how: how.to_owned(),
        });
    }

    /// Checks what is new.
    pub fn check(
        &mut self,
        vault: &Vault,
        clusters: &[ApiServer],
        story: &mut Story,
        age: Duration,
        now: SystemTime,
    ) {
        while let Some(change) = vault.journal().get(self.seen) {
            self.seen += 1;
            story.tell(age, &change.who, || {
                format!("  -> {:?} {}/{}", change.deed, change.mount, change.path)
            });
            self.check_change(vault, change, now);
        }
        for (at, cluster) in clusters.iter().enumerate() {
            let news = &cluster.journal()[self.read[at]..];
            self.read[at] = cluster.journal().len();
            for change in news {
                let by_operator = cluster_of(&change.actor).is_some();
                if by_operator && change.resource != Resource::Secrets && holds(&change.after, CONFIDENTIAL) {
                    let how = format!("{:?} {} by {}", change.resource, change.key, change.actor);
                    self.broken("no value leaves Vault", &how);
                }
            }
        }
    }

    fn check_change(&mut self, vault: &Vault, change: &Change, now: SystemTime) {
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
        let mut known = match (cluster_of(&change.who), document) {
            (Some(cluster), Some(document)) if v2 => self.check_deed(cluster, change, document, &known, now),
            (Some(cluster), None) if v2 => self.check_purge(cluster, change, &known),
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
        known.by_person = cluster_of(&change.who).is_none();
        self.documents.insert(key, known);
    }

    /// Whether another's document may be taken over at all.
    fn may_adopt(&self) -> bool {
        self.setup.adopt == "all" || self.setup.adopt == "annotated" && self.somebody_adopts
    }

    /// An operator has changed a document.
    fn check_deed(
        &mut self,
        cluster: usize,
        change: &Change,
        document: &Document,
        known: &Known,
        now: SystemTime,
    ) -> Option<Known> {
        match &change.deed {
            Deed::Write(number) => Some(self.check_write(cluster, change, document, known, *number, now)),
            Deed::Delete(numbers) | Deed::Destroy(numbers) => {
                for number in numbers {
                    let author = document.ever(*number).map(|version| version.author.clone());
                    let author = author.unwrap_or_default();
                    let ours = cluster_of(&author) == Some(cluster);
                    let was_ours = known.writers.contains_key(&cluster);
                    let of_another = cluster_of(&author).is_some_and(|other| other != cluster);
                    if !ours && (!was_ours || of_another) && self.setup.adopt == "never" {
                        let how = format!(
                            "{} deletes version {number} of {}, which is {author}'s",
                            change.who, change.path
                        );
                        self.broken("nothing of another's is deleted", &how);
                    }
                }
                None
            }
            _ => None,
        }
    }

    fn check_purge(&mut self, cluster: usize, change: &Change, known: &Known) -> Option<Known> {
        let first = known.writers.get(&cluster).copied();
        let before_us = match (known.stranger, first) {
            (Some(theirs), Some(ours)) => theirs < ours,
            (_, None) => true,
            (None, Some(_)) => false,
        };
        let of_another = known.writers.keys().any(|&other| other != cluster);
        if before_us || of_another {
            let how = format!("{} purges {}, of which {known:?}", change.who, change.path);
            self.broken("a purge destroys only what we made", &how);
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
        let Some(written) = document.ever(number) else {
            return known;
        };
        let before = number.checked_sub(1).and_then(|number| document.ever(number));
        if let Some(before) = before.filter(|before| before.is_live(now)) {
            if before.data == written.data {
                let how = format!("{who} writes version {number} of {path}, which is as the one before");
                self.broken("no version without a difference", &how);
            }
            let of_us = cluster_of(&before.author) == Some(cluster);
            let of_another = cluster_of(&before.author).is_some_and(|other| other != cluster);
            let was_ours = known.writers.contains_key(&cluster);
            if !of_us && (!was_ours || of_another) && !self.may_adopt() && self.setup.adopt != "equal" {
                let how = format!("{who} writes version {number} of {path} over {}'s", before.author);
                self.broken("nothing of another's is overwritten", &how);
            }
        }
        for (name, count) in counts(&written.data) {
            let newest = known.newest.entry((cluster, name.clone())).or_insert(count);
            if count < *newest {
                let how =
                    format!("{who} writes version {number} of {path} with {name} {count} after {newest}");
                self.broken("no older value after a newer", &how);
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

/// Whether this text is anywhere in it.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found.contains(text),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| name.contains(text) || holds(field, text)),
        _ => false,
    }
}
