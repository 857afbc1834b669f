//! Writes one wanted document to Vault, in this order: ledger, finalizer, write, claim.

use super::Reconciler;
use super::observe::Observation;
use super::outcome::{Moved, News, Outcome, Requeue, Stop};
use super::report::{of_kubernetes, of_ledger};
use super::secrets::Made;
use crate::kube;
use crate::vault::{self, ErrorKind, Written};
use domain::desired::{Assembled, Wanted};
use domain::document::{Cas, Claim, DocumentId, KvVersion, Mark, Mount, Observed};
use domain::index::Remembered;
use domain::ledger::{LedgerEntry, State};
use domain::plan::{
    Act, Contender, Scene, Standing, Step, Wish, decide, foreign_whatever_it_holds, is_refuted, is_vain,
    title,
};
use domain::problem::{Owner, Problem};
use domain::queue::Depth;
use domain::settings::Adopt;
use domain::source::{Source, SourceKey};
use domain::value::{Content, Digest};

/// A wanted document in a pass.
#[derive(Clone, Copy)]
pub(super) struct Bringing<'a> {
    pub on: &'a Reconciler,
    pub pass: &'a Observation<'a>,
    pub source: &'a Source,
    pub wanted: &'a Wanted,
}

/// The sources that want the document, and its ledger entry.
struct Claimants {
    me: Contender,
    rivals: Vec<Contender>,
    entry: Option<LedgerEntry>,
}

