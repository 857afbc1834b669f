//! The ledger's ConfigMaps: loading them, and committing changes to them together.
//!
//! Each document is one key of one ConfigMap; a change is a merge patch of just its keys, guarded by
//! the resourceVersion that was read. All changes that wait are committed at once. What is stored is
//! never less than what this process believes: an entry that could not be stored has not been
//! promised to anybody, and one that could not be removed is removed later.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::domain::document::DocumentId;
use crate::domain::ledger::{LedgerEntry, State};
use crate::domain::source::SourceKey;
use crate::kube::{Error, call};

const NAME: &str = "vault-sync-operator-ledger";
const LABEL: &str = "vault-sync.io/ledger";
/// Who writes the ledger now. It is there while an operator works, and gone when one has ended in
/// good order: then no write of it can still be under way.
const EPOCH: &str = "vault-sync.io/epoch";
/// etcd takes objects of 1.5 MiB; the promise is 512 KiB, and an object has more than its data.
const FULL: usize = 384 * 1024;

/// Why a change could not be committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The ConfigMap could not be written.
    #[error("the ledger cannot be written: {0}")]
    Unwritable(Arc<Error>),
    /// Another operator writes this ledger now.
    #[error("another operator ({0}) has taken the ledger over")]
    Fenced(String),
    /// The operator ends.
    #[error("the operator is shutting down")]
    Closed,
}

/// The ledger.
pub struct Ledger {
    api: Api<ConfigMap>,
    epoch: String,
    inner: Mutex<Inner>,
    wake: Notify,
    /// What the last operator left in the ledger without saying good-bye.
    unclean: HashSet<DocumentId>,
    /// Whether this operator may not say good-bye either.
    unsettled: AtomicBool,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<DocumentId, LedgerEntry>,
    by_holder: HashMap<SourceKey, HashSet<DocumentId>>,
    /// Which shard holds a document.
    places: HashMap<DocumentId, usize>,
    shards: Vec<Shard>,
    waiters: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

/// One ConfigMap.
struct Shard {
    name: String,
    /// Its resourceVersion; `None`: it does not exist yet.
    version: Option<String>,
    /// Whether our epoch is on it.
    stamped: bool,
    /// Whether it is to be written although nothing in it changes.
    touch: bool,
    /// Sizes of the lines that are, or shall be, in it.
    sizes: HashMap<String, usize>,
    bytes: usize,
    /// Lines to write (`None`: to remove), by key.
    pending: BTreeMap<String, Option<String>>,
}

impl Shard {
    fn new(number: usize) -> Self {
        Self {
            name: format!("{NAME}-{number}"),
            version: None,
            stamped: false,
            touch: true,
            sizes: HashMap::new(),
            bytes: 0,
            pending: BTreeMap::new(),
        }
    }

