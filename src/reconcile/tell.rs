//! Reports to users: an Event and a log line for each fact. A problem is reported once, and again before
//! Kubernetes drops its Event, as long as it lasts. Reports that the limits on Events held back follow as
//! soon as the limits allow.

use std::time::Duration;

use super::Reconciler;
use super::observe::Observation;
use super::outcome::{Findings, News};
use crate::events::{Note, ONE_MORE_AFTER};
use domain::document::DocumentId;
use domain::index::{Memory, Told};
use domain::problem::{Problem, Reason, Warning};
use domain::source::SourceKey;
use domain::value::Digest;

/// Most bytes of Secret names in one Event. An Event has room for 1024 bytes, with the text around the names.
const MOST_OF_NAMES: usize = 500;

/// Identifies a source's wait for Vault, whatever the reason.
const WAITING: &str = "waiting";

/// A problem, in words for users.
pub(super) struct Complaint {
    pub reason: Reason,
    text: String,
    /// Identifies the complaint if its text may change while the problem lasts.
    same: Option<&'static str>,
    /// Set if a Secret does not exist: one Event reports several of those.
    missing: Option<Missing>,
}

struct Missing {
    namespace: String,
    secret: String,
    hint: String,
}

impl Complaint {
    /// A problem with a document, or with the source as a whole.
    pub fn of(id: Option<&DocumentId>, problem: &Problem) -> Self {
        let words = problem.to_string();
        let place = match id {
            Some(id) if !words.contains(&id.to_string()) => format!("{id}: "),
            _ => String::new(),
        };
        let hint = problem.hint();
        let missing = match problem {
            Problem::MissingSecret { namespace, secret } => Some(Missing {
                namespace: namespace.clone(),
                secret: secret.clone(),
                hint: hint.clone(),
            }),
            _ => None,
        };
        Self {
            reason: problem.reason(),
            text: format!("{place}{words} — {hint}"),
            same: None,
            missing,
        }
    }

    pub fn of_warning(warning: &Warning) -> Self {
        Self {
            reason: warning.reason(),
            text: warning.to_string(),
            same: None,
            missing: None,
        }
    }

    /// How many more complaints there are.
    pub fn more(reason: Reason, more: usize) -> Self {
        Self {
            reason,
            text: format!("and {more} more of such a kind — mend those that were told first"),
            same: None,
            missing: None,
        }
    }

    /// The source waits for Vault, for this reason.
    fn waiting(why: &str) -> Self {
        Self {
            reason: Reason::SyncFailed,
            text: format!("{why} — the source is synced as soon as Vault can be used"),
            same: Some(WAITING),
            missing: None,
        }
    }

    /// The order of the lines: the mistakes that the source's author has to correct come first.
    pub fn rank(&self) -> u8 {
        match self.reason {
            Reason::InvalidAnnotation => 0,
            Reason::BinaryValue => 2,
            _ => 1,
        }
    }
}

/// What the limits on Events have held back.
pub(super) struct HeldBack {
    /// A problem or warning.
    pub lines: bool,
    /// The report that all is well again.
    pub good_news: bool,
}

/// A future Event, with the lines that it reports and their positions among all lines.
struct Draft<'a>(Vec<(usize, &'a Complaint)>);

impl<'a> Draft<'a> {
    /// Builds the Events for these lines, in order. Lines about missing Secrets are joined.
    fn of(lines: impl Iterator<Item = (usize, &'a Complaint)>) -> Vec<Self> {
        let mut drafts: Vec<Self> = Vec::new();
        for line in lines {
            match drafts.iter_mut().find(|draft| draft.has_room_for(line.1)) {
                Some(draft) => draft.0.push(line),
                None => drafts.push(Self(vec![line])),
            }
        }
        drafts
    }

    fn has_room_for(&self, line: &Complaint) -> bool {
        let Some(missing) = &line.missing else {
            return false;
        };
        let names = self
            .0
            .iter()
            .map(|(_, line)| Some(line.missing.as_ref()?.secret.len()));
        let names: Option<usize> = names.sum();
        names.is_some_and(|names| names + missing.secret.len() <= MOST_OF_NAMES)
    }

    fn note(&self) -> Note {
        let (_, first) = self.0[0];
        let missing: Vec<_> = self
            .0
            .iter()
            .filter_map(|(_, line)| line.missing.as_ref())
            .collect();
        let text = match missing.as_slice() {
            [] | [_] => first.text.clone(),
            [Missing { namespace, hint, .. }, ..] => {
                let names: Vec<_> = missing
                    .iter()
                    .map(|missing| format!("{:?}", missing.secret))
                    .collect();
                let names = names.join(", ");
                format!(
                    "failed to get secrets {names}: they do not exist in namespace {namespace:?} — {hint}"
                )
            }
        };
        Note {
            reason: first.reason,
            text,
        }
    }
}

/// The complaints, in words that stay the same while the problem stays the same. The author's mistakes come
/// first, and the number of lines is limited.
fn complaints<'a>(
    problems: impl Iterator<Item = (Option<&'a DocumentId>, &'a Problem)>,
    warnings: impl IntoIterator<Item = &'a Warning>,
) -> Vec<Complaint> {
    const MOST: usize = 20;
    let problems = problems.map(|(id, problem)| Complaint::of(id, problem));
    let warnings = warnings.into_iter().map(Complaint::of_warning);
    let mut lines: Vec<_> = problems.chain(warnings).collect();
    lines.sort_by_key(Complaint::rank);
    let more = lines.len().saturating_sub(MOST);
    if more > 0 {
        lines.truncate(MOST + 1);
        lines[MOST] = Complaint::more(lines[MOST].reason, more);
    }
    lines
}

