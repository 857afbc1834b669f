//! One operator's reconcile, call by call, as `src/reconcile` does it: each [`Turn::go`] makes the
//! one call that is next, and then decides, by the functions of the domain, until another call is due.

use vault_sync_operator::domain::document::{Cas, DocumentId, KvVersion, Mark as DomainMark};
use vault_sync_operator::domain::ledger::{LedgerEntry, State};
use vault_sync_operator::domain::plan::{
    self, Departure, Removal, Scene, Seen, Standing, Step, Title, Wish, decide, is_vain, may_clean, remove, title,
};
use vault_sync_operator::domain::settings::Adopt;

use super::names::{self, NAMES, contender, digest};
use super::world::{
    Act, Author, Call, Document, Entry, Object, Operator, Remembered, Reply, Run, Set, Stage, World, bit, fault, has, small,
};
use super::{Deed, Mutation, Rules};

/// One call of one reconcile.
pub struct Turn<'a> {
    pub rules: &'a Rules,
    pub world: &'a mut World,
    /// Which operator.
    pub at: usize,
    /// Which source it reconciles.
    pub who: usize,
}

impl Turn<'_> {
    fn me(&mut self) -> &mut Operator {
        self.world.operators[self.at].as_mut().expect("a running operator")
    }

    fn run(&mut self) -> &mut Run {
        let who = self.who;
        self.me().runs[who].as_mut().expect("a running reconcile")
    }

    fn mutated(&self, mutation: Mutation) -> bool {
        self.rules.mutation == mutation
    }

    /// The documents that a reconcile which begins now would lock.
    pub fn locks(operator: &Operator, who: usize) -> Set {
        let hint = operator.sights[who].and_then(Object::wants);
        let foreseen = hint.map_or(0, |hint| bit(usize::from(hint)));
        foreseen | held(operator, who)
    }

    /// The queue gives the source its turn.
    pub fn start(&mut self) {
        let (who, late_look) = (self.who, self.mutated(Mutation::VaultReadAfterKubernetes));
        let me = self.me();
        let recheck = has(me.recheck, who);
        me.dirty &= !bit(who);
        me.recheck &= !bit(who);
        let hint = me.sights[who].and_then(Object::wants);
        let memory = me.memory[who].filter(|known| !recheck && Some(known.document) == hint);
        let look = hint.is_some() && memory.is_none() && !late_look;
        me.runs[who] = Some(Run {
            next: if look { Stage::Look } else { Stage::Read },
            recheck,
            locked: Self::locks(me, who),
            hint,
            object: None,
            seen: None,
            memory,
            secret: None,
            acts: [None; 5],
            cas: None,
            creating: false,
            leaving: 0,
            failed: false,
            later: false,
            unsettled: me.unsettled & Self::locks(me, who),
            cleaned: false,
        });
    }

    /// The next call; `lost`: its reply does not come, and it may arrive later or never.
    pub fn go(&mut self, lost: bool) {
        match self.run().next {
            Stage::Look => {
                self.look();
                if self.mutated(Mutation::VaultReadAfterKubernetes) {
                    self.decide();
                } else {
                    self.run().next = Stage::Read;
                }
            }
            Stage::Read => self.read(),
            Stage::Announce => self.announce(),
            Stage::Fetch => {
                let secret = self.world.secrets[self.who];
                let run = self.run();
                run.secret = Some(secret);
                if run.memory.is_none() && run.seen.is_none() {
                    run.next = Stage::Look;
                } else {
                    self.decide();
                }
            }
            Stage::Act => self.act(lost),
            Stage::Leave => self.leave(),
            Stage::Confirm(call) => {
                if flush(self.rules, self.world, self.at) {
                    self.run().next = Stage::Erase(call);
                }
            }
            Stage::Erase(call) => self.erase(call, lost),
            Stage::Strike(id) => self.strike(usize::from(id)),
            Stage::Release => {
                self.release();
                self.finish();
            }
        }
    }

    fn look(&mut self) {
        let hint = self.run().hint.expect("a foreseen document");
        let seen = self.world.documents[usize::from(hint)];
        self.run().seen = Some(seen);
    }

    fn read(&mut self) {
        let (who, object) = (self.who, self.world.objects[self.who]);
        self.run().object = object;
        let Some(object) = object else {
            return self.departed();
        };
        let before = self.me().sights[who];
        let wake = observe(self.me(), who, object);
        let me = self.me();
        me.dirty |= wake & !bit(who);
        let other = wake != 0 && before.is_some_and(|before| before.uid != object.uid);
        if object.wants() != self.run().hint || other {
            return self.moved();
        }
        if object.wants().is_some() {
            self.live();
        } else {
            self.departed();
        }
    }

    /// Something moved meanwhile: all of it again.
    fn moved(&mut self) {
        let (who, recheck) = (self.who, self.run().recheck);
        let me = self.me();
        me.runs[who] = None;
        me.memory[who] = None;
        me.dirty |= bit(who);
        if recheck {
            me.recheck |= bit(who);
        }
    }

    /// A source that is there and asks for something.
    fn live(&mut self) {
        let who = self.who;
        let (id, noticed) = (self.wanted(), self.me().secrets[who]);
        if self.mutated(Mutation::DeleteBeforeNewStands) && !self.run().cleaned {
            self.run().cleaned = true;
            return self.clean(Standing::Stands);
        }
        if let Some(known) = self.run().memory {
            if noticed.value != 0 && noticed.edition == known.text.edition {
                let uid = self.object().uid;
                if let Some(entry) = self.me().ledger[id].filter(|entry| usize::from(entry.holder) == who) {
                    set(self.me(), id, Some(Entry { uid, ..entry }));
                }
                return self.brought(Standing::Stands);
            }
        } else if noticed.value != 0
            && let Some(entry) = self.announced()
            && news(self.me(), id, Some(entry))
        {
            self.run().next = Stage::Announce;
            return;
        }
        self.run().next = Stage::Fetch;
    }

    fn wanted(&mut self) -> usize {
        usize::from(self.run().hint.expect("a wanted document"))
    }

    fn object(&mut self) -> Object {
        self.run().object.expect("a source")
    }

    /// The entry that announces a document which is to be created.
    fn announced(&mut self) -> Option<Entry> {
        if self.mutated(Mutation::LedgerAfterWrite) {
            return None;
        }
        let seen = self.run().seen?.seen();
        if !matches!(seen, Seen::Absent | Seen::Deleted { .. }) {
            return None;
        }
        let title = self.scene(&seen, title).ok()?;
        Some(self.wish(|wish, old| Entry::of(&title.entry(wish, old))))
    }

    fn announce(&mut self) {
        let id = self.wanted();
        let entry = self.announced();
        self.run().next = Stage::Fetch;
        self.commit(id, entry);
    }

    fn scene<T>(&mut self, seen: &Seen, decide: impl FnOnce(&Scene) -> T) -> T {
        let (id, who, object, rules) = (self.wanted(), self.who, self.object(), self.rules);
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
            adopt: Adopt::Equal,
        })
    }

    fn wish<T>(&mut self, then: impl FnOnce(&Wish, Option<&LedgerEntry>) -> T) -> T {
        let (id, who, object, rules) = (self.wanted(), self.who, self.object(), self.rules);
        let old = self.me().ledger[id].map(|entry| entry.spelt(rules.deletion));
        let wish = Wish {
            holder: &NAMES.keys[who],
            uid: &NAMES.uids[usize::from(object.uid)],
            deletion: rules.deletion,
            now: 1,
        };
        then(&wish, old.as_ref())
    }

    /// The Secret is read: whose is the document, and what is to be written?
    fn decide(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        let Some(secret) = self.run().secret.filter(|secret| secret.value != 0) else {
            return self.failed();
        };
        let run = self.run();
        let mut seen = match (run.memory, run.seen) {
            (Some(known), _) => Seen::Live {
                version: u64::from(known.version),
                created: 0,
                content: Some(digest(known.text)),
                mark: DomainMark::Claimed(NAMES.identity.claim(&NAMES.keys[who])),
            },
            (None, Some(seen)) => seen.seen(),
            (None, None) => return self.moved(),
        };
        if self.mutated(Mutation::ClaimNotCheckedBeforeWrite) {
            unmark(&mut seen);
        }
        let entry = self.me().ledger[id].map(|entry| entry.spelt(self.rules.deletion));
        let step = match self.scene(&seen, |scene| decide(scene, digest(secret))) {
            Ok(step) => step,
            Err(owner) => {
                self.rules.did(Deed::Refused);
                if entry.is_some_and(|entry| is_vain(&NAMES.keys[who], &entry, &owner)) {
                    set(self.me(), id, None);
                }
                return self.failed();
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
    fn step(&mut self) -> Step {
        let run = self.run();
        Step {
            write: run.cas.map(|cas| Cas::Version(u64::from(cas))),
            claim: false,
            title: Title {
                adopted: false,
                creating: run.creating,
            },
        }
    }

    /// Does what needs no call, up to the next act that does.
    fn proceed(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        loop {
            let step = self.step();
            let act = self.run().acts[0];
            let entry = match act {
                None => return self.brought(Standing::Stands),
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

    fn is_recorded(&mut self, step: &Step) -> bool {
        let id = self.wanted();
        let entry = self.wish(|wish, old| Entry::of(&step.entry(wish, old)));
        !news(self.me(), id, Some(entry))
    }

    fn shift(&mut self) {
        let acts = &mut self.run().acts;
        acts.rotate_left(1);
        acts[4] = None;
    }

    fn act(&mut self, lost: bool) {
        let (id, who) = (self.wanted(), self.who);
        match self.run().acts[0] {
            Some(Act::Record) => {
                let step = self.step();
                let entry = self.wish(|wish, old| Entry::of(&step.entry(wish, old)));
                if !self.commit(id, Some(entry)) {
                    return;
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

    fn unchecked(&self, call: Call) -> Call {
        match call {
            Call::Write { to, text, .. } if self.mutated(Mutation::NoCheckAndSet) => Call::Write {
                to,
                cas: None,
                text,
            },
            call => call,
        }
    }

    fn write_lost(&mut self, call: Call) {
        let id = self.wanted();
        self.world.flight = Some(call);
        let creating = self.run().creating;
        self.note_late(id);
        let me = self.me();
        if let Some(entry) = me.ledger[id].filter(|_| creating) {
            let state = State::OutcomeUnknown;
            set(me, id, Some(Entry { state, ..entry }));
        }
        self.run().failed = true;
        self.failed();
    }

    fn note_late(&mut self, id: usize) {
        if !self.mutated(Mutation::LateWritesForgotten) {
            self.me().unsettled |= bit(id);
            self.run().later = true;
        }
    }

    /// The document could not be brought.
    fn failed(&mut self) {
        let (id, who) = (self.wanted(), self.who);
        self.run().memory = None;
        let me = self.me();
        let stood =
            me.ledger[id].is_some_and(|e| usize::from(e.holder) == who && e.state == State::Written);
        self.brought(if stood { Standing::Stale } else { Standing::Missing });
    }

    fn brought(&mut self, standing: Standing) {
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

    /// New documents stand before old ones go.
    fn clean(&mut self, standing: Standing) {
        let (id, who, deletion) = (self.wanted(), self.who, self.rules.deletion);
        {
            let all = may_clean([standing]);
            let me = self.me();
            let entries: Vec<(DocumentId, LedgerEntry)> = (0..me.ledger.len())
                .filter(|id| has(held(me, who), *id))
                .filter_map(|id| Some((NAMES.ids[id].clone(), me.ledger[id]?.spelt(deletion))))
                .collect();
            let desired = [NAMES.ids[id].clone()];
            let leaving = plan::leaving(&entries, &desired, all);
            let of = |id: &DocumentId| NAMES.ids.iter().position(|known| known == id);
            self.run().leaving = leaving.filter_map(|(id, _)| of(id)).fold(0, |set, id| set | bit(id));
        }
        self.leave_next();
    }

    /// A source that is gone, is going, or has no path any more.
    fn departed(&mut self) {
        let who = self.who;
        let held = held(self.me(), who);
        let run = self.run();
        run.memory = None;
        run.leaving = held;
        self.leave_next();
    }

    fn leave_next(&mut self) {
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
    fn leave(&mut self) {
        let (who, deletion) = (self.who, self.rules.deletion);
        let id = self.run().leaving.trailing_zeros() as usize;
        let mut seen = self.world.documents[id].seen();
        if self.mutated(Mutation::ClaimNotCheckedBeforeDelete) {
            unmark(&mut seen);
        }
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
        });
        let of = small(id);
        let version = self.world.documents[id].version;
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
                let state = State::Deleting;
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
            Removal::Release => Stage::Erase(Call::Release { of }),
            Removal::Purge => Stage::Erase(Call::Purge { of }),
            Removal::DeleteVersion(_) | Removal::Delete => Stage::Erase(Call::DeleteVersion { of, version }),
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
            Stage::Erase(call) if !self.mutated(Mutation::DeleteNotFenced) => Stage::Confirm(call),
            next => next,
        };
    }

    /// Nothing more is to be done for this document.
    fn gone(&mut self, id: usize) {
        self.run().leaving &= !bit(id);
        self.leave_next();
    }

    fn erase(&mut self, call: Call, lost: bool) {
        let (Call::DeleteVersion { of, .. } | Call::Purge { of } | Call::Release { of }) = call else {
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
        self.world.vault(call);
        self.run().next = match call {
            Call::Release { .. } => Stage::Strike(of),
            _ => Stage::Leave,
        };
    }

    /// A source that asks for a document loses none that it stands on before it has another.
    fn note_gap(&mut self, id: usize) {
        let author = Author::Source(small(self.who));
        let asks = self.run().object.is_some_and(|object| object.wants().is_some());
        let stood = self.me().ledger[id].is_none_or(|entry| entry.state == State::Written);
        let leads = self.world.epoch == Some(small(self.at));
        let stands = |document: &Document| document.live && document.text.author == author;
        let documents = &self.world.documents;
        if asks && stood && leads && stands(&documents[id]) && documents.iter().filter(|d| stands(d)).count() == 1 {
            self.world.faults |= fault::GAP;
        }
    }

    fn strike(&mut self, id: usize) {
        let who = self.who;
        let me = self.me();
        me.dirty |= names::sharers(me.sights, who, id);
        if self.commit(id, None) {
            self.gone(id);
        }
    }

    fn release(&mut self) {
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

    fn finish(&mut self) {
        let (who, run) = (self.who, *self.run());
        let me = self.me();
        let idle = held(me, who) == 0;
        let same = |sight: Object| run.object.is_some_and(|object| object.uid == sight.uid);
        let live = run.object.is_some_and(|object| object.wants().is_some());
        me.runs[who] = None;
        me.appointed &= !bit(who);
        match run.object {
            Some(object) if live || object.finalizer || !idle => {
                if me.sights[who].is_some_and(same) {
                    me.memory[who] = run.memory;
                }
            }
            _ if idle => {
                me.sights[who] = None;
                me.memory[who] = None;
                return;
            }
            _ => {}
        }
        let unsettled = (run.locked | held(me, who)) & me.unsettled;
        let again = run.unsettled | unsettled != 0;
        if run.failed || (again && unsettled == 0) {
            me.dirty |= bit(who);
            me.recheck |= if again { bit(who) } else { 0 };
        } else if again || run.later {
            me.appointed |= bit(who);
        }
    }

    /// Changes an entry, and stores it. Whether the operator survives that.
    fn commit(&mut self, id: usize, entry: Option<Entry>) -> bool {
        if !news(self.me(), id, entry) {
            return true;
        }
        set(self.me(), id, entry);
        flush(self.rules, self.world, self.at)
    }
}

/// The documents that the ledger gives to a source.
fn held(operator: &Operator, who: usize) -> Set {
    let mine = |entry: Option<Entry>| entry.is_some_and(|entry| usize::from(entry.holder) == who);
    (0..operator.ledger.len())
        .filter(|id| mine(operator.ledger[*id]))
        .fold(0, |set, id| set | bit(id))
}

/// Whether storing this entry needs a call.
fn news(operator: &Operator, id: usize, entry: Option<Entry>) -> bool {
    operator.ledger[id] != entry || has(operator.pending, id)
}

/// Changes an entry, to be stored later.
fn set(operator: &mut Operator, id: usize, entry: Option<Entry>) {
    if operator.ledger[id] != entry {
        operator.ledger[id] = entry;
        operator.pending |= bit(id);
    }
}

/// Stores what is pending; an operator whose ledger is another's by now ends.
pub fn flush(rules: &Rules, world: &mut World, at: usize) -> bool {
    let Some(operator) = &mut world.operators[at] else {
        return false;
    };
    if world.epoch != Some(small(at)) && rules.mutation != Mutation::OldLeaderNotFenced {
        rules.did(Deed::Fenced);
        world.operators[at] = None;
        return false;
    }
    for id in (0..world.stored.len()).filter(|id| has(operator.pending, *id)) {
        world.stored[id] = operator.ledger[id];
    }
    operator.pending = 0;
    true
}

/// An operator learns how a source is; the sources that are to be reconciled for it.
pub fn observe(operator: &mut Operator, who: usize, object: Object) -> Set {
    let (wake, remembers) = names::observe(operator.sights, who, object);
    if wake != 0 {
        if !remembers {
            operator.memory[who] = None;
        }
        operator.sights[who] = Some(object.decisive());
    }
    wake
}

fn unmark(seen: &mut Seen) {
    if let Seen::Live { mark, .. } | Seen::Deleted { mark, .. } = seen {
        *mark = DomainMark::Unclaimed;
    }
}
