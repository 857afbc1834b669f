//! The ledger's ConfigMaps: loads them, and commits changes to them in groups.
//!
//! Each document is one key of one ConfigMap. A change is a merge patch of only its keys, guarded by the
//! resourceVersion that was read. All waiting changes are committed at once. What is stored is never less
//! than what this process believes: no caller acts on an entry that could not be stored. An entry that could
//! not be removed is removed later.

mod storing;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ListParams};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::kube::{Error, call};
use domain::document::DocumentId;
use domain::election::Term;
use domain::ledger::{Dropped, Garbage, LedgerEntry, State, Store};
use domain::source::SourceKey;

/// The label of the ledger's ConfigMaps.
pub const LABEL: &str = "vault-sync.io/ledger";
/// Who writes the ledger now. The annotation is set while an operator works. It is removed at a clean
/// shutdown, when none of the operator's writes can still be in flight.
const EPOCH: &str = "vault-sync.io/epoch";
/// The term of the operator that wrote the ledger last. A clean shutdown leaves it in place, so that no
/// earlier leader comes back later.
const TERM: &str = "vault-sync.io/term";
/// How many of our writes had no answer: see [`domain::ledger::Pending::unanswered`].
const UNANSWERED: &str = "vault-sync.io/unanswered";

/// How long changes that no caller waits for are collected. One write stores all changed lines of an object.
const LINGER: Duration = Duration::from_secs(1);

/// Why a change could not be committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The ConfigMap could not be written.
    #[error("the ledger cannot be written: {0} — {hint}", hint = .0.hint())]
    Unwritable(Arc<Error>),
    /// Another operator writes this ledger now.
    #[error("another operator ({0}) has taken the ledger over")]
    Fenced(String),
    /// A newer version wrote the document's entry, which must stay as it is.
    #[error(
        "the ledger's entry of {0} was written by a newer version of this operator; run that version, or delete the entry"
    )]
    Newer(DocumentId),
    /// The operator is shutting down.
    #[error("the operator is shutting down")]
    Closed,
}

/// The ledger.
pub struct Ledger {
    api: Api<ConfigMap>,
    epoch: String,
    /// Our leadership term. `None`: there is no leader election.
    term: Option<Term>,
    inner: Mutex<Contents>,
    /// Notified when a caller waits for pending changes.
    urgent: Notify,
    /// Notified when changes are pending that no caller waits for.
    pending: Notify,
    /// Notified after each attempt to store changes.
    changed: Notify,
    /// The documents that an operator without a clean shutdown left in the ledger.
    unclean: HashSet<DocumentId>,
    /// Whether this operator must not shut down cleanly either.
    unsettled: AtomicBool,
}

struct Contents {
    store: Store,
    /// The callers that wait until the pending changes are stored.
    waiters: Vec<oneshot::Sender<Result<(), CommitError>>>,
}

impl Ledger {
    /// Reads the ledger and writes our epoch to it, so that the next write of a previous operator fails. This
    /// fails if a later leader has written its epoch. Invalid entries are reported and removed.
    pub async fn load(
        client: Client,
        namespace: &str,
        epoch: &str,
        term: Option<Term>,
    ) -> Result<Self, CommitError> {
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let found = call("list the ledger", api.list(&ListParams::default().labels(LABEL)))
            .await
            .map_err(|error| CommitError::Unwritable(Arc::new(error)))?;
        let mut store = Store::new(data_key);
        let mut unclean = false;
        for object in found.items {
            let annotations = object.metadata.annotations.unwrap_or_default();
            refuse_earlier(term.as_ref(), &annotations)?;
            unclean |= annotations.contains_key(EPOCH);
            let Some(name) = object.metadata.name else {
                continue;
            };
            let data = object.data.unwrap_or_default();
            report(store.load(name, object.metadata.resource_version, data));
        }
        store.loaded();
        let unclean = if unclean { store.inherit() } else { HashSet::new() };
        let (documents, configmaps) = (store.documents(), store.shards());
        let ledger = Self {
            api,
            epoch: epoch.to_owned(),
            term,
            inner: Mutex::new(Contents {
                store,
                waiters: Vec::new(),
            }),
            urgent: Notify::new(),
            pending: Notify::new(),
            changed: Notify::new(),
            unclean,
            unsettled: AtomicBool::new(false),
        };
        ledger.flush().await?;
        info!(
            documents,
            configmaps,
            unclean = ledger.is_unclean_at_all(),
            "ledger loaded"
        );
        let newer = ledger.newer();
        if newer > 0 {
            warn!(
                entries = newer,
                "the ledger has entries that a newer version of this operator wrote; they are kept, and their documents are left alone"
            );
        }
        Ok(ledger)
    }

    /// The ledger entry of a document.
    pub fn get(&self, id: &DocumentId) -> Option<LedgerEntry> {
        self.lock().store.get(id).cloned()
    }

    /// The documents that a source holds in the ledger.
    pub fn of(&self, holder: &SourceKey) -> Vec<(DocumentId, LedgerEntry)> {
        self.lock().store.of(holder)
    }

    /// How many documents the sources of a namespace hold in the ledger.
    pub fn documents_in(&self, namespace: &str) -> usize {
        self.lock().store.documents_in(namespace)
    }

    /// All sources that hold documents in the ledger.
    pub fn holders(&self) -> Vec<SourceKey> {
        self.lock().store.holders().cloned().collect()
    }

