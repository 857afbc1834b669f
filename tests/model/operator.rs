//! One operator's reconcile, call by call, as `src/reconcile` does it: each [`Turn::go`] makes the
//! one call that is next, and then decides, by the functions of the domain, until another call is due.

use domain::document::{DocumentId, Mark as DomainMark, Observed};
use domain::ledger::LedgerEntry;
use domain::plan::{self, Standing, may_clean, may_trust};
use domain::settings::DeletionPolicy;

use super::names::{self, NAMES};
use super::world::{Entry, Object, Operator, Remembered, Run, Set, Stage, World, bit, has, small};
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
    pub(super) fn me(&mut self) -> &mut Operator {
        self.world.operators[self.at]
            .as_mut()
            .expect("a running operator")
    }

    pub(super) fn run(&mut self) -> &mut Run {
        let who = self.who;
        self.me().runs[who].as_mut().expect("a running reconcile")
    }

    pub(super) fn mutated(&self, mutation: Mutation) -> bool {
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
        let gullible = self.mutated(Mutation::MemoryOutlivesTitle);
        let me = self.me();
        let recheck = has(me.recheck, who);
        me.dirty &= !bit(who);
        me.recheck &= !bit(who);
        me.refused &= !bit(who);
        if !has(me.retried, who) {
            me.retried = 0;
        }
        let hint = me.sights[who].and_then(Object::wants);
        let held = |known: &Remembered| {
            let entry = me.ledger[usize::from(known.document)];
            gullible
                || may_trust(
                    &NAMES.keys[who],
                    entry.map(|entry| entry.spelt(DeletionPolicy::Soft)).as_ref(),
                )
        };
        let memory = me.memory[who].filter(|known| !recheck && Some(known.document) == hint && held(known));
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
            adopted: false,
            purged: false,
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
            Stage::Erase(call) => self.erase(call, lost),
            Stage::Strike(id) => self.strike(usize::from(id)),
            Stage::Release => {
                self.release();
                self.finish();
            }
        }
    }

    pub(super) fn look(&mut self) {
        let hint = self.run().hint.expect("a foreseen document");
        let seen = self.world.documents[usize::from(hint)];
        self.run().seen = Some(seen);
    }

    pub(super) fn read(&mut self) {
        let (who, object) = (self.who, self.world.objects[self.who]);
        self.run().object = object;
        let Some(object) = object else {
            return self.departed();
        };
        let before = self.me().sights[who];
        let rules = self.rules;
        let wake = observe(rules, self.me(), who, object);
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
    pub(super) fn moved(&mut self) {
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
    pub(super) fn live(&mut self) {
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

    /// New documents stand before old ones go.
    pub(super) fn clean(&mut self, standing: Standing) {
        let (id, who, deletion) = (self.wanted(), self.who, self.rules.deletion);
        {
            let all = may_clean([standing]);
            let me = self.me();
            let entries: Vec<(DocumentId, LedgerEntry)> = (0..me.ledger.len())
                .filter(|id| has(held(me, who), *id))
                .filter_map(|id| Some((NAMES.ids[id].clone(), me.ledger[id]?.spelt(deletion))))
                .collect();
            let desired = &NAMES.ids[id];
            let leaving = plan::leaving(&entries, |id| id == desired, all);
            let of = |id: &DocumentId| NAMES.ids.iter().position(|known| known == id);
            self.run().leaving = leaving
                .filter_map(|(id, _)| of(id))
                .fold(0, |set, id| set | bit(id));
        }
        self.leave_next();
    }

    pub(super) fn finish(&mut self) {
        let (who, run) = (self.who, *self.run());
        let me = self.me();
        let idle = held(me, who) == 0;
        let same = |sight: Object| run.object.is_some_and(|object| object.uid == sight.uid);
        let live = run.object.is_some_and(|object| object.wants().is_some());
        me.runs[who] = None;
        me.appointed &= !bit(who);
        let kept = run.object.is_some_and(|object| live || object.finalizer);
        if idle && !kept {
            me.sights[who] = None;
            me.memory[who] = None;
            return;
        }
        if run.object.is_some() && me.sights[who].is_some_and(same) {
            me.memory[who] = run.memory;
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
    pub(super) fn commit(&mut self, id: usize, entry: Option<Entry>) -> bool {
        if !news(self.me(), id, entry) {
            return true;
        }
        set(self.me(), id, entry);
        flush(self.rules, self.world, self.at)
    }
}

/// The documents that the ledger gives to a source.
pub fn held(operator: &Operator, who: usize) -> Set {
    let mine = |entry: Option<Entry>| entry.is_some_and(|entry| usize::from(entry.holder) == who);
    (0..operator.ledger.len())
        .filter(|id| mine(operator.ledger[*id]))
        .fold(0, |set, id| set | bit(id))
}

/// Whether storing this entry needs a call.
pub fn news(operator: &Operator, id: usize, entry: Option<Entry>) -> bool {
    operator.ledger[id] != entry || has(operator.pending, id)
}

/// Changes an entry, to be stored later.
pub fn set(operator: &mut Operator, id: usize, entry: Option<Entry>) {
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
pub fn observe(rules: &Rules, operator: &mut Operator, who: usize, object: Object) -> Set {
    let (wake, remembers) = names::observe(operator.sights, who, object);
    if wake != 0 {
        if !remembers && rules.mutation != Mutation::MemoryOutlivesTitle {
            operator.memory[who] = None;
        }
        operator.sights[who] = Some(object.decisive());
    }
    wake
}

/// What is seen carries this source's claim, whatever it does.
pub fn claim_as(who: usize, seen: &mut Observed) {
    if let Observed::Live { mark, .. } | Observed::Deleted { mark, .. } = seen {
        *mark = DomainMark::Claimed(NAMES.claims[who].clone());
    }
}
