//! What a pass does for a source as a whole: bring what it asks for, and take away what it does not.

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

/// After what time is looked again at documents that another source has at work.
const HELD_UP: Duration = Duration::from_secs(1);

/// What a pass is for.
#[derive(Clone, Copy)]
pub(super) enum Aim<'o> {
    /// Nothing is known of the source now.
    Nothing,
    /// It is paused, or something is wrong with it as a whole: what Vault holds for it stays.
    Keep(&'o Source),
    /// It is there, and asks for something.
    Sync(&'o Source),
    /// It is gone, is going, or has no path any more.
    Leave(Option<&'o Source>),
}

/// What the pass is for, by what was seen of the source.
pub(super) fn choose_aim<'o>(seen: &'o Observation<'_>) -> Aim<'o> {
    match &seen.source {
        _ if seen.unread => Aim::Nothing,
        Some(source) if seen.asks() && (seen.ask.paused || !seen.problems.is_empty()) => Aim::Keep(source),
        Some(source) if seen.asks() => Aim::Sync(source),
        source => Aim::Leave(source.as_ref()),
    }
}

impl Reconciler {
    /// Does it, as far as it can be done.
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

    /// A source that is there and asks for something. New documents stand before old ones go.
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

    /// Takes away what a source no longer asks for, if what it asks for now stands.
    async fn part(&self, seen: &Observation<'_>, findings: &mut Findings) {
        let outcomes = findings.outcomes.iter();
        let standings = outcomes.filter_map(|outcome| Some((outcome.id.clone()?, outcome.standing?)));
        let (desired, standings): (HashSet<_>, Vec<_>) = standings.unzip();
        let entries = self.ledger.of(&seen.key);
        for (id, entry) in leaving(&entries, |id| desired.contains(id), may_clean(standings)) {
            // The wish that was last said while it was wanted, or a stronger one now.
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

    /// A source that is gone, is going, or has no path any more.
    async fn leave(&self, seen: &Observation<'_>, source: Option<&Source>, findings: &mut Findings) {
        findings.memory.documents.clear();
        if seen.held_up {
            self.remove_finalizer(source, findings).await;
            // Its documents go when the other source has done with them.
            findings.look_again(Requeue::trusting(HELD_UP));
            return;
        }
        let left = self.deadline(source);
        let overdue = left == Some(Duration::ZERO);
        if overdue {
            // The deletes are tried all the same; they hold nobody up any more.
            self.remove_finalizer(source, findings).await;
        }
        if let (Some(source), Some(left)) = (source, left) {
            // Within the time that its deletion has; after that it goes, ledger or no ledger.
            let _ = within(Some(left), self.reclaim(seen, source)).await;
        }
        let entries = self.last_wishes(seen);
        // The source takes its last word with it, and what follows may not come to its end.
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

    /// Takes all documents away. Whether nothing is left to wait for.
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

    /// The documents of a source that leaves all of them, each with what shall happen to it: as the source says now,
    /// or said last as far as the watch has shown it; else the ledger remembers.
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

    /// How long an object's deletion may still wait for Vault; `None`: it is not being deleted.
    fn deadline(&self, source: Option<&Source>) -> Option<Duration> {
        let source = source?;
        Some(self.time_left(&source.key, &source.uid, source.deleting?))
    }

    /// Takes the finalizer off, where it is.
    async fn remove_finalizer(&self, source: Option<&Source>, findings: &mut Findings) {
        let Some(source) = source.filter(|_| findings.has_finalizer) else {
            return;
        };
        match self.kube.remove_finalizer(source).await {
            Ok(()) => findings.has_finalizer = false,
            Err(error) => findings.outcomes.push(of_kubernetes(&error).into()),
        }
    }

    /// Notes all documents that are about to be created, in one commit for all of them.
    async fn announce(&self, source: &Source, documents: &[Bringing<'_>]) {
        let fresh = documents.iter().filter_map(Bringing::announcement);
        let fresh = fresh.map(|(id, entry)| (id, Some(entry))).collect();
        if let Err(error) = self.commit(&source.key, fresh).await {
            // Each document that needs it asks again, and reports it.
            tracing::debug!(source = %source.key, %error, "documents could not be announced");
        }
    }

    /// Notes with all documents of the source whether it is paused: should it go meanwhile, they stay.
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

    /// After an error that may be one document's or all's: asks once more, and gives the pass up if
    /// there is no answer. Each of the other documents would wait as long as this one has.
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

    /// How a document that could not be brought to Vault now counts for those that are to go.
    pub(super) fn standing_of_failed(&self, key: &SourceKey, id: &DocumentId) -> Standing {
        let stood = self.ledger.get(id).is_some_and(|entry| entry.stands_for(key));
        if stood { Standing::Stale } else { Standing::Missing }
    }
}
