//! Bringing wanted documents to Vault: ledger, finalizer, write, claim; in this order.

use super::inputs::Made;
use super::report::{of_kubernetes, of_ledger};
use super::{Moved, Reconciler, Run, now};
use crate::vault::ErrorKind;
use domain::annotations::Ask;
use domain::desired::{Assembled, Wanted};
use domain::document::{Cas, Claim, DocumentId, KvVersion, Mark, Mount};
use domain::index::Remembered;
use domain::ledger::{LedgerEntry, State};
use domain::plan::{
    Act, Contender, Scene, Seen, Standing, Step, Title, Wish, decide, is_refuted, is_vain, title,
};
use domain::problem::{Owner, Problem};
use domain::settings::Adopt;
use domain::source::{Kind, Source, SourceKey};
use domain::value::{Content, Digest};

impl Run<'_> {
    /// Notes all documents that are about to be created, in one commit for all of them: but for those
    /// whose Secret is known to be missing, which will not be.
    pub(super) async fn announce(&mut self, source: &Source, wanted: &[Wanted], ask: &Ask) {
        let mut fresh = Vec::new();
        for wanted in wanted {
            let Some(Ok(seen @ (Seen::Absent | Seen::Deleted { .. }))) = self.gathered.seen.get(&wanted.id)
            else {
                continue;
            };
            if self.is_missing(source, wanted) {
                continue;
            }
            let entry = self.on.ledger.get(&wanted.id);
            let (me, rivals) = self.contenders(source, wanted, entry.as_ref(), seen);
            if let Ok(title) = title(&self.scene(&me, &rivals, entry.as_ref(), seen, wanted)) {
                let entry = title.entry(&self.wish(source, ask, &wanted.id, seen), entry.as_ref());
                fresh.push((wanted.id.clone(), Some(entry)));
            }
        }
        if let Err(error) = self.on.ledger.commit(fresh).await {
            // Each document that needs it asks again, and reports it.
            tracing::debug!(source = %source.key, %error, "documents could not be announced");
        }
    }

    fn is_missing(&self, source: &Source, wanted: &Wanted) -> bool {
        let index = self.on.index();
        let mut names = wanted.entries.iter().map(|entry| &entry.name);
        names.any(|name| index.is_missing(&source.key.namespace, name))
    }

    /// Brings one document to Vault. `None`: it is not wanted now, its optional Secret being absent.
    pub(super) async fn document(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
    ) -> Result<Option<Standing>, Moved> {
        let standing = self.bring(source, ask, wanted).await?;
        if standing != Some(Standing::Stands) {
            self.withdraw(&wanted.id);
        }
        Ok(standing)
    }

    async fn bring(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
    ) -> Result<Option<Standing>, Moved> {
        let (on, id) = (self.on, &wanted.id);
        let trusted = !self.recheck && ask.trust;
        let remembered = on.trusted(&source.key, &self.memory, id).filter(|_| trusted);
        if let Some(known) = remembered
            && self.inputs_by_watch(source, wanted) == Some(known.inputs)
        {
            self.keep_entry(source, ask, id);
            return Ok(Some(Standing::Stands));
        }
        let seen = match (remembered, self.gathered.seen.get(id)) {
            (Some(known), _) => self.seen_by_memory(source, wanted, known),
            (None, Some(Ok(seen))) => seen.clone(),
            (None, Some(Err(problem))) => {
                let problem = problem.clone();
                return Ok(Some(self.failed(id, problem)));
            }
            // It was not foreseen: the index has learnt of it since.
            (None, None) => return Err(Moved),
        };

        let Made {
            assembled,
            mut versions,
            share,
        } = match self.make(source, wanted).await {
            Ok(made) => made,
            Err(problems) => return Ok(Some(self.all_failed(id, problems))),
        };
        let itself = if source.key.kind == Kind::Secret {
            versions.get_mut(&*source.key.name)
        } else {
            None
        };
        let content = match assembled {
            Assembled::Nothing => return Ok(None),
            Assembled::Problems(problems) => return Ok(Some(self.all_failed(id, problems))),
            Assembled::Content { content, warnings } => {
                for warning in warnings {
                    self.report.warning(warning);
                }
                content
            }
        };
        let digest = on.digester.content(&content);
        let entry = on.ledger.get(id);
        let (me, rivals) = self.contenders(source, wanted, entry.as_ref(), &seen);
        let decided = decide(&self.scene(&me, &rivals, entry.as_ref(), &seen, wanted), digest);
        tracing::debug!(
            source = %source.key, document = %id, decision = ?decided, version = seen.version(),
            ledger = entry.as_ref().map(|entry| entry.state.as_str()), "decided",
        );
        let step = match decided {
            Ok(step) => step,
            Err(owner) => {
                self.give_up(id, entry.as_ref(), &owner);
                let owner = as_its_people_may_know(source, id, owner);
                let problem = Problem::Conflict {
                    document: id.clone(),
                    owner,
                };
                self.failed(id, problem);
                // Whatever the ledger says of it.
                return Ok(Some(Standing::Missing));
            }
        };
        let before = self.memory.documents.get(id).copied();
        let result = self
            .carry_out(source, ask, wanted, &seen, step, &content, itself)
            .await?;
        // What the Secrets held is not needed any more, and the next document wants the room.
        drop(content);
        drop(share);
        match result {
            Err(problem) => Ok(Some(self.failed(id, problem))),
            Ok(version) => {
                let inputs = self.inputs(
                    wanted,
                    versions
                        .iter()
                        .map(|(name, version)| (name.as_str(), version.as_str())),
                );
                self.note_drift(id, before, digest, step);
                self.memory.documents.insert(
                    id.clone(),
                    Remembered {
                        version,
                        content: digest,
                        inputs,
                    },
                );
                Ok(Some(Standing::Stands))
            }
        }
    }

    /// Does what was decided, and returns the version that Vault then holds.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that was gathered and decided about one document"
    )]
    async fn carry_out(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
        seen: &Seen,
        step: Step,
        content: &Content,
        mut itself: Option<&mut String>,
    ) -> Result<Result<u64, Problem>, Moved> {
        let (id, ledger) = (&wanted.id, &self.on.ledger);
        let stood = self.standing_of_failed(id) == Standing::Stale;
        let losers = self.losers(id, seen);
        let mut version = seen.version();
        for act in step.course(&source.key, ledger.get(id).as_ref()) {
            let wish = self.wish(source, ask, id, seen);
            let done = match act {
                Act::Record => {
                    let entry = step.entry(&wish, ledger.get(id).as_ref());
                    let stored = ledger.commit(vec![(id.clone(), Some(entry))]).await;
                    stored.map_err(|error| of_ledger(&error))
                }
                Act::Restate => {
                    let entry = step.entry(&wish, ledger.get(id).as_ref());
                    ledger.commit_later(vec![(id.clone(), Some(entry))]);
                    Ok(())
                }
                Act::Settle => {
                    let entry = step.title.settled(&wish, ledger.get(id).as_ref());
                    ledger.commit_later(vec![(id.clone(), Some(entry))]);
                    Ok(())
                }
                Act::Finalizer => self.ensure_finalizer(source, itself.as_deref_mut()).await?,
                Act::Write(cas) => {
                    let written = self.write(source, wanted, content, cas, step.title).await?;
                    written.map(|new| version = new)
                }
                Act::Claim => self.claim(source, id, step.title.adopted).await,
            };
            if let Err(problem) = done {
                self.wake.extend(losers);
                return Ok(Err(problem));
            }
        }
        self.wake.extend(losers);
        self.note_claim(wanted);
        if !stood {
            self.report.acquired(id);
        }
        Ok(Ok(version))
    }

    /// The document stands, and carries our claim if it can carry one.
    fn note_claim(&self, wanted: &Wanted) {
        let (on, id) = (self.on, &wanted.id);
        let claimed = on.takes_claims(id, wanted.version);
        let entry = on.ledger.get(id);
        if let Some(entry) = entry.filter(|entry| entry.holder == *self.key() && entry.claimed != claimed) {
            on.ledger
                .commit_later(vec![(id.clone(), Some(LedgerEntry { claimed, ..entry }))]);
        }
    }

    /// Other sources of this cluster that held the document until now: what they remember of it is true no
    /// longer, and their people should know.
    fn losers(&self, id: &DocumentId, seen: &Seen) -> Vec<SourceKey> {
        let by_ledger = self.on.ledger.get(id).map(|entry| entry.holder);
        let own = |claim: &&Claim| claim.cluster_id == self.on.identity.cluster_id;
        let by_claim = seen.claim().filter(own).map(|claim| claim.holder.clone());
        let losers = by_ledger.into_iter().chain(by_claim);
        losers.filter(|holder| holder != self.key()).collect()
    }

    fn wish<'s>(&self, source: &'s Source, ask: &Ask, id: &DocumentId, seen: &Seen) -> Wish<'s> {
        Wish {
            holder: &source.key,
            uid: &source.uid,
            deletion: self.deletion(ask),
            // By Vault's clock, with whose time of a document's creation it will be compared.
            // Where that is ahead of ours, it may be another server's in between: earlier lets in nobody else.
            now: self.on.vault.clock().map_or_else(now, |vaults| vaults.min(now())),
            base: seen.base(),
            unsettled: self.gathered.unsettled.contains_key(id),
        }
    }

    async fn write(
        &mut self,
        source: &Source,
        wanted: &Wanted,
        content: &Content,
        cas: Cas,
        title: Title,
    ) -> Result<Result<u64, Problem>, Moved> {
        let (on, id) = (self.on, &wanted.id);
        if let Err(problem) = on.ensure_leading() {
            return Ok(Err(problem));
        }
        let mount = Mount {
            path: id.mount.clone(),
            version: wanted.version,
        };
        if let Err(problem) = self.ensure_versioned(&mount, id).await? {
            return Ok(Err(problem));
        }
        let open = on.open(id);
        match open.end(on.vault.write(&mount, id, content, cas).await) {
            Ok(version) => {
                on.mounts.vouch(&mount);
                tracing::info!(source = %source.key, document = %id, version, "document written");
                on.metrics.document_written(&source.key.namespace);
                Ok(Ok(version))
            }
            Err(error) if error.kind == ErrorKind::Mismatch => {
                let entry = on.ledger.get(id).filter(|_| title.creating);
                if entry.is_some_and(|entry| is_refuted(&source.key, &entry)) {
                    on.ledger.commit_later(vec![(id.clone(), None)]);
                }
                Err(Moved)
            }
            Err(error) => {
                if error.outcome_unknown {
                    self.look_again(on.late_window, true);
                }
                if matches!(
                    error.kind,
                    ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Bug
                ) {
                    on.mounts.doubt(&id.mount);
                    if let Ok(now) = on.mounts.resolve(&id.mount, false).await
                        && now != mount
                    {
                        if error.outcome_unknown && now.version == KvVersion::V1 {
                            self.take_back(&now, id).await;
                        }
                        return Err(Moved);
                    }
                }
                let mut problem = on.vault_failed(&error);
                if let Problem::Vault { message, .. } = &mut problem
                    && error.kind == ErrorKind::TooLarge
                {
                    let size = domain::value::size(content);
                    *message = format!("{message}; its keys and values are {size} bytes");
                }
                Ok(Err(problem))
            }
        }
    }

    /// Puts our claim on a document. Where a policy denies metadata, the document is claimless: sync goes on,
    /// and rests on the ledger.
    async fn claim(&mut self, source: &Source, id: &DocumentId, adopted: bool) -> Result<(), Problem> {
        let on = self.on;
        on.ensure_leading()?;
        let claim: Claim = on.identity.claim(&source.key, adopted);
        let open = on.open(id);
        match open.end(on.vault.patch_metadata(id, &claim.patch()).await) {
            Ok(()) => {
                on.notes.claimless().forget(id);
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Denied || error.status == Some(405) => {
                if on.notes.claimless().deny(id) {
                    tracing::warn!(
                        document = %id, %error,
                        "the document carries no claim, and perhaps others of its mount do not either: grant create, \
                         read, update and patch on metadata/ to tell other clusters' documents apart"
                    );
                }
                Ok(())
            }
            Err(error) => Err(on.vault_failed(&error)),
        }
    }

    /// A document that is as it should be: only the wish about its deletion may be news.
    fn keep_entry(&self, source: &Source, ask: &Ask, id: &DocumentId) {
        if let Some(entry) = self.on.ledger.get(id).filter(|entry| entry.holder == source.key) {
            let entry = LedgerEntry {
                uid: source.uid.clone(),
                deletion: self.deletion(ask),
                ..entry
            };
            self.on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
        }
    }

    /// Notes with all documents of the source whether it is paused.
    pub(super) fn note_pause(&self, source: &Source, paused: bool) {
        let entries = self.on.ledger.of(&source.key).into_iter();
        let changes = entries.map(|(id, entry)| (id, Some(LedgerEntry { paused, ..entry })));
        self.on.ledger.commit_later(changes.collect());
    }

    /// What was announced and turned out to be somebody else's is not ours to delete later.
    fn give_up(&mut self, id: &DocumentId, entry: Option<&LedgerEntry>, owner: &Owner) {
        self.memory.documents.remove(id);
        if entry.is_some_and(|entry| is_vain(self.key(), entry, owner)) {
            self.on.ledger.commit_later(vec![(id.clone(), None)]);
        }
    }

    /// What was announced and has not been written is not ours: should somebody else create it
    /// before we do, our intention must not pass for a right to it.
    fn withdraw(&mut self, id: &DocumentId) {
        let absent = matches!(
            self.gathered.seen.get(id),
            Some(Ok(Seen::Absent | Seen::Deleted { .. }))
        );
        let ledger = &self.on.ledger;
        let announced = ledger
            .get(id)
            .is_some_and(|entry| entry.holder == *self.key() && entry.state == State::Creating);
        if absent && announced && self.on.unsettled_until(id).is_none() {
            ledger.commit_later(vec![(id.clone(), None)]);
        }
    }

    /// Puts the finalizer on, where it is not. `itself`: the resourceVersion at which a Secret that is its own
    /// source was fetched. Our patch makes a new one of it, which is no news to anybody.
    async fn ensure_finalizer(
        &mut self,
        source: &Source,
        itself: Option<&mut String>,
    ) -> Result<Result<(), Problem>, Moved> {
        if self.has_finalizer || !self.on.settings.finalizers {
            return Ok(Ok(()));
        }
        let SourceKey { namespace, name, .. } = &source.key;
        let patched = match itself {
            None => self.on.kube.add_finalizer(source, None).await,
            Some(version) => {
                let patching = Patching::begin(self.on, namespace, name);
                let patched = self.on.kube.add_finalizer(source, Some(version)).await;
                let new = patched.as_ref().ok().and_then(|new| new.as_deref());
                self.wake.extend(patching.end(new));
                if let Some(new) = new {
                    new.clone_into(version);
                }
                patched
            }
        };
        match patched {
            Ok(_) => {
                self.has_finalizer = true;
                Ok(Ok(()))
            }
            Err(error @ (crate::kube::Error::Conflict(_) | crate::kube::Error::NotFound { .. })) => {
                tracing::debug!(source = %source.key, %error, "the source has changed");
                Err(Moved)
            }
            Err(error) => Ok(Err(of_kubernetes(&error))),
        }
    }

    fn seen_by_memory(&self, source: &Source, wanted: &Wanted, known: Remembered) -> Seen {
        let mark = match wanted.version {
            KvVersion::V1 => Mark::Unreadable,
            KvVersion::V2 if self.on.takes_claims(&wanted.id, wanted.version) => {
                let adopted = self.on.ledger.get(&wanted.id).is_some_and(|entry| entry.adopted);
                Mark::Claimed(self.on.identity.claim(&source.key, adopted))
            }
            KvVersion::V2 => Mark::Unclaimed,
        };
        Seen::Live {
            version: known.version,
            created: 0,
            content: Some(known.content),
            mark,
        }
    }

    fn contenders(
        &self,
        source: &Source,
        wanted: &Wanted,
        entry: Option<&LedgerEntry>,
        seen: &Seen,
    ) -> (Contender, Vec<Contender>) {
        let mut holders: Vec<_> = entry.map(|entry| &entry.holder).into_iter().collect();
        holders.extend(seen.claim().map(|claim| &claim.holder));
        let me = Contender {
            key: source.key.clone(),
            created: source.created,
            uid: source.uid.clone(),
            annotated: self.gathered.ask.adopt,
        };
        let mount = Mount {
            path: wanted.id.mount.clone(),
            version: wanted.version,
        };
        (me, self.on.rivals(&source.key, &mount, &wanted.id, &holders))
    }

    fn scene<'s>(
        &'s self,
        me: &'s Contender,
        rivals: &'s [Contender],
        entry: Option<&'s LedgerEntry>,
        seen: &'s Seen,
        wanted: &Wanted,
    ) -> Scene<'s> {
        Scene {
            identity: &self.on.identity,
            me,
            rivals,
            entry,
            seen,
            version: wanted.version,
            // Whoever asks for a sync by hand may just have granted the right.
            claims: self.on.takes_claims(&wanted.id, wanted.version)
                || (self.gathered.forced && wanted.version == KvVersion::V2),
            adopt: if wanted.may_adopt {
                self.on.settings.adopt
            } else {
                Adopt::Never
            },
        }
    }

    /// Vault no longer held what we knew it to hold, and should hold it still.
    fn note_drift(&mut self, id: &DocumentId, before: Option<Remembered>, content: Digest, step: Step) {
        let Some(before) = before else { return };
        if self.recheck && step.write.is_some() && before.content == content {
            self.report.drift(id);
            self.on.metrics.drift_repaired(self.key());
        }
    }

    fn failed(&mut self, id: &DocumentId, problem: Problem) -> Standing {
        self.all_failed(id, vec![problem])
    }

    fn all_failed(&mut self, id: &DocumentId, problems: Vec<Problem>) -> Standing {
        self.memory.documents.remove(id);
        for problem in problems {
            self.report.problem(Some(id), problem);
        }
        self.standing_of_failed(id)
    }
}

