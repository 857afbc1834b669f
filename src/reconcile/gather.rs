//! Gathering: Vault first, then the source, then (in `apply`, one document at a time) its Secrets.

mod locks;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use locks::Guard;
pub use locks::Locks;

use super::report::{of_kubernetes, of_vault};
use super::share::Admitted;
use super::{Moved, Reconciler};
use crate::kube;
use crate::mounts::Fault;
use crate::vault::ErrorKind;
use domain::annotations::{self, Ask};
use domain::desired::{self, Hint, Wanted};
use domain::document::{DocumentId, KvVersion, Mount, Observed};
use domain::index::{Memory, Remembered, Tracked};
use domain::ledger::State;
use domain::path;
use domain::plan::may_trust;
use domain::problem::Problem;
use domain::queue::Depth;
use domain::source::{Source, SourceKey};
use domain::value::{Digest, Digester};

/// What is known before anything is decided.
pub(super) struct Gathered<'a> {
    pub key: SourceKey,
    /// When gathering began.
    pub began: Instant,
    /// UID of the object that Events are about, while there is one or was one.
    pub uid: Option<String>,
    pub memory: Memory,
    /// A `force-sync` that was not obeyed yet.
    pub forced: bool,
    /// The source as it is now; `None`: it is gone.
    pub source: Option<Source>,
    /// Why the source itself could not be read.
    pub unreadable: Option<Problem>,
    pub ask: Ask,
    pub wanted: Vec<Wanted>,
    /// What keeps the source as a whole from being synced.
    pub problems: Vec<Problem>,
    /// Documents for which its namespace has no room, and the problem that says so, beside those it has already.
    pub refused: Option<(HashSet<DocumentId>, Problem)>,
    /// Its new documents, for which there is room.
    pub admitted: Option<Admitted<'a>>,
    /// What Vault showed of the wanted documents of which nothing is remembered.
    pub seen: HashMap<DocumentId, Result<Observed, Problem>>,
    /// The documents that a late write of ours could still change when they were looked at, and until when.
    pub unsettled: HashMap<DocumentId, Instant>,
    /// Documents of a source that is being deleted and of which the ledger knows nothing: a lost ledger would
    /// look like that. They are locked.
    pub lost: Option<(Mount, Vec<DocumentId>)>,
    /// The source is being deleted, and the time for that was over while another source had its documents: it
    /// must wait no longer, and nothing is locked.
    pub held_up: bool,
    pub _lock: Guard<'a>,
}

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

/// The locks of a pass, and what was asked for to know which they are.
struct Locked<'a> {
    lock: Guard<'a>,
    /// See [`Gathered::held_up`].
    held_up: bool,
    mount: Option<Result<Mount, Problem>>,
    /// The documents that the source will want.
    ids: Vec<DocumentId>,
    /// See [`Gathered::lost`].
    lost: Option<(Mount, Vec<DocumentId>)>,
}

/// The mount that holds a source's path (`None`: no mount could), and the documents of the source.
type Foreseen = (Option<Result<Mount, Problem>>, Vec<DocumentId>);

/// Waits no longer than so long, if there is a limit.
async fn within<T>(limit: Option<Duration>, what: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => timeout(limit, what).await.ok(),
        None => Some(what.await),
    }
}

impl Reconciler {
    /// Gathers what deciding about a source needs. `wake` gets the other sources that an unseen change
    /// of this one concerns.
    pub(super) async fn gather(
        &self,
        key: &SourceKey,
        depth: Depth,
        wake: &mut Vec<SourceKey>,
    ) -> Result<Gathered<'_>, Moved> {
        let began = Instant::now();
        let tracked = self.index().get(key).cloned();
        let hint = tracked
            .as_ref()
            .filter(|tracked| tracked.deleting.is_none())
            .and_then(|tracked| tracked.hint.clone());
        let memory = tracked
            .as_ref()
            .map(|tracked| tracked.memory.clone())
            .unwrap_or_default();
        let forced = tracked
            .as_ref()
            .is_some_and(|t| t.force.is_some() && t.force != memory.force);
        let trust = tracked.as_ref().is_some_and(|t| t.trust) && !depth.is_full() && !forced;

        let left = tracked
            .as_ref()
            .and_then(|tracked| self.time_left_of(key, tracked));
        let named = tracked.as_ref().and_then(|tracked| tracked.hint.clone());
        let Locked {
            lock,
            held_up,
            mount,
            ids,
            lost,
        } = self
            .lock(key, left, named.as_ref(), depth.max(Depth::full_if(forced)))
            .await?;

        let unsettled = |id: &DocumentId| Some((id.clone(), self.unsettled_until(id)?));
        let unsettled = lock.ids().filter_map(unsettled).collect();
        let mut seen = HashMap::new();
        if let Some(Ok(mount)) = &mount {
            let unknown = ids
                .into_iter()
                .filter(|id| !trust || self.trusted(key, &memory, id).is_none());
            seen = self.look_at_all(mount, unknown).await;
            if self.doubts_mount(mount, &seen) {
                self.mounts.doubt(&mount.path);
            }
            if self.mounts.known(&mount.path).is_none() && self.is_another(mount).await {
                return Err(Moved);
            }
        }

