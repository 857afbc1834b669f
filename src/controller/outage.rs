//! While Vault is away one prober asks for it, and all sources wait for that one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Controller;
use crate::domain::source::SourceKey;
use crate::mounts::Mounts;
use crate::vault::Vault;

/// Whether Vault is away, and who waits for it.
pub(super) struct Outage {
    /// `None`: Vault is there. It counts as away until the first login has succeeded.
    parked: Mutex<Option<HashMap<SourceKey, bool>>>,
    began: Notify,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            parked: Mutex::new(Some(HashMap::new())),
            began: Notify::new(),
        }
    }
}

impl Outage {
    /// Lets a source wait, if Vault is away; whether it waits now.
    pub(super) fn park(&self, key: &SourceKey, recheck: bool) -> bool {
        match &mut *self.parked() {
            None => false,
            Some(parked) => {
                *parked.entry(key.clone()).or_default() |= recheck;
                true
            }
        }
    }

    /// A source that is gone waits no more.
    pub(super) fn forget(&self, key: &SourceKey) {
        if let Some(parked) = &mut *self.parked() {
            parked.remove(key);
        }
    }

    /// A source has found Vault away: nobody tries any more until the prober has found it there. The
    /// source itself tries again after its own backoff, so that an answer which only it gets keeps
    /// nobody else waiting, and cannot go round and round.
    pub(super) fn begin(&self) {
        let mut parked = self.parked();
        if parked.is_none() {
            *parked = Some(HashMap::new());
            self.began.notify_one();
        }
    }

    /// Asks for Vault while it is away, and brings everybody back when it is there.
    pub(super) async fn probe(&self, controller: &Controller, vault: &Vault, mounts: &Mounts) {
        // The session's own task logs in, and says what keeps it from that.
        vault.ready().await;
        loop {
            let mut away = false;
            if let Err(error) = vault.health(Instant::now()).await {
                away = true;
                tracing::warn!(%error, "Vault does not answer; all sources wait until it does");
                vault.up().await;
            }
            let back: Vec<_> = self.parked().take().into_iter().flatten().collect();
            if away {
                tracing::info!(sources = back.len(), "Vault answers again");
                mounts.forget();
            }
            controller.enqueue_spread(back);
            self.began.notified().await;
        }
    }

    fn parked(&self) -> MutexGuard<'_, Option<HashMap<SourceKey, bool>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