/// While a Secret is patched by us: what the watch shows of it is held back. That ends also when the patch is
/// cut off.
struct Patching<'a> {
    on: &'a Reconciler,
    namespace: &'a str,
    name: &'a str,
    ended: bool,
}

impl<'a> Patching<'a> {
    fn begin(on: &'a Reconciler, namespace: &'a str, name: &'a str) -> Self {
        on.index().patching(namespace, name);
        Self {
            on,
            namespace,
            name,
            ended: false,
        }
    }

    /// The patch was answered with this new version (`None`: it failed). Who has to know.
    fn end(mut self, version: Option<&str>) -> Vec<SourceKey> {
        self.ended = true;
        self.on.index().patched(self.namespace, self.name, version)
    }
}

impl Drop for Patching<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Nobody here can wake them: whoever cut the pass off asks for them.
            let woken = self.on.index().patched(self.namespace, self.name, None);
            self.on.notes.missed().extend(woken);
        }
    }
}

/// Whose a document is, as far as the source's people may know; the log knows all of it.
fn as_its_people_may_know(source: &Source, id: &DocumentId, owner: Owner) -> Owner {
    match owner {
        Owner::Source(holder) if holder.namespace != source.key.namespace => {
            tracing::warn!(source = %source.key, document = %id, %holder, "the document belongs to another namespace's source");
            Owner::Elsewhere
        }
        Owner::Cluster(cluster) => {
            tracing::warn!(source = %source.key, document = %id, cluster, "the document belongs to another cluster");
            Owner::Cluster(String::new())
        }
        Owner::Tool(manager) => {
            tracing::warn!(source = %source.key, document = %id, manager, "another tool manages the document");
            Owner::Tool(String::new())
        }
        owner => owner,
    }
}
