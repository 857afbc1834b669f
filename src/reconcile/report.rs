//! What follows from a pass: metrics, what the next pass starts from, and when it runs. `tell` reports to
//! users.

use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::observe::Observation;
use super::outcome::{Findings, Requeue, Turn};
use super::tell::HeldBack;
use crate::events::ONE_MORE_AFTER;
use crate::ledger_io::CommitError;
use crate::vault;
use domain::problem::{Problem, Reason, Retry, Warning};
use domain::queue::Depth;
use domain::source::SourceKey;

/// Retry interval for refusals that end with a change to policies, mounts or Roles. The operator gets no
/// notice of such changes.
const SLOW_RETRY: Duration = Duration::from_mins(5);

/// Converts an error from Vault to a problem for users.
pub(super) fn of_vault(error: &vault::Error) -> Problem {
    Problem::Vault {
        message: error.to_string(),
        hint: error.kind.hint().to_owned(),
        retry: error.kind.retry(),
        after: error.retry_after,
        down: error.kind.is_down(),
    }
}

/// Converts an error from Kubernetes to a problem for users.
pub(super) fn of_kubernetes(error: &crate::kube::Error) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: error.hint().to_owned(),
        retry: error.retry(),
    }
}

/// Converts an error from the ledger to a problem for users.
pub(super) fn of_ledger(error: &CommitError) -> Problem {
    Problem::Kubernetes {
        message: error.to_string(),
        hint: "nothing new is written to Vault until the ledger is; documents that exist are still updated"
            .to_owned(),
        retry: Retry::Backoff,
    }
}

impl Reconciler {
    /// Reports the outcome, stores what was learned, and returns when to look again.
    pub(super) fn report(
        &self,
        seen: &Observation<'_>,
        mut findings: Findings,
        wake: Vec<SourceKey>,
        took: Duration,
    ) -> Turn {
        let key = &seen.key;
        self.count(key, &findings, took);
        self.recount_claimless(key, &findings);
        let held_back = self.tell_all(seen, &mut findings);
        let failures = self.index().state_mut(key).count_failure(findings.retries_soon());
        if seen.source.is_some() || seen.unread {
            // Good news that was held back must be reported at the next look.
            let healthy = findings.problems().next().is_none() && !held_back.good_news;
            findings.memory.healthy = Some(healthy);
        }
        self.appoint(seen, &mut findings, failures, &held_back);
        let again = self.store(seen, &mut findings);
        Turn {
            again,
            wake,
            vault_down: findings.vault_is_down,
        }
    }

