//! While Vault is away one prober asks for it, and all sources wait for that one.

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

/// How long a source waits before an Event says what it waits for: a login takes a moment at each start.
const GRACE: Duration = Duration::from_secs(2);

/// Whether Vault is away, and who waits for it.
pub(super) struct Outage {
    /// `None`: Vault is there. It counts as away until the first login has succeeded.
    parked: Mutex<Option<HashMap<SourceKey, Parked>>>,
    began: Notify,
    /// What keeps Vault from being used, in words for people.
    why: Mutex<String>,
}

/// A source that waits.
struct Parked {
    depth: Depth,
    since: Instant,
}

/// What a source that waits has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Advice {
    /// Come again after this time, if Vault is still away then.
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
    /// Lets a source wait, if Vault is away; `None`: it is there.
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

    /// What keeps Vault from being used.
    pub(super) fn why(&self) -> String {
        self.words().clone()
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
            "Vault cannot be used now".clone_into(&mut self.words());
            *parked = Some(HashMap::new());
            self.began.notify_one();
        }
    }

    /// Asks for Vault while it is away, and brings everybody back when it is there.
    pub(super) async fn probe(&self, controller: &Controller, vault: &Vault, mounts: &Mounts) {
        // The session's own task logs in, and logs what keeps it from that.
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

    /// Keeps in mind why there is no token yet. Asks nothing of Vault.
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
