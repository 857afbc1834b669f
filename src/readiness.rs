//! What keeps the operator from being ready, in words for users.
//!
//! A part that waits for something holds an [`Obstacle`] while it waits; the probes read which ones are held.
//! Must not know what a part waits for.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;

/// Everything that the operator waits for, and why it is not ready yet. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Waits>>);

#[derive(Default)]
struct Waits {
    /// What the operator waits for, with the [`Obstacle`]'s number and the reason.
    open: BTreeMap<String, (u64, String)>,
    /// The number of the last [`Obstacle`].
    last: u64,
}

/// The operator waits for something until this is dropped or replaced.
#[must_use = "it is waited for only as long as this is held"]
pub struct Obstacle {
    readiness: Readiness,
    what: String,
    number: u64,
}

/// The operator is not ready: what it waits for, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct NotReady(Vec<String>);

impl Readiness {
    /// Records that the operator waits for something; `why` replaces the earlier reason.
    pub fn waits(&self, what: impl Into<String>, why: &impl Display) -> Obstacle {
        let what = what.into();
        let mut waits = self.0.lock();
        waits.last += 1;
        let number = waits.last;
        waits.open.insert(what.clone(), (number, why.to_string()));
        Obstacle {
            readiness: self.clone(),
            what,
            number,
        }
    }

    /// Returns an error while the operator waits for something.
    pub fn check(&self) -> Result<(), NotReady> {
        let waits = self.0.lock();
        if waits.open.is_empty() {
            return Ok(());
        }
        let open = waits.open.iter();
        Err(NotReady(
            open.map(|(what, (_, why))| format!("{what}: {why}")).collect(),
        ))
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        let mut waits = self.readiness.0.lock();
        if waits
            .open
            .get(&self.what)
            .is_some_and(|&(number, _)| number == self.number)
        {
            waits.open.remove(&self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_each_thing_counts() {
        let readiness = Readiness::default();
        let said = || readiness.check().map_err(|waits| waits.to_string());
        assert_eq!(said(), Ok(()));
        let secrets = readiness.waits("watching Secrets", &"denied");
        let ledger = readiness.waits("the ledger", &"no answer");
        assert_eq!(
            said(),
            Err("the ledger: no answer; watching Secrets: denied".to_owned())
        );
        let again = readiness.clone().waits("the ledger", &"denied");
        drop(ledger);
        assert_eq!(
            said(),
            Err("the ledger: denied; watching Secrets: denied".to_owned())
        );
        drop(again);
        assert_eq!(said(), Err("watching Secrets: denied".to_owned()));
        drop(secrets);
        assert_eq!(said(), Ok(()));
    }
}