    fn set(&mut self, key: String, line: Option<String>) {
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
fn data_key(id: &DocumentId) -> String {
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

impl Ledger {
    /// Reads the ledger and puts our epoch on it, so that the next write of whoever wrote it before
    /// fails. Garbage in it is reported and taken out.
    pub async fn load(client: Client, namespace: &str, epoch: &str) -> Result<Self, CommitError> {
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let found = call("list the ledger", api.list(&ListParams::default().labels(LABEL)))
            .await
            .map_err(|error| CommitError::Unwritable(Arc::new(error)))?;
        let mut inner = Inner::default();
        let mut unclean = false;
        for object in found.items {
            let annotations = object.metadata.annotations.unwrap_or_default();
            unclean |= annotations.contains_key(EPOCH);
            let Some(name) = object.metadata.name else {
                continue;
            };
            inner.shards.push(Shard {
                name,
                version: object.metadata.resource_version,
                ..Shard::new(0)
            });
            inner.absorb(inner.shards.len() - 1, object.data.unwrap_or_default());
        }
        if inner.shards.is_empty() {
            // Even an empty ledger needs an object that can carry the epoch.
            inner.shards.push(Shard::new(0));
        }
        let unclean = if unclean {
            inner.entries.keys().cloned().collect()
        } else {
            HashSet::new()
        };
        info!(
            documents = inner.entries.len(),
            configmaps = inner.shards.len(),
            unclean = !unclean.is_empty(),
            "ledger loaded"
        );
        let ledger = Self {
            api,
            epoch: epoch.to_owned(),
            inner: Mutex::new(inner),
            wake: Notify::new(),
            unclean,
            unsettled: AtomicBool::new(false),
        };
        ledger.flush().await?;
        Ok(ledger)
    }

    /// What the ledger says of a document.
    pub fn get(&self, id: &DocumentId) -> Option<LedgerEntry> {
        self.lock().entries.get(id).cloned()
    }

    /// The documents that it gives to a source.
    pub fn of(&self, holder: &SourceKey) -> Vec<(DocumentId, LedgerEntry)> {
        let inner = self.lock();
        let ids = inner.by_holder.get(holder).into_iter().flatten();
        let mut found: Vec<_> = ids
            .filter_map(|id| Some((id.clone(), inner.entries.get(id)?.clone())))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }

    /// All sources that it gives documents to.
    pub fn holders(&self) -> Vec<SourceKey> {
        self.lock().by_holder.keys().cloned().collect()
    }

    /// Whether a write by the operator before us may still be under way to this document.
    pub fn is_unclean(&self, id: &DocumentId) -> bool {
        self.unclean.contains(id)
    }

    /// Whether the operator before us has ended without saying good-bye.
    pub fn is_unclean_at_all(&self) -> bool {
        !self.unclean.is_empty()
    }

    /// A write may still be under way when this operator ends: it leaves its epoch where it is.
    pub fn leave_unclean(&self) {
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// How many documents are in each state.
    pub fn count(&self) -> BTreeMap<State, usize> {
        let mut count: BTreeMap<State, usize> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        for entry in self.lock().entries.values() {
            *count.entry(entry.state).or_default() += 1;
        }
        count
    }

    /// Changes entries (`None`: removes one), and returns when that is stored. What could not be
    /// stored is taken back: nobody must act on it.
    pub async fn commit(&self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> Result<(), CommitError> {
        let (send, receive) = oneshot::channel();
        let before: Vec<_> = {
            let mut inner = self.lock();
            let before = changes
                .iter()
                .map(|(id, _)| (id.clone(), inner.entries.get(id).cloned()))
                .collect();
            if !inner.apply(changes) {
                return Ok(());
            }
            inner.waiters.push(send);
            before
        };
        self.wake.notify_one();
        let result = receive.await.unwrap_or(Err(CommitError::Closed));
        if result.is_err() {
            self.commit_later(before);
        }
        result
    }

    /// Changes entries, to be stored with the next that wait: for news that a crash may lose, since
    /// what is stored already errs on the safe side.
    pub fn commit_later(&self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) {
        if self.lock().apply(changes) {
            self.wake.notify_one();
        }
    }

    /// Stores changes until told to stop, then what is left, and takes our epoch off: good-bye.
    /// Ends with an error when another operator has taken the ledger over.
    pub async fn keep(&self, stop: CancellationToken) -> Result<(), CommitError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => break,
            }
            match self.flush().await {
                Ok(()) => backoff.reset(),
                Err(fenced @ CommitError::Fenced(_)) => return Err(fenced),
                Err(error) => {
                    warn!(%error, "the ledger could not be written; trying again");
                    self.wake.notify_one();
                    tokio::select! {
                        () = tokio::time::sleep(backoff.next()) => {}
                        () = stop.cancelled() => break,
                    }
                }
            }
        }
        self.flush().await?;
        if self.unsettled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let patch = serde_json::json!({ "metadata": { "annotations": { EPOCH: null } } });
        let names: Vec<String> = self
            .lock()
            .shards
            .iter()
            .map(|shard| shard.name.clone())
            .collect();
        for name in names {
            let params = PatchParams::default();
            let patch = Patch::Merge(&patch);
            if let Err(error) = call(
                "take the epoch off the ledger",
                self.api.patch_metadata(&name, &params, &patch),
            )
            .await
            {
                warn!(%error, "the ledger's epoch could not be taken off; the next operator will look twice");
            }
        }
        Ok(())
    }

    /// Writes all that is pending, and tells those that wait for it.
    async fn flush(&self) -> Result<(), CommitError> {
        let (waiters, shards) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.waiters), inner.shards.len())
        };
        let mut result = Ok(());
        for index in 0..shards {
            if let Err(error) = self.flush_shard(index).await {
                result = Err(error);
                break;
            }
        }
        for waiter in waiters {
            // A waiter that has given up needs no answer.
            let _ = waiter.send(result.clone());
        }
        result
    }

    async fn flush_shard(&self, index: usize) -> Result<(), CommitError> {
        loop {
            let Some((name, version, pending)) = self.lock().take_pending(index) else {
                return Ok(());
            };
            match self.write(&name, version.as_deref(), &pending).await {
                Ok(version) => {
                    let shard = &mut self.lock().shards[index];
                    shard.version = version;
                    shard.stamped = true;
                    shard.touch = false;
                }
                Err(error) => {
                    self.lock().restore(index, pending);
                    if !matches!(error, Error::Conflict(_)) {
                        return Err(CommitError::Unwritable(Arc::new(error)));
                    }
                    self.reread(index, &name).await?;
                }
            }
        }
    }

