//! The first half of a reconcile: bringing the wanted document to Vault, as `src/reconcile/arrival.rs`
//! does it.

use domain::document::{Cas, KvVersion, Mark as DomainMark, Observed};
use domain::ledger::{LedgerEntry, State};
use domain::plan::{self, Scene, Standing, Step, Title, Wish, decide, is_refuted, is_vain, title};

use super::names::{self, NAMES, contender, digest};
use super::operator::{Turn, news, set};
use super::world::{Act, Call, Entry, Object, Remembered, Reply, Stage, bit, has, small};
use super::{Deed, Mutation};

impl Turn<'_> {
    pub(super) fn wanted(&mut self) -> usize {
        usize::from(self.run().hint.expect("a wanted document"))
    }

    pub(super) fn object(&mut self) -> Object {
        self.run().object.expect("a source")
    }

    /// The entry that announces a document which is to be created.
    pub(super) fn announced(&mut self) -> Option<Entry> {
        if self.mutated(Mutation::LedgerAfterWrite) {
            return None;
        }
        let seen = self.run().seen?.seen();
        if !matches!(seen, Observed::Absent | Observed::Deleted { .. }) {
            return None;
        }
        let title = self.scene(&seen, title).ok()?;
        Some(self.wish(|wish, old| Entry::of(&title.entry(wish, old))))
    }

    pub(super) fn announce(&mut self) {
        let id = self.wanted();
        let entry = self.announced();
        self.run().next = Stage::Fetch;
        self.commit(id, entry);
    }

    pub(super) fn scene<T>(&mut self, seen: &Observed, decide: impl FnOnce(&Scene) -> T) -> T {
        let (id, who, object, rules) = (self.wanted(), self.who, self.object(), self.rules);
        let adopt = rules.adopt;
        let me = self.me();
        let entry = me.ledger[id].map(|entry| entry.spelt(rules.deletion));
        decide(&Scene {
            identity: &NAMES.identity,
            me: &contender(who, object),
            rivals: &names::rivals(me.sights, who, id),
            entry: entry.as_ref(),
            seen,
            version: KvVersion::V2,
            claims: true,
            adopt,
        })
    }

    pub(super) fn wish<T>(&mut self, then: impl FnOnce(&Wish, Option<&LedgerEntry>) -> T) -> T {
        let (id, who, object, rules) = (self.wanted(), self.who, self.object(), self.rules);
        let old = self.me().ledger[id].map(|entry| entry.spelt(rules.deletion));
        let unsettled = self.run().unsettled != 0;
        let base = self.run().seen.map_or(0, |seen| seen.seen().base());
        let wish = Wish {
            holder: &NAMES.keys[who],
            uid: &NAMES.uids[usize::from(object.uid)],
            deletion: rules.deletion,
            now: 1,
            base,
            unsettled,
        };
        then(&wish, old.as_ref())
    }

    /// The Secret is read: whose is the document, and what is to be written?
    pub(super) fn decide(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        let Some(secret) = self.run().secret.filter(|secret| secret.value != 0) else {
            return self.failed();
        };
        let run = self.run();
        let seen = match (run.memory, run.seen) {
            (Some(known), _) => Observed::Live {
                version: u64::from(known.version),
                created: 0,
                content: Some(digest(known.text)),
                mark: DomainMark::Claimed(NAMES.identity.claim(
                    &NAMES.keys[who],
                    self.me().ledger[id].is_some_and(|entry| entry.adopted),
                )),
            },
            (None, Some(seen)) => seen.seen(),
            (None, None) => return self.moved(),
        };
        let entry = self.me().ledger[id].map(|entry| entry.spelt(self.rules.deletion));
        let step = match self.scene(&seen, |scene| decide(scene, digest(secret))) {
            Ok(step) => step,
            Err(owner) => {
                self.rules.did(Deed::Refused);
                self.me().refused |= bit(who);
                if entry.is_some_and(|entry| is_vain(&NAMES.keys[who], &entry, &owner)) {
                    set(self.me(), id, None);
                }
                self.run().memory = None;
                return self.brought(Standing::Missing);
            }
        };
        let mut acts: Vec<Act> = Vec::new();
        let mut cas = None;
        for act in step.course(&NAMES.keys[who], entry.as_ref()) {
            acts.push(match act {
                plan::Act::Record => Act::Record,
                plan::Act::Restate => Act::Restate,
                plan::Act::Finalizer => Act::Finalizer,
                plan::Act::Write(check) => {
                    if let Cas::Version(version) = check {
                        cas = u8::try_from(version).ok();
                    }
                    Act::Write
                }
                plan::Act::Settle => Act::Settle,
                plan::Act::Claim => Act::Claim,
            });
        }
        if self.mutated(Mutation::LedgerAfterWrite)
            && let Some(at) = acts.iter().position(|act| *act == Act::Write)
        {
            acts[..=at].rotate_left(1);
        }
        let run = self.run();
        run.cas = cas;
        run.creating = step.title.creating;
        run.adopted = step.title.adopted;
        run.acts = std::array::from_fn(|at| acts.get(at).copied());
        // What Vault holds from now on, as far as this reconcile can tell.
        run.memory = Some(Remembered {
            document: small(id),
            version: u8::try_from(seen.version()).unwrap_or(u8::MAX),
            text: secret,
        });
        self.proceed();
    }

    /// The step that was decided, as far as the ledger needs it.
    pub(super) fn step(&mut self) -> Step {
        let run = self.run();
        Step {
            write: run.cas.map(|cas| Cas::Version(u64::from(cas))),
            claim: false,
            title: Title {
                adopted: run.adopted,
                creating: run.creating,
            },
            revives: false,
        }
    }

    /// Does what needs no call, up to the next act that does.
    pub(super) fn proceed(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        loop {
            let step = self.step();
            let act = self.run().acts[0];
            let entry = match act {
                None => {
                    // Our claim is on it.
                    let me = self.me();
                    if let Some(entry) = me.ledger[id].filter(|entry| usize::from(entry.holder) == who) {
                        set(
                            me,
                            id,
                            Some(Entry {
                                claimed: true,
                                ..entry
                            }),
                        );
                    }
                    return self.brought(Standing::Stands);
                }
                Some(Act::Finalizer) if self.object().finalizer => None,
                Some(Act::Restate) => Some(self.wish(|wish, old| Entry::of(&step.entry(wish, old)))),
                Some(Act::Settle) => Some(self.wish(|wish, old| Entry::of(&step.title.settled(wish, old)))),
                Some(Act::Record) if self.is_recorded(&step) => None,
                Some(Act::Record | Act::Finalizer | Act::Write | Act::Claim) => {
                    self.run().next = Stage::Act;
                    return;
                }
            };
            if entry.is_some() {
                debug_assert_eq!(entry.map(|e| usize::from(e.holder)), Some(who));
                set(self.me(), id, entry);
            }
            self.shift();
        }
    }

    pub(super) fn is_recorded(&mut self, step: &Step) -> bool {
        let id = self.wanted();
        let entry = self.wish(|wish, old| Entry::of(&step.entry(wish, old)));
        !news(self.me(), id, Some(entry))
    }

    pub(super) fn shift(&mut self) {
        let acts = &mut self.run().acts;
        acts.rotate_left(1);
        acts[4] = None;
    }

    pub(super) fn act(&mut self, lost: bool) {
        let (id, who) = (self.wanted(), self.who);
        match self.run().acts[0] {
            Some(Act::Record) => {
                let step = self.step();
                let entry = self.wish(|wish, old| Entry::of(&step.entry(wish, old)));
                let loser = self.me().ledger[id].map(|entry| usize::from(entry.holder));
                if !self.commit(id, Some(entry)) {
                    return;
                }
                // Who loses a document is told.
                if let Some(loser) = loser.filter(|loser| *loser != who) {
                    let me = self.me();
                    me.dirty |= bit(loser);
                    if names::rivals(me.sights, who, id)
                        .iter()
                        .any(|rival| rival.key == NAMES.keys[loser])
                    {
                        self.rules.did(Deed::Adopted);
                    }
                }
            }
            Some(Act::Finalizer) => {
                let uid = self.object().uid;
                match &mut self.world.objects[who] {
                    Some(object) if object.uid == uid && !object.deleting => object.finalizer = true,
                    _ => return self.moved(),
                }
                if let Some(object) = &mut self.run().object {
                    object.finalizer = true;
                }
            }
            Some(Act::Write) => {
                let run = self.run();
                let call = Call::Write {
                    to: small(id),
                    cas: run.cas,
                    text: run.secret.expect("a Secret"),
                };
                let call = self.unchecked(call);
                if lost {
                    return self.write_lost(call);
                }
                if self.world.vault(call) == Reply::Mismatch {
                    self.rules.did(Deed::Mismatch);
                    self.refuted();
                    return self.moved();
                }
                let version = self.world.documents[id].version;
                if let Some(memory) = &mut self.run().memory {
                    memory.version = version;
                }
            }
            Some(Act::Claim) => {
                let call = Call::Claim {
                    of: small(id),
                    by: small(who),
                };
                if lost || self.world.vault(call) != Reply::Done {
                    self.world.flight = lost.then_some(call);
                    self.note_late(id);
                    self.run().failed = true;
                    return self.failed();
                }
            }
            _ => {}
        }
        self.shift();
        self.proceed();
    }

    /// A creating write was refused: an intention is no title.
    fn refuted(&mut self) {
        let (id, who, deletion) = (self.wanted(), self.who, self.rules.deletion);
        if !self.run().creating {
            return;
        }
        let entry = self.me().ledger[id].map(|entry| entry.spelt(deletion));
        if entry.is_some_and(|entry| is_refuted(&NAMES.keys[who], &entry)) {
            let mutant = self.mutated(Mutation::RefusedCreationIsATitle);
            let me = self.me();
            let passes_for_ours = me.ledger[id].map(|entry| Entry {
                state: State::OutcomeUnknown,
                ..entry
            });
            set(me, id, passes_for_ours.filter(|_| mutant));
        }
    }

    pub(super) fn unchecked(&self, call: Call) -> Call {
        match call {
            Call::Write { to, text, .. } if self.mutated(Mutation::NoCheckAndSet) => {
                Call::Write { to, cas: None, text }
            }
            call => call,
        }
    }

    pub(super) fn write_lost(&mut self, call: Call) {
        let id = self.wanted();
        self.world.flight = Some(call);
        let creating = self.run().creating;
        self.note_late(id);
        let me = self.me();
        if let Some(entry) = me.ledger[id].filter(|entry| creating && entry.state == State::Creating) {
            let state = State::OutcomeUnknown;
            set(me, id, Some(Entry { state, ..entry }));
        }
        self.run().failed = true;
        self.failed();
    }

    pub(super) fn note_late(&mut self, id: usize) {
        if !self.mutated(Mutation::LateWritesForgotten) {
            self.me().unsettled |= bit(id);
            self.run().later = true;
        }
    }

    /// The document could not be brought.
    pub(super) fn failed(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        self.run().memory = None;
        let me = self.me();
        let stood = me.ledger[id].is_some_and(|e| usize::from(e.holder) == who && e.state == State::Written);
        self.brought(if stood { Standing::Stale } else { Standing::Missing });
    }

    pub(super) fn brought(&mut self, standing: Standing) {
        let (id, who) = (self.wanted(), self.who);
        if standing != Standing::Stands {
            let absent = self.run().seen.is_some_and(|seen| !seen.live);
            let me = self.me();
            let announced =
                me.ledger[id].is_some_and(|e| usize::from(e.holder) == who && e.state == State::Creating);
            if absent && announced && !has(me.unsettled, id) {
                set(me, id, None);
            }
        }
        if self.mutated(Mutation::DeleteBeforeNewStands) {
            return self.finish();
        }
        self.clean(standing);
    }
}
