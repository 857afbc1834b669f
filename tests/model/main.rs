//! The promises, in every state that can be reached.
//!
//! A model checker ([stateright]) starts from one state, makes every move that is possible in it, and
//! goes on from each state that it has not seen yet, until there is no new one. In every state it
//! checks the promises ([`promises`]); where one is broken, it has the moves that lead there.
//!
//! **The state** ([`world`]) is Vault's documents, two sources (`a` and `b`) with a Secret each, three
//! documents (`x` and `y` to begin with nobody else's; `z` another cluster's), the stored ledger, and
//! for each of two operators all that it has in memory: ledger, queue, index, running reconciles.
//!
//! **The moves** ([`moves`]) are the calls of the operators, one by one ([`operator`], [`apply`], [`depart`]:
//! the order of calls is theirs, copied from `src/reconcile`; whatever decides is the function of
//! the domain itself, the index too), and what others do: users move and swap paths, rotate, lose and restore
//! Secrets, take the annotation away, delete and re-create sources, and undo all that; operators crash
//! between any two calls or end in good order; another becomes leader while the old one goes on; a
//! reply of Vault's is lost, and the call arrives never, or at any later moment; watches lag;
//! another cluster creates a document where none lives.
//!
//! **The bounds**: each test says how often ([`Budget`]) what comes from outside can happen. What
//! the operators do about it is not bounded.
//!
//! **Mutations**: the same model with a fault in the operator must show a broken promise, or it would
//! show nothing when it shows none.
//!
//! What is left out: mounts without claims and KV v1, adoption, several documents for one source (so
//! that one of them fails and others do not), `paused`, `force-sync`, policies of paths, two operators with
//! different scopes, failures of Kubernetes other than the end of the operator, edits of Vault by hand,
//! and time: `since` and `created` are the same moment, and two client timeouts are over when no late
//! call is under way any more and no old leader is left.
//! Two holes are known, which Vault's API leaves: metadata know no check-and-set, so that a claim or
//! a purge that arrives late can hit what became another cluster's in that moment; and with
//! `retain`, an old leader can put a claim on a document that the new one has just released.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, missing_docs)]

mod apply;
mod depart;
mod moves;
mod names;
mod operator;
mod promises;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use vault_sync_operator::domain::settings::DeletionPolicy;

use world::Budget;

/// A fault that is put into the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    None,
    /// The ledger hears of a document after Vault.
    LedgerAfterWrite,
    /// A document that is to go is taken for unclaimed.
    ClaimNotCheckedBeforeDelete,
    /// Writes go out without the version that was seen.
    NoCheckAndSet,
    /// Vault is read when the Secret has been read.
    VaultReadAfterKubernetes,
    /// Old documents go first.
    DeleteBeforeNewStands,
    /// The ledger forgets a document before its delete.
    StruckBeforeDeleted,
    /// A lost reply counts as a failure.
    LateWritesForgotten,
    /// The ledger takes what an old leader writes.
    OldLeaderNotFenced,
    /// What is remembered is believed although the path has changed meanwhile.
    MemoryOutlivesPath,
}

/// What must have happened somewhere, or an exploration shows less than it seems to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    /// Two sources have each other's document, and both stand.
    Swapped,
    /// A call whose reply was lost has arrived later.
    LandedLate,
    /// An operator died between a write and its claim.
    CrashedBeforeClaim,
    /// An old leader could not write the ledger any more.
    Fenced,
    /// A check-and-set has failed.
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
    /// Whether all is well at the beginning; else `a` has yet to be brought to Vault, and there is no `b`.
    synced: bool,
    /// Whether users delete Secrets too.
    lose_secrets: bool,
    /// How many reconciles an operator runs at a time.
    concurrency: usize,
    deletion: DeletionPolicy,
    deeds: Arc<AtomicU32>,
}

/// At the beginning all is well, and nothing ever happens.
fn calm() -> Rules {
    Rules {
        mutation: Mutation::None,
        budget: Budget::default(),
        synced: true,
        lose_secrets: false,
        concurrency: 1,
        deletion: DeletionPolicy::Soft,
        deeds: Arc::default(),
    }
}

impl Rules {
    fn did(&self, deed: Deed) {
        self.deeds.fetch_or(1 << deed as u32, Ordering::Relaxed);
    }

    /// Explores all states, and shows that every promise holds in each of them.
    fn hold(&self, at_least: usize, deeds: &[Deed]) {
        let begun = Instant::now();
        let checker = self.clone().checker().finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let (states, took) = (checker.unique_state_count(), begun.elapsed());
        eprintln!("{:?}: {states} states in {took:?}", self.budget);
        for (promise, path) in checker.discoveries() {
            panic!("{promise}: {:#?}", path.into_actions());
        }
        assert!(states >= at_least, "{states} states are too few");
        for deed in deeds {
            let done = self.deeds.load(Ordering::Relaxed) & (1 << *deed as u32) != 0;
            assert!(done, "{deed:?} was never reached");
        }
    }

    /// Puts a fault into the operator, and shows that this promise does not survive it.
    fn is_caught(self, mutation: Mutation, promise: &'static str) {
        let rules = Self { mutation, ..self };
        let checker = rules.checker().finish_when(HasDiscoveries::AllOf([promise].into()));
        let checker = checker.spawn_bfs().join();
        let Some(path) = checker.discovery(promise) else {
            panic!("{mutation:?} breaks {:?} only", checker.discoveries().keys());
        };
        eprintln!("{mutation:?}, {promise}: {:?}", path.into_actions());
    }
}

#[test]
fn measure() {
    let n: Vec<u8> = std::env::var("BUDGET").unwrap_or("1,0,0,0,0".into()).split(',').map(|n| n.parse().unwrap()).collect();
    let mut rules = calm();
    rules.budget = Budget { edits: n[0], crashes: n[1], losses: n[2], changes: n[3], seizures: n[4] };
    rules.synced = std::env::var("FRESH").is_err();
    rules.lose_secrets = std::env::var("LOSE").is_ok();
    if let Ok(c) = std::env::var("CONC") { rules.concurrency = c.parse().unwrap(); }
    if let Ok(p) = std::env::var("POLICY") { rules.deletion = p.parse().unwrap(); }
    if let Ok(m) = std::env::var("MUT") {
        use Mutation::*;
        let all = [LedgerAfterWrite, ClaimNotCheckedBeforeDelete, NoCheckAndSet, VaultReadAfterKubernetes, DeleteBeforeNewStands, StruckBeforeDeleted, LateWritesForgotten, OldLeaderNotFenced, MemoryOutlivesPath];
        rules.mutation = all.into_iter().find(|x| format!("{x:?}") == m).unwrap();
    }
    let begun = Instant::now();
    let checker = rules.clone().checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    eprintln!("{} unique, {} states, depth {}, {:?}, deeds {:b}", checker.unique_state_count(), checker.state_count(), checker.max_depth(), begun.elapsed(), rules.deeds.load(Ordering::Relaxed));
    for (name, path) in checker.discoveries() {
        eprintln!("### {name}");
        eprintln!("{:?}", path.clone().into_actions());
        if std::env::var("VERBOSE").is_ok() { eprintln!("{:?}", path.last_state()); }
    }
}
