//! Reconciling one source: gather, decide, apply, report.
//!
//! Vault is read before Kubernetes, so that a check-and-set that succeeds proves that no newer
//! value was there; one that fails repeats the whole. What is decided is decided in
//! [`domain::plan`]; this module fetches what that needs and does what it says.

mod apply;
mod budget;
mod claimless;
mod depart;
mod gather;
mod inputs;
mod reclaim;
mod remade;
mod report;
mod share;
mod tell;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::events::Events;
use crate::kube::{self, Kube};
use crate::lease::Tenure;
use crate::ledger::Ledger;
use crate::machine::Clock;
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::vault::{self, Vault};
use domain::annotations::Ask;
use domain::document::{DocumentId, KvVersion, Mount};
use domain::index::{Index, Memory};
use domain::ledger::{LedgerEntry, State};
use domain::path;
use domain::plan::{Contender, Identity, Standing, leaving, may_clean};
use domain::policy::Policy;
use domain::problem::{Problem, Retry};
use domain::queue::Depth;
use domain::settings::{DeletionPolicy, Settings};
use domain::source::{Source, SourceKey};
use domain::value::Digester;
use parking_lot::{Mutex, MutexGuard};

pub use budget::Budget;
use claimless::Claimless;
use gather::Gathered;
pub use gather::{Locks, fingerprint};
use report::Report;
pub use share::Shares;

/// How often a reconcile starts again at once because something moved under it.
const ATTEMPTS: u32 = 5;

/// What a reconcile leaves for the controller.
#[derive(Debug, Default)]
pub struct Outcome {
    /// When to look again by itself.
    pub again: Option<Requeue>,
    /// Other sources that may want what this one has given up.
    pub wake: Vec<SourceKey>,
    /// Vault does not answer, not even whether it is up: there is no use in trying before it does.
    pub vault_down: bool,
}

/// When a source is to be looked at again by itself, and how deep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeue {
    /// After this time.
    pub after: Duration,
    /// How deep.
    pub depth: Depth,
}

impl Requeue {
    /// Trusting what is remembered.
    pub fn trusting(after: Duration) -> Self {
        let depth = Depth::Trusting;
        Self { after, depth }
    }

    /// Reading Vault again.
    pub fn full(after: Duration) -> Self {
        let depth = Depth::Full;
        Self { after, depth }
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
    /// Who is a source.
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
    pub shares: Shares,
    /// One reconcile at a time for each document.
    pub locks: Locks,
    /// Writes without an answer, and mounts without claims.
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

/// What this process has learnt and need not survive it.
pub struct Notes {
    started: Instant,
    late: Mutex<HashMap<DocumentId, Instant>>,
    claimless: Mutex<Claimless>,
    /// How often in a row a source has failed, one that is gone too.
    failures: Mutex<HashMap<SourceKey, u32>>,
    /// Objects that are being deleted: their UID, and when we first saw that.
    deleting: Mutex<HashMap<SourceKey, (String, Instant)>>,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            late: Mutex::default(),
            claimless: Mutex::default(),
            failures: Mutex::default(),
            deleting: Mutex::default(),
        }
    }
}

impl Notes {
    fn late(&self) -> MutexGuard<'_, HashMap<DocumentId, Instant>> {
        self.late.lock()
    }

    fn claimless(&self) -> MutexGuard<'_, Claimless> {
        self.claimless.lock()
    }

    /// Counts a failure, or the end of them; how many there are now.
    fn count_failure(&self, key: &SourceKey, failed: bool) -> u32 {
        let mut failures = self.failures.lock();
        if !failed {
            failures.remove(key);
            return 0;
        }
        let count = failures.entry(key.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

impl Notes {
    /// For how long we have known that this object is being deleted.
    fn seen_deleting(&self, key: &SourceKey, uid: &str) -> Duration {
        let mut deleting = self.deleting.lock();
        let new = || (uid.to_owned(), Instant::now());
        let seen = deleting.entry(key.clone()).or_insert_with(new);
        if seen.0 != uid {
            *seen = new();
        }
        seen.1.elapsed()
    }

    /// It is gone, or needs us no more.
    fn seen_gone(&self, key: &SourceKey) {
        let mut deleting = self.deleting.lock();
        deleting.remove(key);
    }
}

/// A call that changes a document. It ends here also when it is cut off: by a deadline, by the deletion of its
/// source, or by a panic.
struct Open<'a> {
    on: &'a Reconciler,
    id: &'a DocumentId,
    /// For how long it may still land.
    window: Duration,
    answered: bool,
}

impl Open<'_> {
    /// What has come of it.
    fn end<T>(mut self, result: Result<T, vault::Error>) -> Result<T, vault::Error> {
        self.answered = !result.as_ref().is_err_and(|error| error.outcome_unknown);
        result
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut late = self.on.notes.late();
        // One that can land no more is of no use.
        late.retain(|_, since| since.elapsed() < self.window);
        late.insert(self.id.clone(), Instant::now());
        drop(late);
        let ledger = &self.on.ledger;
        if let Some(entry) = ledger.get(self.id).filter(|entry| entry.state == State::Creating) {
            let entry = LedgerEntry {
                state: State::OutcomeUnknown,
                ..entry
            };
            ledger.commit_later(vec![(self.id.clone(), Some(entry))]);
        }
    }
}

