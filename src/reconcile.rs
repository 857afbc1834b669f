//! Reconciling one source: observe, decide, apply, report.
//!
//! Vault is read before Kubernetes, so that a check-and-set that succeeds proves that no newer
//! value was there; one that fails repeats the whole. What is decided of a document is decided in
//! [`domain::plan`]; this module fetches what that needs and does what it says.

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

/// How often a reconcile starts again at once because something moved under it.
const ATTEMPTS: u32 = 5;

impl Reconciler {
    /// Reconciles one source, which need not exist any more. `depth`: whether to trust what is remembered.
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
        // Somebody edits the same object or document in a loop. They will stop, or the retry gets between.
        Turn {
            again: Some(Requeue::full(self.moved_again(key))),
            wake,
            vault_down: false,
        }
    }

    /// What was remembered has led to something that had moved: the next attempt looks at all of it.
    fn forget_documents(&self, key: &SourceKey) {
        self.index().state_mut(key).memory.documents.clear();
    }

    /// How long to wait after all attempts have met a change: longer, each time in a row.
    fn moved_again(&self, key: &SourceKey) -> Duration {
        let failures = self.index().state_mut(key).count_failure(true);
        if failures > 1 {
            tracing::warn!(source = %key, "somebody changes the source or its documents as often as they are read; trying again");
        }
        crate::backoff::delay(failures).max(Duration::from_secs(1))
    }

    /// Whether a source is gone and nothing is left to be done for it, by all that this process knows.
    pub fn is_done_with(&self, key: &SourceKey) -> bool {
        self.index().get(key).is_none() && self.ledger.of(key).is_empty()
    }

    /// Forgets all about a source for which nothing is left to be done.
    pub fn bury(&self, key: &SourceKey) {
        self.metrics.forget(key);
        self.quotas.forget(key);
        let state = self.index().bury(key);
        self.count_claimless(&state.claimless, &BTreeSet::new());
    }

    /// Commits changes of the ledger for a source. All that wait for a commit are stored together, so that the source
    /// gives its place at work to another meanwhile.
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

/// Everything that reconciling needs.
pub struct Reconciler {
    /// Kubernetes.
    pub kube: Kube,
    /// Vault.
    pub vault: Vault,
    /// Which mount holds a path.
    pub mounts: Mounts,
    /// What we may have written.
    pub ledger: Arc<Ledger>,
    /// Who is a source, and what is remembered of each.
    pub index: Arc<Mutex<Index>>,
    /// The choices of whoever runs the operator.
    pub settings: Settings,
    /// `--path-policy`.
    pub policy: Policy,
    /// Who we are in claims.
    pub identity: Identity,
    /// Fingerprints.
    pub digester: Digester,
    /// Numbers.
    pub metrics: Metrics,
    /// Events.
    pub events: Events,
    /// Bounds the payload in flight.
    pub budget: Budget,
    /// How many documents a namespace may have.
    pub quotas: Quotas,
    /// Whose turn it is.
    pub places: Arc<Places>,
    /// One reconcile at a time for each document.
    pub locks: Locks,
    /// What is known of documents and mounts, whichever source they are of.
    pub notes: Notes,
    /// Whether every source counts as gone, as before an uninstall: what the ledger says of its documents is done.
    pub nothing_is_wanted: bool,
    /// Until when we may write.
    pub tenure: Tenure,
    /// For what others wrote a time on.
    pub clock: Clock,
    /// `--cleanup-timeout`.
    pub cleanup_timeout: Duration,
    /// `--resync-interval`.
    pub resync: Option<Duration>,
    /// `--repeat-events`.
    pub repeat: Duration,
    /// How long a write without an answer may still land: two client timeouts.
    pub late_window: Duration,
}

/// What this process has learnt of documents and mounts and need not survive it. What it has learnt of a source is
/// its [`domain::index::SourceState`].
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
