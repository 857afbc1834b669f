//! The promises, in every state that can be reached.
//!
//! A model checker (stateright) starts from one state, makes every move that is possible in it, and
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
//! What is left out: mounts without claims and KV v1, adoption of what is nobody's or another cluster's, several documents for one source (so
//! that one of them fails and others do not), `paused`, `force-sync`, policies of paths, a ledger that was
//! lost, operators with different scopes, failures of Kubernetes other than the end of the operator,
//! what a person does to a live document of ours (drift, which a re-check restores), documents that another
//! cluster has deleted, `--cleanup-timeout`, the resync,
//! and time: `since` and `created` are the same moment, and two client timeouts are over when no late
//! call is under way any more and no old leader is left.
//!
//! What a person writes under a claim that we have not given up yet counts as drift: a document whose delete
//! got no answer is looked at and deleted again. And an undeleted version has its old number: no check-and-set sees that a
//! person brought it back between our look and our write.
//!
//! What is known and not excluded: metadata know no check-and-set. A claim, a release or a purge that
//! was sent, or decided on without a write, a moment before another cluster creates the
//! document, hits that one; the model keeps the two apart. With `retain`, an old leader can put a claim on a document
//! that the new one has just released; that pair of bounds is not explored. And what is seen while
//! a late call may land is believed until that time is over, and then looked at again.
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

use domain::settings::{Adopt, DeletionPolicy};
use stateright::{Checker, HasDiscoveries, Model};

use world::Budget;

/// A fault that is put into the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mutation {
    None,
    /// The ledger hears of a document after Vault.
    LedgerAfterWrite,
    /// A document that is to go is taken for ours, whatever its claim.
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
    /// A check-and-set mismatch counts as a write without an answer, and the intention for a title.
    RefusedCreationIsATitle,
    /// What is remembered is believed although the path has changed, and another source held the document.
    MemoryOutlivesTitle,
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
    WrittenByHand,
    Undeleted,
    /// A source has taken a document from one that wants it too.
    Adopted,
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
    adopt: Adopt,
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
        adopt: Adopt::Never,
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
        if let Some((promise, path)) = checker.discoveries().into_iter().next() {
            panic!("{promise}: {:?}", path.into_actions());
        }
        assert!(states >= at_least, "{states} states are too few");
        for deed in deeds {
            let done = self.deeds.load(Ordering::Relaxed) & (1 << *deed as u32) != 0;
            assert!(done, "{deed:?} was never reached");
        }
    }

    /// Puts a fault into the operator, and shows that this promise does not survive it.
    fn shows(self, mutation: Mutation, promise: &'static str) {
        let rules = Self { mutation, ..self };
        let checker = rules
            .checker()
            .finish_when(HasDiscoveries::AllOf([promise].into()));
        let checker = checker.spawn_bfs().join();
        let Some(path) = checker.discovery(promise) else {
            panic!("{mutation:?} breaks {:?} only", checker.discoveries().keys());
        };
        eprintln!("{mutation:?}, {promise}: {:?}", path.into_actions());
    }
}

fn budget(edits: u8, crashes: u8, losses: u8, changes: u8, seizures: u8) -> Budget {
    Budget {
        edits,
        crashes,
        losses,
        changes,
        seizures,
        hands: 0,
    }
}

/// The same, with a person who writes, deletes and undeletes documents by hand.
fn with_hands(budget: Budget, hands: u8) -> Budget {
    Budget { hands, ..budget }
}

#[test]
fn edits_and_a_crash() {
    let rules = Rules {
        budget: budget(3, 1, 0, 0, 0),
        ..calm()
    };
    rules.hold(
        1_700_000,
        &[
            Deed::Swapped,
            Deed::HandedOver,
            Deed::CrashedBeforeClaim,
            Deed::Refused,
        ],
    );
}

#[test]
fn edits_and_a_lost_reply() {
    let rules = Rules {
        budget: budget(3, 0, 1, 0, 0),
        ..calm()
    };
    rules.hold(
        900_000,
        &[Deed::Swapped, Deed::LandedLate, Deed::Mismatch, Deed::Watched],
    );
}

#[test]
fn a_crash_a_lost_reply_and_another_cluster() {
    let rules = Rules {
        budget: budget(2, 1, 1, 0, 1),
        ..calm()
    };
    rules.hold(
        650_000,
        &[Deed::LandedLate, Deed::CrashedBeforeClaim, Deed::Disowned],
    );
}

