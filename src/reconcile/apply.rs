//! What a pass does for a source as a whole: write the documents that it asks for, and remove the others.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::arrival::Bringing;
use super::departure::Leaving;
use super::observe::{Observation, within};
use super::outcome::{Findings, Moved, Outcome, Requeue};
use super::report::of_kubernetes;
use crate::kube;
use domain::annotations::{Ask, SECRET_VERSIONS};
use domain::document::DocumentId;
use domain::index::LastWord;
use domain::ledger::LedgerEntry;
use domain::plan::{Standing, leaving, may_clean};
use domain::problem::Problem;
use domain::settings::DeletionPolicy;
use domain::source::{Source, SourceKey};

/// How long to wait before looking again at documents that another source has locked.
const HELD_UP: Duration = Duration::from_secs(1);

/// What a pass is for.
#[derive(Clone, Copy)]
pub(super) enum Aim<'o> {
    /// The current state of the source is unknown.
    Nothing,
    /// It is paused, or has a problem as a whole: its documents in Vault stay as they are.
    Keep(&'o Source),
    /// It exists, and asks for something.
    Sync(&'o Source),
    /// It is gone, is being deleted, or no longer has a path.
    Leave(Option<&'o Source>),
}

/// Chooses what the pass is for, from the observed source.
pub(super) fn choose_aim<'o>(seen: &'o Observation<'_>) -> Aim<'o> {
    match &seen.source {
        _ if seen.unread => Aim::Nothing,
        Some(source) if seen.asks() && (seen.ask.paused || !seen.problems.is_empty()) => Aim::Keep(source),
        Some(source) if seen.asks() => Aim::Sync(source),
        source => Aim::Leave(source.as_ref()),
    }
}

impl Reconciler {
    /// Carries out the aim, as far as possible.
    pub(super) async fn apply(
        &self,
        seen: &Observation<'_>,
        aim: Aim<'_>,
        wake: &mut Vec<SourceKey>,
    ) -> Result<Findings, Moved> {
        let mut findings = Findings::of(seen);
        let result = match aim {
            Aim::Nothing => return Ok(findings),
            Aim::Keep(source) => {
                self.quotas.forget(&seen.key);
                self.note_pause(source, seen.ask.paused);
                Ok(())
            }
            Aim::Sync(source) => {
                self.note_pause(source, false);
                self.sync(seen, source, &mut findings).await
            }
            Aim::Leave(source) => {
                self.leave(seen, source, &mut findings).await;
                Ok(())
            }
        };
        self.look_whether_vault_is_down(&mut findings).await;
        let outcomes = findings.outcomes.iter_mut();
        wake.extend(outcomes.flat_map(|outcome| std::mem::take(&mut outcome.wake)));
        result.map(|()| findings)
    }

    /// Syncs a source that exists and asks for something. New documents are written before old ones are
    /// deleted.
    async fn sync(
        &self,
        seen: &Observation<'_>,
        source: &Source,
        findings: &mut Findings,
    ) -> Result<(), Moved> {
        let (admitted, refused) = self.share_out(seen, source);
        let wanted = seen.wanted.iter().filter(|wanted| !refused.contains(&wanted.id));
        let documents: Vec<_> = wanted
            .map(|wanted| Bringing {
                on: self,
                pass: seen,
                source,
                wanted,
            })
            .collect();
        self.announce(source, &documents).await;
        if let Some(admitted) = admitted {
            findings.outcomes[0].wake = admitted.release();
        }
        for document in &documents {
            if findings.vault_is_down {
                findings.outcomes.push(document.untouched());
                continue;
            }
            let has_finalizer = findings.has_finalizer;
            let outcome = findings.outcome(&document.wanted.id);
            outcome.finalizer = has_finalizer;
            document.bring(outcome).await?;
            findings.has_finalizer = outcome.finalizer;
            self.look_whether_vault_is_down(findings).await;
        }
        if !refused.is_empty() {
            findings
                .outcomes
                .push(self.quotas.full(&source.key.namespace, refused.len()).into());
            let untouched = |id| Outcome::untouched(id, self.standing_of_failed(&source.key, id), None);
            findings.outcomes.extend(refused.iter().map(untouched));
        }
        findings.discovered = Some(
            documents
                .iter()
                .map(|document| document.wanted.entries.len())
                .sum(),
        );
        findings.memory.force = seen.ask.force;
        let known = |outcome: &Outcome| Some((outcome.id.clone()?, outcome.known?));
        findings.memory.documents = findings.outcomes.iter().filter_map(known).collect();
        self.part(seen, findings).await;
        self.drop_predecessors_annotation(source).await;
        Ok(())
    }

    /// Removes what a source no longer asks for, once the documents that it asks for are in Vault.
    async fn part(&self, seen: &Observation<'_>, findings: &mut Findings) {
        let outcomes = findings.outcomes.iter();
        let standings = outcomes.filter_map(|outcome| Some((outcome.id.clone()?, outcome.standing?)));
        let (desired, standings): (HashSet<_>, Vec<_>) = standings.unzip();
        let entries = self.ledger.of(&seen.key);
        for (id, entry) in leaving(&entries, |id| desired.contains(id), may_clean(standings)) {
            // The policy from when the document was last wanted. If that is not `retain`, the current one
            // applies.
            let deletion = match entry.deletion {
                DeletionPolicy::Retain => DeletionPolicy::Retain,
                _ => self.deletion(&seen.ask),
            };
            let entry = &LedgerEntry {
                deletion,
                ..entry.clone()
            };
            let leaving = Leaving {
                on: self,
                depth: seen.depth,
                id,
                entry,
            };
            leaving.depart(findings.outcome(id)).await;
        }
    }

    /// Clears the documents of a source that is gone, is being deleted, or no longer has a path.
    async fn leave(&self, seen: &Observation<'_>, source: Option<&Source>, findings: &mut Findings) {
        findings.memory.documents.clear();
        if seen.held_up {
            self.remove_finalizer(source, findings).await;
            // The documents are deleted when the other source has released its locks.
            findings.look_again(Requeue::trusting(HELD_UP));
            return;
        }
        let left = self.deadline(source);
        let overdue = left == Some(Duration::ZERO);
        if overdue {
            // The deletes are still tried, but the object's deletion no longer waits for them.
            self.remove_finalizer(source, findings).await;
        }
        if let (Some(source), Some(left)) = (source, left) {
            // Limited by the source's deletion deadline. After that the source is deleted, whether or not the
            // ledger is recovered.
            let _ = within(Some(left), self.reclaim(seen, source)).await;
        }
        let entries = self.last_wishes(seen);
        // The object may be gone before this pass ends, so its last settings are stored first.
        let last_words = entries
            .iter()
            .map(|(id, entry)| (id.clone(), Some(entry.clone())));
        self.ledger.commit_later(last_words.collect());
        let clearing = self.clear(seen, &entries, findings);
        let done = within(left.filter(|_| !overdue), clearing).await.unwrap_or(false);
        match self.deadline(source) {
            _ if done => self.remove_finalizer(source, findings).await,
            Some(Duration::ZERO) => self.remove_finalizer(source, findings).await,
            Some(left) => findings.look_again(Requeue::trusting(left)),
            None => {}
        }
    }

    /// Removes all documents. Returns whether nothing is left to wait for.
    async fn clear(
        &self,
        seen: &Observation<'_>,
        entries: &[(DocumentId, LedgerEntry)],
        findings: &mut Findings,
    ) -> bool {
        let mut done = true;
        for (id, entry) in entries {
            let leaving = Leaving {
                on: self,
                depth: seen.depth,
                id,
                entry,
            };
            done &= leaving.depart(findings.outcome(id)).await;
            self.look_whether_vault_is_down(findings).await;
            if findings.vault_is_down {
                return false;
            }
        }
        done
    }

    /// The documents of a source that gives up all of them, each with its deletion policy. The source's
    /// current settings decide, or the last ones that the watch has shown, or else the ledger.
    fn last_wishes(&self, seen: &Observation<'_>) -> Vec<(DocumentId, LedgerEntry)> {
        let ask = &seen.ask;
        let word = match &seen.source {
            Some(_) => ask.path.is_some().then_some(LastWord {
                deletion: ask.deletion,
                paused: ask.paused,
            }),
            None => self.index().state(&seen.key).and_then(|state| state.last_word),
        };
        let retained = ask.paused || ask.deletion == Some(DeletionPolicy::Retain);
        let wish = |(id, entry): (DocumentId, LedgerEntry)| {
            let deletion = match word {
                _ if retained => DeletionPolicy::Retain,
                Some(LastWord { paused: true, .. }) => DeletionPolicy::Retain,
                Some(LastWord { deletion, .. }) => deletion.unwrap_or(self.settings.deletion),
                None if seen.source.is_none() && entry.paused => DeletionPolicy::Retain,
                None => entry.deletion,
            };
            (id, LedgerEntry { deletion, ..entry })
        };
        self.ledger.of(&seen.key).into_iter().map(wish).collect()
    }

    /// How long an object's deletion may still wait for Vault. `None`: it is not being deleted.
    fn deadline(&self, source: Option<&Source>) -> Option<Duration> {
        let source = source?;
        Some(self.time_left(&source.key, &source.uid, source.deleting?))
    }

    /// Removes the finalizer if it is there.
    async fn remove_finalizer(&self, source: Option<&Source>, findings: &mut Findings) {
        let Some(source) = source.filter(|_| findings.has_finalizer) else {
            return;
        };
        match self.kube.remove_finalizer(source).await {
            Ok(()) => findings.has_finalizer = false,
            Err(error) => findings.outcomes.push(of_kubernetes(&error).into()),
        }
    }

    /// Records all documents that are about to be created, in one commit.
    async fn announce(&self, source: &Source, documents: &[Bringing<'_>]) {
        let fresh = documents.iter().filter_map(Bringing::announcement);
        let fresh = fresh.map(|(id, entry)| (id, Some(entry))).collect();
        if let Err(error) = self.commit(&source.key, fresh).await {
            // Each document that needs it asks again, and reports it.
            tracing::debug!(source = %source.key, %error, "documents could not be announced");
        }
    }

    /// Records on all documents of the source whether it is paused: if it is deleted meanwhile, they stay.
    fn note_pause(&self, source: &Source, paused: bool) {
        let entries = self.ledger.of(&source.key).into_iter();
        let changes = entries.map(|(id, entry)| (id, Some(LedgerEntry { paused, ..entry })));
        self.ledger.commit_later(changes.collect());
    }

    async fn drop_predecessors_annotation(&self, source: &Source) {
        if source.annotations.contains_key(SECRET_VERSIONS)
            && let Err(error) = self.kube.drop_predecessors_annotation(source).await
            && matches!(error, kube::Error::Denied { .. } | kube::Error::Refused { .. })
        {
            tracing::debug!(source = %source.key, %error, "the predecessor's annotation stays");
        }
    }

    /// After an error that may affect one document or all of them, checks Vault's health. Without an answer,
    /// the pass ends early, because each further document would wait just as long.
    async fn look_whether_vault_is_down(&self, findings: &mut Findings) {
        let is_doubt = |problem: &Problem| matches!(problem, Problem::Vault { down: true, .. });
        let doubts = findings
            .problems()
            .filter(|(_, problem)| is_doubt(problem))
            .count();
        if doubts > findings.doubts && !findings.vault_is_down {
            findings.doubts = doubts;
            findings.vault_is_down = self.vault.health(Instant::now()).await.is_err();
        }
    }

    /// What happens to a source's documents when they are no longer wanted.
    pub(super) fn deletion(&self, ask: &Ask) -> DeletionPolicy {
        ask.deletion.unwrap_or(self.settings.deletion)
    }

    /// How a document that could not be written now affects the documents that are to be deleted.
    pub(super) fn standing_of_failed(&self, key: &SourceKey, id: &DocumentId) -> Standing {
        let stood = self.ledger.get(id).is_some_and(|entry| entry.stands_for(key));
        if stood { Standing::Stale } else { Standing::Missing }
    }
}