/// Something moved while we looked: gather again.
struct Moved;

/// Why a document was not brought to Vault.
enum Stop {
    /// Something moved while we looked: the whole pass begins again.
    Moved,
    /// It cannot be brought there now. What stands there for the source stays.
    Problems(Vec<Problem>),
    /// It is somebody else's, whatever the ledger says of it.
    Conflict(Problem),
}

impl From<Moved> for Stop {
    fn from(Moved: Moved) -> Self {
        Self::Moved
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problems(vec![problem])
    }
}

impl Reconciler {
    /// Reconciles one source, which need not exist any more. `depth`: whether to trust what is remembered.
    pub async fn reconcile(&self, key: &SourceKey, depth: Depth) -> Outcome {
        let started = Instant::now();
        let mut wake = Vec::new();
        self.index().begin(key);
        for attempt in 1..=ATTEMPTS {
            let gathered = match self.gather(key, depth, &mut wake).await {
                Ok(gathered) => gathered,
                Err(Moved) => continue,
            };
            let mut run = Run::new(self, gathered, depth);
            if run.go().await.is_ok() {
                return run.finish(wake, started.elapsed());
            }
            tracing::debug!(source = %key, attempt, "something moved meanwhile; gathering again");
            wake.append(&mut run.wake);
            // What was remembered has led here: look afresh.
            self.forget_memory(key);
        }
        // Somebody edits the same object or document in a loop. They will stop, or the retry gets between.
        Outcome {
            again: Some(Requeue::full(self.moved_again(key))),
            wake,
            vault_down: false,
        }
    }

