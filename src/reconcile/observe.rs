//! Observing: Vault first, then the source, then (in `document`, one document at a time) its Secrets.

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

/// What is known before anything is decided.
pub(super) struct Observation<'a> {
    pub key: SourceKey,
    /// When it began.
    pub began: Instant,
    /// UID of the object that Events are about, while there is one or was one.
    pub uid: Option<String>,
    pub memory: Memory,
    /// Whether what is remembered is trusted.
    pub depth: Depth,
    /// There is a `force-sync` that was not obeyed yet.
    pub forced: bool,
    /// The source as it is now; `None`: it is gone, or Kubernetes did not show it.
    pub source: Option<Source>,
    /// Kubernetes did not show the source: nothing is known of it now.
    pub unread: bool,
    pub ask: Ask,
    /// What keeps the source as a whole from being synced.
    pub problems: Vec<Problem>,
    /// What its people should know beside that.
    pub warnings: Vec<Warning>,
    pub wanted: Vec<Wanted>,
    /// What Vault showed of the wanted documents of which nothing is remembered.
    pub seen: Looks,
    /// The documents that a late write of ours could still change when they were looked at, and until when.
    pub unsettled: HashMap<DocumentId, Instant>,
    /// Documents of a source that is being deleted and of which the ledger knows nothing: a lost ledger would
    /// look like that. They are locked.
    pub lost: Option<(Mount, Vec<DocumentId>)>,
    /// The source is being deleted, and the time for that was over while another source had its documents: it
    /// must wait no longer, and nothing is locked.
    pub held_up: bool,
    _lock: Guard<'a>,
}

impl Observation<'_> {
    /// Whether the source is there, stays, and asks for something.
    pub fn asks(&self) -> bool {
        let stays = self
            .source
            .as_ref()
            .is_some_and(|source| source.deleting.is_none());
        stays && self.ask.path.is_some()
    }
}

/// What Vault showed of some documents.
type Looks = HashMap<DocumentId, Result<Observed, Problem>>;

/// Fingerprint of all that decides about a source. Resource versions are not in it, nor anything
/// that our own patches change.
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
    /// When its deletion began.
    deleting: Option<i64>,
    hint: Option<Hint>,
    /// Whether it lets us trust what is remembered.
    trust: bool,
    /// See [`Observation::forced`].
    forced: bool,
    /// The `force-sync` that was obeyed last.
    force: Option<u64>,
}

/// What the index says of a source once it was read.
struct Learnt {
    /// What it asks for; `None`: it asks for nothing, or is being deleted.
    hint: Option<Hint>,
    /// What is wrong with it, should its namespace ask for more than is kept that too.
    mistakes: Mistakes,
    /// Whether the watch had not shown it like this.
    changed: bool,
}

/// The locks of a pass, and what was asked for to know which they are.
struct Locked<'a> {
    lock: Guard<'a>,
    /// See [`Observation::held_up`].
    held_up: bool,
    mount: Option<Result<Mount, Problem>>,
    /// The documents that the source will want.
    ids: Vec<DocumentId>,
    /// See [`Observation::lost`].
    lost: Option<(Mount, Vec<DocumentId>)>,
}

/// The mount that holds a source's path (`None`: no mount could), and the documents of the source.
type Foreseen = (Option<Result<Mount, Problem>>, Vec<DocumentId>);

/// Waits no longer than so long, if there is a limit.
pub(super) async fn within<T>(limit: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout(limit, what).await.ok(),
        None => Some(what.await),
    }
}

impl Reconciler {
    /// Observes all that deciding about a source needs. `wake` gets the other sources that an unseen change
    /// of this one concerns.
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

    /// Takes in what the source is now; if it is not what the index knew, this pass has looked at the wrong things.
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
            // One that is being deleted, and that nobody had seen: its documents are not locked.
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

    /// Tells the index what a source is now: the watch may lag behind, or have not come to it at all.
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

    /// Reads the source. A write by what is remembered of a mount needs to know that it is the same still (see
    /// `ensure_versioned`): that is asked at the same time, and whatever comes of it, the write looks at that.
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

    /// Takes the locks of a pass, once and for all: of the documents that the source will want, as far as that can
    /// be foreseen, and of those that the ledger gives to it.
    async fn lock(&self, key: &SourceKey, known: &Foreknown, depth: Depth) -> Result<Locked<'_>, Moved> {
        // How long it may wait, if it is being deleted.
        let left = known
            .deleting
            .map(|begun| self.time_left(key, known.uid.as_deref().unwrap_or_default(), begun));
        let held: Vec<DocumentId> = self.ledger.of(key).into_iter().map(|(id, _)| id).collect();
        let departing = left.is_some();
        // A source that is being deleted wants nothing. If the ledger knows nothing of it, it may have been lost.
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
        // While it waited, something may have been handed over to it, or all been taken from it.
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

    /// How long an object's deletion, which began at `begun`, may still wait for Vault. The time counts from its
    /// deletion by the API server's clock; should that differ from ours, from when we first saw it, so that
    /// nobody waits longer.
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

    /// What is remembered of a document, if that may be trusted.
    pub(super) fn trusted(&self, key: &SourceKey, memory: &Memory, id: &DocumentId) -> Option<Remembered> {
        let known = memory.documents.get(id).copied()?;
        if known.era != self.mounts.era(&id.mount) {
            return None;
        }
        may_trust(key, self.ledger.get(id).as_ref()).then_some(known)
    }

    /// The mount that holds a source's path; `None`: no mount could.
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

    /// What Vault shows of these documents. Once it turns out to be down, nothing more is asked.
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

    /// Asks Vault again about a mount whose replies do not fit: whether it is not what it was.
    async fn is_another(&self, mount: &Mount) -> bool {
        self.mounts.doubt(&mount.path);
        !matches!(self.mounts.resolve(&mount.path, Depth::Trusting).await, Ok(same) if same == *mount)
    }

    /// Whether a mount shows nothing where something of ours should be: it may have been made anew, with
    /// another version, of which its replies say nothing.
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

    /// What Vault shows of a document.
    pub(super) async fn look(&self, mount: &Mount, id: &DocumentId) -> Result<Observed, Problem> {
        match self.vault.read(mount, id).await {
            Ok(observed) => {
                let seen = observed.digest(&self.digester);
                // "Nothing here" is what KV v1 says too.
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

    /// Counts an error of Vault, and says it in words for people.
    pub(super) fn vault_failed(&self, error: &crate::vault::Error) -> Problem {
        self.metrics.vault_error(error.kind.labels());
        of_vault(error)
    }
}