    /// Creates or patches one ConfigMap, and returns its new resourceVersion.
    async fn write(
        &self,
        name: &str,
        version: Option<&str>,
        pending: &BTreeMap<String, Option<String>>,
    ) -> Result<Option<String>, Error> {
        let what = format!("write ConfigMap {name}");
        let labels =
            serde_json::json!({ LABEL: "true", "app.kubernetes.io/managed-by": "vault-sync-operator" });
        let annotations = serde_json::json!({ EPOCH: self.epoch });
        let Some(version) = version else {
            let data: BTreeMap<_, _> = pending
                .iter()
                .filter_map(|(key, line)| Some((key, line.as_ref()?)))
                .collect();
            let object = serde_json::json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": { "name": name, "labels": labels, "annotations": annotations },
            });
            let object: ConfigMap = serde_json::from_value(object).map_err(|error| Error::Refused {
                what: what.clone(),
                message: error.to_string(),
            })?;
            let created = call(&what, self.api.create(&PostParams::default(), &object)).await?;
            return Ok(created.metadata.resource_version);
        };
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": version, "labels": labels, "annotations": annotations },
            "data": pending,
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        Ok(call(&what, self.api.patch_metadata(name, &params, &patch))
            .await?
            .metadata
            .resource_version)
    }

    /// A shard is not as we left it. If another operator has put its epoch there, we are done. If
    /// somebody edited or deleted it, all of it is written anew: this process knows what it holds.
    async fn reread(&self, index: usize, name: &str) -> Result<(), CommitError> {
        let found = call("read the ledger again", self.api.get_opt(name))
            .await
            .map_err(|error| CommitError::Unwritable(Arc::new(error)))?;
        let mut inner = self.lock();
        let Some(object) = found else {
            warn!(
                configmap = name,
                "the ledger's ConfigMap is gone; it is written anew"
            );
            inner.shards[index].version = None;
            inner.rewrite(index, &BTreeMap::new());
            return Ok(());
        };
        inner.shards[index].version = object.metadata.resource_version;
        let data = object.data.unwrap_or_default();
        if !inner.shards[index].stamped {
            // It is not ours yet, and whoever had it has written since we read it.
            inner.absorb(index, data);
            return Ok(());
        }
        let epoch = object.metadata.annotations.unwrap_or_default().remove(EPOCH);
        if let Some(other) = epoch.filter(|epoch| *epoch != self.epoch) {
            return Err(CommitError::Fenced(other));
        }
        warn!(
            configmap = name,
            "somebody has changed the ledger's ConfigMap; it is written anew"
        );
        inner.rewrite(index, &data);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Changes the entries and marks what is to be stored; whether anything changed.
    fn apply(&mut self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> bool {
        let mut news = false;
        for (id, entry) in changes {
            if self.entries.get(&id) == entry.as_ref() {
                // It may wait to be stored all the same; whoever asks now wants that settled too.
                news |= self
                    .places
                    .get(&id)
                    .is_some_and(|&at| self.shards[at].pending.contains_key(&data_key(&id)));
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

    fn insert(&mut self, id: DocumentId, entry: LedgerEntry) {
        self.by_holder
            .entry(entry.holder.clone())
            .or_default()
            .insert(id.clone());
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
    fn absorb(&mut self, at: usize, data: BTreeMap<String, String>) {
        for (key, line) in data {
            let configmap = self.shards[at].name.clone();
            match LedgerEntry::from_line(&line) {
                Ok((id, entry)) if data_key(&id) == key => {
                    if self.places.get(&id).is_none_or(|place| *place == at) {
                        let size = key.len() + line.len();
                        let old = self.shards[at].sizes.insert(key, size);
                        self.shards[at].bytes += size - old.unwrap_or(0);
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
                Err(fault) => {
                    error!(
                        configmap,
                        key, fault, "the ledger has an entry that cannot be read; it is dropped"
                    );
                }
            }
            self.shards[at].pending.insert(key, None);
        }
    }

    /// What a shard has to write: its pending lines, or just our epoch if it is not on it yet.
    #[allow(clippy::type_complexity)]
    fn take_pending(
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
    fn restore(&mut self, at: usize, pending: BTreeMap<String, Option<String>>) {
        for (key, line) in pending {
            self.shards[at].pending.entry(key).or_insert(line);
        }
    }

    /// Marks all lines of a shard, and the removal of all that is `there` and is not ours.
    fn rewrite(&mut self, at: usize, there: &BTreeMap<String, String>) {
        let mut lines: BTreeMap<String, Option<String>> =
            there.keys().map(|key| (key.clone(), None)).collect();
        for (id, _) in self.places.iter().filter(|(_, place)| **place == at) {
            lines.insert(data_key(id), self.entries.get(id).map(|entry| entry.to_line(id)));
        }
        self.shards[at].pending = lines;
    }
}
