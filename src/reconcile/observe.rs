//! Observes Vault first, then the source. `arrival` fetches the Secrets later, one document at a time.

mod locks;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use locks::Guard;
pub use locks::Locks;

use super::Reconciler;
use super::outcome::Moved;
use super::report::{of_kubernetes, of_vault};
use crate::kube;
use crate::mounts::Fault;
use crate::vault::ErrorKind;
use domain::annotations::{self, Ask};
use domain::desired::{self, Hint, Mistakes, Wanted};
use domain::document::{DocumentId, KvVersion, Mount, Observed};
use domain::index::{Memory, Remembered};
use domain::ledger::State;
use domain::path;
use domain::plan::may_trust;
use domain::problem::{Problem, Warning};
use domain::queue::Depth;
use domain::source::{Source, SourceKey};
use domain::value::{Digest, Digester};

/// What is known before any decision.
pub(super) struct Observation<'a> {
    pub key: SourceKey,
    /// When the pass began.
    pub began: Instant,
    /// UID of the object that Events are about, if there is or was one.
    pub uid: Option<String>,
    pub memory: Memory,
    /// Whether to trust what is remembered.
    pub depth: Depth,
    /// Whether the source has a `force-sync` value that was not carried out yet.
    pub forced: bool,
    /// The source as it is now. `None`: it is gone, or Kubernetes did not return it.
    pub source: Option<Source>,
    /// Whether the source could not be read: its current state is unknown.
    pub unread: bool,
    pub ask: Ask,
    /// What prevents the source as a whole from being synced.
    pub problems: Vec<Problem>,
    /// What else its users need to know.
    pub warnings: Vec<Warning>,
    pub wanted: Vec<Wanted>,
    /// What Vault returned for those wanted documents that are not remembered.
    pub seen: Looks,
    /// Documents that a late write of ours could still change when they were looked at, and until when.
    pub unsettled: HashMap<DocumentId, Instant>,
    /// Documents of a source that is being deleted and has no ledger entries, which may mean that the ledger
    /// was lost. They are locked.
    pub lost: Option<(Mount, Vec<DocumentId>)>,
    /// The source is being deleted, and its deadline passed while another source had its documents locked. It
    /// must not wait longer, so nothing is locked.
    pub held_up: bool,
    _lock: Guard<'a>,
}

impl Observation<'_> {
    /// Whether the source exists, is not being deleted, and asks for something.
    pub fn asks(&self) -> bool {
        let stays = self
            .source
            .as_ref()
            .is_some_and(|source| source.deleting.is_none());
        stays && self.ask.path.is_some()
    }
}

/// What Vault returned for some documents.
type Looks = HashMap<DocumentId, Result<Observed, Problem>>;

/// Fingerprint of everything in a source that affects decisions. It leaves out the resourceVersion and
/// everything that our own patches change.
pub fn fingerprint(source: &Source, digester: &Digester) -> Digest {
    let flags = [
        u8::from(source.deleting.is_some()),
        u8::from(source.finalizer && source.deleting.is_some()),
    ];
    let annotations = source
        .annotations
        .iter()
        .filter(|(name, _)| *name != annotations::SECRET_VERSIONS);
    let annotations = annotations.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    let references = source.references.iter().flat_map(|r| {
        [
            r.secret.as_bytes(),
            if r.optional {
                b"?".as_slice()
            } else {
                b"!".as_slice()
            },
        ]
    });
    digester.fields(
        [source.uid.as_bytes(), &flags]
            .into_iter()
            .chain(annotations)
            .chain([b"|".as_slice()])
            .chain(references),
    )
}

/// What the index knows of a source before it is read.
#[derive(Default)]
struct Foreknown {
    uid: Option<String>,
    /// When its deletion began, in seconds since 1970.
    deleting: Option<i64>,
    hint: Option<Hint>,
    /// Whether what is remembered of the source may be trusted.
    trust: bool,
    /// See [`Observation::forced`].
    forced: bool,
    /// The last `force-sync` value that was carried out.
    force: Option<u64>,
}

/// What the index knows of a source after it was read.
struct Learnt {
    /// What it asks for. `None`: nothing, or it is being deleted.
    hint: Option<Hint>,
    /// What is wrong with it. This includes a namespace that asks for more documents than the index keeps.
    mistakes: Mistakes,
    /// Whether the watch had not shown this state yet.
    changed: bool,
}