impl Reconciler {
    /// Reports what is new: problems, warnings, and what was done.
    pub(super) fn tell_all(&self, seen: &Observation<'_>, findings: &mut Findings) -> HeldBack {
        let lines = complaints(findings.problems(), findings.warnings());
        // Whether a user has to act, and is reminded while this lasts.
        let lasts =
            findings.problems().next().is_some() || findings.warnings().into_iter().any(Warning::is_mistake);
        let due = self.is_time_to_repeat(&mut findings.memory, lasts);
        let told = self.tell_lines(&seen.key, seen.uid.as_deref(), &findings.memory.told, &lines, due);
        let lines = told.iter().any(|told| !told.published);
        findings.memory.told = told;
        let tell = |reason, text| self.publish(&seen.key, seen.uid.as_deref(), &Note { reason, text });
        let news = good_news(findings);
        let good_news = news.is_some_and(|text| !tell(Reason::Synced, text));
        for (news, reason, text) in [
            (
                News::DriftRepaired,
                Reason::DriftRepaired,
                "had been changed or deleted in Vault; restored",
            ),
            (
                News::Cleaned,
                Reason::Cleaned,
                "deleted, since the source no longer asks for it",
            ),
            (
                News::PossibleOrphan,
                Reason::PossibleOrphan,
                "may be left over in Vault, and nothing proves that it is ours; look at it, and delete it by hand",
            ),
        ] {
            let ids = findings.documents_with(news);
            if !ids.is_empty() {
                tell(reason, format!("{}: {text}", names(&ids)));
            }
        }
        HeldBack { lines, good_news }
    }

    /// Returns whether the Event was published, or is not needed: an unknown object that is gone gets none.
    fn publish(&self, key: &SourceKey, uid: Option<&str>, note: &Note) -> bool {
        uid.is_none_or(|uid| self.events.publish(key, uid, note))
    }

    /// The fingerprint that identifies a report.
    fn print(&self, words: &str) -> Digest {
        self.digester.fields([words.as_bytes()].into_iter())
    }

    /// Reports those lines that are not in `told`. If `due`, reports the others again too. Returns what has
    /// been reported now.
    fn tell_lines(
        &self,
        key: &SourceKey,
        uid: Option<&str>,
        told: &[Told],
        lines: &[Complaint],
        due: bool,
    ) -> Vec<Told> {
        let before = |print: Digest| told.iter().find(|told| told.print == print);
        let mut now: Vec<Told> = lines
            .iter()
            .map(|line| {
                let print = self.print(line.same.unwrap_or(&line.text));
                let published = before(print).is_some_and(|told| told.published);
                Told { print, published }
            })
            .collect();
        for (line, _) in lines
            .iter()
            .zip(&now)
            .filter(|(_, now)| before(now.print).is_none())
        {
            tracing::warn!(source = %key, reason = line.reason.as_str(), "{}", line.text);
        }
        let to_tell = |(at, line): &(usize, &Complaint)| {
            let repeat = due && line.reason != Reason::BinaryValue;
            repeat || !now[*at].published
        };
        for draft in Draft::of(lines.iter().enumerate().filter(to_tell)) {
            let published = self.publish(key, uid, &draft.note());
            for (at, _) in draft.0 {
                now[at].published = published;
            }
        }
        now
    }

    /// Whether to report lasting problems again now; stores the next time in the memory. `lasts`: whether
    /// there are any.
    fn is_time_to_repeat(&self, memory: &mut Memory, lasts: bool) -> bool {
        let now = self.notes.started.elapsed();
        let (due, next) = repetition(memory.repeat_at.filter(|_| lasts), now, || {
            crate::backoff::shortened(self.repeat)
        });
        memory.repeat_at = next.filter(|_| lasts);
        due
    }