    /// Whether a write to this document by the previous operator may still be in flight.
    pub fn is_unclean(&self, id: &DocumentId) -> bool {
        self.unclean.contains(id)
    }

    /// Whether the previous operator left documents behind without a clean shutdown.
    pub fn is_unclean_at_all(&self) -> bool {
        !self.unclean.is_empty()
    }

    /// Leaves our epoch in place when this operator ends, because one of its writes may still be in flight.
    pub fn leave_unclean(&self) {
        self.unsettled.store(true, Ordering::Relaxed);
    }

    /// How many documents are in each state.
    pub fn count(&self) -> BTreeMap<State, usize> {
        self.lock().store.count()
    }

    /// How many lines are kept that only a newer version understands.
    pub fn newer(&self) -> usize {
        self.lock().store.newer()
    }

    /// Whether the ledger contains these entries already, and they are stored.
    pub fn has(&self, changes: &[(DocumentId, Option<LedgerEntry>)]) -> bool {
        let store = &self.lock().store;
        changes.iter().all(|(id, entry)| store.has(id, entry.as_ref()))
    }

    /// Changes entries (`None`: removes one), and returns when the change is stored. If storing fails, the
    /// change is rolled back, so that no caller acts on it.
    pub async fn commit(&self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> Result<(), CommitError> {
        let (send, receive) = oneshot::channel();
        let before: Vec<_> = {
            let mut inner = self.lock();
            let store = &mut inner.store;
            if let Some((id, _)) = changes.iter().find(|(id, _)| store.is_newer(id)) {
                return Err(CommitError::Newer(id.clone()));
            }
            let before = changes
                .iter()
                .map(|(id, _)| (id.clone(), store.get(id).cloned()))
                .collect();
            if !store.apply(changes) {
                return Ok(());
            }
            inner.waiters.push(send);
            before
        };
        self.urgent.notify_one();
        let result = receive.await.unwrap_or(Err(CommitError::Closed));
        if result.is_err() {
            self.commit_later(before);
        }
        result
    }

    /// Changes entries without waiting; the next commit stores them. Only for changes that a crash may lose,
    /// because the stored state is safe without them.
    pub fn commit_later(&self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) {
        if self.note(changes) {
            self.urgent.notify_one();
        }
    }

    /// The same for changes that repeat what Vault shows: they wait a little for more.
    pub fn commit_lazily(&self, changes: Vec<(DocumentId, Option<LedgerEntry>)>) {
        if self.note(changes) {
            self.pending.notify_one();
        }
    }

    /// Changes entries in memory. Returns whether there is something to store.
    fn note(&self, mut changes: Vec<(DocumentId, Option<LedgerEntry>)>) -> bool {
        let mut inner = self.lock();
        changes.retain(|(id, _)| !inner.store.is_newer(id));
        inner.store.apply(changes)
    }

    /// Stores pending changes now, and does not wait for more.
    pub fn hurry(&self) {
        self.urgent.notify_one();
    }

    /// Waits for an attempt to store changes since the last call. Supports one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Stores changes until `stop`, then stores the rest and removes our epoch: a clean shutdown. Returns an
    /// error if another operator has taken over the ledger.
    pub async fn keep(&self, stop: CancellationToken) -> Result<(), CommitError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            tokio::select! {
                () = self.work_to_do() => {}
                () = stop.cancelled() => break,
            }
            let flushed = self.flush().await;
            self.changed.notify_one();
            match flushed {
                Ok(()) => backoff.reset(),
                Err(fenced @ CommitError::Fenced(_)) => return Err(fenced),
                Err(error) => {
                    warn!(%error, "the ledger could not be written; trying again");
                    self.urgent.notify_one();
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
        let shards = self.lock().store.shards();
        for index in 0..shards {
            self.take_leave(index).await?;
        }
        Ok(())
    }

    /// Returns when there is something to store: immediately if a caller waits for it, otherwise after a short
    /// time in which more changes may arrive.
    async fn work_to_do(&self) {
        tokio::select! {
            () = self.urgent.notified() => return,
            () = self.pending.notified() => {}
        }
        // A timeout is the usual case here.
        let _ = tokio::time::timeout(LINGER, self.urgent.notified()).await;
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.inner.lock()
    }
}

/// A document's key in its ConfigMap. Such a key must have no slashes, and is limited in length.
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

/// Logs which lines of the ledger were dropped.
fn report(dropped: Vec<Dropped>) {
    for Dropped {
        shard: configmap,
        key,
        why,
    } in dropped
    {
        match why {
            Garbage::Twice(id) => {
                warn!(configmap, document = %id, "the ledger names a document twice; the second entry is dropped");
            }
            Garbage::Misplaced(id) => {
                error!(configmap, key, document = %id, "the ledger has an entry under another document's key; it is dropped");
            }
            Garbage::Unreadable(fault) => {
                error!(configmap, key, %fault, "the ledger has an entry that cannot be read; it is dropped");
            }
        }
    }
}

/// Fails if a later leader has written the ledger: our term is over then, whatever our clock says.
fn refuse_earlier(ours: Option<&Term>, annotations: &BTreeMap<String, String>) -> Result<(), CommitError> {
    let theirs = annotations.get(TERM).and_then(|text| Term::from_text(text));
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours.is_before(&theirs) => {
            let who = annotations.get(EPOCH).cloned();
            Err(CommitError::Fenced(
                who.unwrap_or_else(|| "a later leader".to_owned()),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
