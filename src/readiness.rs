//! What keeps the operator from being ready, in words for people.
//!
//! Whoever waits for something says so here, and takes it back; the probes read it. Must not know
//! what anybody waits for.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// What is waited for, and why it is not there yet. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, String>>>);

impl Readiness {
    /// Something is waited for; `why` takes the place of what was said of it before.
    pub fn waits(&self, what: impl Into<String>, why: &impl Display) {
        self.lock().insert(what.into(), why.to_string());
    }

    /// It is there.
    pub fn has(&self, what: &str) {
        self.lock().remove(what);
    }

    /// Whether nothing is waited for; else all that is, and why.
    pub fn check(&self) -> Result<(), String> {
        let waiting = self.lock();
        if waiting.is_empty() {
            return Ok(());
        }
        let all: Vec<String> = waiting
            .iter()
            .map(|(what, why)| format!("{what}: {why}"))
            .collect();
        Err(all.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // It is whole after every statement.
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_each_thing_counts() {
        let readiness = Readiness::default();
        assert_eq!(readiness.check(), Ok(()));
        readiness.waits("watching Secrets", &"denied");
        readiness.waits("the ledger", &"no answer");
        readiness.clone().waits("the ledger", &"denied");
        assert_eq!(
            readiness.check(),
            Err("the ledger: denied; watching Secrets: denied".to_owned())
        );
        readiness.has("the ledger");
        assert_eq!(readiness.check(), Err("watching Secrets: denied".to_owned()));
        readiness.has("watching Secrets");
        assert_eq!(readiness.check(), Ok(()));
    }
}