    /// How long to wait after all attempts have met a change: longer, each time in a row.
    fn moved_again(&self, key: &SourceKey) -> Duration {
        let failures = self.notes.count_failure(key, true);
        if failures > 1 {
            tracing::warn!(source = %key, "somebody changes the source or its documents as often as they are read; trying again");
        }
        crate::backoff::delay(failures).max(Duration::from_secs(1))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    /// Whether a source is gone and nothing is left to be done for it, by all that this process knows.
    pub fn is_done_with(&self, key: &SourceKey) -> bool {
        self.index().get(key).is_none() && self.ledger.of(key).is_empty()
    }

    /// Forgets all about a source for which nothing is left to be done.
    pub fn bury(&self, key: &SourceKey) {
        self.metrics.forget(key);
        self.notes.seen_gone(key);
        self.shares.forget(key);
        self.notes.count_failure(key, false);
        self.index().bury(key);
    }

    fn forget_memory(&self, key: &SourceKey) {
        let mut index = self.index();
        let Some(tracked) = index.get(key) else { return };
        let (uid, mut memory) = (tracked.uid.clone(), tracked.memory.clone());
        memory.documents.clear();
        index.remember(key, &uid, memory);
    }

    /// The other live sources that want a document of this mount, and may have it.
    fn rivals(
        &self,
        me: &SourceKey,
        mount: &Mount,
        id: &DocumentId,
        holders: &[&SourceKey],
    ) -> Vec<Contender> {
        self.index().rivals(me, mount, id, holders, |key, hint| {
            path::check(&hint.path)?;
            // No mount lies in another: a path outside this one names no document of it.
            if !path::is_within(&path::mount_query(&hint.path, &self.settings), &mount.path) {
                return Ok(Vec::new());
            }
            let places = hint.places(key, mount, &self.settings)?;
            for place in &places {
                self.policy.permit(&key.namespace, &mount.path, &place.own)?;
            }
            Ok(places)
        })
    }

    /// Whether a claim can be put on a document.
    fn takes_claims(&self, id: &DocumentId, version: KvVersion) -> bool {
        version == KvVersion::V2 && self.notes.claimless().may_try(id)
    }

    /// How long an object's deletion, which began at `begun`, may still wait for Vault. The time counts from its
    /// deletion by the API server's clock; should that differ from ours, from when we first saw it, so that
    /// nobody waits longer.
    fn time_left(&self, key: &SourceKey, uid: &str, begun: i64) -> Duration {
        let by_clocks = Duration::from_secs(u64::try_from(self.clock.seconds() - begun).unwrap_or(0));
        let waited = by_clocks.max(self.notes.seen_deleting(key, uid));
        self.cleanup_timeout.saturating_sub(waited)
    }

    /// Whether a write of ours may still land somewhere.
    pub fn is_unsettled(&self) -> bool {
        let late: Vec<_> = self.notes.late().keys().cloned().collect();
        let inherited = self.ledger.is_unclean_at_all().then_some(self.notes.started);
        late.iter().any(|id| self.unsettled_until(id).is_some())
            || inherited.is_some_and(|at| at.elapsed() < self.late_window)
    }

    /// To be asked before each change in Vault: whether we may still make it. Where there is a
    /// check-and-set, that would keep a late write from harm; this keeps those to KV v1 from it too.
    fn ensure_leading(&self) -> Result<(), Problem> {
        if self.tenure.lasts() {
            return Ok(());
        }
        Err(Problem::Kubernetes {
            message: "the lease has not been renewed in time; nothing is written to Vault".into(),
            hint: "another replica takes over; see whether the API server answers".into(),
            retry: Retry::Backoff,
        })
    }

    /// Before a call that changes this document. Where no answer tells what has become of it, or nobody waits
    /// for one any more, it is noted that it may still arrive.
    fn open<'a>(&'a self, id: &'a DocumentId) -> Open<'a> {
        Open {
            on: self,
            id,
            window: self.late_window,
            answered: false,
        }
    }

    /// Until when a write of ours to this document may still land, if that is not over.
    fn unsettled_until(&self, id: &DocumentId) -> Option<Instant> {
        let unanswered = self.notes.late().get(id).copied();
        let inherited = self.ledger.is_unclean(id).then_some(self.notes.started);
        let latest = unanswered.max(inherited)? + self.late_window;
        (latest > Instant::now()).then_some(latest)
    }
}

/// One pass over one source.
struct Run<'a> {
    on: &'a Reconciler,
    gathered: Gathered<'a>,
    depth: Depth,
    /// Kubernetes did not show the source: nothing is known of it now.
    unread: bool,
    memory: Memory,
    report: Report,
    /// Whether this pass has made sure of the finalizer.
    has_finalizer: bool,
    /// How many errors of this pass may have meant that Vault is down, when that was asked last.
    doubts: usize,
    vault_is_down: bool,
    /// The earliest time for which something asked.
    again: Option<Requeue>,
    wake: Vec<SourceKey>,
}

impl<'a> Run<'a> {
    fn new(on: &'a Reconciler, gathered: Gathered<'a>, depth: Depth) -> Self {
        let memory = gathered.memory.clone();
        let depth = depth.max(Depth::full_if(gathered.forced));
        let has_finalizer = gathered.source.as_ref().is_some_and(|source| source.finalizer);
        let report = Report::default();
        Self {
            on,
            gathered,
            depth,
            unread: false,
            memory,
            report,
            has_finalizer,
            doubts: 0,
            vault_is_down: false,
            again: None,
            wake: Vec::new(),
        }
    }

