//! What can happen next, and what must never be: the model as the checker sees it.

use domain::ledger::State;
use domain::settings::{Adopt, DeletionPolicy};
use stateright::{Model, Property};

use super::names;
use super::operator::{Turn, flush, observe};
use super::promises::{promises, resting};
use super::world::{
    Act, Author, Call, DOCUMENTS, Document, Entry, Mark, OPERATORS, Object, Operator, Remembered, Reply, Run,
    SOURCES, Set, Stage, Text, World, bit, has, small,
};
use super::{Deed, Rules};

/// The documents that a source can ask for.
const PATHS: u8 = 3;

/// One transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The queue gives a source its turn.
    Start(usize, usize),
    /// A reconcile makes its next call.
    Call(usize, usize),
    /// A reconcile makes its next call, and gets no reply.
    CallLost(usize, usize),
    /// A source that was refused a document tries again, when nothing else happens.
    Retry(usize, usize),
    /// The watch shows a source.
    Hear(usize, usize),
    /// The watch shows a Secret.
    HearSecret(usize, usize),
    /// What is pending in the ledger is stored.
    Flush(usize),
    /// No late write can come any more.
    Window(usize),
    /// An operator dies where it stands.
    Crash(usize),
    /// An operator ends in good order.
    Bow(usize),
    /// An old leader notices that its lease is over.
    Stop(usize),
    /// An operator begins: it loads the ledger and puts its epoch on it.
    Load(usize),
    /// A call whose reply was lost arrives after all.
    Land,
    /// A call whose reply was lost has never been made.
    Drop,
    /// Another cluster creates a document where nothing lives.
    Seize(usize),
    /// A person writes a document by hand where nothing lives.
    Write(usize),
    /// A person deletes what a person wrote.
    Withdraw(usize),
    /// A person undeletes a document.
    Undelete(usize),
    /// The Secret of a source gets its other value.
    Rotate(usize),
    /// The Secret of a source is deleted.
    Lose(usize),
    /// The path annotation of a source changes, or goes.
    Path(usize, Option<u8>),
    /// A source says that it may adopt, or says so no more.
    Adopt(usize),
    /// A source is deleted.
    Delete(usize),
    /// A source is made anew under its old name.
    Create(usize, u8),
}

impl Model for Rules {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        vec![self.beginning()]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        for (at, operator) in world.operators.iter().enumerate() {
            let others = world.operators.iter().flatten().count();
            if let Some(operator) = operator {
                self.of_operator(world, at, operator, moves);
            } else if (others == 0 && at == 0) || (others == 1 && world.budget.changes > 0) {
                moves.push(Move::Load(at));
            }
        }
        if let Some((at, operator)) = resting(world) {
            if [0, 1].map(|id: usize| world.documents[id].mark) == [Mark::Source(1), Mark::Source(0)] {
                self.did(Deed::Swapped);
            }
            let waiting = operator.refused & !operator.retried;
            moves.extend(
                (0..SOURCES)
                    .filter(|who| has(waiting, *who))
                    .map(|who| Move::Retry(at, who)),
            );
        }
        if world.flight.is_some() {
            moves.extend([Move::Land, Move::Drop]);
        }
        self.of_others(world, moves);
    }

    fn next_state(&self, world: &World, step: Move) -> Option<World> {
        let mut next = *world;
        self.make(&mut next, step);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        promises()
    }
}

/// Whether the watch has something to tell an operator about a source.
pub fn hears(world: &World, operator: &Operator, who: usize) -> bool {
    match (operator.sights[who], world.objects[who]) {
        (None, Some(object)) => object.path.is_some() || object.finalizer,
        (Some(_), None) => true,
        (Some(sight), Some(object)) => sight != object.decisive(),
        (None, None) => false,
    }
}

