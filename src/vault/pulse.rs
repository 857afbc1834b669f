//! Shares one request to Vault among all callers that want its answer. Many sources, kubelet probes and
//! strangers may ask at the same time or repeatedly, but Vault gets few requests.
//!
//! A good answer is shared by all callers that asked before its request was sent. A bad answer is reused for
//! a while, so that an unavailable Vault gets one request every two seconds at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::error::{Call, Error, ErrorKind};

/// How long a bad answer is reused.
pub(super) const REST: Duration = Duration::from_secs(2);
/// An answer that takes longer counts as bad.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last answer to one question.
#[derive(Default)]
pub(super) struct Pulse {
    /// Held during a request: callers that come meanwhile wait for that answer.
    last: Mutex<Option<Beat>>,
    bad: Arc<AtomicBool>,
}

struct Beat {
    asked: Instant,
    answered: Instant,
    answer: Result<(), Error>,
}

impl Pulse {
    /// A pulse that also stores in `bad` whether its last answer was bad.
    pub(super) fn told_by(bad: Arc<AtomicBool>) -> Self {
        Self {
            last: Mutex::default(),
            bad,
        }
    }

    /// The answer to the question. Reuses the last one if it is good and was requested no earlier than
    /// `since`, or if it is bad and recent. Asks again otherwise.
    pub(super) async fn feel(
        &self,
        since: Instant,
        call: &Call,
        question: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let mut last = self.last.lock().await;
        if let Some(beat) = last.as_ref().filter(|beat| beat.stands(since, Instant::now())) {
            return beat.answer.clone();
        }
        let asked = Instant::now();
        let answer = timeout(PATIENCE, question).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unreachable,
                call,
                format!("no answer in {}s", PATIENCE.as_secs()),
            ))
        });
        self.bad.store(answer.is_err(), Ordering::Relaxed);
        *last = Some(Beat {
            asked,
            answered: Instant::now(),
            answer: answer.clone(),
        });
        answer
    }

    /// Whether the last answer was a bad one.
    pub(super) fn is_bad(&self) -> bool {
        self.bad.load(Ordering::Relaxed)
    }

    /// When a bad answer may be replaced; now, if the last answer was good.
    pub(super) async fn rested(&self) -> Instant {
        let last = self.last.lock().await;
        let bad = last.as_ref().filter(|beat| beat.answer.is_err());
        bad.map_or_else(Instant::now, |beat| beat.answered + REST)
    }
}

impl Beat {
    fn stands(&self, since: Instant, now: Instant) -> bool {
        match self.answer {
            Ok(()) => self.asked >= since,
            // Counted from the answer: every caller that waited for it uses it, however long the wait was.
            Err(_) => now.saturating_duration_since(self.answered) < REST,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::super::error::Operation;
    use super::*;

    fn bad() -> Result<(), Error> {
        let call = Call::new(Operation::Health, "");
        Err(Error::new(ErrorKind::Sealed, &call, "sealed"))
    }

    #[tokio::test]
    async fn a_thousand_who_ask_together_are_one_question() {
        for answer in [Ok(()), bad()] {
            let (pulse, asked) = (Arc::new(Pulse::default()), Arc::new(AtomicUsize::new(0)));
            let mut asking = tokio::task::JoinSet::new();
            let since = Instant::now();
            for _ in 0..1000 {
                let (pulse, asked, answer) = (pulse.clone(), asked.clone(), answer.clone());
                asking.spawn(async move {
                    let question = async {
                        asked.fetch_add(1, SeqCst);
                        tokio::task::yield_now().await;
                        answer
                    };
                    let call = Call::new(Operation::Health, "");
                    pulse.feel(since, &call, question).await
                });
            }
            assert_eq!(asking.join_all().await, vec![answer; 1000]);
            assert_eq!(asked.load(SeqCst), 1);
        }
    }

    #[test]
    fn a_good_answer_is_as_old_as_its_question_and_a_bad_one_rests() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (what, answer, asked, answered, since, now, stands) in [
            ("asked after I came", Ok(()), 5, 6, 5, 9000, true),
            ("asked before I came", Ok(()), 5, 6, 6, 7, false),
            ("bad, and asked before", bad(), 5, 6, 900, 901, true),
            ("bad, and just not rested", bad(), 0, 1, 2000, 2000, true),
            ("bad, and rested", bad(), 0, 1, 2001, 2001, false),
            ("bad, after I had waited long", bad(), 0, 5000, 1, 5000, true),
        ] {
            let beat = Beat {
                asked: at(asked),
                answered: at(answered),
                answer,
            };
            assert_eq!(beat.stands(at(since), at(now)), stands, "{what}");
        }
    }
}
