//! Waiting longer and longer, with jitter: the one place that knows the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// A jittered exponential backoff that never gives up.
pub struct Backoff(ExponentialBackoff);

/// Each wait is up to a half shorter or longer than its nominal length, so that many who were
/// refused at the same moment do not come back at the same moment.
const JITTER: f64 = 0.5;

impl Backoff {
    /// The first wait is about `initial`; each is twice the one before, up to `max`, never more.
    pub fn new(initial: Duration, max: Duration) -> Self {
        // The jitter is taken off before it is put on, so that no wait is longer than `max`.
        let ceiling = max.div_f64(1.0 + JITTER);
        let initial = initial.min(ceiling);
        Self(ExponentialBackoff {
            current_interval: initial,
            initial_interval: initial,
            randomization_factor: JITTER,
            multiplier: 2.0,
            max_interval: ceiling,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// How long to wait before the next try.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends: an iterator would say that it may"
    )]
    pub fn next(&mut self) -> Duration {
        // It ends only by `max_elapsed_time`, which there is not.
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// A try succeeded: the next wait is a first one.
    pub fn reset(&mut self) {
        self.0.reset();
    }
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
    fn a_first_wait_beyond_the_longest_is_cut() {
        let mut backoff = Backoff::new(MS(9000), MS(300));
        assert!(backoff.next() <= MS(301));
    }
}