impl Rules {
    fn beginning(&self) -> World {
        let secrets = [0, 1].map(|who| Text {
            author: Author::Source(who),
            value: 1,
            edition: 1,
        });
        let object = |who: u8| Object {
            uid: who,
            path: Some(who),
            deleting: false,
            finalizer: self.synced,
            adopt: false,
        };
        let mut world = World {
            documents: [Document::ABSENT; DOCUMENTS],
            objects: [Some(object(0)), Some(object(1))],
            secrets,
            stored: [None; DOCUMENTS],
            epoch: None,
            operators: [None; OPERATORS],
            flight: None,
            budget: self.budget,
            uids: 2,
            faults: 0,
        };
        world.documents[2] = Document {
            version: 1,
            live: true,
            mark: Mark::Foreign,
            ..Document::ABSENT
        };
        if !self.synced {
            world.objects[1] = None;
        }
        for (who, text) in secrets.into_iter().enumerate().filter(|_| self.synced) {
            world.documents[who] = Document {
                version: 1,
                live: true,
                mark: Mark::Source(small(who)),
                text,
                older: false,
            };
            world.stored[who] = Some(Entry {
                holder: small(who),
                uid: small(who),
                state: State::Written,
                base: 0,
                adopted: false,
                claimed: true,
            });
        }
        load(&mut world, 0);
        if let Some(operator) = world.operators[0].as_mut().filter(|_| self.synced) {
            operator.dirty = 0;
            operator.memory = [0, 1].map(|who| {
                Some(Remembered {
                    document: who,
                    version: 1,
                    text: secrets[usize::from(who)],
                })
            });
        }
        world
    }

    fn of_operator(&self, world: &World, at: usize, operator: &Operator, moves: &mut Vec<Move>) {
        let locked: Set = operator
            .runs
            .iter()
            .flatten()
            .fold(0, |set, run| set | run.locked);
        let running = operator.runs.iter().flatten().count();
        for who in 0..SOURCES {
            if let Some(run) = &operator.runs[who] {
                moves.push(Move::Call(at, who));
                if world.budget.losses > 0 && world.flight.is_none() && may_be_lost(run) {
                    moves.push(Move::CallLost(at, who));
                }
            } else if has(operator.dirty, who)
                && running < self.concurrency
                && locked & Turn::locks(operator, who) == 0
            {
                moves.push(Move::Start(at, who));
            }
            if hears(world, operator, who) {
                moves.push(Move::Hear(at, who));
            }
            if operator.secrets[who] != world.secrets[who] {
                moves.push(Move::HearSecret(at, who));
            }
        }
        if operator.pending != 0 {
            moves.push(Move::Flush(at));
        }
        let alone = world.operators.iter().flatten().count() == 1;
        if operator.unsettled != 0 && alone && world.flight.is_none() {
            moves.push(Move::Window(at));
        }
        if world.epoch != Some(small(at)) {
            moves.push(Move::Stop(at));
        } else if world.budget.crashes > 0 {
            moves.push(Move::Crash(at));
            if running == 0 && alone {
                moves.push(Move::Bow(at));
            }
        }
    }