    async fn go(&mut self) -> Result<(), Moved> {
        if let Some(problem) = self.gathered.unreadable.take() {
            self.unread = true;
            self.report.problem(None, problem);
            return Ok(());
        }
        let result = match self.gathered.source.take() {
            Some(source) if source.deleting.is_none() && self.gathered.ask.path.is_some() => {
                let result = self.live(&source).await;
                self.gathered.source = Some(source);
                result
            }
            source => {
                let result = self.departed(source.as_ref()).await;
                self.gathered.source = source;
                result
            }
        };
        self.look_whether_vault_is_down().await;
        result
    }

    /// A source that is there and asks for something.
    async fn live(&mut self, source: &Source) -> Result<(), Moved> {
        let ask = self.gathered.ask.clone();
        let unused = domain::desired::nothing_used(source, &ask);
        for warning in ask.warnings.iter().chain(&unused) {
            self.report.warning(warning.clone());
        }
        let problems = std::mem::take(&mut self.gathered.problems);
        let failed = !problems.is_empty();
        for problem in problems {
            self.report.problem(None, problem);
        }
        // Nothing is written and nothing deleted then; should it go meanwhile, its documents stay.
        self.note_pause(source, ask.paused);
        if ask.paused {
            return Ok(());
        }
        if failed {
            return Ok(());
        }
        // From here on each document is looked at, or forgotten.
        self.memory.force = ask.force;
        let wanted = std::mem::take(&mut self.gathered.wanted);
        self.announce(source, &wanted, &ask).await;
        if let Some(admitted) = self.gathered.admitted.take() {
            self.wake.extend(admitted.release());
        }
        let mut desired = HashSet::with_capacity(wanted.len());
        let mut standings = Vec::with_capacity(wanted.len());
        for wanted in &wanted {
            let standing = if self.vault_is_down {
                Some(self.standing_of_failed(&wanted.id))
            } else {
                self.document(source, &ask, wanted).await?
            };
            self.look_whether_vault_is_down().await;
            if let Some(standing) = standing {
                standings.push(standing);
                desired.insert(wanted.id.clone());
            }
        }
        if let Some((refused, full)) = self.gathered.refused.take() {
            self.report.problem(None, full);
            standings.extend(refused.iter().map(|id| self.standing_of_failed(id)));
            desired.extend(refused);
        }
        self.report.discovered = Some(wanted.iter().map(|wanted| wanted.entries.len()).sum());
        self.memory.documents.retain(|id, _| desired.contains(id));
        let entries = self.on.ledger.of(&source.key);
        for (id, entry) in leaving(&entries, |id| desired.contains(id), may_clean(standings)) {
            // The wish that was last said while it was wanted, or a stronger one now.
            let deletion = match entry.deletion {
                DeletionPolicy::Retain => DeletionPolicy::Retain,
                _ => self.deletion(&ask),
            };
            self.depart(id, entry, deletion, source.key.clone()).await;
        }
        if source
            .annotations
            .contains_key(domain::annotations::SECRET_VERSIONS)
            && let Err(error) = self.on.kube.drop_predecessors_annotation(source).await
            && matches!(error, kube::Error::Denied { .. } | kube::Error::Refused { .. })
        {
            tracing::debug!(source = %source.key, %error, "the predecessor's annotation stays");
        }
        Ok(())
    }

    /// After an error that may be one document's or all's: asks once more, and gives the pass up if
    /// there is no answer. Each of the other documents would wait as long as this one has.
    async fn look_whether_vault_is_down(&mut self) {
        let doubts = self.report.doubts_vault();
        if doubts > self.doubts && !self.vault_is_down {
            self.doubts = doubts;
            self.vault_is_down = self.on.vault.health(Instant::now()).await.is_err();
        }
    }

    fn deletion(&self, ask: &Ask) -> DeletionPolicy {
        ask.deletion.unwrap_or(self.on.settings.deletion)
    }

    fn key(&self) -> &SourceKey {
        &self.gathered.key
    }

    fn look_again(&mut self, again: Requeue) {
        if self.again.is_none_or(|earlier| again.after < earlier.after) {
            self.again = Some(again);
        }
    }

    /// How a document that could not be brought to Vault now counts for those that are to go.
    fn standing_of_failed(&self, id: &DocumentId) -> Standing {
        let stood = self
            .on
            .ledger
            .get(id)
            .is_some_and(|entry| entry.stands_for(self.key()));
        if stood { Standing::Stale } else { Standing::Missing }
    }
}
