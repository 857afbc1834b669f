//! Writes the ledger's ConfigMaps: what is pending, again after a conflict, and the clean shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use tracing::warn;

use super::{CommitError, EPOCH, LABEL, Ledger, TERM, UNANSWERED, refuse_earlier, report};
use crate::kube::{Error, call};
use domain::election::Term;
use domain::ledger::Pending;

/// How many ConfigMaps are written at a time.
const WRITES: usize = 8;

impl Ledger {
    /// Removes our epoch from a shard if the shard is unchanged since our last write. If another client has
    /// edited or deleted it, it is restored first: the next operator knows only what is stored.
    pub(super) async fn take_leave(&self, index: usize) -> Result<(), CommitError> {
        loop {
            let (name, version) = {
                let inner = self.lock();
                let (name, version) = inner.store.shard(index);
                (name.to_owned(), version.map(str::to_owned))
            };
            let patch = serde_json::json!({
                "metadata": { "resourceVersion": version, "annotations": { EPOCH: null } },
            });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let leaving = self.api.patch_metadata(&name, &params, &patch);
            match call("take the epoch off the ledger", leaving).await {
                Ok(_) => return Ok(()),
                Err(Error::Conflict(_) | Error::NotFound { .. }) => {
                    self.reread(index, &name).await?;
                    self.flush_shard(index).await?;
                }
                Err(error) => return Err(CommitError::Unwritable(Arc::new(error))),
            }
        }
    }

    /// Writes all pending changes, and notifies the callers that wait for them.
    pub(super) async fn flush(&self) -> Result<(), CommitError> {
        let (waiters, pending) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.waiters), inner.store.pending())
        };
        let result = self.flush_shards(pending).await;
        for waiter in waiters {
            // A waiter that stopped waiting needs no answer.
            let _ = waiter.send(result.clone());
        }
        result
    }

    /// Writes these shards, several at a time. The creation of a shard has no guard. So the first shard is always
    /// written before the others: that write fails if another operator has taken the ledger over.
    async fn flush_shards(&self, pending: Vec<usize>) -> Result<(), CommitError> {
        let (first, others): (Vec<_>, Vec<_>) = pending.into_iter().partition(|index| *index == 0);
        for index in first {
            self.flush_shard(index).await?;
        }
        // Each write must finish, even if another fails: otherwise the lines that it has taken are lost.
        let written: Vec<_> = futures_util::stream::iter(others)
            .map(|index| self.flush_shard(index))
            .buffer_unordered(WRITES)
            .collect()
            .await;
        written.into_iter().collect()
    }

    async fn flush_shard(&self, index: usize) -> Result<(), CommitError> {
        loop {
            let Some(pending) = self.lock().store.take_pending(index) else {
                return Ok(());
            };
            match self.write(&pending).await {
                Ok(version) => self.lock().store.stored(index, version),
                Err(error) => {
                    let Pending {
                        name, version, lines, ..
                    } = pending;
                    match error {
                        Error::Unavailable { .. } => self.lock().store.restore_unanswered(index, lines),
                        _ => self.lock().store.restore(index, lines),
                    }
                    // A missing ConfigMap is created again. If the creation gets "not found", the namespace
                    // is missing.
                    let again = match error {
                        Error::Conflict(_) => true,
                        Error::NotFound { .. } => version.is_some(),
                        _ => false,
                    };
                    if !again {
                        return Err(CommitError::Unwritable(Arc::new(error)));
                    }
                    self.reread(index, &name).await?;
                }
            }
        }
    }

    /// Creates or patches one ConfigMap, and returns its new resourceVersion.
    async fn write(&self, pending: &Pending) -> Result<Option<String>, Error> {
        let Pending {
            name,
            version,
            lines,
            unanswered,
        } = pending;
        let what = format!("write ConfigMap {name}");
        let labels =
            serde_json::json!({ LABEL: "true", "app.kubernetes.io/managed-by": "vault-sync-operator" });
        // `None` removes an annotation or a line.
        let annotations = BTreeMap::from([
            (EPOCH, Some(self.epoch.clone())),
            (TERM, self.term.as_ref().map(Term::to_text)),
            (UNANSWERED, (*unanswered > 0).then(|| unanswered.to_string())),
        ]);
        let Some(version) = version else {
            let annotations: BTreeMap<_, _> = present(&annotations).collect();
            let data: BTreeMap<_, _> = present(lines).collect();
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
            "data": lines,
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        Ok(call(&what, self.api.patch_metadata(name, &params, &patch))
            .await?
            .metadata
            .resource_version)
    }

    /// Rereads a shard that differs from our last write. Fails if another operator has written its epoch. If
    /// another client edited or deleted it, the whole shard is written again: this process knows its content.
    async fn reread(&self, index: usize, name: &str) -> Result<(), CommitError> {
        let found = call("read the ledger again", self.api.get_opt(name))
            .await
            .map_err(|error| CommitError::Unwritable(Arc::new(error)))?;
        let store = &mut self.lock().store;
        let Some(object) = found else {
            warn!(
                configmap = name,
                "the ledger's ConfigMap is gone; it is written anew"
            );
            store.rewrite(index, None, &BTreeMap::new());
            return Ok(());
        };
        let version = object.metadata.resource_version;
        let data = object.data.unwrap_or_default();
        let annotations = object.metadata.annotations.unwrap_or_default();
        refuse_earlier(self.term.as_ref(), &annotations)?;
        if !store.is_stamped(index) {
            report(store.reload(index, version, data));
            return Ok(());
        }
        if let Some(other) = annotations.get(EPOCH).filter(|epoch| **epoch != self.epoch) {
            return Err(CommitError::Fenced(other.clone()));
        }
        warn!(
            configmap = name,
            "somebody has changed the ledger's ConfigMap; it is written anew"
        );
        store.rewrite(index, version, &data);
        Ok(())
    }
}

/// The entries of a map that have a value.
fn present<K, V>(map: &BTreeMap<K, Option<V>>) -> impl Iterator<Item = (&K, &V)> {
    map.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
}
