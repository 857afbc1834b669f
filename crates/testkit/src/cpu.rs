//! How long processes have used a processor: hardly more on a busy machine than on an idle one.

use std::fs;
use std::time::Duration;

use super::testbed::Testbed;

/// The unit of `/proc/PID/stat`: what `sysconf(_SC_CLK_TCK)` says on every Linux of today.
const TICK: Duration = Duration::from_millis(10);

/// The time that the servers of a testbed have used so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Used {
    pub etcd: Duration,
    pub api_server: Duration,
    pub vault: Duration,
}

impl Used {
    /// Up to now.
    pub fn by(bed: &Testbed) -> Self {
        Self {
            etcd: cpu_time(bed.etcd.id()),
            api_server: cpu_time(bed.kube_server.id()),
            vault: bed.vault_process.map_or(Duration::ZERO, cpu_time),
        }
    }

    /// Since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            etcd: self.etcd.saturating_sub(before.etcd),
            api_server: self.api_server.saturating_sub(before.api_server),
            vault: self.vault.saturating_sub(before.vault),
        }
    }

    /// Of all servers together.
    pub fn total(self) -> Duration {
        self.etcd + self.api_server + self.vault
    }
}

/// The time that a process has used, all its threads together, in itself and in the kernel for it.
/// <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>, fields 14 and 15.
pub fn cpu_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Its name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = |number: usize| -> u32 {
        fields
            .split_whitespace()
            .nth(number - 3)
            .unwrap()
            .parse()
            .unwrap()
    };
    TICK * (ticks(14) + ticks(15))
}
