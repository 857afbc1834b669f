//! While Vault is unavailable, one prober asks for it, and all sources wait for the prober.

use std::collections::HashMap;

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Controller;
use crate::mounts::Mounts;
use crate::vault::Vault;
use domain::queue::Depth;
use domain::source::SourceKey;

/// How long a source waits before an Event reports the reason: a login takes a moment at each start.
const GRACE: Duration = Duration::from_secs(2);

/// Whether Vault is unavailable, and which sources wait for it.
pub(super) struct Outage {
    /// `None`: Vault is available. It counts as unavailable until the first login has succeeded.
    parked: Mutex<Option<HashMap<SourceKey, Parked>>>,
    began: Notify,
    /// Why Vault cannot be used, in words for users.
    why: Mutex<String>,
}

/// A source that waits.
struct Parked {
    depth: Depth,
    since: Instant,
}

/// What a waiting source does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Advice {
    /// Come back after this time, if Vault is still unavailable then.
    Patiently(Duration),
    /// Report it in an Event.
    Tell,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            parked: Mutex::new(Some(HashMap::new())),
            began: Notify::new(),
            why: Mutex::new("the operator has not logged in to Vault yet".to_owned()),
        }
    }
}

impl Outage {
    /// Lets a source wait if Vault is unavailable. `None`: Vault is available.
    pub(super) fn park(&self, key: &SourceKey, depth: Depth) -> Option<Advice> {
        let mut parked = self.parked();
        let fresh = || Parked {
            depth,
            since: Instant::now(),
        };
        let waiting = parked.as_mut()?.entry(key.clone()).or_insert_with(fresh);
        waiting.depth = waiting.depth.max(depth);
        let left = GRACE.saturating_sub(waiting.since.elapsed());
        Some(if left.is_zero() {
            Advice::Tell
        } else {
            Advice::Patiently(left)
        })
    }

    /// Why Vault cannot be used.
    pub(super) fn why(&self) -> String {
        self.words().clone()
    }

    /// Stops the wait of a source that is gone.
    pub(super) fn forget(&self, key: &SourceKey) {
        if let Some(parked) = &mut *self.parked() {
            parked.remove(key);
        }
    }

    /// Begins an outage that a source has found: no source tries again until the prober has reached Vault.
    /// The source itself retries after its own backoff. If only that source gets such answers, it does not
    /// hold up the others or restart the outage endlessly.
    pub(super) fn begin(&self) {
        let mut parked = self.parked();
        if parked.is_none() {
            "Vault cannot be used now".clone_into(&mut self.words());
            *parked = Some(HashMap::new());
            self.began.notify_one();
        }
    }

    /// Probes Vault during an outage, and requeues all sources when it is back.
    pub(super) async fn probe(&self, controller: &Controller, vault: &Vault, mounts: &Mounts) {
        // The session's own task logs in, and logs what prevents a login.
        tokio::select! {
            () = vault.ready() => {}
            () = self.note_failed_logins(vault) => {}
        }
        loop {
            let mut away = false;
            if let Err(error) = vault.health(Instant::now()).await {
                away = true;
                tracing::warn!(%error, "Vault does not answer; all sources wait until it does");
                *self.words() = format!("Vault cannot be used now: {error}");
                vault.up().await;
            }
            let back = self.parked().take().into_iter().flatten();
            let back: Vec<_> = back.map(|(key, parked)| (key, parked.depth)).collect();
            if away {
                tracing::info!(sources = back.len(), "Vault answers again");
                mounts.forget();
            }
            controller.enqueue_spread(back);
            self.began.notified().await;
        }
    }

    /// Records why there is no token yet. Sends no request to Vault.
    async fn note_failed_logins(&self, vault: &Vault) {
        loop {
            if let Err(error) = vault.first_login().await {
                *self.words() = format!("the operator cannot log in to Vault: {error}");
            }
            sleep(GRACE / 2).await;
        }
    }

    fn parked(&self) -> MutexGuard<'_, Option<HashMap<SourceKey, Parked>>> {
        self.parked.lock()
    }

    fn words(&self) -> MutexGuard<'_, String> {
        self.why.lock()
    }
}