/// The locks of a pass, and what was found out to choose them.
struct Locked<'a> {
    lock: Guard<'a>,
    /// See [`Observation::held_up`].
    held_up: bool,
    mount: Option<Result<Mount, Problem>>,
    /// The documents that the source wants, as far as known.
    ids: Vec<DocumentId>,
    /// See [`Observation::lost`].
    lost: Option<(Mount, Vec<DocumentId>)>,
}

/// The mount that holds a source's path (`None`: no mount can hold it), and the source's documents.
type Foreseen = (Option<Result<Mount, Problem>>, Vec<DocumentId>);

/// Waits for a future up to a limit, if there is one.
pub(super) async fn within<T>(limit: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout(limit, what).await.ok(),
        None => Some(what.await),
    }
}

impl Reconciler {
    /// Observes everything that decisions about a source need. Adds to `wake` the other sources that are
    /// affected by a change to this one which the watch has not shown.
    pub(super) async fn observe(
        &self,
        key: &SourceKey,
        depth: Depth,
        wake: &mut Vec<SourceKey>,
    ) -> Result<Observation<'_>, Moved> {
        let began = Instant::now();
        let (known, memory) = self.known(key);
        let depth = depth.max(Depth::full_if(known.forced));
        let locked = self.lock(key, &known, depth).await?;
        let unsettled = |id: &DocumentId| Some((id.clone(), self.unsettled_until(id)?));
        let unsettled = locked.lock.ids().filter_map(unsettled).collect();
        let seen = match &locked.mount {
            Some(Ok(mount)) => {
                let trust = known.trust && !depth.is_full();
                let is_trusted = |id: &DocumentId| trust && self.trusted(key, &memory, id).is_some();
                let unknown = locked.ids.into_iter().filter(|id| !is_trusted(id));
                self.look_at_all(mount, unknown).await?
            }
            _ => HashMap::new(),
        };
        let mut observation = Observation {
            key: key.clone(),
            began,
            uid: known.uid.clone(),
            memory,
            depth,
            forced: known.forced,
            source: None,
            unread: false,
            ask: annotations::parse(&std::collections::BTreeMap::new()),
            problems: Vec::new(),
            warnings: Vec::new(),
            wanted: Vec::new(),
            seen,
            unsettled,
            lost: locked.lost,
            held_up: locked.held_up,
            _lock: locked.lock,
        };
        if self.nothing_is_wanted {
            return Ok(observation);
        }
        let remembered = locked.mount.as_ref().filter(|_| observation.seen.is_empty());
        match self
            .read_source(key, remembered.and_then(|mount| mount.as_ref().ok()))
            .await
        {
            Ok(Some(source)) => self.take_in(&mut observation, source, &known, locked.mount, wake)?,
            Ok(None) => {}
            Err(error) => {
                observation.unread = true;
                observation.problems.push(of_kubernetes(&error));
            }
        }
        Ok(observation)
    }

    fn known(&self, key: &SourceKey) -> (Foreknown, Memory) {
        let index = self.index();
        let Some(tracked) = index.get(key) else {
            return Default::default();
        };
        let memory = index
            .state(key)
            .map(|state| state.memory.clone())
            .unwrap_or_default();
        let known = Foreknown {
            uid: Some(tracked.uid.clone()),
            deleting: tracked.deleting,
            hint: tracked.hint.clone(),
            trust: tracked.trust,
            forced: tracked.force.is_some() && tracked.force != memory.force,
            force: memory.force,
        };
        (known, memory)
    }

    /// Stores the source's current state. If the index knew something else, this pass has looked at the wrong
    /// documents.
    fn take_in(
        &self,
        observation: &mut Observation<'_>,
        source: Source,
        known: &Foreknown,
        mount: Option<Result<Mount, Problem>>,
        wake: &mut Vec<SourceKey>,
    ) -> Result<(), Moved> {
        let ask = annotations::parse(&source.annotations);
        let learnt = self.learn(&source, &ask, wake);
        let unforeseen = ask.force.is_some() && ask.force != known.force && !known.forced;
        let foreseen = known.hint.as_ref().filter(|_| known.deleting.is_none());
        if learnt.hint.as_ref() != foreseen
            || (unforeseen && !observation.depth.is_full())
            // The source is being deleted and was unknown, so its documents are not locked.
            || (known.uid.is_none() && source.deleting.is_some())
            || (learnt.changed && known.uid.as_ref().is_some_and(|uid| *uid != source.uid))
        {
            return Err(Moved);
        }
        observation.uid = Some(source.uid.clone());
        observation.problems = learnt.mistakes.problems;
        observation.warnings = learnt.mistakes.warnings;
        if let Some(mount) = mount.filter(|_| learnt.hint.is_some()) {
            let wanted =
                mount.and_then(|mount| desired::wanted(&source, &ask, &mount, &self.settings, &self.policy));
            match wanted {
                Ok(wanted) => observation.wanted = wanted,
                Err(problem) => observation.problems.push(problem),
            }
        }
        observation.ask = ask;
        observation.source = Some(source);
        Ok(())
    }

    /// Updates the index with the source's current state, which the watch may not have shown yet.
    fn learn(&self, source: &Source, ask: &Ask, wake: &mut Vec<SourceKey>) -> Learnt {
        let print = fingerprint(source, &self.digester);
        let mut index = self.index();
        let news = index.observe(source, ask, print);
        let changed = !news.is_empty();
        wake.extend(news.into_iter().filter(|other| *other != source.key));
        let tracked = index.get(&source.key);
        let mut mistakes = tracked
            .and_then(|tracked| tracked.mistakes.as_deref().cloned())
            .unwrap_or_default();
        let tracked = tracked.filter(|_| source.deleting.is_none());
        if let Some(count) = tracked.and_then(|tracked| tracked.refused) {
            mistakes.problems.push(Problem::NamespaceFull {
                namespace: source.key.namespace.to_string(),
                count,
                limit: index.most_documents(),
            });
        }
        Learnt {
            hint: tracked.and_then(|tracked| tracked.hint.clone()),
            mistakes,
            changed,
        }
    }

    /// Reads the source. A write to a remembered mount needs proof that the mount is still the same (see
    /// `ensure_versioned`). Both requests run at the same time; the write checks the mount's result.
    async fn read_source(
        &self,
        key: &SourceKey,
        remembered: Option<&Mount>,
    ) -> Result<Option<Source>, kube::Error> {
        match remembered.filter(|mount| mount.version == KvVersion::V2) {
            Some(mount) => tokio::join!(self.kube.source(key), self.mounts.confirm(mount)).0,
            None => self.kube.source(key).await,
        }
    }

    /// Takes all locks of a pass, once: the documents that the source is expected to want, and those that the
    /// ledger gives to it.
    async fn lock(&self, key: &SourceKey, known: &Foreknown, depth: Depth) -> Result<Locked<'_>, Moved> {
        // How long the source may wait, if it is being deleted.
        let left = known
            .deleting
            .map(|begun| self.time_left(key, known.uid.as_deref().unwrap_or_default(), begun));
        let held: Vec<DocumentId> = self.ledger.of(key).into_iter().map(|(id, _)| id).collect();
        let departing = left.is_some();
        // A source that is being deleted wants nothing. If it has no ledger entries, the ledger may have been
        // lost.
        let foreseen = match known.hint.as_ref().filter(|_| !departing || held.is_empty()) {
            Some(hint) => within(left, self.foresee(key, hint, depth)).await,
            None => None,
        };
        let (mount, ids) = foreseen.unwrap_or_default();
        let all = ids.iter().chain(&held).cloned().collect();
        let Some(lock) = within(left, self.locks.acquire(all)).await else {
            return Ok(Locked {
                lock: self.locks.acquire(HashSet::new()).await,
                held_up: true,
                mount: None,
                ids: Vec::new(),
                lost: None,
            });
        };
        // While the pass waited, the source may have received a document, or lost all of its documents.
        let holds = self.ledger.of(key);
        let gained = holds.iter().any(|(id, _)| !lock.covers(id));
        let emptied = departing && holds.is_empty() && !held.is_empty();
        if gained || emptied {
            return Err(Moved);
        }
        let (mount, ids, lost) = match mount {
            Some(Ok(mount)) if departing => (None, Vec::new(), Some((mount, ids))),
            _ if departing => (None, Vec::new(), None),
            mount => (mount, ids, None),
        };
        Ok(Locked {
            lock,
            held_up: false,
            mount,
            ids,
            lost,
        })
    }

    /// How long an object's deletion, which began at `begun`, may still wait for Vault. The wait counts from
    /// the API server's deletion time, or from when we first saw the deletion if that wait is longer.
    /// Different clocks therefore never extend the wait.
    pub(super) fn time_left(&self, key: &SourceKey, uid: &str, begun: i64) -> Duration {
        let by_clocks = Duration::from_secs(u64::try_from(self.clock.seconds() - begun).unwrap_or(0));
        let now = self.notes.started.elapsed();
        let waited = by_clocks.max(self.index().state_mut(key).deleting_for(uid, now));
        self.cleanup_timeout.saturating_sub(waited)
    }

    /// The mount that holds the documents which a hint names, and these documents.
    async fn foresee(&self, key: &SourceKey, hint: &Hint, depth: Depth) -> Foreseen {
        let mount = self.mount_of(hint, depth).await;
        let ids = match &mount {
            Some(Ok(mount)) => hint
                .places(key, mount, &self.settings)
                .map(|places| places.into_iter().map(|place| place.id).collect())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        (mount, ids)
    }

    /// What is remembered of a document, if it may be trusted.
    pub(super) fn trusted(&self, key: &SourceKey, memory: &Memory, id: &DocumentId) -> Option<Remembered> {
        let known = memory.documents.get(id).copied()?;
        if known.era != self.mounts.era(&id.mount) {
            return None;
        }
        may_trust(key, self.ledger.get(id).as_ref()).then_some(known)
    }

    /// The mount that holds a source's path. `None`: no mount can hold it.
    async fn mount_of(&self, hint: &Hint, depth: Depth) -> Option<Result<Mount, Problem>> {
        path::check(&hint.path).ok()?;
        let query = path::mount_query(&hint.path, &self.settings);
        Some(
            self.mounts
                .resolve(&query, depth)
                .await
                .map_err(|fault| match fault {
                    Fault::Path(fault) => fault.into(),
                    Fault::Vault(error) => self.vault_failed(&error),
                }),
        )
    }

    /// What Vault returns for these documents. Once Vault turns out to be down, no further request is made.
    async fn look_at_all(
        &self,
        mount: &Mount,
        ids: impl Iterator<Item = DocumentId>,
    ) -> Result<Looks, Moved> {
        let mut seen = HashMap::new();
        let mut down = None;
        for id in ids {
            let looked = match &down {
                Some(problem) => Err(Problem::clone(problem)),
                None => self.look(mount, &id).await,
            };
            if let Err(problem @ Problem::Vault { down: true, .. }) = &looked
                && down.is_none()
                && self.vault.health(Instant::now()).await.is_err()
            {
                down = Some(problem.clone());
            }
            seen.insert(id, looked);
        }
        if self.doubts_mount(mount, &seen) {
            self.mounts.doubt(&mount.path);
        }
        if self.mounts.known(&mount.path).is_none() && self.is_another(mount).await {
            return Err(Moved);
        }
        Ok(seen)
    }

    /// Asks Vault again about a mount whose replies do not fit, and returns whether it is now another mount.
    async fn is_another(&self, mount: &Mount) -> bool {
        self.mounts.doubt(&mount.path);
        !matches!(self.mounts.resolve(&mount.path, Depth::Trusting).await, Ok(same) if same == *mount)
    }

    /// Whether a mount lacks a document of ours that should exist. It may have been recreated with another KV
    /// version, and its replies do not show that.
    fn doubts_mount(&self, mount: &Mount, seen: &Looks) -> bool {
        let absent = seen
            .iter()
            .filter(|(_, seen)| matches!(seen, Ok(Observed::Absent)));
        let stood = |id: &DocumentId| {
            self.ledger
                .get(id)
                .is_some_and(|entry| entry.state == State::Written)
        };
        absent
            .into_iter()
            .any(|(id, _)| id.mount == mount.path && stood(id))
    }

    /// What Vault returns for a document.
    pub(super) async fn look(&self, mount: &Mount, id: &DocumentId) -> Result<Observed, Problem> {
        match self.vault.read(mount, id).await {
            Ok(observed) => {
                let seen = observed.digest(&self.digester);
                // KV v1 also answers "not found", so that answer does not prove the mount's version.
                if seen != Observed::Absent {
                    self.mounts.vouch(mount);
                }
                Ok(seen)
            }
            Err(error) => {
                if !error.kind.transient() || error.kind == ErrorKind::Bug {
                    self.mounts.doubt(&mount.path);
                }
                Err(self.vault_failed(&error))
            }
        }
    }

    /// Counts an error from Vault, and converts it to a problem for users.
    pub(super) fn vault_failed(&self, error: &crate::vault::Error) -> Problem {
        self.metrics.vault_error(error.kind.labels());
        of_vault(error)
    }
}
