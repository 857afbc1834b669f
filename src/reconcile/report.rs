//! Telling people: Events on the source, one log line per fact, metrics; each state once.

use std::time::Duration;

use super::{Outcome, Run};
use crate::domain::document::DocumentId;
use crate::domain::problem::{Problem, Reason, Warning};
use crate::domain::source::SourceKey;
use crate::events::Note;
use crate::ledger::CommitError;
use crate::vault::{self, ErrorKind};

/// Vault's refusals that a change of its policy or mounts would cure, which nobody tells us of.
const SLOW_RETRY: Duration = Duration::from_mins(5);

/// What one pass has found out.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<(Option<DocumentId>, Problem)>,
    warnings: Vec<Warning>,
    created: Vec<DocumentId>,
    written: usize,
    drifted: Vec<DocumentId>,
    cleaned: Vec<DocumentId>,
    orphans: Vec<DocumentId>,
    /// How many Secrets the source names, when that is known.
    pub discovered: Option<usize>,
}

impl Report {
    pub fn problem(&mut self, id: Option<&DocumentId>, problem: Problem) {
        self.problems.push((id.cloned(), problem));
    }

    pub fn warning(&mut self, warning: Warning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    pub fn written(&mut self, id: &DocumentId, created: bool) {
        self.written += 1;
        if created {
            self.created.push(id.clone());
        }
    }

    pub fn drift(&mut self, id: &DocumentId) {
        self.drifted.push(id.clone());
    }

    pub fn cleaned(&mut self, id: &DocumentId) {
        self.cleaned.push(id.clone());
    }

    pub fn orphan(&mut self, id: &DocumentId) {
        self.orphans.push(id.clone());
    }

    /// What is wrong, in words that stay the same while it stays the same.
    fn lines(&self) -> Vec<(Reason, String)> {
        let problems = self.problems.iter().map(|(id, problem)| {
            let place = match id {
                Some(id) if !problem.to_string().contains(&id.to_string()) => format!("{id}: "),
                _ => String::new(),
            };
            (problem.reason(), format!("{place}{problem} — {}", problem.hint()))
        });
        problems
            .chain(
                self.warnings
                    .iter()
                    .map(|warning| (warning.reason(), warning.to_string())),
            )
            .collect()
    }
}

/// Vault's error in words for people.
pub(super) fn of_vault(error: &vault::Error) -> Problem {
    Problem::Vault {
        message: error.to_string(),
        hint: error.kind.hint().to_owned(),
        transient: error.kind.transient(),
        down: matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Sealed),
    }
}

/// Kubernetes' error in words for people.
pub(super) fn of_kubernetes(error: &crate::kube::Error) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: error.hint().to_owned(),
        transient: error.transient(),
    }
}

/// The ledger's error in words for people.
pub(super) fn of_ledger(error: &CommitError) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: "nothing new is written to Vault until the ledger is; documents that exist are still updated"
            .to_owned(),
        transient: true,
    }
}