#[test]
fn an_old_leader_goes_on() {
    let rules = Rules {
        budget: budget(2, 0, 0, 1, 0),
        ..calm()
    };
    rules.hold(1_100_000, &[Deed::Fenced, Deed::Mismatch, Deed::HandedOver]);
}

#[test]
fn an_old_leader_goes_on_and_a_reply_is_lost() {
    let rules = Rules {
        budget: budget(1, 1, 1, 1, 0),
        ..calm()
    };
    rules.hold(850_000, &[Deed::Fenced, Deed::LandedLate]);
}

#[test]
fn documents_are_created_once_and_beside_others() {
    let fresh = Rules {
        synced: false,
        ..calm()
    };
    let rules = Rules {
        budget: budget(2, 1, 0, 0, 1),
        ..fresh.clone()
    };
    rules.hold(
        500_000,
        &[Deed::Mismatch, Deed::Disowned, Deed::CrashedBeforeClaim],
    );
    let rules = Rules {
        budget: budget(1, 1, 1, 0, 1),
        ..fresh
    };
    rules.hold(110_000, &[Deed::LandedLate, Deed::Disowned]);
}

#[test]
fn a_source_without_its_secret_loses_nothing() {
    let rules = Rules {
        lose_secrets: true,
        budget: budget(2, 1, 1, 0, 0),
        ..calm()
    };
    rules.hold(480_000, &[Deed::LandedLate]);
}

#[test]
fn every_deletion_policy() {
    for (deletion, states) in [
        (DeletionPolicy::Purge, 400_000),
        (DeletionPolicy::Retain, 300_000),
    ] {
        let rules = Rules {
            deletion,
            budget: budget(2, 1, 1, 0, 0),
            ..calm()
        };
        rules.hold(states, &[Deed::LandedLate]);
    }
}

#[test]
fn a_person_writes_deletes_and_undeletes_documents() {
    for (synced, deletion, losses) in [
        (true, DeletionPolicy::Soft, 0),
        (true, DeletionPolicy::Soft, 1),
        (true, DeletionPolicy::Purge, 1),
        (false, DeletionPolicy::Soft, 0),
    ] {
        let rules = Rules {
            synced,
            deletion,
            budget: with_hands(budget(2, 0, losses, 0, 0), 2),
            ..calm()
        };
        rules.hold(1_000, &[Deed::WrittenByHand]);
    }
}

#[test]
fn a_source_adopts_anothers_document_and_gives_it_back() {
    let rules = Rules {
        adopt: Adopt::Annotated,
        budget: budget(3, 0, 0, 0, 0),
        ..calm()
    };
    rules.hold(10_000, &[Deed::Refused, Deed::HandedOver, Deed::Adopted]);
}

#[test]
fn two_reconciles_at_a_time() {
    let rules = Rules {
        concurrency: 2,
        budget: budget(2, 1, 1, 0, 0),
        ..calm()
    };
    rules.hold(
        1_100_000,
        &[Deed::HandedOver, Deed::LandedLate, Deed::CrashedBeforeClaim],
    );
}

/// What the mutations need, each as little as shows it.
#[test]
fn mutations_are_caught() {
    let edits = |budget| Rules { budget, ..calm() };
    let crash = edits(budget(2, 1, 0, 0, 0));
    let lost = edits(budget(2, 0, 1, 0, 0));
    let leaders = edits(budget(2, 0, 0, 1, 0));
    let others = edits(budget(2, 1, 0, 0, 1));
    crash.clone().shows(Mutation::LedgerAfterWrite, "no orphan");
    crash.clone().shows(Mutation::StruckBeforeDeleted, "no orphan");
    crash.shows(Mutation::DeleteBeforeNewStands, "new stands before old goes");
    others
        .clone()
        .shows(Mutation::ClaimNotCheckedBeforeDelete, "no theft");
    others.shows(Mutation::NoCheckAndSet, "no theft");
    lost.clone().shows(Mutation::NoCheckAndSet, "no rollback");
    lost.clone().shows(Mutation::LateWritesForgotten, "convergence");
    lost.shows(Mutation::LateWritesForgotten, "no orphan");
    leaders
        .clone()
        .shows(Mutation::VaultReadAfterKubernetes, "no rollback");
    leaders.shows(Mutation::OldLeaderNotFenced, "no orphan");
    let person = Rules {
        synced: false,
        ..edits(with_hands(budget(1, 0, 0, 0, 0), 1))
    };
    person.shows(Mutation::RefusedCreationIsATitle, "no theft");
    edits(budget(3, 0, 1, 0, 0)).shows(Mutation::MemoryOutlivesTitle, "convergence");
}
