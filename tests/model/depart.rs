//! The second half of a reconcile: taking away what the source no longer wants, as
//! `src/reconcile/departure.rs` does it.

use domain::document::{KvVersion, Observed};
use domain::ledger::{LedgerEntry, State};
use domain::plan::{Departure, Removal, after, remove};

use super::names::{self, NAMES};
use super::operator::{Turn, claim_as, flush, held, set};
use super::world::{Author, Call, Document, Entry, Object, Stage, bit, fault, has, small};
use super::{Deed, Mutation};

impl Turn<'_> {
    /// A source that is gone, is going, or has no path any more.
    pub(super) fn departed(&mut self) {
        let who = self.who;
        let held = held(self.me(), who);
        let run = self.run();
        run.memory = None;
        run.leaving = held;
        self.leave_next();
    }

    pub(super) fn leave_next(&mut self) {
        let run = *self.run();
        let live = run.object.is_some_and(|object| object.wants().is_some());
        if run.leaving != 0 {
            self.run().next = Stage::Leave;
        } else if live && self.mutated(Mutation::DeleteBeforeNewStands) && run.acts[0].is_none() {
            self.live();
        } else if !live && !run.failed && run.object.is_some_and(|object| object.finalizer) {
            self.run().next = Stage::Release;
        } else {
            self.finish();
        }
    }

    /// Looks at a document that is to go, and decides.
    pub(super) fn leave(&mut self) {
        let id = self.run().leaving.trailing_zeros() as usize;
        let seen = self.world.documents[id].seen();
        self.part_with(id, seen);
    }

    /// Decides about a document that is to go.
    fn part_with(&mut self, id: usize, mut seen: Observed) {
        let (who, deletion) = (self.who, self.rules.deletion);
        if self.mutated(Mutation::ClaimNotCheckedBeforeDelete) {
            claim_as(who, &mut seen);
        }
        let purged = self.run().purged;
        let me = self.me();
        let Some(entry) = me.ledger[id] else {
            return self.gone(id);
        };
        let rivals = names::rivals(me.sights, who, id);
        let removal = remove(&Departure {
            identity: &NAMES.identity,
            entry: &entry.spelt(deletion),
            seen: &seen,
            version: KvVersion::V2,
            wanted: !rivals.is_empty(),
            claimant_watched: true,
            deletion,
            unsettled: has(me.unsettled, id),
            purged,
        });
        let of = small(id);
        let next = match removal {
            Removal::HandOver => {
                let heir = &rivals[0];
                let me = self.me();
                me.dirty |= names::sharers(me.sights, who, id);
                let state = match entry.state {
                    State::Written => State::Deleting,
                    other => other,
                };
                let heir = LedgerEntry {
                    holder: heir.key.clone(),
                    uid: heir.uid.clone(),
                    state,
                    ..entry.spelt(deletion)
                };
                set(me, id, Some(Entry::of(&heir)));
                self.rules.did(Deed::HandedOver);
                return self.gone(id);
            }
            Removal::Watch => {
                let state = match entry.state {
                    State::OutcomeUnknown => State::OutcomeUnknown,
                    _ => State::Deleting,
                };
                set(self.me(), id, Some(Entry { state, ..entry }));
                self.run().later = true;
                self.rules.did(Deed::Watched);
                return self.gone(id);
            }
            Removal::Gone | Removal::Disown | Removal::Orphan => {
                if removal == Removal::Disown {
                    self.rules.did(Deed::Disowned);
                }
                Stage::Strike(of)
            }
            Removal::Release { version, retained } => Stage::Erase(Call::Release {
                of,
                retained,
                version: u8::try_from(version).unwrap_or(u8::MAX),
            }),
            Removal::Purge => Stage::Erase(Call::Purge { of }),
            Removal::DeleteVersion(version) => Stage::Erase(Call::DeleteVersion {
                of,
                version: u8::try_from(version).unwrap_or(u8::MAX),
            }),
            Removal::Delete => unreachable!("KV v1"),
        };
        self.run().next = match next {
            Stage::Erase(_) if self.mutated(Mutation::StruckBeforeDeleted) => {
                // The same calls, the other way round.
                self.me().pending |= bit(id);
                self.me().ledger[id] = None;
                if !flush(self.rules, self.world, self.at) {
                    return;
                }
                next
            }
            next => next,
        };
    }

    /// Nothing more is to be done for this document.
    pub(super) fn gone(&mut self, id: usize) {
        self.run().leaving &= !bit(id);
        self.run().purged = false;
        self.leave_next();
    }

    pub(super) fn erase(&mut self, call: Call, lost: bool) {
        let (Call::DeleteVersion { of, .. } | Call::Purge { of } | Call::Release { of, .. }) = call else {
            unreachable!("a call that takes something away")
        };
        let id = usize::from(of);
        if lost {
            self.world.flight = Some(call);
            self.note_late(id);
            let me = self.me();
            if let Some(entry) = me.ledger[id].filter(|entry| entry.state == State::Written) {
                let state = State::Deleting;
                set(me, id, Some(Entry { state, ..entry }));
            }
            self.run().failed = true;
            return self.gone(id);
        }
        self.note_gap(id);
        // The shell saw the document when it decided, and keeps what it saw: nothing else has that version.
        let seen = self.world.documents[id].seen();
        self.world.vault(call);
        let removal = match call {
            Call::Release { .. } => {
                self.run().next = Stage::Strike(of);
                return;
            }
            Call::Purge { .. } => {
                self.run().purged = true;
                Removal::Purge
            }
            Call::DeleteVersion { version, .. } => Removal::DeleteVersion(u64::from(version)),
            _ => unreachable!("a call that takes something away"),
        };
        let unsettled = self.me().unsettled | self.run().unsettled;
        if has(unsettled, id) {
            self.run().next = Stage::Leave;
        } else {
            self.part_with(id, after(&removal, seen));
        }
    }

    /// A source that asks for a document does not lose the last that it stands on. What was seen of
    /// the new one is believed; a late call that may still hit it is dealt with when it has.
    pub(super) fn note_gap(&mut self, id: usize) {
        let author = Author::Source(small(self.who));
        let wants = self.run().object.and_then(Object::wants).map(usize::from);
        let unsettled = self.me().unsettled | self.run().unsettled;
        let asks = wants.is_some_and(|wanted| !has(unsettled, wanted));
        let stood = self.me().ledger[id].is_none_or(|entry| entry.state == State::Written);
        let leads = self.world.epoch == Some(small(self.at));
        let stands = |document: &Document| document.live && document.text.author == author;
        let documents = &self.world.documents;
        if asks
            && stood
            && leads
            && stands(&documents[id])
            && documents.iter().filter(|d| stands(d)).count() == 1
        {
            self.world.faults |= fault::GAP;
        }
    }

    pub(super) fn strike(&mut self, id: usize) {
        let who = self.who;
        let me = self.me();
        me.dirty |= names::sharers(me.sights, who, id);
        if self.commit(id, None) {
            self.gone(id);
        }
    }

    pub(super) fn release(&mut self) {
        let (who, uid) = (self.who, self.object().uid);
        let object = &mut self.world.objects[who];
        match object {
            Some(there) if there.uid == uid && there.deleting => *object = None,
            Some(there) if there.uid == uid => there.finalizer = false,
            _ => {}
        }
        if let Some(object) = &mut self.run().object {
            object.finalizer = false;
        }
    }
}
