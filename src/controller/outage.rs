//! While Vault is unavailable, one prober asks for it, and all sources wait for the prober.

use std::collections::{HashMap, VecDeque};
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

/// How many sources come back at first when Vault is available again.
const FIRST: usize = 4;

/// How many more come back for each source that Vault has answered. So their number doubles in the time that a pass
/// takes: a Vault that is slow at first gets few requests at first.
const NEXT: usize = 2;

/// Whether Vault is unavailable, and which sources wait for it.
pub(super) struct Outage {
    waiting: Mutex<Waiting>,
    began: Notify,
    /// Why Vault cannot be used, in words for users.
    why: Mutex<String>,
}

/// The sources that wait.
struct Waiting {
    /// `None`: Vault is available. It counts as unavailable until the first login has succeeded.
    parked: Option<HashMap<SourceKey, Parked>>,
    /// Vault is available again, and these sources have not come back yet.
    returning: VecDeque<(SourceKey, Depth)>,
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

impl Parked {
    fn now(depth: Depth) -> Self {
        Self {
            depth,
            since: Instant::now(),
        }
    }
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                parked: Some(HashMap::new()),
                returning: VecDeque::new(),
            }),
            began: Notify::new(),
            why: Mutex::new("the operator has not logged in to Vault yet".to_owned()),
        }
    }
}

impl Outage {
    /// Lets a source wait if Vault is unavailable. `None`: Vault is available.
    pub(super) fn park(&self, key: &SourceKey, depth: Depth) -> Option<Advice> {
        let mut waiting = self.waiting();
        let parked = waiting.parked.as_mut()?.entry(key.clone());
        let parked = parked.or_insert_with(|| Parked::now(depth));
        parked.depth = parked.depth.max(depth);
        let left = GRACE.saturating_sub(parked.since.elapsed());
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
        if let Some(parked) = &mut self.waiting().parked {
            parked.remove(key);
        }
    }

    /// Begins an outage that a source has found: no source tries again until the prober has reached Vault.
    /// The source itself retries after its own backoff. If only that source gets such answers, it does not
    /// hold up the others or restart the outage endlessly.
    pub(super) fn begin(&self) {
        let mut waiting = self.waiting();
        if waiting.parked.is_none() {
            "Vault cannot be used now".clone_into(&mut self.words());
            let returning = std::mem::take(&mut waiting.returning).into_iter();
            waiting.parked = Some(returning.map(|(key, depth)| (key, Parked::now(depth))).collect());
            self.began.notify_one();
        }
    }

    /// Ends the outage: all sources that wait are to come back. How many that are.
    fn end(&self) -> usize {
        let mut waiting = self.waiting();
        let back = waiting.parked.take().into_iter().flatten();
        let back: Vec<_> = back.map(|(key, parked)| (key, parked.depth)).collect();
        waiting.returning.extend(back);
        waiting.returning.len()
    }

    /// The sources that come back now, because Vault has answered another one.
    pub(super) fn next(&self) -> Vec<(SourceKey, Depth)> {
        self.take(NEXT)
    }

    fn take(&self, count: usize) -> Vec<(SourceKey, Depth)> {
        let returning = &mut self.waiting().returning;
        let count = count.min(returning.len());
        returning.drain(..count).collect()
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
            let sources = self.end();
            if away {
                tracing::info!(sources, "Vault answers again");
                mounts.forget();
            }
            controller.enqueue_again(self.take(FIRST));
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

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    fn words(&self) -> MutexGuard<'_, String> {
        self.why.lock()
    }
}

#[cfg(test)]
mod tests {
    use domain::source::Kind;

    use super::*;

    fn key(name: &str) -> SourceKey {
        SourceKey {
            kind: Kind::Secret,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[tokio::test]
    async fn sources_come_back_as_fast_as_vault_answers_and_wait_again_if_it_does_not() {
        let outage = Outage::default();
        let names: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
        for name in &names {
            let advice = outage.park(&key(name), Depth::Trusting);
            assert!(matches!(advice, Some(Advice::Patiently(_))), "{advice:?}");
        }
        assert_eq!(outage.next(), [], "not before Vault is available");
        assert_eq!(outage.end(), 10);
        assert_eq!(outage.park(&key("s0"), Depth::Full), None);
        let mut back = outage.take(FIRST);
        assert_eq!(back.len(), 4);
        back.extend(outage.next());
        assert_eq!(back.len(), 6);
        outage.begin();
        assert_eq!(outage.next(), []);
        assert!(outage.park(&key("other"), Depth::Full).is_some());
        // The four that have not come back, and the new one.
        assert_eq!(outage.end(), 5);
        back.extend(outage.take(4));
        back.extend(outage.next());
        let mut seen: Vec<_> = back.iter().map(|(key, _)| key.name.to_string()).collect();
        seen.sort();
        let expected = [
            "other", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9",
        ];
        assert_eq!(seen, expected);
        assert!(back.contains(&(key("other"), Depth::Full)));
    }
}
