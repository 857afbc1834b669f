//! What something costs each process, in time of a processor.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Testbed, Used};

use super::table::ms;

/// The time that each has used, and how long it took by the clock.
#[derive(Clone, Copy)]
pub struct Cost {
    pub used: Used,
    pub operator: Duration,
    pub wall: Duration,
}

impl Cost {
    /// What the servers use while this is done, and what comes of it.
    pub fn of<T>(bed: &Testbed, act: impl FnOnce() -> T) -> (Self, T) {
        let (before, started) = (Used::by(bed), Instant::now());
        let done = act();
        let cost = Self {
            used: Used::by(bed).since(before),
            operator: Duration::ZERO,
            wall: started.elapsed(),
        };
        (cost, done)
    }

    /// Of all servers together.
    pub fn servers(self) -> Duration {
        self.used.total()
    }

    /// The part of one of so many.
    pub fn for_each(self, count: usize) -> Self {
        let count = u32::try_from(count).expect("there are not so many");
        Self {
            used: Used {
                etcd: self.used.etcd / count,
                api_server: self.used.api_server / count,
                vault: self.used.vault / count,
            },
            operator: self.operator / count,
            wall: self.wall / count,
        }
    }

    /// The cells of a row.
    pub fn words(self) -> [String; 6] {
        let Used {
            etcd,
            api_server,
            vault,
        } = self.used;
        [etcd, api_server, vault, self.servers(), self.operator, self.wall].map(ms)
    }

    /// In milliseconds.
    pub fn json(self) -> Value {
        json!({
            "etcdMs": json_ms(self.used.etcd), "apiServerMs": json_ms(self.used.api_server), "vaultMs": json_ms(self.used.vault),
            "serversMs": json_ms(self.servers()), "operatorMs": json_ms(self.operator), "wallMs": json_ms(self.wall),
        })
    }
}

/// Waits until the servers have done what was asked of them before: until they use less than a quarter of one
/// processor. They are never quite idle.
pub fn quiet(bed: &Testbed) {
    for _ in 0..20 {
        let before = Used::by(bed);
        sleep(Duration::from_secs(1));
        if Used::by(bed).since(before).total() < Duration::from_millis(250) {
            return;
        }
    }
}

/// A time in milliseconds, to the microsecond.
pub fn json_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
