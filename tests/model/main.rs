//! The promises, in every state that can be reached.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

mod moves;
mod names;
mod operator;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use vault_sync_operator::domain::settings::DeletionPolicy;

use moves::budget;
use world::Budget;

/// A fault that is put into the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    None,
    LedgerAfterWrite,
    ClaimNotCheckedBeforeWrite,
    ClaimNotCheckedBeforeDelete,
    NoCheckAndSet,
    VaultReadAfterKubernetes,
    DeleteBeforeNewStands,
    StruckBeforeDeleted,
    DeleteNotFenced,
    LateWritesForgotten,
    OldLeaderNotFenced,
}

/// What must have happened somewhere, or the model shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Swapped,
    LandedLate,
    CrashedBeforeClaim,
    Fenced,
    Mismatch,
    HandedOver,
    Watched,
    Disowned,
    Refused,
}

/// One exploration: what the operator is like, and what can happen to it.
#[derive(Clone)]
struct Rules {
    mutation: Mutation,
    budget: Budget,
    synced: bool,
    unclaimed: bool,
    lose_secrets: bool,
    paths: u8,
    concurrency: usize,
    deletion: DeletionPolicy,
    deeds: Arc<AtomicU32>,
}

impl Rules {
    fn new(budget: Budget) -> Self {
        Self {
            mutation: Mutation::None,
            budget,
            synced: true,
            unclaimed: false,
            lose_secrets: false,
            paths: 3,
            concurrency: 1,
            deletion: DeletionPolicy::Soft,
            deeds: Arc::default(),
        }
    }

    fn did(&self, deed: Deed) {
        self.deeds.fetch_or(1 << deed as u32, Ordering::Relaxed);
    }
}

#[test]
fn measure() {
    let n: Vec<u8> = std::env::var("BUDGET").unwrap_or("1,0,0,0,0".into()).split(',').map(|n| n.parse().unwrap()).collect();
    let mut rules = Rules::new(budget(n[0], n[1], n[2], n[3], n[4]));
    rules.synced = std::env::var("FRESH").is_err();
    rules.lose_secrets = std::env::var("LOSE").is_ok();
    rules.unclaimed = std::env::var("UNCLAIMED").is_ok();
    if let Ok(paths) = std::env::var("PATHS") { rules.paths = paths.parse().unwrap(); }
    if let Ok(c) = std::env::var("CONC") { rules.concurrency = c.parse().unwrap(); }
    if let Ok(p) = std::env::var("POLICY") { rules.deletion = p.parse().unwrap(); }
    let begun = Instant::now();
    let checker = rules.clone().checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    eprintln!("{} unique, {} states, depth {}, {:?}, deeds {:b}", checker.unique_state_count(), checker.state_count(), checker.max_depth(), begun.elapsed(), rules.deeds.load(Ordering::Relaxed));
    for (name, path) in checker.discoveries() {
        eprintln!("### {name}");
        let states = path.clone().into_vec();
        for (state, action) in &states {
            eprintln!("{action:?}");
            if action.is_none() || std::env::var("VERBOSE").is_ok() { eprintln!("    {state:?}"); }
        }
    }
}
