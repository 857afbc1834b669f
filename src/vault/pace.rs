//! `--vault-max-rps`: spreads calls evenly, so that no second has more calls than allowed.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Releases calls one interval apart.
pub(super) struct Pace {
    interval: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most this many calls per second. `None`: no limit.
    pub(super) fn new(per_second: Option<NonZeroU32>) -> Self {
        Self {
            interval: per_second.map(|rate| Duration::from_secs(1) / rate.get()),
            next: Mutex::new(None),
        }
    }

    /// Waits for this call's turn. Turns come in the order in which they were asked for.
    pub(super) async fn turn(&self) {
        let Some(interval) = self.interval else { return };
        let turn = {
            let mut next = self.next.lock().await;
            let turn = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(turn + interval);
            turn
        };
        sleep_until(turn).await;
    }
}
