//! The ledger in memory: its entries, and how they are spread over shards of bounded size.
//!
//! A shard is what is stored as one ConfigMap: a line for each document, under a key of its own. Must not know how it is
//! stored: it hands out what is to be written, and is told what became of that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{BadLine, LedgerEntry, State};
use crate::document::DocumentId;
use crate::source::SourceKey;

const NAME: &str = "vault-sync-operator-ledger";
/// A shard that has so many bytes gets no more lines. The API server keeps an entry in `managedFields` for each line,
/// and works through all of them at each write of the object: with 24 KiB, that is about eighty.
const FULL: usize = 24 * 1024;

/// Lines to write (`None`: to remove), by key.
pub type Lines = BTreeMap<String, Option<String>>;

/// All entries, and where each is stored.
pub struct Store {
    /// The key of a document's line: one that no other document has.
    key_of: fn(&DocumentId) -> String,
    entries: HashMap<DocumentId, LedgerEntry>,
    by_holder: HashMap<SourceKey, HashSet<DocumentId>>,
    /// How many documents the sources of each namespace have.
    by_namespace: HashMap<Arc<str>, usize>,
    /// Which shard holds a document.
    places: HashMap<DocumentId, usize>,
    shards: Vec<Shard>,
    /// Documents whose line only a newer version understands. Their lines are kept, and nothing is done about them.
    newer: HashSet<DocumentId>,
}

struct Shard {
    name: String,
    /// Its resourceVersion; `None`: it does not exist yet.
    version: Option<String>,
    /// Whether our epoch is on it.
    stamped: bool,
    /// Whether it is to be written although nothing in it changes.
    touch: bool,
    /// How many writes of it have had no answer: see [`Pending::unanswered`].
    unanswered: u64,
    /// Sizes of the lines that are, or shall be, in it.
    sizes: HashMap<String, usize>,
    bytes: usize,
    /// Lines that only a newer version understands, by key.
    kept: BTreeMap<String, String>,
    pending: Lines,
}

/// A stored line that was not taken over; it is removed with the next write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The shard that it was in.
    pub shard: String,
    /// The line's key.
    pub key: String,
    /// What is wrong with it.
    pub why: Garbage,
}

/// Why a stored line is not taken over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Garbage {
    /// Another line of this document is taken over already.
    Twice(DocumentId),
    /// Its key is that of another document than this one, which it is about.
    Misplaced(DocumentId),
    /// It is no entry.
    Unreadable(BadLine),
}

