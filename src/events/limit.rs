//! How many Events a source may have: token buckets, with time as an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// Most Events that a source may have at once.
const BURST: u32 = 10;
/// After those, a source may have one Event per this time.
pub const REFILL: Duration = Duration::from_secs(30);
/// Events of all sources together, per second; this many may come at once.
const ALL_A_SECOND: u32 = 50;
/// Most sources that are remembered.
const MOST_SOURCES: usize = 10_000;

/// A token bucket: a maximum number of tokens, and one more per `refill`.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    /// The time up to which tokens were added.
    filled: Instant,
}

impl Bucket {
    fn full(most: u32, now: Instant) -> Self {
        Self {
            tokens: most,
            filled: now,
        }
    }

    /// Adds the tokens that were earned since the last call.
    fn fill(&mut self, most: u32, refill: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        let earned = u32::try_from(elapsed.as_nanos() / refill.as_nanos()).unwrap_or(u32::MAX);
        if earned >= most - self.tokens {
            *self = Self::full(most, now);
        } else {
            self.tokens += earned;
            // The rest of the time counts toward the next token.
            self.filled += refill * earned;
        }
    }

    fn take(&mut self) -> bool {
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

/// The buckets of all sources, and a common one.
pub(super) struct Limits {
    all: Bucket,
    sources: HashMap<String, Bucket>,
}

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(ALL_A_SECOND, now),
            sources: HashMap::new(),
        }
    }

    /// Whether the source with this UID may have one more Event now. `last`: the fact would never be reported
    /// again.
    pub(super) fn allow(&mut self, uid: &str, last: bool, now: Instant) -> bool {
        if !self.sources.contains_key(uid) {
            self.make_room(now);
            self.sources.insert(uid.to_owned(), Bucket::full(BURST, now));
        }
        let Some(bucket) = self.sources.get_mut(uid) else {
            return false;
        };
        bucket.fill(BURST, REFILL, now);
        self.all
            .fill(ALL_A_SECOND, Duration::from_secs(1) / ALL_A_SECOND, now);
        // A source without Events is never refused: a thousand sources may break in one second, and each has
        // to report it. The Event still counts, at the expense of sources with many Events.
        let first = bucket.tokens == BURST;
        let room = self.all.tokens > 0 || first;
        last || room && bucket.take() && {
            self.all.take();
            true
        }
    }

    /// Drops full buckets, which have the same effect as none. If there is still no room, drops any one. Its
    /// source may then have a few Events more, which `all` limits.
    fn make_room(&mut self, now: Instant) {
        if self.sources.len() < MOST_SOURCES {
            return;
        }
        self.sources.retain(|_, bucket| {
            bucket.fill(BURST, REFILL, now);
            bucket.tokens < BURST
        });
        if self.sources.len() >= MOST_SOURCES {
            let any = self.sources.keys().next().cloned();
            any.map(|uid| self.sources.remove(&uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn start() -> (Clock, Limits) {
        let now = Instant::now();
        (Clock(now), Limits::new(now))
    }

    fn allowed(limits: &mut Limits, uid: &str, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limits.allow(uid, false, now)).count()
    }

    #[test]
    fn a_source_has_ten_at_once_and_one_in_thirty_seconds() {
        let (clock, mut limits) = start();
        for (second, expected) in [
            (0, 10),
            (0, 0),
            (29, 0),
            (30, 1),
            (59, 0),
            (60, 1),
            (150, 3),
            (9999, 10),
        ] {
            assert_eq!(
                allowed(&mut limits, "a", clock.at(second), 20),
                expected,
                "at {second}"
            );
        }
    }

    #[test]
    fn a_first_one_is_never_refused() {
        let (clock, mut limits) = start();
        for i in 0..2000 {
            assert!(limits.allow(&format!("u{i}"), false, clock.at(0)));
        }
        // But then those who want more have to wait for the rest.
        assert!(!limits.allow("u0", false, clock.at(0)));
        assert!(limits.allow("u0", false, clock.at(1)));
    }

    #[test]
    fn what_nobody_would_tell_again_is_never_refused() {
        let (clock, mut limits) = start();
        assert_eq!(allowed(&mut limits, "a", clock.at(0), 20), 10);
        assert!(limits.allow("a", true, clock.at(0)));
    }

    #[test]
    fn all_together_are_bounded() {
        let (clock, mut limits) = start();
        let sum = (0..20)
            .map(|i| allowed(&mut limits, &format!("u{i}"), clock.at(0), 10))
            .sum::<usize>();
        // Five sources use the fifty up; fifteen more have their first one.
        assert_eq!(sum, 50 + 15);
    }

    #[test]
    fn idle_sources_are_forgotten() {
        let (clock, mut limits) = start();
        for i in 0..MOST_SOURCES + 5 {
            limits.allow(&format!("u{i}"), false, clock.at(0));
        }
        assert_eq!(limits.sources.len(), MOST_SOURCES);
        limits.allow("new", false, clock.at(300));
        assert_eq!(limits.sources.len(), 1);
    }
}