    /// Reports on a source while Vault is unavailable: its author's mistakes, or else that it waits for
    /// Vault. It does not wait if Vault holds its documents and nothing has changed since. Returns when to
    /// look again.
    pub fn tell_waiting(&self, key: &SourceKey, why: &str) -> Option<Duration> {
        let mut index = self.index();
        let tracked = index.get(key).filter(|tracked| tracked.deleting.is_none())?;
        let state = index.state(key).cloned().unwrap_or_default();
        let mut memory = state.memory;
        let mistakes = tracked.mistakes.as_deref().cloned().unwrap_or_default();
        let mut lines = complaints(
            mistakes.problems.iter().map(|problem| (None, problem)),
            &mistakes.warnings,
        );
        let holds = memory.healthy == Some(true) && !memory.documents.is_empty() && !state.stirred;
        // A problem was reported recently, most likely that Vault does not answer.
        let waits = memory.told.iter().any(|told| told.print == self.print(WAITING));
        let lately = memory
            .repeat_at
            .is_some_and(|at| at > self.notes.started.elapsed());
        if tracked.hint.is_some() && mistakes.problems.is_empty() && !holds && (waits || !lately) {
            lines.push(Complaint::waiting(why));
            // So that recovery is reported too.
            memory.healthy = Some(false);
        }
        // Other reported problems may last as well; that cannot be checked now.
        let lasts = !lines.is_empty() || memory.repeat_at.is_some();
        let due = self.is_time_to_repeat(&mut memory, lasts);
        let uid = tracked.uid.clone();
        let told = self.tell_lines(key, Some(&uid), &memory.told, &lines, due);
        let all = told.iter().all(|told| told.published);
        let is_told = |print: Digest| told.iter().any(|told| told.print == print);
        memory.told.retain(|before| !is_told(before.print));
        memory.told.extend(told);
        let repeat = memory
            .repeat_at
            .map(|at| at.saturating_sub(self.notes.started.elapsed()));
        let soon = (!all).then(|| crate::backoff::lengthened(ONE_MORE_AFTER));
        index.remember(key, &uid, memory);
        repeat.into_iter().chain(soon).min()
    }
}

/// Whether to report a lasting problem again now, and when next. `at`: the time that was set for it. `None`:
/// the problem is new, and is reported as new.
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

/// The text to report if all is well and that is new: the source received documents, or a failure is over.
fn good_news(findings: &Findings) -> Option<String> {
    let memory = &findings.memory;
    let acquired = || {
        findings
            .outcomes
            .iter()
            .any(|outcome| outcome.news.contains(&News::Acquired))
    };
    let news = memory.healthy == Some(false) || acquired();
    if !news || findings.problems().next().is_some() || memory.documents.is_empty() {
        return None;
    }
    let mut ids: Vec<_> = memory.documents.keys().cloned().collect();
    ids.sort();
    Some(format!("Vault holds {}", names(&ids)))
}

/// The names of the first few documents, and how many more there are.
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

    #[test]
    fn secrets_that_do_not_exist_are_told_in_one_event_and_each_is_named() {
        let missing = |secret: &str| {
            let id = DocumentId::new("secret", format!("app/{secret}"));
            let problem = Problem::MissingSecret {
                namespace: "shop".to_owned(),
                secret: secret.to_owned(),
            };
            Complaint::of(Some(&id), &problem)
        };
        let other = Complaint::of(
            None,
            &Problem::TooMany {
                count: 600,
                limit: 500,
            },
        );
        let long = "x".repeat(253);
        let lines = [missing("a"), other, missing("b"), missing(&long), missing(&long)];
        let drafts = Draft::of(lines.iter().enumerate());
        let notes: Vec<_> = drafts.iter().map(|draft| draft.note().text).collect();
        assert_eq!(notes.len(), 3);
        let joined = format!(
            "failed to get secrets \"a\", \"b\", \"{long}\": they do not exist in namespace \"shop\" — it may"
        );
        assert!(notes[0].starts_with(&joined), "{}", notes[0]);
        assert!(notes[0].len() <= 1024, "{}", notes[0].len());
        assert!(notes[2].contains("failed to get secret \"xxx"), "{}", notes[2]);
        let alone = Draft::of(lines[..1].iter().enumerate());
        let begins = "secret/app/a: failed to get secret \"a\": it does not exist";
        assert!(
            alone[0].note().text.starts_with(begins),
            "{}",
            alone[0].note().text
        );
    }
}
