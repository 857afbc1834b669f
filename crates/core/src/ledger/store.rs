//! The ledger in memory: its entries, and their distribution over shards of bounded size.
//!
//! A shard is stored as one ConfigMap, with a line for each document, each under its own key. This module
//! must not know how shards are stored: it returns what must be written, and the caller reports the result.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{BadLine, LedgerEntry, State};
use crate::document::DocumentId;
use crate::source::SourceKey;

const NAME: &str = "vault-sync-operator-ledger";
/// A shard of this size gets no more lines. The API server tracks each line in `managedFields`, and processes all of
/// them at each write of the object. 24 KiB are about 80 lines.
const FULL: usize = 24 * 1024;

/// Lines to write (`None`: to remove), by key.
pub type Lines = BTreeMap<String, Option<String>>;

/// All entries, and in which shard each is stored.
pub struct Store {
    /// Returns the key of a document's line, which is unique to the document.
    key_of: fn(&DocumentId) -> String,
    entries: HashMap<DocumentId, LedgerEntry>,
    by_holder: HashMap<SourceKey, HashSet<DocumentId>>,
    /// How many documents the sources of each namespace have.
    by_namespace: HashMap<Arc<str>, usize>,
    /// Which shard holds a document.
    places: HashMap<DocumentId, usize>,
    shards: Vec<Shard>,
    /// Documents whose line only a newer version understands. Their lines are kept, and the documents are
    /// left alone.
    newer: HashSet<DocumentId>,
}

struct Shard {
    name: String,
    /// Its resourceVersion; `None`: it does not exist yet.
    version: Option<String>,
    /// Whether it carries our epoch.
    stamped: bool,
    /// Whether it must be written even if no line changes.
    touch: bool,
    /// How many writes of it got no response: see [`Pending::unanswered`].
    unanswered: u64,
    /// Sizes of its lines, both stored and pending.
    sizes: HashMap<String, usize>,
    bytes: usize,
    /// Lines that only a newer version understands, by key.
    kept: BTreeMap<String, String>,
    pending: Lines,
}

/// A stored line that was not loaded. The next write removes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The shard that it was in.
    pub shard: String,
    /// The line's key.
    pub key: String,
    /// What is wrong with it.
    pub why: Garbage,
}

/// Why a stored line is not loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Garbage {
    /// Another line for this document is already loaded.
    Twice(DocumentId),
    /// The line is about this document, but its key belongs to another document.
    Misplaced(DocumentId),
    /// It is not an entry.
    Unreadable(BadLine),
}

/// What a shard has to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The shard's name.
    pub name: String,
    /// The resourceVersion that guards the write; `None`: the shard is created.
    pub version: Option<String>,
    /// The lines that change. If there are none, the write only puts our epoch on the shard.
    pub lines: Lines,
    /// How many writes of the shard got no response so far. The count is written too, so that the next write
    /// always changes the object. A patch that changes nothing keeps the resourceVersion, so the unanswered
    /// write could still succeed if it arrived late.
    pub unanswered: u64,
}

impl Shard {
    fn new(name: String) -> Self {
        Self {
            name,
            version: None,
            stamped: false,
            touch: true,
            unanswered: 0,
            sizes: HashMap::new(),
            bytes: 0,
            kept: BTreeMap::new(),
            pending: Lines::new(),
        }
    }

    /// Whether there is something to write: changed lines, or only our epoch.
    fn must_be_written(&self) -> bool {
        !self.pending.is_empty() || self.touch
    }

    fn numbered(number: usize) -> Self {
        Self::new(format!("{NAME}-{number}"))
    }

    /// Updates the size for a line of this length, or (`None`) for a line that is removed.
    fn measure(&mut self, key: &str, line: Option<usize>) {
        let old = match line {
            Some(length) => self.sizes.insert(key.to_owned(), key.len() + length),
            None => self.sizes.remove(key),
        };
        self.bytes = self.bytes + line.map_or(0, |length| key.len() + length) - old.unwrap_or(0);
    }

    fn set(&mut self, key: String, line: Option<String>) {
        self.measure(&key, line.as_ref().map(String::len));
        self.pending.insert(key, line);
    }
}

/// Reading.
impl Store {
    /// An empty ledger. `key_of` returns a unique key for each document.
    pub fn new(key_of: fn(&DocumentId) -> String) -> Self {
        Self {
            key_of,
            entries: HashMap::new(),
            by_holder: HashMap::new(),
            by_namespace: HashMap::new(),
            places: HashMap::new(),
            shards: Vec::new(),
            newer: HashSet::new(),
        }
    }

    /// The entry for a document.
    pub fn get(&self, id: &DocumentId) -> Option<&LedgerEntry> {
        self.entries.get(id)
    }