/// What a shard has to write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The shard's name.
    pub name: String,
    /// The resourceVersion that guards the write; `None`: it is created.
    pub version: Option<String>,
    /// The lines that change. There may be none: then only our epoch is to be put on it.
    pub lines: Lines,
    /// How many writes of the shard have had no answer so far. It is written too, so that the write after one of them
    /// changes something: a patch that changes nothing leaves the resourceVersion as it is, and the one before would
    /// still be good when it arrives late.
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

    fn numbered(number: usize) -> Self {
        Self::new(format!("{NAME}-{number}"))
    }

    /// A line of this length has its place in here, or (`None`) no longer has.
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
    /// An empty ledger. `key_of` gives each document a key that no other has.
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

    /// What it says of a document.
    pub fn get(&self, id: &DocumentId) -> Option<&LedgerEntry> {
        self.entries.get(id)
    }

    /// Whether it says this of a document, and nothing about that waits to be stored.
    pub fn has(&self, id: &DocumentId, entry: Option<&LedgerEntry>) -> bool {
        // Most have nothing that waits, and need no key made.
        let waits =
            |shard: &Shard| !shard.pending.is_empty() && shard.pending.contains_key(&(self.key_of)(id));
        self.get(id) == entry && !self.places.get(id).is_some_and(|&at| waits(&self.shards[at]))
    }

    /// The documents that it gives to a source, in order.
    pub fn of(&self, holder: &SourceKey) -> Vec<(DocumentId, LedgerEntry)> {
        let ids = self.by_holder.get(holder).into_iter().flatten();
        let mut found: Vec<_> = ids
            .filter_map(|id| Some((id.clone(), self.entries.get(id)?.clone())))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// How many documents it gives to the sources of a namespace.
    pub fn documents_in(&self, namespace: &str) -> usize {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    /// All sources that it gives documents to.
    pub fn holders(&self) -> impl Iterator<Item = &SourceKey> {
        self.by_holder.keys()
    }

    /// How many documents it has.
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

    /// Whether the document's line is one of those.
    pub fn is_newer(&self, id: &DocumentId) -> bool {
        self.newer.contains(id)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shards that have something to write, in order.
    pub fn pending(&self) -> Vec<usize> {
        let waits = |shard: &Shard| !shard.pending.is_empty() || shard.touch;
        let shards = self.shards.iter().enumerate();
        shards
            .filter(|(_, shard)| waits(shard))
            .map(|(at, _)| at)
            .collect()
    }

    /// A shard's name and resourceVersion.
    pub fn shard(&self, at: usize) -> (&str, Option<&str>) {
        let shard = &self.shards[at];
        (&shard.name, shard.version.as_deref())
    }

    /// Whether our epoch has been put on a shard.
    pub fn is_stamped(&self, at: usize) -> bool {
        self.shards[at].stamped
    }
}

/// Changing.
impl Store {
    /// Changes the entries and marks what is to be stored; whether anything changed.
    pub fn apply(&mut self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> bool {
        let mut news = false;
        for (id, entry) in changes {
            if self.entries.get(&id) == entry.as_ref() {
                // It may wait to be stored all the same; whoever asks now wants that settled too.
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
        // One more than there are shards: one of so many names is free.
        let number = (0..=taken.len()).find(|number| !taken.contains(format!("{NAME}-{number}").as_str()));
        let number = number.unwrap_or_default();
        // Creating an object is guarded by nothing: the write to the first one before it is.
        if let Some(first) = self.shards.first_mut() {
            first.touch = true;
        }
        self.shards.push(Shard::numbered(number));
        self.shards.len() - 1
    }
}

/// Loading and storing.
impl Store {
    /// Takes over a stored shard. What is garbage in it is handed back, and marked for removal.
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

    /// All that is stored has been taken over. Even an empty ledger needs a shard that can carry the epoch.
    pub fn loaded(&mut self) {
        if self.shards.is_empty() {
            self.shards.push(Shard::numbered(0));
        }
    }

    /// It comes from an operator that did not end in good order: each entry is doubted, and these documents are.
    pub fn inherit(&mut self) -> HashSet<DocumentId> {
        for entry in self.entries.values_mut() {
            *entry = entry.clone().inherited();
        }
        self.entries.keys().cloned().collect()
    }

    /// Takes over the lines that are not known yet.
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

    /// What a shard has to write: its pending lines, or just our epoch if it is not on it yet. It counts as
    /// written until it is [restored](Self::restore).
    pub fn take_pending(&mut self, at: usize) -> Option<Pending> {
        let shard = &mut self.shards[at];
        if shard.pending.is_empty() && !shard.touch {
            return None;
        }
        Some(Pending {
            name: shard.name.clone(),
            version: shard.version.clone(),
            lines: std::mem::take(&mut shard.pending),
            unanswered: shard.unanswered,
        })
    }

    /// What a shard had to write is stored, under this resourceVersion.
    pub fn stored(&mut self, at: usize, version: Option<String>) {
        let shard = &mut self.shards[at];
        shard.version = version;
        shard.stamped = true;
        shard.touch = false;
    }

    /// Puts back what was not written, but not over what has come since.
    pub fn restore(&mut self, at: usize, lines: Lines) {
        for (key, line) in lines {
            self.shards[at].pending.entry(key).or_insert(line);
        }
    }

    /// Puts back what may not be written, or may still be: the shard is written again even if nothing is left to say.
    pub fn restore_unanswered(&mut self, at: usize, lines: Lines) {
        self.restore(at, lines);
        let shard = &mut self.shards[at];
        shard.unanswered += 1;
        shard.touch = true;
    }

    /// A shard is not ours yet, and whoever had it has written since we read it: this is `there` now.
    pub fn reload(
        &mut self,
        at: usize,
        version: Option<String>,
        there: BTreeMap<String, String>,
    ) -> Vec<Dropped> {
        self.shards[at].version = version;
        self.absorb(at, there)
    }

    /// Somebody has changed a shard that is ours, or has deleted it (no `version`). All of its lines are to be written,
    /// and all that is `there` and is not ours is to be removed.
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
        // Even with no line in it, it carries the epoch.
        shard.touch = true;
    }
}

#[cfg(test)]
mod tests;
