//! Reconciling one source: observe, decide, apply, report.
//!
//! Vault is read before Kubernetes, so that a successful check-and-set proves that Vault held no newer value.
//! A failed check-and-set repeats the whole pass. [`domain::plan`] makes the decisions about a document; this
//! module fetches what they need, and carries them out.

mod apply;
mod arrival;
mod budget;
mod claims;
mod contenders;
mod departure;
mod late;
mod observe;
mod outcome;
mod overtaken;
mod quota;
mod reclaim;
mod remade;
mod report;
mod secrets;
mod tell;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::events::Events;
use crate::kube::Kube;
use crate::lease::Tenure;
use crate::ledger_io::{CommitError, Ledger};
use crate::machine::Clock;
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::places::Places;
use crate::vault::Vault;
use domain::document::DocumentId;
use domain::index::Index;
use domain::ledger::LedgerEntry;
use domain::path_policy::Policy;
use domain::plan::Identity;
use domain::queue::Depth;
use domain::settings::Settings;
use domain::source::SourceKey;
use domain::value::Digester;

use apply::choose_aim;
pub use budget::Budget;
use claims::Claims;
use late::Late;
pub use observe::{Locks, fingerprint};
use outcome::Moved;
pub use outcome::{Requeue, Turn};
pub use quota::Quotas;

/// How many times one reconcile starts again immediately because something changed while it ran.
const ATTEMPTS: u32 = 5;

impl Reconciler {
    /// Reconciles one source, which may no longer exist. `depth`: whether to trust what is remembered.
    pub async fn reconcile(&self, key: &SourceKey, depth: Depth) -> Turn {
        let started = Instant::now();
        let mut wake = Vec::new();
        self.index().begin(key);
        for attempt in 1..=ATTEMPTS {
            let Ok(seen) = self.observe(key, depth, &mut wake).await else {
                continue;
            };
            let aim = choose_aim(&seen);
            match self.apply(&seen, aim, &mut wake).await {
                Ok(findings) => return self.report(&seen, findings, wake, started.elapsed()),
                Err(Moved) => self.forget_documents(key),
            }
            tracing::debug!(source = %key, attempt, "something moved meanwhile; looking again");
        }
        // Another client keeps changing the same object or document. The retry waits until those changes
        // pause.
        Turn {
            again: Some(Requeue::full(self.moved_again(key))),
            wake,
            vault_down: false,
        }
    }

    /// Clears what is remembered of the documents, because it is outdated: the next attempt looks at all of
    /// them.
    fn forget_documents(&self, key: &SourceKey) {
        self.index().state_mut(key).memory.documents.clear();
    }

    /// How long to wait after every attempt met a change. The delay grows with each such reconcile in a row.
    fn moved_again(&self, key: &SourceKey) -> Duration {
        let failures = self.index().state_mut(key).count_failure(true);
        if failures > 1 {
            tracing::warn!(source = %key, "somebody changes the source or its documents as often as they are read; trying again");
        }
        crate::backoff::delay(failures).max(Duration::from_secs(1))
    }

    /// Whether a source no longer exists and has nothing left to do, as far as this process knows.
    pub fn is_done_with(&self, key: &SourceKey) -> bool {
        self.index().get(key).is_none() && self.ledger.of(key).is_empty()
    }

    /// Forgets everything about a source that has nothing left to do.
    pub fn bury(&self, key: &SourceKey) {
        self.metrics.forget(key);
        self.quotas.forget(key);
        let state = self.index().bury(key);
        self.count_claimless(&state.claimless, &BTreeSet::new());
    }

    /// Commits changes to the ledger for a source. One commit stores the changes of all waiting sources, so the source
    /// gives its place at work to another source while it waits.
    async fn commit(
        &self,
        key: &SourceKey,
        changes: Vec<(DocumentId, Option<LedgerEntry>)>,
    ) -> Result<(), CommitError> {
        if self.ledger.has(&changes) {
            return Ok(());
        }
        self.places.give_up_while(key, self.ledger.commit(changes)).await
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}

/// Everything that a reconcile needs.
pub struct Reconciler {
    /// Kubernetes.
    pub kube: Kube,
    /// Vault.
    pub vault: Vault,
    /// Finds the mount that holds a path.
    pub mounts: Mounts,
    /// The documents that we may have written.
    pub ledger: Arc<Ledger>,
    /// The sources, and what is remembered of each.
    pub index: Arc<Mutex<Index>>,
    /// The settings of the operator.
    pub settings: Settings,
    /// `--path-policy`.
    pub policy: Policy,
    /// How claims identify this operator.
    pub identity: Identity,
    /// Computes fingerprints.
    pub digester: Digester,
    /// The metrics.
    pub metrics: Metrics,
    /// Publishes Events.
    pub events: Events,
    /// Bounds the payload in flight.
    pub budget: Budget,
    /// How many documents a namespace may have.
    pub quotas: Quotas,
    /// The queue, where a pass can give its place to another source.
    pub places: Arc<Places>,
    /// Allows one reconcile at a time for each document.
    pub locks: Locks,
    /// What is known of documents and mounts, regardless of their source.
    pub notes: Notes,
    /// Whether every source counts as gone, as before an uninstall. Each pass then applies the deletion
    /// policies in the ledger.
    pub nothing_is_wanted: bool,
    /// How long we may still write.
    pub tenure: Tenure,
    /// The wall clock, to compare with timestamps that other systems wrote.
    pub clock: Clock,
    /// `--cleanup-timeout`.
    pub cleanup_timeout: Duration,
    /// `--resync-interval`.
    pub resync: Option<Duration>,
    /// `--repeat-events`.
    pub repeat: Duration,
    /// How long a write without an answer may still reach Vault: two client timeouts.
    pub late_window: Duration,
}

/// What this process has learned about documents and mounts; a restart may lose it. What it has learned about
/// a source is in [`domain::index::SourceState`].
pub struct Notes {
    started: Instant,
    late: Late,
    claims: Mutex<Claims>,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            late: Late::default(),
            claims: Mutex::default(),
        }
    }
}