    /// Whether the ledger contains this entry (`None`: no entry), and no change to it waits to be stored.
    pub fn has(&self, id: &DocumentId, entry: Option<&LedgerEntry>) -> bool {
        // Usually nothing is pending in the shard, and no key needs to be computed.
        let waits =
            |shard: &Shard| !shard.pending.is_empty() && shard.pending.contains_key(&(self.key_of)(id));
        self.get(id) == entry && !self.places.get(id).is_some_and(|&at| waits(&self.shards[at]))
    }

    /// The documents of a source, sorted.
    pub fn of(&self, holder: &SourceKey) -> Vec<(DocumentId, LedgerEntry)> {
        let ids = self.by_holder.get(holder).into_iter().flatten();
        let mut found: Vec<_> = ids
            .filter_map(|id| Some((id.clone(), self.entries.get(id)?.clone())))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// How many documents the sources of a namespace have.
    pub fn documents_in(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    /// All sources that have documents.
    pub fn holders(&self) -> impl Iterator<Item = &SourceKey> {
        self.by_holder.keys()
    }

    /// How many documents there are.
    pub fn documents(&self) -> usize {
        self.entries.len()
    }

    /// How many documents are in each state.
    pub fn count(&self) -> BTreeMap<State, usize> {
        let mut count: BTreeMap<State, usize> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        for entry in self.entries.values() {
            *count.entry(entry.state).or_default() += 1;
        }
        count
    }

    /// How many lines are kept that only a newer version understands.
    pub fn newer(&self) -> usize {
        self.newer.len()
    }

    /// Whether only a newer version understands the document's line.
    pub fn is_newer(&self, id: &DocumentId) -> bool {
        self.newer.contains(id)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shards that have something to write, in order.
    pub fn pending(&self) -> Vec<usize> {
        let shards = self.shards.iter().enumerate();
        shards
            .filter(|(_, shard)| shard.must_be_written())
            .map(|(at, _)| at)
            .collect()
    }

    /// A shard's name and resourceVersion.
    pub fn shard(&self, at: usize) -> (&str, Option<&str>) {
        let shard = &self.shards[at];
        (&shard.name, shard.version.as_deref())
    }

    /// Whether a shard carries our epoch.
    pub fn is_stamped(&self, at: usize) -> bool {
        self.shards[at].stamped
    }
}

/// Changing.
impl Store {
    /// Changes the entries and marks what must be stored. Returns whether anything must be.
    pub fn apply(&mut self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> bool {
        let mut news = false;
        for (id, entry) in changes {
            if self.entries.get(&id) == entry.as_ref() {
                // The entry may still wait to be stored, and this caller needs it stored too.
                news |= !self.has(&id, entry.as_ref());
                continue;
            }
            news = true;
            let line = entry.as_ref().map(|entry| entry.to_line(&id));
            let at = self.places.get(&id).copied().unwrap_or_else(|| self.roomy());
            self.shards[at].set((self.key_of)(&id), line);
            self.places.remove(&id);
            self.remove(&id);
            if let Some(entry) = entry {
                self.places.insert(id.clone(), at);
                self.insert(id, entry);
            }
        }
        news
    }

    fn insert(&mut self, id: DocumentId, entry: LedgerEntry) {
        self.by_holder
            .entry(entry.holder.clone())
            .or_default()
            .insert(id.clone());
        *self
            .by_namespace
            .entry(entry.holder.namespace.clone())
            .or_default() += 1;
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: &DocumentId) {
        let Some(old) = self.entries.remove(id) else {
            return;
        };
        if let Some(count) = self.by_namespace.get_mut(&old.holder.namespace) {
            *count -= 1;
            if *count == 0 {
                self.by_namespace.remove(&old.holder.namespace);
            }
        }
        if let Some(ids) = self.by_holder.get_mut(&old.holder) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_holder.remove(&old.holder);
            }
        }
    }

    /// A shard with room for another line.
    fn roomy(&mut self) -> usize {
        if let Some(at) = self.shards.iter().position(|shard| shard.bytes < FULL) {
            return at;
        }
        let taken: HashSet<&str> = self.shards.iter().map(|shard| shard.name.as_str()).collect();
        // There is one more candidate than there are shards, so at least one name is free.
        let number = (0..=taken.len()).find(|number| !taken.contains(format!("{NAME}-{number}").as_str()));
        let number = number.unwrap_or_default();
        // Nothing guards the creation of an object. So the first shard is written before it, and that write
        // is guarded.
        if let Some(first) = self.shards.first_mut() {
            first.touch = true;
        }
        self.shards.push(Shard::numbered(number));
        self.shards.len() - 1
    }
}

/// Loading and storing.
impl Store {
    /// Loads a stored shard. Returns the garbage in it, which is marked for removal.
    pub fn load(
        &mut self,
        name: String,
        version: Option<String>,
        data: BTreeMap<String, String>,
    ) -> Vec<Dropped> {
        self.shards.push(Shard {
            version,
            ..Shard::new(name)
        });
        self.absorb(self.shards.len() - 1, data)
    }

    /// All stored shards are loaded. Even an empty ledger needs a shard to carry the epoch.
    pub fn loaded(&mut self) {
        if self.shards.is_empty() {
            self.shards.push(Shard::numbered(0));
        }
    }

    /// The ledger comes from an operator that did not shut down cleanly, so each entry becomes uncertain.
    /// Returns the documents that this concerns.
    pub fn inherit(&mut self) -> HashSet<DocumentId> {
        for entry in self.entries.values_mut() {
            *entry = entry.clone().inherited();
        }
        self.entries.keys().cloned().collect()
    }

    /// Loads the lines of a shard, except those of documents that are in another shard.
    fn absorb(&mut self, at: usize, data: BTreeMap<String, String>) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        for (key, line) in data {
            let why = match LedgerEntry::from_line(&line) {
                Ok((id, entry)) if (self.key_of)(&id) == key => {
                    if self.places.get(&id).is_none_or(|place| *place == at) {
                        self.shards[at].measure(&key, Some(line.len()));
                        self.places.insert(id.clone(), at);
                        self.remove(&id);
                        self.insert(id, entry);
                        continue;
                    }
                    Garbage::Twice(id)
                }
                Ok((id, _)) => Garbage::Misplaced(id),
                Err(BadLine::Newer(id, _)) if (self.key_of)(&id) == key && !self.places.contains_key(&id) => {
                    self.shards[at].measure(&key, Some(line.len()));
                    self.shards[at].kept.insert(key, line);
                    self.newer.insert(id);
                    continue;
                }
                Err(fault) => Garbage::Unreadable(fault),
            };
            let shard = &mut self.shards[at];
            shard.pending.insert(key.clone(), None);
            let shard = shard.name.clone();
            dropped.push(Dropped { shard, key, why });
        }
        dropped
    }

    /// What a shard has to write: its pending lines, or only our epoch if the shard does not carry it yet.
    /// This counts as written until it is [restored](Self::restore).
    pub fn take_pending(&mut self, at: usize) -> Option<Pending> {
        let shard = &mut self.shards[at];
        if !shard.must_be_written() {
            return None;
        }
        Some(Pending {
            name: shard.name.clone(),
            version: shard.version.clone(),
            lines: std::mem::take(&mut shard.pending),
            unanswered: shard.unanswered,
        })
    }

    /// The shard's write is stored, with this resourceVersion.
    pub fn stored(&mut self, at: usize, version: Option<String>) {
        let shard = &mut self.shards[at];
        shard.version = version;
        shard.stamped = true;
        shard.touch = false;
    }

    /// Puts back lines that were not written, except those that have changed since.
    pub fn restore(&mut self, at: usize, lines: Lines) {
        for (key, line) in lines {
            self.shards[at].pending.entry(key).or_insert(line);
        }
    }

    /// Puts back the lines of a write that may have been applied, or may still be. The shard is written again
    /// even if no line is pending.
    pub fn restore_unanswered(&mut self, at: usize, lines: Lines) {
        self.restore(at, lines);
        let shard = &mut self.shards[at];
        shard.unanswered += 1;
        shard.touch = true;
    }

    /// A shard that does not carry our epoch yet was written by its previous owner since we read it. `there`
    /// is its data now.
    pub fn reload(
        &mut self,
        at: usize,
        version: Option<String>,
        there: BTreeMap<String, String>,
    ) -> Vec<Dropped> {
        self.shards[at].version = version;
        self.absorb(at, there)
    }

    /// Someone has changed a shard that carries our epoch, or has deleted it (no `version`). All its lines
    /// must be written again, and all other lines that are `there` must be removed.
    pub fn rewrite(&mut self, at: usize, version: Option<String>, there: &BTreeMap<String, String>) {
        let mut lines: Lines = there.keys().map(|key| (key.clone(), None)).collect();
        for (id, _) in self.places.iter().filter(|(_, place)| **place == at) {
            let line = self.entries.get(id).map(|entry| entry.to_line(id));
            lines.insert((self.key_of)(id), line);
        }
        let shard = &mut self.shards[at];
        for (key, line) in &shard.kept {
            if there.get(key) == Some(line) {
                lines.remove(key);
            } else {
                lines.insert(key.clone(), Some(line.clone()));
            }
        }
        shard.version = version;
        shard.pending = lines;
        // Even without a line, it carries the epoch.
        shard.touch = true;
    }
}

#[cfg(test)]
mod tests;