    /// Schedules the next look, and its depth.
    fn appoint(&self, seen: &Observation<'_>, findings: &mut Findings, failures: u32, held_back: &HeldBack) {
        let asked: Vec<_> = findings
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.again)
            .collect();
        for again in asked {
            findings.look_again(again);
        }
        let retry = findings.retry(failures);
        if let Some(retry) = retry {
            findings.look_again(Requeue::trusting(retry));
        }
        // A source that could not be read is not gone, and may ask for as much as before.
        if seen.asks() || seen.unread {
            self.appoint_recheck(seen, findings, retry.filter(|_| failures > 0));
        }
        self.appoint_second_look(seen, findings);
        // A lasting problem is reported again in time, and a report that was held back is sent soon.
        if let Some(at) = findings.memory.repeat_at {
            let left = at.saturating_sub(self.notes.started.elapsed());
            findings.look_again(Requeue::trusting(left));
        }
        if held_back.lines || held_back.good_news {
            findings.look_again(Requeue::trusting(crate::backoff::lengthened(ONE_MORE_AFTER)));
        }
    }

    /// Schedules the next full comparison with Vault: one period after the last, however often the source has
    /// changed since. If that is overdue, the next of the frequent retries is a full one.
    fn appoint_recheck(&self, seen: &Observation<'_>, findings: &mut Findings, retry: Option<Duration>) {
        let periods = [seen.ask.recheck, self.resync];
        let Some(period) = periods.into_iter().flatten().min() else {
            return;
        };
        let now = self.notes.started.elapsed();
        let checked = &mut findings.memory.checked;
        // Only problems that persist without a change are left: nothing more can be checked now.
        if retry.is_none() && (seen.depth.is_full() || checked.is_none()) {
            *checked = Some(now);
        }
        let since = now.saturating_sub(checked.unwrap_or(now));
        let left = crate::backoff::shortened(period).saturating_sub(since);
        findings.look_again(Requeue::full(left.max(retry.unwrap_or_default())));
    }

    /// Looks again at documents that a write without an answer could still change: when this pass looked at
    /// them, or now.
    fn appoint_second_look(&self, seen: &Observation<'_>, findings: &mut Findings) {
        let entries = self.ledger.of(&seen.key);
        let still = entries
            .iter()
            .filter_map(|(id, _)| self.unsettled_until(id))
            .max();
        if let Some(until) = seen.unsettled.values().copied().max().max(still) {
            findings.look_again(Requeue::full(until.saturating_duration_since(Instant::now())));
            // Another reason may have asked for an earlier look: that one must read Vault too.
            if let Some(again) = &mut findings.again {
                again.depth = Depth::Full;
            }
        }
    }

    /// Stores what was learned, or forgets an object that has nothing left to do: it is no longer a source,
    /// or no longer exists. Returns when to look again.
    fn store(&self, seen: &Observation<'_>, findings: &mut Findings) -> Option<Requeue> {
        let key = &seen.key;
        let idle = self.ledger.of(key).is_empty();
        // Not a source, but remembered while its annotations look like misspelled ones of ours.
        let misspelt = seen.source.is_some() && findings.warnings().into_iter().any(Warning::is_misspelt);
        let stays = seen.source.is_some() && (seen.asks() || findings.has_finalizer || !idle);
        if stays || misspelt || seen.unread {
            if misspelt && !stays {
                // Only sources have time series.
                self.metrics.forget(key);
            }
            if let Some(uid) = &seen.uid {
                let memory = std::mem::take(&mut findings.memory);
                self.index().remember(key, uid, memory);
            }
        } else if idle {
            self.bury(key);
            return None;
        }
        findings.again
    }

    fn count(&self, key: &SourceKey, findings: &Findings, took: Duration) {
        let metrics = &self.metrics;
        let problems = || findings.problems().map(|(_, problem)| problem);
        if problems().next().is_none() {
            metrics.sync_succeeded(key, took);
        } else {
            metrics.sync_failed(key, took);
        }
        if let Some(discovered) = findings.discovered {
            metrics.secrets_discovered(key, discovered);
        }
        let conflicts = problems().filter(|problem| problem.reason() == Reason::OwnershipConflict);
        metrics.ownership_conflicts(key, conflicts.count());
        for problem in problems() {
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
        for kind in findings.warnings().into_iter().filter_map(Warning::config_error) {
            metrics.config_parse_error(key, kind);
        }
    }
}

impl Findings {
    /// Whether one of the problems may pass without a change by a user.
    fn retries_soon(&self) -> bool {
        let soon = |problem: &Problem| matches!(problem.retry(), Retry::AtOnce | Retry::Backoff);
        self.problems().any(|(_, problem)| soon(problem))
    }

    /// When to retry what has failed. Never before the end of the wait that Vault asked for.
    fn retry(&self, failures: u32) -> Option<Duration> {
        let problems = || self.problems().map(|(_, problem)| problem);
        let wait = match problems().map(Problem::retry).min()? {
            // An immediate retry has been tried already.
            Retry::AtOnce | Retry::Backoff => crate::backoff::delay(failures),
            Retry::Slowly => crate::backoff::shortened(SLOW_RETRY),
            Retry::OnChange => return None,
        };
        let after = problems().filter_map(Problem::after).max();
        Some(wait.max(crate::backoff::lengthened(after.unwrap_or_default())))
    }
}
