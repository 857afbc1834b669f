//! What a pass has found out, what follows from it for the next one, and metrics. How people are told: [`super::tell`].

use std::time::Duration;
use tokio::time::Instant;

use super::tell::{HeldBack, Line};
use super::{Outcome, Requeue, Run};
use crate::events::ONE_MORE_AFTER;
use crate::ledger::CommitError;
use crate::vault;
use domain::document::DocumentId;
use domain::index::Mistakes;
use domain::problem::{Problem, Reason, Retry, Warning};
use domain::queue::Depth;
use domain::source::SourceKey;

/// Refusals that a change of policies, mounts or Roles would cure, which nobody tells us of.
const SLOW_RETRY: Duration = Duration::from_mins(5);

/// What one pass has found out.
#[derive(Default)]
pub(super) struct Report {
    pub(super) problems: Vec<(Option<DocumentId>, Problem)>,
    warnings: Vec<Warning>,
    pub(super) acquired: Vec<DocumentId>,
    pub(super) drifted: Vec<DocumentId>,
    pub(super) cleaned: Vec<DocumentId>,
    pub(super) orphans: Vec<DocumentId>,
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

    /// What is wrong with the source by what it says alone.
    pub fn mistakes(&mut self, mistakes: &Mistakes) {
        for problem in &mistakes.problems {
            self.problem(None, problem.clone());
        }
        for warning in &mistakes.warnings {
            self.warning(warning.clone());
        }
    }

    /// A document came to the source: created, adopted or taken over.
    pub fn acquired(&mut self, id: &DocumentId) {
        self.acquired.push(id.clone());
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

    /// How many of the problems may mean that Vault is down.
    pub fn doubts_vault(&self) -> usize {
        self.problems
            .iter()
            .filter(|(_, problem)| matches!(problem, Problem::Vault { down: true, .. }))
            .count()
    }

    /// Whether there is such a problem.
    pub fn has(&self, such: impl Fn(&Problem) -> bool) -> bool {
        self.problems.iter().any(|(_, problem)| such(problem))
    }

    /// Whether one of the problems may pass by itself.
    fn retries_soon(&self) -> bool {
        let soon = |problem: &Problem| matches!(problem.retry(), Retry::AtOnce | Retry::Backoff);
        self.problems.iter().any(|(_, problem)| soon(problem))
    }

    /// Whether an object that asks for nothing has an annotation that looks as if it should.
    fn is_misspelt(&self) -> bool {
        self.warnings.iter().any(Warning::is_misspelt)
    }

    /// Whether somebody has to do something, and is reminded of it while it lasts.
    pub fn reminds(&self) -> bool {
        !self.problems.is_empty() || self.warnings.iter().any(Warning::is_mistake)
    }

    /// What is wrong, in words that stay the same while it stays the same: first what somebody has mistyped. Of a
    /// great many, the first.
    pub fn lines(&self) -> Vec<Line> {
        const MOST: usize = 20;
        let problems = self
            .problems
            .iter()
            .map(|(id, problem)| Line::of(id.as_ref(), problem));
        let warnings = self.warnings.iter().map(Line::of_warning);
        let mut lines: Vec<_> = problems.chain(warnings).collect();
        lines.sort_by_key(Line::rank);
        let more = lines.len().saturating_sub(MOST);
        if more > 0 {
            lines.truncate(MOST + 1);
            lines[MOST] = Line::more(lines[MOST].reason, more);
        }
        lines
    }
}

/// Vault's error in words for people.
pub(super) fn of_vault(error: &vault::Error) -> Problem {
    Problem::Vault {
        message: error.to_string(),
        hint: error.kind.hint().to_owned(),
        retry: error.kind.retry(),
        after: error.retry_after,
        down: error.kind.is_down(),
    }
}

/// Kubernetes' error in words for people.
pub(super) fn of_kubernetes(error: &crate::kube::Error) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: error.hint().to_owned(),
        retry: error.retry(),
    }
}

/// The ledger's error in words for people.
pub(super) fn of_ledger(error: &CommitError) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: "nothing new is written to Vault until the ledger is; documents that exist are still updated"
            .to_owned(),
        retry: Retry::Backoff,
    }
}

