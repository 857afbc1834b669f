//! The workers reconcile each source when its turn comes. The result says when its next turn is.
//!
//! If a source is deleted, a pass that began before is cut off. A pass that takes long gives its place to
//! others. A panic ends only its own pass.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Controller, outage};
use crate::reconcile::{Reconciler, Requeue, Turn};
use domain::queue::Depth;
use domain::source::SourceKey;

/// A reconcile takes milliseconds. A longer one waits for an answer that may never come.
const STALLED_AFTER: Duration = Duration::from_secs(1);

impl Controller {
    /// Reconciles what is in the queue until `stop`; then waits for running passes.
    pub async fn work(self: Arc<Self>, reconciler: Arc<Reconciler>, stop: CancellationToken) {
        // Sources that are no longer watched are left as they are: nothing shows what they want.
        let mut holders = reconciler.ledger.holders();
        holders.retain(|holder| self.index().watches(holder));
        // Set before the index is read: the index queues what it learns afterwards.
        self.works.store(true, Ordering::SeqCst);
        let mut all: Vec<SourceKey> = {
            let mut index = self.index();
            index.lead(&holders.iter().cloned().collect());
            index.keys().cloned().collect()
        };
        all.append(&mut holders);
        all.sort();
        self.enqueue(&all);
        let running = TaskTracker::new();
        let prober = self.outage.probe(&self, &reconciler.vault, &reconciler.mounts);
        let dispatch = async {
            loop {
                let key = self
                    .places
                    .next(|waiting| self.metrics.queue_depth(waiting))
                    .await;
                let (controller, reconciler) = (Arc::clone(&self), Arc::clone(&reconciler));
                running.spawn(async move { controller.run(&reconciler, key).await });
            }
        };
        tokio::select! {
            () = dispatch => {}
            () = prober => {}
            () = stop.cancelled() => {}
        }
        running.close();
        running.wait().await;
    }

    /// Reconciles one source. A panic ends only that reconcile.
    async fn run(&self, reconciler: &Reconciler, (key, depth): (SourceKey, Depth)) {
        let cut_off = self.begin_live(&key);
        let (deleting, departing) = self.departs(&key);
        // A source that is being deleted has a deadline, so it does not wait for Vault. It is also requeued
        // with the others when Vault is back.
        if let Some(wait) = self.outage.park(&key, depth).filter(|_| !deleting) {
            // Sources come and go however long Vault is unavailable.
            let again = if reconciler.is_done_with(&key) {
                self.outage.forget(&key);
                reconciler.bury(&key);
                None
            } else {
                match wait {
                    outage::Advice::Patiently(left) => Some(left),
                    outage::Advice::Tell => reconciler.tell_waiting(&key, &self.outage.why()),
                }
            };
            self.end_live(&key);
            self.end(&key, again.map(Requeue::trusting));
            return;
        }
        let reconcile = Box::pin(AssertUnwindSafe(reconciler.reconcile(&key, depth)).catch_unwind());
        let watched = self.watch_over(&key, reconciler, reconcile);
        let outcome = if departing {
            Some(watched.await)
        } else {
            tokio::select! {
                outcome = watched => Some(outcome),
                () = cut_off_after(&cut_off, reconciler.cleanup_timeout) => None,
            }
        };
        self.end_live(&key);
        let outcome = match outcome {
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => {
                tracing::error!(source = %key, "a reconcile has panicked, which is a bug; it is tried again");
                Turn {
                    again: Some(Requeue::full(Duration::from_mins(1))),
                    ..Default::default()
                }
            }
            None => {
                tracing::debug!(source = %key, "the source is deleted; what was under way for it is cut off");
                Turn {
                    again: Some(Requeue::trusting(Duration::ZERO)),
                    ..Default::default()
                }
            }
        };
        if outcome.vault_down {
            self.outage.begin();
        } else {
            self.enqueue_again(self.outage.next());
        }
        self.enqueue(&outcome.wake);
        self.end(&key, outcome.again);
    }

    /// Ends a source's turn, and schedules the next look.
    fn end(&self, key: &SourceKey, again: Option<Requeue>) {
        self.places
            .done(key, again.map(|again| (again.after, again.depth)));
    }

    /// Begins a pass over a source. The token cancels the pass when the source is deleted.
    fn begin_live(&self, key: &SourceKey) -> CancellationToken {
        let cut_off = CancellationToken::new();
        self.live().insert(key.clone(), cut_off.clone());
        cut_off
    }

    fn end_live(&self, key: &SourceKey) {
        self.live().remove(key);
    }

    /// Cuts off a pass that began before the source was deleted, so that it does not delay the deletion.
    pub(super) fn cut_off(&self, key: &SourceKey) {
        if let Some(pass) = self.live().get(key) {
            pass.cancel();
        }
    }

    /// Returns whether a source is being deleted, and whether it is being deleted or gone.
    fn departs(&self, key: &SourceKey) -> (bool, bool) {
        let index = self.index();
        let deleting = index.get(key).map(|tracked| tracked.deleting.is_some());
        (deleting == Some(true), deleting != Some(false))
    }

    /// Waits for a reconcile. A slow one gives up its place, so that it does not delay others.
    async fn watch_over<T>(
        &self,
        key: &SourceKey,
        reconciler: &Reconciler,
        reconcile: impl Future<Output = T>,
    ) -> T {
        let mut reconcile = pin!(reconcile);
        if let Ok(outcome) = tokio::time::timeout(STALLED_AFTER, reconcile.as_mut()).await {
            return outcome;
        }
        self.places.stall(key);
        // It may have given its place up by itself, and get another one later.
        let stall_again = async {
            loop {
                tokio::time::sleep(STALLED_AFTER).await;
                self.places.stall(key);
            }
        };
        let beside = async { tokio::join!(self.find_out_whether_vault_hangs(key, reconciler), stall_again) };
        tokio::select! {
            outcome = reconcile => outcome,
            ((), never) = beside => never,
        }
    }

    /// Detects a Vault that accepts requests but never answers. Otherwise nothing would be reported until the
    /// requests time out.
    async fn find_out_whether_vault_hangs(&self, key: &SourceKey, reconciler: &Reconciler) {
        if let Err(error) = reconciler.vault.health(Instant::now()).await {
            self.outage.begin();
            reconciler.tell_waiting(key, &format!("Vault cannot be used now: {error}"));
        }
    }
}

/// Waits for the deletion of a source, and then for as long as a normal pass may take. A call that is cut off
/// has an unknown outcome, which must be checked again for two client timeouts.
async fn cut_off_after(deletion: &CancellationToken, cleanup_timeout: Duration) {
    deletion.cancelled().await;
    tokio::time::sleep(STALLED_AFTER.min(cleanup_timeout / 4)).await;
}