impl Run<'_> {
    /// Tells what has come out, stores what was learnt, and says when to look again.
    pub(super) fn finish(mut self, mut wake: Vec<SourceKey>, took: Duration) -> Outcome {
        let key = self.gathered.key.clone();
        let source = self.gathered.source.take();
        let lines = self.report.lines();
        self.count(&key, took);
        for (reason, line) in &lines {
            if self.memory.told.contains(line) {
                continue;
            }
            if reason.is_warning() {
                tracing::warn!(source = %key, reason = reason.as_str(), "{line}");
            }
            self.tell(&key, *reason, line.clone());
        }
        let (ill, was) = (!self.report.problems.is_empty(), self.memory.healthy);
        if let Some(text) = self.good_news(ill) {
            self.tell(&key, Reason::Synced, text);
        }
        for (reason, ids, text) in [
            (
                Reason::DriftRepaired,
                &self.report.drifted,
                "had been changed or deleted in Vault; restored",
            ),
            (
                Reason::Cleaned,
                &self.report.cleaned,
                "deleted, since the source no longer asks for it",
            ),
            (
                Reason::PossibleOrphan,
                &self.report.orphans,
                "may be left over in Vault, and nothing proves that it is ours; look at it, and delete it by hand",
            ),
        ] {
            if !ids.is_empty() {
                self.tell(&key, reason, format!("{}: {text}", names(ids)));
            }
        }
        self.on.metrics.ownership_conflicts(
            &key,
            lines
                .iter()
                .filter(|(r, _)| *r == Reason::OwnershipConflict)
                .count(),
        );

        let transient = self
            .report
            .problems
            .iter()
            .any(|(_, problem)| problem.transient());
        let down = |problem: &Problem| matches!(problem, Problem::Vault { down: true, .. });
        let vault_down = self.report.problems.iter().any(|(_, problem)| down(problem));
        self.memory.told = lines.into_iter().map(|(_, line)| line).collect();
        self.memory.failures = if transient {
            self.memory.failures.saturating_add(1)
        } else {
            0
        };
        self.memory.healthy = if source.is_some() { Some(!ill) } else { was };
        if transient && !vault_down {
            self.look_again(crate::backoff::delay(self.memory.failures), false);
        } else if self
            .report
            .problems
            .iter()
            .any(|(_, problem)| matches!(problem, Problem::Vault { .. }))
        {
            self.look_again(SLOW_RETRY, false);
        }
        let asks = source.as_ref().is_some_and(|source| source.deleting.is_none())
            && self.gathered.ask.path.is_some();
        if asks {
            let periods = [self.gathered.ask.recheck, self.on.resync];
            if let Some(period) = periods.into_iter().flatten().min() {
                self.look_again(crate::backoff::shortened(period), true);
            }
        } else if self.on.ledger.of(&key).is_empty() && source.is_none() {
            self.on.metrics.forget(&key);
            self.again = None;
        }
        wake.append(&mut self.wake);
        match source {
            // It was a source, and is none any more: nothing of it is left to keep.
            Some(_) if !asks && !self.has_finalizer && self.on.ledger.of(&key).is_empty() => {
                self.on.metrics.forget(&key);
                self.on.index().forget(&key);
            }
            Some(source) => self.on.index().remember(&key, &source.uid, self.memory),
            None => {}
        }
        Outcome {
            again: self.again,
            wake,
            vault_down,
        }
    }

    /// What to say when all is well and that is news: documents came into being, or a failure is over.
    fn good_news(&self, ill: bool) -> Option<String> {
        let news = self.memory.healthy == Some(false) || !self.report.created.is_empty();
        if ill || !news || self.memory.documents.is_empty() {
            return None;
        }
        let mut ids: Vec<_> = self.memory.documents.keys().cloned().collect();
        ids.sort();
        Some(format!("Vault holds {}", names(&ids)))
    }

    fn tell(&self, key: &SourceKey, reason: Reason, text: String) {
        if let Some(uid) = &self.gathered.uid {
            self.on.events.publish(key, uid, &Note { reason, text });
        }
    }

    fn count(&self, key: &SourceKey, took: Duration) {
        let metrics = &self.on.metrics;
        if self.report.problems.is_empty() {
            metrics.sync_succeeded(key, took);
        } else {
            metrics.sync_failed(key, took);
        }
        if let Some(discovered) = self.report.discovered {
            metrics.secrets_discovered(key, discovered);
        }
        for (_, problem) in &self.report.problems {
            match problem {
                Problem::MissingSecret { .. } => metrics.secret_not_found(&key.namespace),
                Problem::MissingKey { .. } => metrics.secret_key_missing(&key.namespace),
                problem => {
                    if let Some(kind) = problem.config_error() {
                        metrics.config_parse_error(key, kind);
                    }
                }
            }
        }
        for kind in self.report.warnings.iter().filter_map(Warning::config_error) {
            metrics.config_parse_error(key, kind);
        }
    }
}

/// The first few documents by name, and how many more there are.
fn names(ids: &[DocumentId]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = ids.iter().take(SHOWN).map(ToString::to_string).collect();
    if ids.len() > SHOWN {
        text.push(format!("and {} more", ids.len() - SHOWN));
    }
    text.join(", ")
}
