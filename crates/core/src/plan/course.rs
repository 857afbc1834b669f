//! The calls that bring a wanted document to Vault, in their order, and what the ledger says around them.

use super::Title;
use crate::document::Cas;
use crate::ledger::{LedgerEntry, State};
use crate::settings::DeletionPolicy;
use crate::source::SourceKey;

/// What is to be done about a document that a source wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The write, if Vault holds something else.
    pub write: Option<Cas>,
    /// Whether the claim must be put on it, or renewed.
    pub claim: bool,
    /// The right that it rests on.
    pub title: Title,
    /// Whether the write brings back a deleted document on which somebody else's claim is left.
    pub revives: bool,
}

/// One call in carrying out a [`Step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Write the document into the ledger, and wait until that is stored.
    Record,
    /// Say in the ledger what is wished now of a document that it knows; a crash may lose that.
    Restate,
    /// Make sure of the finalizer.
    Finalizer,
    /// Write the content.
    Write(Cas),
    /// Say in the ledger that the document stands; a crash may lose that.
    Settle,
    /// Put the claim on it.
    Claim,
}

impl Step {
    /// The calls in their order. The ledger knows of a document before Vault does, so that a crash
    /// after any of them leaves nothing that nobody knows; each call rests on the one before.
    pub fn course(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> Vec<Act> {
        // Until our claim is on it, only the version that our first write makes proves that a document is ours.
        // Before another one comes, it must be stored that this one was ours; mostly it is, and that costs nothing.
        let proven = self.title.creating || self.write.is_none() || !self.claim;
        let recorded =
            entry.is_some_and(|entry| entry.holder == *me && entry.state != State::Deleting && proven);
        let mut acts = vec![if recorded { Act::Restate } else { Act::Record }];
        if self.write.is_some() || self.claim {
            acts.push(Act::Finalizer);
        }
        let write = self
            .write
            .map(Act::Write)
            .into_iter()
            .chain((self.title.creating || self.is_first(me, entry)).then_some(Act::Settle));
        let claim = self.claim.then_some(Act::Claim);
        // What is written under another's claim is another's, should we crash before ours is on it; so
        // there ours comes first. Nowhere else: no check-and-set keeps it from a document that another has
        // created since we looked.
        if self.revives {
            acts.extend(claim.into_iter().chain(write));
        } else {
            acts.extend(write.chain(claim));
        }
        acts
    }

    /// The ledger's entry before the write: what [`Act::Record`] and [`Act::Restate`] store. A document
    /// that exists is not the source's before its content has been written there: until then it is
    /// one to take away again, and not one for which the source could give up another.
    pub fn entry(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        let entry = self.title.entry(wish, old);
        if self.title.creating || !self.is_first(wish.holder, old) {
            return entry;
        }
        LedgerEntry {
            state: State::Deleting,
            ..entry
        }
    }

    /// Whether it writes what nothing shows to have been written for the source before.
    fn is_first(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> bool {
        let stood = entry.is_some_and(|entry| entry.stands_for(me));
        self.write.is_some() && !stood
    }
}

impl Title {
    /// The ledger's entry of a document to which nothing is written first.
    pub fn entry(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        let own = old.filter(|old| old.holder == *wish.holder);
        let state = match (self.creating, wish.unsettled) {
            // A write that got no answer, or that an old leader sent, may be the one that creates it. Once none
            // can arrive any more, and nothing is there, this is a new intention.
            (true, true) => State::OutcomeUnknown,
            (true, false) => State::Creating,
            (false, _) => State::Written,
        };
        let since = own
            .filter(|old| old.state == state)
            .map_or(wish.now, |old| old.since);
        let Wish {
            holder,
            uid,
            deletion,
            ..
        } = *wish;
        LedgerEntry {
            holder: holder.clone(),
            uid: uid.to_owned(),
            state,
            since,
            deletion,
            base: if self.creating { wish.base } else { 0 },
            adopted: self.adopted,
            claimed: own.is_some_and(|own| own.claimed) && !self.creating,
            paused: false,
        }
    }

    /// The entry after the write: what [`Act::Settle`] stores.
    pub fn settled(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        Self {
            creating: false,
            ..*self
        }
        .entry(wish, old)
    }
}

/// What a source wishes for a document, as the ledger keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The source.
    pub holder: &'a SourceKey,
    /// Its UID.
    pub uid: &'a str,
    /// What happens to the document when it is no longer wanted.
    pub deletion: DeletionPolicy,
    /// Seconds since 1970, by Vault's clock where it is known.
    pub now: i64,
    /// The version of the deleted document that is there now; 0: there is none.
    pub base: u64,
    /// Whether a write of ours could still be under way to the document when it was looked at.
    pub unsettled: bool,
}