    fn of_others(&self, world: &World, moves: &mut Vec<Move>) {
        // Metadata know no check-and-set: that a claim or a purge arrives at a document that became
        // another's a moment ago cannot be excluded.
        let late = matches!(
            world.flight,
            Some(Call::Claim { .. } | Call::Purge { .. } | Call::Release { .. })
        );
        if world.budget.seizures > 0 && !late && !is_claiming(world) {
            moves.extend((0..2).filter(|id| !world.documents[*id].live).map(Move::Seize));
        }
        // The same holds for a person, who has the same few milliseconds.
        if world.budget.hands > 0 && !late && !is_claiming(world) {
            for id in 0..2 {
                let document = world.documents[id];
                // What a person writes under a claim that we have not given up yet is drift.
                let known = world.stored[id].is_some();
                let claimed = known && matches!(document.mark, Mark::Source(_));
                let released = known && matches!(document.mark, Mark::Released(..));
                let by_hand = document.text.author == Author::Foreign && document.mark != Mark::Foreign;
                if !document.live {
                    let at_work = world
                        .operators
                        .iter()
                        .flatten()
                        .any(|operator| operator.runs.iter().flatten().any(|run| has(run.locked, id)));
                    // A document that is created between our look and our write, or after our purge, is the
                    // person's, unless our call gets no answer: that is the promise's exception.
                    let unanswered = self.budget.losses > 0 && (at_work || known);
                    if !claimed && !released && !unanswered {
                        moves.push(Move::Write(id));
                    }
                    // An undeleted version has the number that it had: no check-and-set sees it.
                    if !claimed && !at_work && world.flight.is_none() && document.version > 0 {
                        moves.push(Move::Undelete(id));
                    }
                } else if by_hand {
                    moves.push(Move::Withdraw(id));
                }
            }
        }
        if world.budget.edits == 0 {
            return;
        }
        for who in 0..SOURCES {
            moves.push(Move::Rotate(who));
            if self.lose_secrets && world.secrets[who].value != 0 {
                moves.push(Move::Lose(who));
            }
            match world.objects[who] {
                None => moves.extend((0..PATHS).map(|id| Move::Create(who, id))),
                Some(object) if !object.deleting => {
                    let others = (0..PATHS)
                        .map(Some)
                        .chain([None])
                        .filter(|path| *path != object.path);
                    moves.extend(others.map(|path| Move::Path(who, path)));
                    moves.push(Move::Delete(who));
                    if self.adopt == Adopt::Annotated {
                        moves.push(Move::Adopt(who));
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn make(&self, world: &mut World, step: Move) {
        match step {
            Move::Start(at, who) => turn(self, world, at, who).start(),
            Move::Call(at, who) => turn(self, world, at, who).go(false),
            Move::CallLost(at, who) => {
                world.budget.losses -= 1;
                turn(self, world, at, who).go(true);
            }
            Move::Retry(at, who) => {
                if let Some(operator) = &mut world.operators[at] {
                    operator.dirty |= bit(who);
                    operator.retried |= bit(who);
                }
            }
            Move::Hear(at, who) => hear(self, world, at, who),
            Move::HearSecret(at, who) => {
                let secret = world.secrets[who];
                if let Some(operator) = &mut world.operators[at] {
                    operator.secrets[who] = secret;
                    if operator.sights[who].is_some_and(|object| object.path.is_some()) {
                        operator.dirty |= bit(who);
                    }
                }
            }
            Move::Flush(at) => {
                flush(self, world, at);
            }
            Move::Window(at) => {
                if let Some(operator) = &mut world.operators[at] {
                    operator.unsettled = 0;
                    operator.dirty |= operator.appointed;
                    operator.recheck |= operator.appointed;
                    operator.appointed = 0;
                }
            }
            Move::Crash(at) => {
                world.budget.crashes -= 1;
                if is_claiming(world) {
                    self.did(Deed::CrashedBeforeClaim);
                }
                world.operators[at] = None;
            }
            Move::Bow(at) => {
                world.budget.crashes -= 1;
                let settled = world.operators[at].is_some_and(|operator| operator.unsettled == 0);
                if flush(self, world, at) {
                    world.operators[at] = None;
                    if settled {
                        world.epoch = None;
                    }
                }
            }
            Move::Stop(at) => world.operators[at] = None,
            Move::Load(at) => {
                if world.operators.iter().any(Option::is_some) {
                    world.budget.changes -= 1;
                }
                load(world, at);
            }
            Move::Land => {
                if let Some(call) = world.flight.take()
                    && world.vault(call) == Reply::Done
                {
                    self.did(Deed::LandedLate);
                }
            }
            Move::Drop => world.flight = None,
            Move::Seize(id) => {
                world.budget.seizures -= 1;
                let document = &mut world.documents[id];
                *document = Document {
                    version: document.version + 1,
                    live: true,
                    mark: Mark::Foreign,
                    older: true,
                    ..Document::ABSENT
                };
            }
            Move::Write(id) | Move::Withdraw(id) | Move::Undelete(id) => self.by_hand(world, step, id),
            edit => Self::edit(world, edit),
        }
    }

    /// What a person does to a document.
    fn by_hand(&self, world: &mut World, step: Move, id: usize) {
        world.budget.hands -= 1;
        // Whoever was refused may try again.
        for operator in world.operators.iter_mut().flatten() {
            operator.retried = 0;
        }
        let document = &mut world.documents[id];
        match step {
            Move::Write(_) => {
                self.did(Deed::WrittenByHand);
                *document = Document {
                    version: document.version + 1,
                    live: true,
                    mark: document.mark,
                    older: true,
                    ..Document::ABSENT
                };
            }
            Move::Undelete(_) => {
                self.did(Deed::Undeleted);
                document.live = true;
                // Whoever undeletes a version has it.
                document.text.author = Author::Foreign;
                document.older = true;
            }
            _ => document.live = false,
        }
    }

    fn edit(world: &mut World, edit: Move) {
        world.budget.edits -= 1;
        match edit {
            Move::Rotate(who) => {
                let secret = &mut world.secrets[who];
                secret.value = if secret.value == 1 { 2 } else { 1 };
                secret.edition += 1;
            }
            Move::Lose(who) => {
                world.secrets[who].value = 0;
                world.secrets[who].edition += 1;
            }
            Move::Path(who, path) => {
                if let Some(object) = &mut world.objects[who] {
                    object.path = path;
                }
            }
            Move::Adopt(who) => {
                if let Some(object) = &mut world.objects[who] {
                    object.adopt = !object.adopt;
                }
            }
            Move::Delete(who) => {
                world.objects[who] = world.objects[who].filter(|object| object.finalizer);
                if let Some(object) = &mut world.objects[who] {
                    object.deleting = true;
                }
            }
            Move::Create(who, path) => {
                world.objects[who] = Some(Object {
                    uid: world.uids,
                    path: Some(path),
                    deleting: false,
                    finalizer: false,
                    adopt: false,
                });
                world.uids += 1;
            }
            _ => {}
        }
    }
}

/// Whether somebody is about to put a claim on what it has seen or written.
fn is_claiming(world: &World) -> bool {
    let mut runs = world
        .operators
        .iter()
        .flatten()
        .flat_map(|operator| operator.runs.iter().flatten());
    runs.any(|run| {
        let mut calls = run
            .acts
            .iter()
            .flatten()
            .filter(|act| matches!(act, Act::Write | Act::Claim));
        run.next == Stage::Act && calls.next() == Some(&Act::Claim)
    })
}

fn may_be_lost(run: &Run) -> bool {
    match run.next {
        Stage::Act => matches!(run.acts[0], Some(Act::Write | Act::Claim)),
        Stage::Erase(_) => true,
        _ => false,
    }
}

fn turn<'a>(rules: &'a Rules, world: &'a mut World, at: usize, who: usize) -> Turn<'a> {
    Turn {
        rules,
        world,
        at,
        who,
    }
}

fn hear(rules: &Rules, world: &mut World, at: usize, who: usize) {
    let object = world.objects[who];
    let Some(operator) = &mut world.operators[at] else {
        return;
    };
    if let Some(object) = object {
        operator.dirty |= observe(rules, operator, who, object);
    } else {
        operator.dirty |= names::forget(operator.sights, who);
        operator.sights[who] = None;
        operator.memory[who] = None;
    }
}

fn load(world: &mut World, at: usize) {
    let mut operator = Operator {
        ledger: world.stored,
        pending: 0,
        unsettled: 0,
        sights: [None; SOURCES],
        secrets: world.secrets,
        memory: [None; SOURCES],
        dirty: 0,
        recheck: 0,
        appointed: 0,
        refused: 0,
        retried: 0,
        runs: [None; SOURCES],
    };
    for (id, entry) in world.stored.iter().enumerate() {
        if let Some(entry) = entry {
            if world.epoch.is_some() {
                let inherited = entry.spelt(DeletionPolicy::Soft).inherited();
                operator.ledger[id] = Some(Entry::of(&inherited));
            }
            operator.dirty |= bit(usize::from(entry.holder));
            if world.epoch.is_some() {
                operator.unsettled |= bit(id);
            }
        }
    }
    for who in 0..SOURCES {
        if let Some(object) = world.objects[who]
            && (object.path.is_some() || object.finalizer)
        {
            operator.dirty |= bit(who);
            operator.sights[who] = Some(object.decisive());
        }
    }
    world.operators[at] = Some(operator);
    world.epoch = Some(small(at));
}
