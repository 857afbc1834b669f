//! Bringing wanted documents to Vault: ledger, finalizer, write, claim; in this order.

use super::report::{of_kubernetes, of_ledger};
use super::{Moved, Requeue, Run, Stop};
use crate::vault::{self, ErrorKind};
use domain::annotations::Ask;
use domain::desired::{Assembled, Wanted};
use domain::document::{Cas, Claim, DocumentId, KvVersion, Mark, Mount, Observed};
use domain::index::Remembered;
use domain::ledger::{LedgerEntry, State};
use domain::plan::{
    Act, Contender, Scene, Standing, Step, Title, Wish, decide, foreign_whatever_it_holds, is_refuted,
    is_vain, title,
};
use domain::problem::{Owner, Problem};
use domain::queue::Depth;
use domain::settings::Adopt;
use domain::source::{Source, SourceKey};
use domain::value::{Content, Digest};

/// What has become of a document without a problem.
enum Brought {
    /// Vault holds what it should.
    Stands,
    /// Its optional Secret is absent.
    NotWanted,
}

impl Run<'_> {
    /// Notes all documents that are about to be created, in one commit for all of them: but for those
    /// whose Secret is known to be missing, which will not be.
    pub(super) async fn announce(&mut self, source: &Source, wanted: &[Wanted], ask: &Ask) {
        let mut fresh = Vec::new();
        for wanted in wanted {
            let Some(Ok(seen @ (Observed::Absent | Observed::Deleted { .. }))) =
                self.gathered.seen.get(&wanted.id)
            else {
                continue;
            };
            if self.on.is_missing(source, wanted) {
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

    /// Brings one document to Vault. `None`: it is not wanted now, its optional Secret being absent.
    pub(super) async fn document(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
    ) -> Result<Option<Standing>, Moved> {
        let id = &wanted.id;
        let standing = match self.bring(source, ask, wanted).await {
            Ok(Brought::Stands) => return Ok(Some(Standing::Stands)),
            Ok(Brought::NotWanted) => None,
            Err(Stop::Moved) => return Err(Moved),
            Err(Stop::Problems(problems)) => Some(self.failed(id, problems)),
            Err(Stop::Conflict(problem)) => {
                self.failed(id, vec![problem]);
                Some(Standing::Missing)
            }
        };
        self.withdraw(id);
        Ok(standing)
    }

    async fn bring(&mut self, source: &Source, ask: &Ask, wanted: &Wanted) -> Result<Brought, Stop> {
        let (on, id) = (self.on, &wanted.id);
        let trusted = !self.depth.is_full() && ask.trust;
        let remembered = on.trusted(&source.key, &self.memory, id).filter(|_| trusted);
        if let Some(known) = remembered
            && self.inputs_by_watch(source, wanted) == Some(known.inputs)
        {
            self.keep_entry(source, ask, id);
            return Ok(Brought::Stands);
        }
        let seen = self.seen(source, wanted, remembered)?;
        // What is remembered is its own already.
        if remembered.is_none() {
            self.ensure_possible(source, wanted, &seen)?;
        }
        let made = self.make(source, wanted).await?;
        let content = match made.assembled {
            Assembled::Nothing => return Ok(Brought::NotWanted),
            Assembled::Problems(problems) => return Err(Stop::Problems(problems)),
            Assembled::Content { content, warnings } => {
                for warning in warnings {
                    self.report.warning(warning);
                }
                content
            }
        };
        let digest = on.digester.content(&content);
        let step = self.decide(source, wanted, &seen, digest)?;
        let before = self.memory.documents.get(id).copied();
        let version = self.carry_out(source, ask, wanted, &seen, step, &content).await?;
        // What the Secrets held is not needed any more, and the next document wants the room.
        drop(content);
        drop(made.share);
        self.note_drift(id, before, digest, step);
        let versions = made.versions.iter();
        let known = Remembered {
            version,
            content: digest,
            inputs: self.inputs(
                wanted,
                versions.map(|(name, version)| (name.as_str(), version.as_str())),
            ),
        };
        self.memory.documents.insert(id.clone(), known);
        Ok(Brought::Stands)
    }

    /// What Vault holds there: as it is remembered, or as this pass has seen it.
    fn seen(
        &self,
        source: &Source,
        wanted: &Wanted,
        remembered: Option<Remembered>,
    ) -> Result<Observed, Stop> {
        match (remembered, self.gathered.seen.get(&wanted.id)) {
            (Some(known), _) => Ok(self.seen_by_memory(source, wanted, known)),
            (None, Some(Ok(seen))) => Ok(seen.clone()),
            (None, Some(Err(problem))) => Err(problem.clone().into()),
            // It was not foreseen: the index has learnt of it since.
            (None, None) => Err(Stop::Moved),
        }
    }

    /// Stops before anything is fetched for a document that cannot be the source's, whatever it would hold: it
    /// is locked, and its owner waits.
    fn ensure_possible(&mut self, source: &Source, wanted: &Wanted, seen: &Observed) -> Result<(), Stop> {
        let entry = self.on.ledger.get(&wanted.id);
        let (me, rivals) = self.contenders(source, wanted, entry.as_ref(), seen);
        let owner = foreign_whatever_it_holds(&self.scene(&me, &rivals, entry.as_ref(), seen, wanted));
        owner.map_or(Ok(()), |owner| {
            tracing::debug!(source = %source.key, document = %wanted.id, ?owner, "decided: it is another's");
            Err(self.conflict(source, &wanted.id, entry.as_ref(), owner))
        })
    }

    fn conflict(
        &mut self,
        source: &Source,
        id: &DocumentId,
        entry: Option<&LedgerEntry>,
        owner: Owner,
    ) -> Stop {
        self.give_up(id, entry, &owner);
        Stop::Conflict(Problem::Conflict {
            document: id.clone(),
            owner: as_its_people_may_know(source, id, owner),
        })
    }

    /// Whose the document is, and what to do about it.
    fn decide(
        &mut self,
        source: &Source,
        wanted: &Wanted,
        seen: &Observed,
        content: Digest,
    ) -> Result<Step, Stop> {
        let id = &wanted.id;
        let entry = self.on.ledger.get(id);
        let (me, rivals) = self.contenders(source, wanted, entry.as_ref(), seen);
        let decided = decide(&self.scene(&me, &rivals, entry.as_ref(), seen, wanted), content);
        tracing::debug!(
            source = %source.key, document = %id, decision = ?decided, version = seen.version(),
            ledger = entry.as_ref().map(|entry| entry.state.as_str()), "decided",
        );
        decided.map_err(|owner| self.conflict(source, id, entry.as_ref(), owner))
    }

    /// Does what was decided, and returns the version that Vault then holds. Whoever held the document until now
    /// is woken, also when it was not done to the end.
    async fn carry_out(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
        seen: &Observed,
        step: Step,
        content: &Content,
    ) -> Result<u64, Stop> {
        let id = &wanted.id;
        let stood = self.standing_of_failed(id) == Standing::Stale;
        let losers = self.losers(id, seen);
        let outcome = self.run_course(source, ask, wanted, seen, step, content).await;
        self.wake.extend(losers);
        let version = outcome?;
        self.note_claim(wanted);
        if !stood {
            self.report.acquired(id);
        }
        Ok(version)
    }

    async fn run_course(
        &mut self,
        source: &Source,
        ask: &Ask,
        wanted: &Wanted,
        seen: &Observed,
        step: Step,
        content: &Content,
    ) -> Result<u64, Stop> {
        let id = &wanted.id;
        let mut version = seen.version();
        for act in step.course(&source.key, self.on.ledger.get(id).as_ref()) {
            let wish = self.wish(source, ask, id, seen);
            match act {
                Act::Record | Act::Restate | Act::Settle => self.note(act, step, &wish, id).await?,
                Act::Finalizer => self.ensure_finalizer(source).await?,
                Act::Write(cas) => version = self.write(source, wanted, content, cas, step.title).await?,
                Act::Claim => self.claim(source, id, step.title.adopted).await?,
            }
        }
        Ok(version)
    }

    /// Notes in the ledger what is about to be done, or what has been.
    async fn note(&self, act: Act, step: Step, wish: &Wish<'_>, id: &DocumentId) -> Result<(), Stop> {
        let ledger = &self.on.ledger;
        let before = ledger.get(id);
        let entry = match act {
            Act::Settle => step.title.settled(wish, before.as_ref()),
            _ => step.entry(wish, before.as_ref()),
        };
        let change = vec![(id.clone(), Some(entry))];
        if matches!(act, Act::Record) {
            // Nothing may be written of which the ledger does not know.
            return ledger
                .commit(change)
                .await
                .map_err(|error| of_ledger(&error).into());
        }
        ledger.commit_later(change);
        Ok(())
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
    fn losers(&self, id: &DocumentId, seen: &Observed) -> Vec<SourceKey> {
        let by_ledger = self.on.ledger.get(id).map(|entry| entry.holder);
        let own = |claim: &&Claim| claim.cluster_id == self.on.identity.cluster_id;
        let by_claim = seen.claim().filter(own).map(|claim| claim.holder.clone());
        let losers = by_ledger.into_iter().chain(by_claim);
        losers.filter(|holder| holder != self.key()).collect()
    }

    fn wish<'s>(&self, source: &'s Source, ask: &Ask, id: &DocumentId, seen: &Observed) -> Wish<'s> {
        let ours = self.on.clock.seconds();
        Wish {
            holder: &source.key,
            uid: &source.uid,
            deletion: self.deletion(ask),
            // By Vault's clock, with whose time of a document's creation it will be compared.
            // Where that is ahead of ours, it may be another server's in between: earlier lets in nobody else.
            now: self.on.vault.clock().map_or(ours, |vaults| vaults.min(ours)),
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
    ) -> Result<u64, Stop> {
        let (on, id) = (self.on, &wanted.id);
        on.ensure_leading()?;
        let mount = Mount {
            path: id.mount.clone(),
            version: wanted.version,
        };
        self.ensure_versioned(&mount, id).await?;
        let open = on.open(id);
        match open.end(on.vault.write(&mount, id, content, cas).await) {
            Ok(version) => {
                on.mounts.vouch(&mount);
                tracing::info!(source = %source.key, document = %id, version, "document written");
                on.metrics.document_written(&source.key.namespace);
                Ok(version)
            }
            Err(error) if error.kind == ErrorKind::Mismatch => {
                let entry = on.ledger.get(id).filter(|_| title.creating);
                if entry.is_some_and(|entry| is_refuted(&source.key, &entry)) {
                    on.ledger.commit_later(vec![(id.clone(), None)]);
                }
                Err(Stop::Moved)
            }
            Err(error) => Err(self.not_written(&mount, id, content, &error).await),
        }
    }

    /// What follows from a write that was refused, or has no answer.
    async fn not_written(
        &mut self,
        mount: &Mount,
        id: &DocumentId,
        content: &Content,
        error: &vault::Error,
    ) -> Stop {
        let on = self.on;
        if error.outcome_unknown {
            self.look_again(Requeue::full(on.late_window));
        }
        if matches!(
            error.kind,
            ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Bug
        ) {
            on.mounts.doubt(&id.mount);
            if let Ok(now) = on.mounts.resolve(&id.mount, Depth::Trusting).await
                && now != *mount
            {
                if error.outcome_unknown && now.version == KvVersion::V1 {
                    self.take_back(&now, id).await;
                }
                return Stop::Moved;
            }
        }
        let mut problem = on.vault_failed(error);
        if let Problem::Vault { message, .. } = &mut problem
            && error.kind == ErrorKind::TooLarge
        {
            let size = domain::value::size(content);
            *message = format!("{message}; its keys and values are {size} bytes");
        }
        problem.into()
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
            Some(Ok(Observed::Absent | Observed::Deleted { .. }))
        );
        let ledger = &self.on.ledger;
        let announced = ledger
            .get(id)
            .is_some_and(|entry| entry.holder == *self.key() && entry.state == State::Creating);
        if absent && announced && self.on.unsettled_until(id).is_none() {
            ledger.commit_later(vec![(id.clone(), None)]);
        }
    }

    /// Puts the finalizer on, where it is not.
    async fn ensure_finalizer(&mut self, source: &Source) -> Result<(), Stop> {
        if self.has_finalizer || !self.on.settings.finalizers {
            return Ok(());
        }
        match self.on.kube.add_finalizer(source).await {
            Ok(()) => {
                self.has_finalizer = true;
                Ok(())
            }
            Err(error @ (crate::kube::Error::Conflict(_) | crate::kube::Error::NotFound { .. })) => {
                tracing::debug!(source = %source.key, %error, "the source has changed");
                Err(Stop::Moved)
            }
            Err(error) => Err(of_kubernetes(&error).into()),
        }
    }

    fn seen_by_memory(&self, source: &Source, wanted: &Wanted, known: Remembered) -> Observed {
        let mark = match wanted.version {
            KvVersion::V1 => Mark::Unreadable,
            KvVersion::V2 if self.on.takes_claims(&wanted.id, wanted.version) => {
                let adopted = self.on.ledger.get(&wanted.id).is_some_and(|entry| entry.adopted);
                Mark::Claimed(self.on.identity.claim(&source.key, adopted))
            }
            KvVersion::V2 => Mark::Unclaimed,
        };
        Observed::Live {
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
        seen: &Observed,
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
        seen: &'s Observed,
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
        if self.depth.is_full() && step.write.is_some() && before.content == content {
            self.report.drift(id);
            self.on.metrics.drift_repaired(self.key());
        }
    }

    /// It could not be brought to Vault now.
    fn failed(&mut self, id: &DocumentId, problems: Vec<Problem>) -> Standing {
        self.memory.documents.remove(id);
        for problem in problems {
            self.report.problem(Some(id), problem);
        }
        self.standing_of_failed(id)
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
