//! Gathering: Vault first, then the source, then (in `apply`, one document at a time) its Secrets.

use std::collections::HashMap;
use std::time::Instant;

use super::locks::Guard;
use super::report::{of_kubernetes, of_vault};
use super::{Moved, Reconciler};
use crate::domain::annotations::{self, Ask};
use crate::domain::desired::{self, Hint, Wanted};
use crate::domain::document::{DocumentId, Mount};
use crate::domain::index::Memory;
use crate::domain::ledger::State;
use crate::domain::path;
use crate::domain::plan::Seen;
use crate::domain::problem::Problem;
use crate::domain::source::{Source, SourceKey};
use crate::domain::value::{Digest, Digester};
use crate::mounts::Fault;
use crate::vault::ErrorKind;

/// What is known before anything is decided.
pub(super) struct Gathered<'a> {
    pub key: SourceKey,
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
    /// What Vault showed of the wanted documents of which nothing is remembered.
    pub seen: HashMap<DocumentId, Result<Seen, Problem>>,
    /// Until when what was seen may still be changed by a late write of ours.
    pub unsettled: Option<Instant>,
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

impl Reconciler {
    /// Gathers what deciding about a source needs. `wake` gets the other sources that an unseen change
    /// of this one concerns.
    pub(super) async fn gather(
        &self,
        key: &SourceKey,
        recheck: bool,
        wake: &mut Vec<SourceKey>,
    ) -> Result<Gathered<'_>, Moved> {
        let tracked = self.index().get(key).cloned();
        let hint = tracked
            .as_ref()
            .filter(|tracked| !tracked.deleting)
            .and_then(|tracked| tracked.hint.clone());
        let memory = tracked
            .as_ref()
            .map(|tracked| tracked.memory.clone())
            .unwrap_or_default();
        let forced = tracked
            .as_ref()
            .is_some_and(|t| t.force.is_some() && t.force != memory.force);
        let trust = tracked.as_ref().is_some_and(|t| t.trust) && !recheck && !forced;

        let mount = match &hint {
            Some(hint) => self.mount_of(hint, recheck || forced).await,
            None => None,
        };
        let ids: Vec<DocumentId> = match (&hint, &mount) {
            (Some(hint), Some(Ok(mount))) => hint
                .places(key, mount, &self.settings)
                .map(|places| places.into_iter().map(|place| place.id).collect())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        let held = self.ledger.of(key).into_iter().map(|(id, _)| id);
        let lock = self
            .locks
            .acquire(ids.iter().cloned().chain(held).collect())
            .await;
        // Something may have been handed over to it while it waited.
        if self.ledger.of(key).iter().any(|(id, _)| !lock.covers(id)) {
            return Err(Moved);
        }

        let unsettled = lock.ids().iter().filter_map(|id| self.unsettled_until(id)).max();
        let mut seen = HashMap::new();
        if let Some(Ok(mount)) = &mount {
            let unknown = ids
                .into_iter()
                .filter(|id| !(trust && memory.documents.contains_key(id)));
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
            uid: tracked.as_ref().map(|tracked| tracked.uid.clone()),
            memory,
            forced,
            source: None,
            unreadable: None,
            ask: annotations::parse(&std::collections::BTreeMap::new()),
            wanted: Vec::new(),
            problems: Vec::new(),
            seen,
            unsettled,
            _lock: lock,
        };
        if self.nothing_is_wanted {
            return Ok(gathered);
        }
        match self.kube.source(key).await {
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
            || (unforeseen && !recheck)
            || (changed && tracked.is_some_and(|tracked| tracked.uid != source.uid))
        {
            return Err(Moved);
        }
        if now.is_some() {
            gathered.problems.clone_from(&gathered.ask.problems);
            match full {
                Some(full) => gathered.problems.push(full),
                None => self.compile(&mut gathered, mount),
            }
        }
        Ok(gathered)
    }

    /// What a live source asks for by the index, and why nothing of it counts, should its namespace be full.
    fn asked(&self, source: &Source) -> (Option<Hint>, Option<Problem>) {
        let index = self.index();
        let tracked = index.get(&source.key).filter(|_| source.deleting.is_none());
        let full = |count| Problem::NamespaceFull {
            namespace: source.key.namespace.clone(),
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
        let written = gathered.ask.path.as_deref().unwrap_or_default();
        if let Err(fault) = path::check(written) {
            gathered.problems.push(fault.into());
            return;
        }
        if let Err(problem) = desired::check_bounds(source, &gathered.ask) {
            gathered.problems.push(problem);
            return;
        }
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
    async fn mount_of(&self, hint: &Hint, recheck: bool) -> Option<Result<Mount, Problem>> {
        path::check(&hint.path).ok()?;
        let query = path::mount_query(&hint.path, &self.settings);
        Some(
            self.mounts
                .resolve(&query, recheck)
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
    ) -> HashMap<DocumentId, Result<Seen, Problem>> {
        let mut seen = HashMap::new();
        let mut down = None;
        for id in ids {
            let looked = match &down {
                Some(problem) => Err(Problem::clone(problem)),
                None => self.look(mount, &id).await,
            };
            if let Err(problem @ Problem::Vault { down: true, .. }) = &looked
                && down.is_none()
                && self.vault.health(tokio::time::Instant::now()).await.is_err()
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
        !matches!(self.mounts.resolve(&mount.path, false).await, Ok(same) if same == *mount)
    }

    /// Whether a mount shows nothing where something of ours should be: it may have been made anew, with
    /// another version, of which its replies say nothing.
    fn doubts_mount(&self, mount: &Mount, seen: &HashMap<DocumentId, Result<Seen, Problem>>) -> bool {
        let absent = seen.iter().filter(|(_, seen)| matches!(seen, Ok(Seen::Absent)));
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
    pub(super) async fn look(&self, mount: &Mount, id: &DocumentId) -> Result<Seen, Problem> {
        match self.vault.read(mount, id).await {
            Ok(observed) => Ok(Seen::of(observed, &self.digester)),
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