impl Bringing<'_> {
    /// The outcome when the document was not tried.
    pub(super) fn untouched(&self) -> Outcome {
        let known = self.pass.memory.documents.get(self.id()).copied();
        Outcome::untouched(self.id(), self.standing_of_failed(), known)
    }

    /// The ledger entry for a document that is about to be created. `None` for a document with a Secret that
    /// is known not to exist: the document will not be created.
    pub(super) fn announcement(&self) -> Option<(DocumentId, LedgerEntry)> {
        let looked = self.pass.seen.get(self.id())?.as_ref().ok();
        let seen = looked.filter(|seen| seen.is_vacant() && !self.on.is_missing(self.source, self.wanted))?;
        let claimants = self.claimants(seen);
        let title = title(&self.scene(&claimants, seen)).ok()?;
        let entry = title.entry(&self.wish(seen), claimants.entry.as_ref());
        Some((self.id().clone(), entry))
    }

    /// Writes the document to Vault, and records the outcome.
    pub(super) async fn bring(&self, outcome: &mut Outcome) -> Result<(), Moved> {
        match self.try_to_bring(outcome).await {
            Ok(Some(known)) => {
                outcome.known = Some(known);
                outcome.standing = Some(Standing::Stands);
                return Ok(());
            }
            Ok(None) => {}
            Err(Stop::Moved) => return Err(Moved),
            Err(Stop::Problems(problems)) => {
                outcome.problems = problems;
                outcome.standing = Some(self.standing_of_failed());
            }
            Err(Stop::Conflict(problem)) => {
                outcome.problems.push(problem);
                outcome.standing = Some(Standing::Missing);
            }
        }
        self.withdraw();
        Ok(())
    }

    /// Returns what Vault holds afterwards. `None`: the document is not wanted now, because its optional
    /// Secret does not exist.
    async fn try_to_bring(&self, outcome: &mut Outcome) -> Result<Option<Remembered>, Stop> {
        let (on, pass) = (self.on, self.pass);
        // If the mount is recreated during this pass, the next pass does not trust what this pass has seen.
        let era = on.mounts.era(&self.id().mount);
        let trusted = !pass.depth.is_full() && pass.ask.trust;
        let remembered = on.trusted(&pass.key, &pass.memory, self.id()).filter(|_| trusted);
        if let Some(known) = remembered
            && self.inputs_by_watch() == Some(known.inputs)
        {
            self.keep_entry();
            return Ok(Some(known));
        }
        let seen = self.observed(remembered)?;
        // A remembered document already belongs to the source.
        if remembered.is_none() {
            self.ensure_possible(&seen)?;
        }
        let Made {
            assembled,
            versions,
            grant,
        } = on.make(self.source, self.wanted).await?;
        let content = match assembled {
            Assembled::Nothing => return Ok(None),
            Assembled::Problems(problems) => return Err(Stop::Problems(problems)),
            Assembled::Content { content, warnings } => {
                outcome.warnings = warnings;
                content
            }
        };
        let digest = on.digester.content(&content);
        let step = self.decide(&seen, digest)?;
        let version = self.carry_out(&seen, step, &content, outcome).await?;
        // What the Secrets held is not needed any more, and the next document wants the room.
        drop(content);
        drop(grant);
        self.note_drift(step, digest, outcome);
        let versions = versions
            .iter()
            .map(|(name, version)| (name.as_str(), version.as_str()));
        Ok(Some(Remembered {
            version,
            era,
            content: digest,
            inputs: self.inputs(versions),
        }))
    }

    /// What Vault holds at the document's path: from memory, or as this pass has seen it.
    fn observed(&self, remembered: Option<Remembered>) -> Result<Observed, Stop> {
        match (remembered, self.pass.seen.get(self.id())) {
            (Some(known), _) => Ok(self.by_memory(known)),
            (None, Some(seen)) => Ok(seen.clone()?),
            // The pass did not expect this document; the index has learned of it since.
            (None, None) => Err(Stop::Moved),
        }
    }

    fn by_memory(&self, known: Remembered) -> Observed {
        let mark = match self.wanted.version {
            KvVersion::V1 => Mark::Unreadable,
            KvVersion::V2 if self.takes_claims() => {
                let adopted = self.entry().is_some_and(|entry| entry.adopted);
                Mark::Claimed(self.on.identity.claim(&self.source.key, adopted))
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

    /// Stops before any Secret is fetched if no content could make the document the source's. The document is
    /// locked, and its owner waits.
    fn ensure_possible(&self, seen: &Observed) -> Result<(), Stop> {
        let claimants = self.claimants(seen);
        let Some(owner) = foreign_whatever_it_holds(&self.scene(&claimants, seen)) else {
            return Ok(());
        };
        tracing::debug!(source = %self.source.key, document = %self.id(), ?owner, "decided: it is another's");
        Err(self.conflict(claimants.entry.as_ref(), owner))
    }

    /// Decides who owns the document, and what to do about it.
    fn decide(&self, seen: &Observed, content: Digest) -> Result<Step, Stop> {
        let claimants = self.claimants(seen);
        let entry = claimants.entry.as_ref();
        let decided = decide(&self.scene(&claimants, seen), content);
        tracing::debug!(
            source = %self.source.key, document = %self.id(), decision = ?decided, version = seen.version(),
            ledger = entry.map(|entry| entry.state.as_str()), "decided",
        );
        decided.map_err(|owner| self.conflict(entry, owner))
    }

    /// The document has another owner. An announced document that turns out to be another owner's leaves the
    /// ledger, so that we do not delete it later.
    fn conflict(&self, entry: Option<&LedgerEntry>, owner: Owner) -> Stop {
        if entry.is_some_and(|entry| is_vain(&self.source.key, entry, &owner)) {
            self.enter(None);
        }
        Stop::Conflict(Problem::Conflict {
            document: self.id().clone(),
            owner: as_its_people_may_know(self.source, self.id(), owner),
        })
    }

    /// Carries out the decision, and returns the version that Vault then holds. Wakes the sources that held
    /// the document until now, even if a step fails.
    async fn carry_out(
        &self,
        seen: &Observed,
        step: Step,
        content: &Content,
        outcome: &mut Outcome,
    ) -> Result<u64, Stop> {
        let stood = self.standing_of_failed() == Standing::Stale;
        outcome.wake = self.losers(seen);
        let mut version = seen.version();
        for act in step.course(&self.source.key, self.entry().as_ref()) {
            match act {
                Act::Record => self.record(step, &self.wish(seen)).await?,
                Act::Restate => self.enter(Some(step.entry(&self.wish(seen), self.entry().as_ref()))),
                Act::Settle => self.settle(step, &self.wish(seen)),
                Act::Finalizer => self.ensure_finalizer(outcome).await?,
                Act::Write(cas) => {
                    let written = self.write(content, cas, seen, step, outcome).await?;
                    self.heed(seen, step, &written.mark).await?;
                    version = written.version;
                }
                Act::Claim => self.claim(step.title.adopted).await?,
            }
        }
        self.note_claim();
        if !stood {
            outcome.news.push(News::Acquired);
        }
        Ok(version)
    }

    /// Other sources of this cluster that held the document until now. What they remember of it is outdated,
    /// and their users need to know. A source that is gone and forgotten is left out.
    fn losers(&self, seen: &Observed) -> Vec<SourceKey> {
        let by_ledger = self.entry().map(|entry| entry.holder);
        let own = |claim: &&Claim| claim.cluster_id == self.on.identity.cluster_id;
        let by_claim = seen.claim().filter(own).map(|claim| claim.holder.clone());
        let index = self.on.index();
        let is_known = |key: &SourceKey| index.get(key).is_some() || index.state(key).is_some();
        let losers = by_ledger.into_iter().chain(by_claim);
        losers
            .filter(|holder| *holder != self.source.key && is_known(holder))
            .collect()
    }

    /// Records in the ledger that the document has been written.
    fn settle(&self, step: Step, wish: &Wish<'_>) {
        let entry = step.title.settled(wish, self.entry().as_ref());
        // Without a claim, only the ledger proves that the document is ours.
        if self.takes_claims() {
            self.enter_lazily(entry);
        } else {
            self.enter(Some(entry));
        }
    }

    /// Records the next step in the ledger: a document must be in the ledger before it is written.
    async fn record(&self, step: Step, wish: &Wish<'_>) -> Result<(), Problem> {
        let entry = step.entry(wish, self.entry().as_ref());
        let change = vec![(self.id().clone(), Some(entry))];
        self.on
            .commit(&self.source.key, change)
            .await
            .map_err(|error| of_ledger(&error))
    }

    /// Adds the finalizer if it is missing.
    async fn ensure_finalizer(&self, outcome: &mut Outcome) -> Result<(), Stop> {
        if outcome.finalizer || !self.on.settings.finalizers {
            return Ok(());
        }
        match self.on.kube.add_finalizer(self.source).await {
            Ok(()) => {
                outcome.finalizer = true;
                Ok(())
            }
            Err(error @ (kube::Error::Conflict(_) | kube::Error::NotFound { .. })) => {
                tracing::debug!(source = %self.source.key, %error, "the source has changed");
                Err(Stop::Moved)
            }
            Err(error) => Err(of_kubernetes(&error).into()),
        }
    }

    async fn write(
        &self,
        content: &Content,
        cas: Cas,
        seen: &Observed,
        step: Step,
        outcome: &mut Outcome,
    ) -> Result<Written, Stop> {
        let (on, id, mount) = (self.on, self.id(), self.wanted.mount());
        on.ensure_leading()?;
        self.ensure_versioned(&mount).await?;
        let open = on.open(id);
        match open.end(on.vault.write(&mount, id, content, cas).await) {
            Ok(written) => {
                on.mounts.vouch(&mount);
                tracing::info!(source = %self.source.key, document = %id, version = written.version, "document written");
                on.metrics.document_written(&self.source.key.namespace);
                Ok(written)
            }
            Err(error) if error.kind == ErrorKind::Mismatch => {
                let entry = self.entry().filter(|_| step.title.creating);
                if entry.is_some_and(|entry| is_refuted(&self.source.key, &entry)) {
                    self.enter(None);
                    if step.revives {
                        self.give_claim_back(&mount, seen, step).await;
                        return Err(self.conflict(None, Owner::Nobody));
                    }
                }
                Err(Stop::Moved)
            }
            Err(error) => {
                outcome.again = error.outcome_unknown.then(|| Requeue::full(on.late_window));
                Err(self.not_written(&mount, content, &error).await)
            }
        }
    }

    /// Handles a write that Vault refused or did not answer.
    async fn not_written(&self, mount: &Mount, content: &Content, error: &vault::Error) -> Stop {
        let (on, id) = (self.on, self.id());
        if matches!(
            error.kind,
            ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Bug
        ) {
            on.mounts.doubt(&id.mount);
            if let Ok(now) = on.mounts.resolve(&id.mount, Depth::Trusting).await
                && now != *mount
            {
                if error.outcome_unknown && now.version == KvVersion::V1 {
                    on.take_back(&now, id).await;
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

    /// Updates the ledger entry of a document that is up to date: only its source's UID and deletion policy
    /// can be new.
    fn keep_entry(&self) {
        if let Some(entry) = self.own_entry() {
            self.enter(Some(LedgerEntry {
                uid: self.source.uid.clone(),
                deletion: self.on.deletion(&self.pass.ask),
                ..entry
            }));
        }
    }

    /// Withdraws the announcement of a document that was not written. If another client creates the document
    /// first, our announcement must not count as a right to it.
    fn withdraw(&self) {
        let absent = matches!(self.pass.seen.get(self.id()), Some(Ok(seen)) if seen.is_vacant());
        let announced = self
            .own_entry()
            .is_some_and(|entry| entry.state == State::Creating);
        if absent && announced && self.on.unsettled_until(self.id()).is_none() {
            self.enter(None);
        }
    }

    /// Reports drift: Vault no longer held the content that we knew, and the wanted content has not changed.
    fn note_drift(&self, step: Step, content: Digest, outcome: &mut Outcome) {
        let before = self.pass.memory.documents.get(self.id());
        let same = before.is_some_and(|before| before.content == content);
        if same && self.pass.depth.is_full() && step.write.is_some() {
            outcome.news.push(News::DriftRepaired);
            self.on.metrics.drift_repaired(&self.source.key);
        }
    }

    fn claimants(&self, seen: &Observed) -> Claimants {
        let (source, entry) = (self.source, self.entry());
        let mut holders: Vec<_> = entry.iter().map(|entry| &entry.holder).collect();
        holders.extend(seen.claim().map(|claim| &claim.holder));
        let rivals = self
            .on
            .rivals(&source.key, &self.wanted.mount(), self.id(), &holders);
        let me = Contender {
            key: source.key.clone(),
            created: source.created,
            uid: source.uid.clone(),
            annotated: self.pass.ask.adopt,
        };
        Claimants { me, rivals, entry }
    }

    fn scene<'s>(&'s self, claimants: &'s Claimants, seen: &'s Observed) -> Scene<'s> {
        Scene {
            identity: &self.on.identity,
            me: &claimants.me,
            rivals: &claimants.rivals,
            entry: claimants.entry.as_ref(),
            seen,
            version: self.wanted.version,
            // A user who forces a sync may have just granted the permission.
            claims: self.takes_claims() || (self.pass.forced && self.wanted.version == KvVersion::V2),
            adopt: if self.wanted.may_adopt {
                self.on.settings.adopt
            } else {
                Adopt::Never
            },
        }
    }

    fn wish(&self, seen: &Observed) -> Wish<'_> {
        let ours = self.on.clock.seconds();
        Wish {
            holder: &self.source.key,
            uid: &self.source.uid,
            deletion: self.on.deletion(&self.pass.ask),
            // Vault's clock, because Vault also dates the document's creation. A clock ahead of ours may
            // belong to a server in between. The earlier time is safe: it gives us no document of another
            // owner.
            now: self.on.vault.clock().map_or(ours, |vaults| vaults.min(ours)),
            base: seen.base(),
            unsettled: self.pass.unsettled.contains_key(self.id()),
        }
    }

    fn standing_of_failed(&self) -> Standing {
        self.on.standing_of_failed(&self.source.key, self.id())
    }

    pub(super) fn takes_claims(&self) -> bool {
        self.on.takes_claims(self.id(), self.wanted.version)
    }

    pub(super) fn id(&self) -> &DocumentId {
        &self.wanted.id
    }

    /// The document's ledger entry now.
    fn entry(&self) -> Option<LedgerEntry> {
        self.on.ledger.get(self.id())
    }

    pub(super) fn own_entry(&self) -> Option<LedgerEntry> {
        self.entry().filter(|entry| entry.holder == self.source.key)
    }

    /// Changes the ledger entry without waiting for the commit; a crash may lose the change.
    fn enter(&self, entry: Option<LedgerEntry>) {
        self.on.ledger.commit_later(vec![(self.id().clone(), entry)]);
    }

    /// The same for what the document's claim says too.
    pub(super) fn enter_lazily(&self, entry: LedgerEntry) {
        let change = vec![(self.id().clone(), Some(entry))];
        self.on.ledger.commit_lazily(change);
    }
}

/// The owner of a document, as far as the source's users may know it. The log has all of it.
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
