//! Telling people: Events on the source, one log line per fact, metrics; each state once.

use std::time::{Duration, Instant};

use super::{Outcome, Reconciler, Run};
use crate::domain::document::DocumentId;
use crate::domain::index::Memory;
use crate::domain::problem::{Problem, Reason, Retry, Warning};
use crate::domain::source::SourceKey;
use crate::events::Note;
use crate::ledger::CommitError;
use crate::vault;

/// Refusals that a change of policies, mounts or Roles would cure, which nobody tells us of.
const SLOW_RETRY: Duration = Duration::from_mins(5);

/// What one pass has found out.
#[derive(Default)]
pub(super) struct Report {
    problems: Vec<(Option<DocumentId>, Problem)>,
    warnings: Vec<Warning>,
    acquired: Vec<DocumentId>,
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
    fn reminds(&self) -> bool {
        !self.problems.is_empty() || self.warnings.iter().any(Warning::is_mistake)
    }

    /// What is wrong, in words that stay the same while it stays the same; of a great many, the first.
    fn lines(&self) -> Vec<(Reason, String)> {
        const MOST: usize = 20;
        let problems = self.problems.iter().map(|(id, problem)| {
            let place = match id {
                Some(id) if !problem.to_string().contains(&id.to_string()) => format!("{id}: "),
                _ => String::new(),
            };
            (problem.reason(), format!("{place}{problem} — {}", problem.hint()))
        });
        let warnings = self.warnings.iter();
        let warnings = warnings.map(|warning| (warning.reason(), warning.to_string()));
        let mut lines: Vec<_> = problems.chain(warnings).take(MOST + 1).collect();
        if lines.len() > MOST {
            let more = self.problems.len() + self.warnings.len() - MOST;
            lines[MOST].1 = format!("and {more} more of such a kind — mend those that were told first");
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
        self.tell_all(&key);
        let failures = self.on.notes.count_failure(&key, self.report.retries_soon());
        if source.is_some() || self.unread {
            self.memory.healthy = Some(self.report.problems.is_empty());
        }
        let retry = self.retry(failures);
        if let Some(retry) = retry {
            self.look_again(retry, false);
        }
        // What could not be read is not gone: it may ask for as much as before.
        if asks || self.unread {
            self.appoint_recheck(retry.filter(|_| failures > 0));
        }
        self.appoint_second_look(&key);
        self.appoint_repetition();
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
            self.look_again(until.saturating_duration_since(Instant::now()), true);
            // Whatever has asked for an earlier look: it must be one at Vault.
            if let Some((_, recheck)) = &mut self.again {
                *recheck = true;
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
        if retry.is_none() && (self.recheck || self.memory.checked.is_none()) {
            self.memory.checked = Some(now);
        }
        let since = now.saturating_sub(self.memory.checked.unwrap_or(now));
        let left = crate::backoff::shortened(period).saturating_sub(since);
        self.look_again(left.max(retry.unwrap_or_default()), true);
    }

    /// Makes sure that a lasting problem is reported again in time.
    fn appoint_repetition(&mut self) {
        if let Some(at) = self.memory.repeat_at {
            self.look_again(at.saturating_sub(self.on.notes.started.elapsed()), false);
        }
    }

    /// Says what is new: each problem and warning once while it lasts, and again before Kubernetes drops the
    /// Event; and what was done.
    fn tell_all(&mut self, key: &SourceKey) {
        let due = self.on.is_time_to_repeat(&mut self.memory, self.report.reminds());
        let lines = self.report.lines();
        let prints = |line: &String| self.on.digester.fields([line.as_bytes()].into_iter());
        let prints: Vec<_> = lines.iter().map(|(_, line)| prints(line)).collect();
        let news = lines.iter().zip(&prints);
        let news = news.filter(|(_, print)| !self.memory.told.contains(print));
        for ((reason, line), _) in news {
            tracing::warn!(source = %key, reason = reason.as_str(), "{line}");
            self.tell(key, *reason, line.clone());
        }
        if due {
            // The log has it already.
            for ((reason, line), print) in lines.iter().zip(&prints) {
                if self.memory.told.contains(print) && *reason != Reason::BinaryValue {
                    self.tell(key, *reason, line.clone());
                }
            }
        }
        if let Some(text) = self.good_news() {
            self.tell(key, Reason::Synced, text);
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
                self.tell(key, reason, format!("{}: {text}", names(ids)));
            }
        }
        let conflicts = lines
            .iter()
            .filter(|(reason, _)| *reason == Reason::OwnershipConflict)
            .count();
        self.on.metrics.ownership_conflicts(key, conflicts);
        self.memory.told = prints;
    }

    /// What to say when all is well and that is news: documents came to the source, or a failure is over.
    fn good_news(&self) -> Option<String> {
        let news = self.memory.healthy == Some(false) || !self.report.acquired.is_empty();
        if !news || !self.report.problems.is_empty() || self.memory.documents.is_empty() {
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

impl Reconciler {
    /// Whether lasting problems are to be reported again now; sets the next time in the memory. `lasts`: whether
    /// there are any.
    fn is_time_to_repeat(&self, memory: &mut Memory, lasts: bool) -> bool {
        let now = self.notes.started.elapsed();
        let (due, next) = repetition(memory.repeat_at.filter(|_| lasts), now, || {
            crate::backoff::shortened(self.repeat)
        });
        memory.repeat_at = next.filter(|_| lasts);
        due
    }

    /// Reports in an Event that a source waits for Vault, unless Vault holds its documents or another problem was
    /// reported lately. Returns when to look again.
    pub fn tell_waiting(&self, key: &SourceKey, why: &str) -> Option<Duration> {
        let mut index = self.index();
        let tracked = index.get(key).filter(|tracked| tracked.hint.is_some())?;
        let (uid, mut memory) = (tracked.uid.clone(), tracked.memory.clone());
        if memory.healthy == Some(true) && !memory.documents.is_empty() {
            return None;
        }
        let first = memory.repeat_at.is_none();
        let due = self.is_time_to_repeat(&mut memory, true);
        if first || due {
            let text = format!(
                "{why} — the documents follow as soon as Vault can be used; no change is needed here"
            );
            let reason = Reason::SyncFailed;
            if first {
                tracing::warn!(source = %key, reason = reason.as_str(), "{text}");
            }
            self.events.publish(key, &uid, &Note { reason, text });
            // So that its end is reported too.
            memory.healthy = Some(false);
        }
        let again = memory.repeat_at?.saturating_sub(self.notes.started.elapsed());
        index.remember(key, &uid, memory);
        Some(again)
    }
}

/// When a lasting problem is reported: whether again now, and the next time. `at`: the time that was set for it;
/// `None`: it is new, and reported as such.
fn repetition(
    at: Option<Duration>,
    now: Duration,
    period: impl Fn() -> Duration,
) -> (bool, Option<Duration>) {
    match at {
        Some(at) if at > now => (false, Some(at)),
        Some(_) => (true, Some(now + period())),
        None => (false, Some(now + period())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_problem_is_reported_again_when_its_time_has_come() {
        const MIN: fn(u64) -> Duration = Duration::from_mins;
        for (at, now, told) in [
            (None, MIN(3), (false, Some(MIN(53)))),
            (Some(MIN(53)), MIN(4), (false, Some(MIN(53)))),
            (Some(MIN(53)), MIN(53), (true, Some(MIN(103)))),
            // The machine slept.
            (Some(MIN(53)), MIN(500), (true, Some(MIN(550)))),
        ] {
            assert_eq!(repetition(at, now, || MIN(50)), told, "{at:?} at {now:?}");
        }
    }
}
