//! The calls that bring a wanted document to Vault, in order, and the ledger entries that go with them.

use super::Title;
use crate::document::Cas;
use crate::ledger::{LedgerEntry, State};
use crate::settings::DeletionPolicy;
use crate::source::SourceKey;

/// What to do about a document that a source wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The write, if Vault holds something else.
    pub write: Option<Cas>,
    /// Whether the claim must be set or renewed.
    pub claim: bool,
    /// The title that allows it.
    pub title: Title,
    /// Whether the write restores a deleted document that still carries someone else's claim.
    pub revives: bool,
}

/// One call of a [`Step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Record the document in the ledger, and wait until this is stored.
    Record,
    /// Update the ledger's entry for a known document to what its source asks for now. A crash may lose this.
    Restate,
    /// Ensure that the source has the finalizer.
    Finalizer,
    /// Write the content.
    Write(Cas),
    /// Record in the ledger that the document is written. A crash may lose this.
    Settle,
    /// Set the claim.
    Claim,
}

impl Step {
    /// The calls in order. The ledger records a document before Vault has it, so that a crash after any call
    /// leaves no unknown document. Each call depends on the one before.
    pub fn course(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> Vec<Act> {
        // Until our claim is on it, only the version of our first write proves that a document is ours. The
        // ledger must store that the document is ours before the next version is written. Usually it already
        // does, and this costs nothing.
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
        // If we crash between the write and the claim, a document that still carries another's claim counts
        // as theirs. So here the claim comes first. Otherwise the write comes first: a claim has no
        // check-and-set, and could hit a document that someone else has created since we looked.
        if self.revives {
            acts.extend(claim.into_iter().chain(write));
        } else {
            acts.extend(write.chain(claim));
        }
        acts
    }

    /// The ledger's entry before the write, which [`Act::Record`] and [`Act::Restate`] store. An existing
    /// document does not belong to the source until its content is written. Until then its entry is
    /// `Deleting`: it is to be deleted again, and the source must not give up another document for it.
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

    /// Whether this write is the first one for the source, as far as the ledger shows.
    fn is_first(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> bool {
        let stood = entry.is_some_and(|entry| entry.stands_for(me));
        self.write.is_some() && !stood
    }
}

impl Title {
    /// The ledger's entry for a document, if no write has to come first.
    pub fn entry(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        let own = old.filter(|old| old.holder == *wish.holder);
        let state = match (self.creating, wish.unsettled) {
            // A write that got no response, or that an old leader sent, may be the one that creates it. Once
            // no such write can arrive any more, and nothing is there, this is a new intention.
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

    /// The ledger's entry after the write, which [`Act::Settle`] stores.
    pub fn settled(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        Self {
            creating: false,
            ..*self
        }
        .entry(wish, old)
    }
}

/// What a source asks for about a document, as the ledger stores it.
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
    /// Whether a write of ours could still arrive when the document was read.
    pub unsettled: bool,
}
