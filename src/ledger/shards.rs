//! The ledger in memory: its entries, and how they are spread over ConfigMaps of bounded size.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{error, warn};

use super::CommitError;
use domain::document::DocumentId;
use domain::ledger::{BadLine, LedgerEntry};
use domain::source::SourceKey;

const NAME: &str = "vault-sync-operator-ledger";
/// etcd takes objects of 1.5 MiB; the promise is 512 KiB, and an object has more than its data.
const FULL: usize = 384 * 1024;

#[derive(Default)]
pub(super) struct Store {
    pub(super) entries: HashMap<DocumentId, LedgerEntry>,
    pub(super) by_holder: HashMap<SourceKey, HashSet<DocumentId>>,
    /// How many documents the sources of each namespace have.
    pub(super) by_namespace: HashMap<Arc<str>, usize>,
    /// Which shard holds a document.
    pub(super) places: HashMap<DocumentId, usize>,
    pub(super) shards: Vec<Shard>,
    /// Documents whose line only a newer version understands. Their lines are kept, and nothing is done about them.
    pub(super) newer: HashSet<DocumentId>,
    pub(super) waiters: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

/// One ConfigMap.
pub(super) struct Shard {
    pub(super) name: String,
    /// Its resourceVersion; `None`: it does not exist yet.
    pub(super) version: Option<String>,
    /// Whether our epoch is on it.
    pub(super) stamped: bool,
    /// Whether it is to be written although nothing in it changes.
    pub(super) touch: bool,
    /// Sizes of the lines that are, or shall be, in it.
    pub(super) sizes: HashMap<String, usize>,
    pub(super) bytes: usize,
    /// Lines that only a newer version understands, by key.
    pub(super) kept: BTreeMap<String, String>,
    /// Lines to write (`None`: to remove), by key.
    pub(super) pending: BTreeMap<String, Option<String>>,
}

impl Shard {
    pub(super) fn new(number: usize) -> Self {
        Self {
            name: format!("{NAME}-{number}"),
            version: None,
            stamped: false,
            touch: true,
            sizes: HashMap::new(),
            bytes: 0,
            kept: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    pub(super) fn set(&mut self, key: String, line: Option<String>) {
        let size = line.as_ref().map_or(0, |line| key.len() + line.len());
        let old = if line.is_some() {
            self.sizes.insert(key.clone(), size)
        } else {
            self.sizes.remove(&key)
        };
        self.bytes = self.bytes + size - old.unwrap_or(0);
        self.pending.insert(key, line);
    }
}

/// A document's key in its ConfigMap, whose keys know neither slashes nor great length.
/// <https://kubernetes.io/docs/concepts/configuration/configmap/>
pub(super) fn data_key(id: &DocumentId) -> String {
    use std::fmt::Write as _;
    let digest = ring::digest::digest(
        &ring::digest::SHA256,
        format!("{}\n{}", id.mount, id.path).as_bytes(),
    );
    digest.as_ref()[..16].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Store {
    /// Changes the entries and marks what is to be stored; whether anything changed.
    pub(super) fn apply(&mut self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> bool {
        let mut news = false;
        for (id, entry) in changes {
            if self.entries.get(&id) == entry.as_ref() {
                // It may wait to be stored all the same; whoever asks now wants that settled too.
                // (Most have nothing that waits, and need no key made.)
                let waits =
                    |shard: &Shard| !shard.pending.is_empty() && shard.pending.contains_key(&data_key(&id));
                news |= self.places.get(&id).is_some_and(|&at| waits(&self.shards[at]));
                continue;
            }
            news = true;
            let line = entry.as_ref().map(|entry| entry.to_line(&id));
            let at = self.places.get(&id).copied().unwrap_or_else(|| self.roomy());
            self.shards[at].set(data_key(&id), line);
            self.remove(&id);
            if let Some(entry) = entry {
                self.places.insert(id.clone(), at);
                self.insert(id, entry);
            }
        }
        news
    }

    pub(super) fn insert(&mut self, id: DocumentId, entry: LedgerEntry) {
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
        self.places.remove(id);
        self.remove_entry(id);
    }

    fn remove_entry(&mut self, id: &DocumentId) {
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
        self.shards[0].touch = true;
        self.shards.push(Shard::new(number));
        self.shards.len() - 1
    }

    /// Takes over the lines of a stored shard that are not known yet, and marks garbage for removal.
    pub(super) fn absorb(&mut self, at: usize, data: BTreeMap<String, String>) {
        for (key, line) in data {
            let configmap = self.shards[at].name.clone();
            match LedgerEntry::from_line(&line) {
                Ok((id, entry)) if data_key(&id) == key => {
                    if self.places.get(&id).is_none_or(|place| *place == at) {
                        let size = key.len() + line.len();
                        let old = self.shards[at].sizes.insert(key, size);
                        let bytes = self.shards[at].bytes;
                        self.shards[at].bytes = bytes + size - old.unwrap_or(0);
                        self.places.insert(id.clone(), at);
                        self.remove_entry(&id);
                        self.insert(id, entry);
                        continue;
                    }
                    warn!(configmap, document = %id, "the ledger names a document twice; the second entry is dropped");
                }
                Ok((id, _)) => {
                    error!(configmap, key, document = %id, "the ledger has an entry under another document's key; it is dropped");
                }
                Err(BadLine::Newer(id, _)) if data_key(&id) == key && !self.places.contains_key(&id) => {
                    let size = key.len() + line.len();
                    let shard = &mut self.shards[at];
                    let old = shard.sizes.insert(key.clone(), size);
                    shard.bytes = shard.bytes + size - old.unwrap_or(0);
                    shard.kept.insert(key, line);
                    self.newer.insert(id);
                    continue;
                }
                Err(fault) => {
                    error!(
                        configmap,
                        key, %fault, "the ledger has an entry that cannot be read; it is dropped"
                    );
                }
            }
            self.shards[at].pending.insert(key, None);
        }
    }

    /// What a shard has to write: its pending lines, or just our epoch if it is not on it yet.
    #[allow(clippy::type_complexity)]
    pub(super) fn take_pending(
        &mut self,
        at: usize,
    ) -> Option<(String, Option<String>, BTreeMap<String, Option<String>>)> {
        let shard = &mut self.shards[at];
        if shard.pending.is_empty() && !shard.touch {
            return None;
        }
        Some((
            shard.name.clone(),
            shard.version.clone(),
            std::mem::take(&mut shard.pending),
        ))
    }

    /// Puts back what could not be written, but not over what has come since.
    pub(super) fn restore(&mut self, at: usize, pending: BTreeMap<String, Option<String>>) {
        for (key, line) in pending {
            self.shards[at].pending.entry(key).or_insert(line);
        }
    }

    /// Marks all lines of a shard, and the removal of all that is `there` and is not ours.
    pub(super) fn rewrite(&mut self, at: usize, there: &BTreeMap<String, String>) {
        let mut lines: BTreeMap<String, Option<String>> =
            there.keys().map(|key| (key.clone(), None)).collect();
        for (id, _) in self.places.iter().filter(|(_, place)| **place == at) {
            lines.insert(data_key(id), self.entries.get(id).map(|entry| entry.to_line(id)));
        }
        for (key, line) in &self.shards[at].kept {
            let same = there.get(key) == Some(line);
            if same {
                lines.remove(key);
            } else {
                lines.insert(key.clone(), Some(line.clone()));
            }
        }
        self.shards[at].pending = lines;
        // Even with no line in it, it carries the epoch.
        self.shards[at].touch = true;
    }
}
