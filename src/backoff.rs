//! Increasing waits with jitter. The only module that uses the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// A jittered exponential backoff that never gives up.
pub struct Backoff(ExponentialBackoff);

/// Each wait is up to a half shorter or longer than its nominal length, so that callers that fail together do
/// not retry together.
const JITTER: f64 = 0.5;

impl Backoff {
    /// The first wait is about `initial`; each is twice the one before, up to `max`, never more.
    pub fn new(initial: Duration, max: Duration) -> Self {
        // The maximum is lowered by the jitter, so that no wait is longer than `max`.
        let ceiling = max.div_f64(1.0 + JITTER);
        let initial = initial.min(ceiling);
        Self(ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            // We add our own jitter: all randomness comes from `fraction`.
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: ceiling,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// How long to wait before the next attempt.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends: an iterator would say that it may"
    )]
    pub fn next(&mut self) -> Duration {
        // Only `max_elapsed_time` could end it, and that is not set.
        let nominal = self.0.next_backoff().unwrap_or(self.0.max_interval);
        nominal.mul_f64(1.0 - JITTER + 2.0 * JITTER * fraction())
    }

    /// Resets after a success: the next wait is as long as the first.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// The wait after this many failures in a row of one source: from half a second to two minutes.
pub fn delay(failures: u32) -> Duration {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(2));
    let mut wait = backoff.next();
    for _ in 1..failures.min(12) {
        wait = backoff.next();
    }
    wait
}

/// A period that is randomly shortened by at most a tenth, so that simultaneous periods drift apart.
pub fn shortened(period: Duration) -> Duration {
    period.mul_f64(1.0 - fraction() / 10.0)
}

/// A period that is randomly lengthened by at most a tenth, for a wait that must not be shorter.
pub fn lengthened(period: Duration) -> Duration {
    period.mul_f64(1.0 + fraction() / 10.0)
}

/// A random number from 0 to 1. Use it only to spread things out.
pub fn fraction() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn waits_grow_and_stay_in_their_bounds() {
        for _ in 0..100 {
            let mut backoff = Backoff::new(MS(100), MS(3000));
            for (least, most) in [
                (50, 151),
                (100, 301),
                (200, 601),
                (400, 1201),
                (800, 2401),
                (1000, 3001),
                (1000, 3001),
            ] {
                let wait = backoff.next();
                assert!(
                    wait >= MS(least) && wait <= MS(most),
                    "{wait:?} is not in {least}..{most} ms"
                );
            }
            backoff.reset();
            assert!(backoff.next() <= MS(151));
        }
    }

    #[test]
    fn periods_are_shortened_by_a_tenth_at_most() {
        for _ in 0..100 {
            let period = shortened(MS(1000));
            assert!(period >= MS(900) && period <= MS(1000), "{period:?}");
            let period = lengthened(MS(1000));
            assert!(period >= MS(1000) && period <= MS(1100), "{period:?}");
            assert!(delay(1) <= MS(751) && delay(2) <= MS(1501) && delay(99) >= MS(40_000));
        }
    }

    #[test]
    fn a_first_wait_beyond_the_longest_is_cut() {
        let mut backoff = Backoff::new(MS(9000), MS(300));
        assert!(backoff.next() <= MS(301));
    }
}
