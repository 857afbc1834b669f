//! When something was wrong last: where nothing is, more is promised.

use std::time::{Duration, SystemTime};

use crate::network::Sky;
use crate::plan::{Act, Denied, Wires};

/// What was tried while something was wrong may be tried again only after so long.
const TRIED_AGAIN_WITHIN: Duration = Duration::from_mins(3);

/// What was denied or refused meanwhile is tried again a few times within so long.
const FORGOTTEN_WITHIN: Duration = Duration::from_mins(15);

/// What is wrong, and until when something was.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "troubles that do not depend on each other"
)]
pub struct Trouble {
    last: Option<SystemTime>,
    of_watches: Option<SystemTime>,
    of_wires: Option<SystemTime>,
    kubernetes: bool,
    vault: bool,
    sealed: bool,
    denied: bool,
    logins: bool,
}

impl Trouble {
    /// An act makes trouble, or ends it.
    pub fn hears(&mut self, act: &Act, now: SystemTime) {
        let watches = match act {
            Act::Weather(Wires::Kubernetes, sky) => {
                self.kubernetes = *sky != Sky::default();
                true
            }
            Act::CutWatches(_) | Act::Compact(_) => true,
            _ => false,
        };
        if watches {
            self.of_watches = Some(now);
        }
        if matches!(act, Act::Weather(..)) {
            self.of_wires = Some(now);
        }
        match act {
            Act::Weather(Wires::Vault, sky) => self.vault = *sky != Sky::default(),
            Act::Seal => self.sealed = true,
            Act::Unseal => self.sealed = false,
            Act::Policy(denied) => self.denied = *denied != Denied::Nothing,
            Act::SlowLogins(seconds) => self.logins = *seconds > 0,
            Act::Revoke
            | Act::Remount(_)
            | Act::LoseLedger(_)
            | Act::EditLedger(..)
            | Act::Kill(_)
            | Act::Stop(_) => {}
            _ if watches => {}
            _ => return,
        }
        self.last = Some(now);
    }

    /// Everything that was wrong is mended.
    pub fn ends(&mut self, now: SystemTime) {
        *self = Self {
            last: Some(now),
            of_watches: Some(now),
            of_wires: Some(now),
            ..Self::default()
        };
    }

    /// Nothing is wrong now, and nothing was for long before `then`.
    pub fn is_over(&self, then: SystemTime) -> bool {
        let ongoing = self.kubernetes || self.vault || self.sealed || self.denied || self.logins;
        !ongoing && was_long_before(self.last, then)
    }

    /// Nothing is wrong now, and what was tried while something was has been tried again, however slowly.
    pub fn is_forgotten(&self, now: SystemTime) -> bool {
        self.is_over(now) && self.last.is_none_or(|last| last + FORGOTTEN_WITHIN < now)
    }

    /// The same of the wires.
    pub fn wires_are_well(&self, now: SystemTime) -> bool {
        !self.kubernetes && !self.vault && was_long_before(self.of_wires, now)
    }

    /// The same of the watches.
    pub fn watches_are_well(&self, now: SystemTime) -> bool {
        !self.kubernetes && was_long_before(self.of_watches, now)
    }
}

fn was_long_before(last: Option<SystemTime>, then: SystemTime) -> bool {
    last.is_none_or(|last| last + TRIED_AGAIN_WITHIN < then)
}