        let mut gathered = Gathered {
            key: key.clone(),
            began,
            uid: tracked.as_ref().map(|tracked| tracked.uid.clone()),
            memory,
            forced,
            source: None,
            unreadable: None,
            ask: annotations::parse(&std::collections::BTreeMap::new()),
            wanted: Vec::new(),
            problems: Vec::new(),
            refused: None,
            admitted: None,
            seen,
            unsettled,
            lost,
            held_up,
            _lock: lock,
        };
        if self.nothing_is_wanted {
            return Ok(gathered);
        }
        let remembered = mount.as_ref().filter(|_| gathered.seen.is_empty());
        let source = self
            .read(key, remembered.and_then(|mount| mount.as_ref().ok()))
            .await;
        match source {
            Ok(source) => gathered.source = source,
            Err(error) => gathered.unreadable = Some(of_kubernetes(&error)),
        }
        let Some(source) = &gathered.source else {
            return Ok(gathered);
        };
        gathered.ask = annotations::parse(&source.annotations);
        gathered.uid = Some(source.uid.clone());

        // The watch may lag behind what we have just read, or have not come to it at all.
        let print = fingerprint(source, &self.digester);
        let news = self.index().observe(source, &gathered.ask, print);
        let changed = !news.is_empty();
        wake.extend(news.into_iter().filter(|other| other != key));
        let (now, full) = self.asked(source);
        let force = gathered.ask.force;
        let unforeseen = force.is_some() && force != gathered.memory.force && !forced;
        if now != hint
            || (unforeseen && !depth.is_full())
            // One that is being deleted, and that nobody had seen: its documents are not locked.
            || (tracked.is_none() && source.deleting.is_some())
            || (changed && tracked.is_some_and(|tracked| tracked.uid != source.uid))
        {
            return Err(Moved);
        }
        if now.is_some() {
            self.compile(&mut gathered, mount);
            gathered.problems.extend(full);
            self.share_out(&mut gathered);
        }
        Ok(gathered)
    }

    /// Reads the source. A write by what is remembered of a mount needs to know that it is the same still (see
    /// `ensure_versioned`): that is asked at the same time, and whatever comes of it, the write looks at that.
    async fn read(&self, key: &SourceKey, remembered: Option<&Mount>) -> Result<Option<Source>, kube::Error> {
        match remembered.filter(|mount| mount.version == KvVersion::V2) {
            Some(mount) => tokio::join!(self.kube.source(key), self.mounts.confirm(mount)).0,
            None => self.kube.source(key).await,
        }
    }

    /// Takes the locks of a pass, once and for all: of the documents that the source will want, as far as that can
    /// be foreseen, and of those that the ledger gives to it. `left`: it is being deleted, and may wait so long.
    async fn lock(
        &self,
        key: &SourceKey,
        left: Option<Duration>,
        hint: Option<&Hint>,
        depth: Depth,
    ) -> Result<Locked<'_>, Moved> {
        let held: Vec<DocumentId> = self.ledger.of(key).into_iter().map(|(id, _)| id).collect();
        let departing = left.is_some();
        // A source that is being deleted wants nothing. If the ledger knows nothing of it, it may have been lost.
        let foreseen = match hint.filter(|_| !departing || held.is_empty()) {
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

    /// How long the deletion of a source may still wait for Vault; `None`: it is not being deleted.
    fn time_left_of(&self, key: &SourceKey, tracked: &Tracked) -> Option<Duration> {
        Some(self.time_left(key, &tracked.uid, tracked.deleting?))
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
        may_trust(key, self.ledger.get(id).as_ref()).then_some(known)
    }

    /// What a live source asks for by the index, and why nothing of it counts, should its namespace ask for more
    /// than is kept.
    fn asked(&self, source: &Source) -> (Option<Hint>, Option<Problem>) {
        let index = self.index();
        let tracked = index.get(&source.key).filter(|_| source.deleting.is_none());
        let full = |count| Problem::NamespaceFull {
            namespace: source.key.namespace.to_string(),
            count,
            limit: index.most_documents(),
        };
        (
            tracked.and_then(|tracked| tracked.hint.clone()),
            tracked.and_then(|tracked| tracked.refused).map(full),
        )
    }

    /// What the source wants, or why that cannot be said.
    fn compile(&self, gathered: &mut Gathered<'_>, mount: Option<Result<Mount, Problem>>) {
        let Some(source) = &gathered.source else { return };
        gathered.problems = desired::mistakes(source, &gathered.ask);
        let wanted = match mount {
            Some(Ok(mount)) => desired::wanted(source, &gathered.ask, &mount, &self.settings, &self.policy),
            Some(Err(problem)) => Err(problem),
            None => return,
        };
        match wanted {
            Ok(wanted) if gathered.problems.is_empty() => gathered.wanted = wanted,
            Ok(_) => {}
            Err(problem) => gathered.problems.push(problem),
        }
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
    ) -> HashMap<DocumentId, Result<Observed, Problem>> {
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
        seen
    }

    /// Asks Vault again about a mount whose replies do not fit: whether it is not what it was.
    pub(super) async fn is_another(&self, mount: &Mount) -> bool {
        self.mounts.doubt(&mount.path);
        !matches!(self.mounts.resolve(&mount.path, Depth::Trusting).await, Ok(same) if same == *mount)
    }

    /// Whether a mount shows nothing where something of ours should be: it may have been made anew, with
    /// another version, of which its replies say nothing.
    fn doubts_mount(&self, mount: &Mount, seen: &HashMap<DocumentId, Result<Observed, Problem>>) -> bool {
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