impl Run<'_> {
    /// Tells what has come out, stores what was learnt, and says when to look again.
    pub(super) fn finish(mut self, mut wake: Vec<SourceKey>, took: Duration) -> Outcome {
        let key = self.gathered.key.clone();
        let source = self.gathered.source.take();
        let asks = source.as_ref().is_some_and(|s| s.deleting.is_none()) && self.gathered.ask.path.is_some();
        self.count(&key, took);
        self.count_claimless();
        let held_back = self.tell_all(&key);
        let failures = self.on.notes.count_failure(&key, self.report.retries_soon());
        if source.is_some() || self.unread {
            // What nobody could be told is news at the next look too.
            self.memory.healthy = Some(self.report.problems.is_empty() && !held_back.good_news);
        }
        let retry = self.retry(failures);
        if let Some(retry) = retry {
            self.look_again(Requeue::trusting(retry));
        }
        // What could not be read is not gone: it may ask for as much as before.
        if asks || self.unread {
            self.appoint_recheck(retry.filter(|_| failures > 0));
        }
        self.appoint_second_look(&key);
        self.appoint_repetition(&held_back);
        wake.append(&mut self.wake);
        let vault_down = self.vault_is_down;
        let idle = self.on.ledger.of(&key).is_empty();
        match source {
            Some(source) if asks || self.has_finalizer || !idle => {
                self.on.index().remember(&key, &source.uid, self.memory);
            }
            None if self.unread => {
                if let Some(uid) = &self.gathered.uid {
                    self.on.index().remember(&key, uid, self.memory);
                }
            }
            // Not a source, and known as long as it looks as if it were meant to be one. It has no series.
            Some(source) if self.report.is_misspelt() => {
                self.on.metrics.forget(&key);
                self.on.index().remember(&key, &source.uid, self.memory);
            }
            // It is no source any more, or not there any more; nothing is left to be done for it.
            _ if idle => {
                self.on.bury(&key);
                self.again = None;
            }
            _ => {}
        }
        Outcome {
            again: self.again,
            wake,
            vault_down,
        }
    }

    /// When to try again by itself what has failed. Never before Vault said that it may be asked again.
    fn retry(&self, failures: u32) -> Option<Duration> {
        let problems = || self.report.problems.iter().map(|(_, problem)| problem);
        let wait = match problems().map(Problem::retry).min()? {
            // At once it has been tried already.
            Retry::AtOnce | Retry::Backoff => crate::backoff::delay(failures),
            Retry::Slowly => crate::backoff::shortened(SLOW_RETRY),
            Retry::OnChange => return None,
        };
        let after = problems().filter_map(Problem::after).max();
        Some(wait.max(crate::backoff::lengthened(after.unwrap_or_default())))
    }

    /// Looks again at documents to which a write without an answer could still be under way when this
    /// pass looked at them, or can still be.
    fn appoint_second_look(&mut self, key: &SourceKey) {
        let entries = self.on.ledger.of(key);
        let still = entries
            .iter()
            .filter_map(|(id, _)| self.on.unsettled_until(id))
            .max();
        if let Some(until) = self.gathered.unsettled.values().copied().max().max(still) {
            self.look_again(Requeue::full(until.saturating_duration_since(Instant::now())));
            // Whatever has asked for an earlier look: it must be one at Vault.
            if let Some(again) = &mut self.again {
                again.depth = Depth::Full;
            }
        }
    }

    /// The next comparison of all of it with Vault: a period after the last one, however often the
    /// source has changed since; and if that is overdue, with the next of the retries that come soon.
    fn appoint_recheck(&mut self, retry: Option<Duration>) {
        let periods = [self.gathered.ask.recheck, self.on.resync];
        let Some(period) = periods.into_iter().flatten().min() else {
            return;
        };
        let now = self.on.notes.started.elapsed();
        // What does not pass by itself has been looked at as well as it can be.
        if retry.is_none() && (self.depth.is_full() || self.memory.checked.is_none()) {
            self.memory.checked = Some(now);
        }
        let since = now.saturating_sub(self.memory.checked.unwrap_or(now));
        let left = crate::backoff::shortened(period).saturating_sub(since);
        self.look_again(Requeue::full(left.max(retry.unwrap_or_default())));
    }

    /// Makes sure that a lasting problem is reported again in time, and soon what could not be told.
    fn appoint_repetition(&mut self, held_back: &HeldBack) {
        if let Some(at) = self.memory.repeat_at {
            let left = at.saturating_sub(self.on.notes.started.elapsed());
            self.look_again(Requeue::trusting(left));
        }
        if held_back.lines || held_back.good_news {
            self.look_again(Requeue::trusting(crate::backoff::lengthened(ONE_MORE_AFTER)));
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
        let is_conflict = |problem: &Problem| problem.reason() == Reason::OwnershipConflict;
        let problems = self.report.problems.iter();
        metrics.ownership_conflicts(key, problems.filter(|(_, problem)| is_conflict(problem)).count());
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
