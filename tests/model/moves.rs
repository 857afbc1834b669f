//! What can happen next, and what must never be: the model as the checker sees it.

use stateright::{Model, Property};
use vault_sync_operator::domain::ledger::State;

use super::names;
use super::operator::{Turn, flush, observe};
use super::world::{
    Act, Author, Budget, Call, DOCUMENTS, Document, Entry, Mark, OPERATORS, Object, Operator, Remembered,
    Run, SOURCES, Set, Stage, Text, World, bit, fault, has, small,
};
use super::{Deed, Mutation, Rules};

/// One transition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// The queue gives a source its turn.
    Start(usize, usize),
    /// A reconcile makes its next call.
    Call(usize, usize),
    /// A reconcile makes its next call, and gets no reply.
    CallLost(usize, usize),
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
    /// The Secret of a source gets its other value.
    Rotate(usize),
    /// The Secret of a source is deleted.
    Lose(usize),
    /// The path annotation of a source changes, or goes.
    Path(usize, Option<u8>),
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
            match operator {
                Some(operator) => self.of_operator(world, at, operator, moves),
                None => {
                    let others = world.operators.iter().flatten().count();
                    if (others == 0 && at == 0) || (others == 1 && world.budget.changes > 0) {
                        moves.push(Move::Load(at));
                    }
                }
            }
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
        vec![
            Property::always("no theft", |_, world: &World| world.faults & fault::THEFT == 0),
            Property::always("no rollback", |_, world: &World| world.faults & fault::ROLLBACK == 0),
            Property::always("new stands before old goes", |_, world: &World| world.faults & fault::GAP == 0),
            Property::always("no orphan", |_, world: &World| {
                (0..DOCUMENTS).all(|id| {
                    let document = world.documents[id];
                    !document.is_ours() || document.mark == Mark::Released || world.stored[id].is_some()
                })
            }),
            Property::always("convergence", |_, world: &World| !is_quiescent(world) || has_converged(world)),
            Property::always("the ledger ends tidy", |_, world: &World| {
                !is_quiescent(world) || (0..DOCUMENTS).all(|id| is_tidy(world, id))
            }),
        ]
    }
}

/// Nothing will happen any more unless somebody outside does something.
fn is_quiescent(world: &World) -> bool {
    let mut running = world.operators.iter().enumerate().filter_map(|(at, o)| Some((at, o.as_ref()?)));
    let (Some((at, operator)), None) = (running.next(), running.next()) else {
        return false;
    };
    world.epoch == Some(small(at))
        && world.flight.is_none()
        && operator.runs == [None; SOURCES]
        && operator.dirty == 0
        && operator.appointed == 0
        && operator.pending == 0
        && (0..SOURCES).all(|who| !hears(world, operator, who) && operator.secrets[who] == world.secrets[who])
}

/// What a source wants and could have.
fn healthy(world: &World, who: usize) -> Option<usize> {
    let wants = usize::from(world.objects[who]?.wants()?);
    (world.secrets[who].value != 0 && world.documents[wants].text.author != Author::Foreign).then_some(wants)
}

fn wants(world: &World, who: usize, id: usize) -> bool {
    world.objects[who].and_then(Object::wants) == Some(small(id))
}

/// Vault holds exactly what the sources ask for.
fn has_converged(world: &World) -> bool {
    let stands = (0..SOURCES).all(|who| {
        let Some(id) = healthy(world, who) else { return true };
        let document = world.documents[id];
        let rival = 1 - who;
        match document.text.author {
            _ if !document.live => false,
            Author::Source(author) if usize::from(author) == who => {
                document.text.value == world.secrets[who].value
            }
            // Whoever was first has it, for as long as it wants it.
            _ => wants(world, rival, id),
        }
    });
    let no_other = (0..DOCUMENTS).all(|id| {
        let document = world.documents[id];
        let Author::Source(author) = document.text.author else {
            return true;
        };
        let author = usize::from(author);
        // A source with a problem loses nothing, and neither does one that waits for another's document.
        let content = wants(world, author, id) || is_troubled(world, author);
        let successor = (0..SOURCES).any(|who| wants(world, who, id) && world.secrets[who].value == 0);
        !document.live || document.mark == Mark::Released || content || successor
    });
    let gone = (world.objects.iter().flatten()).all(|object| !object.deleting);
    stands && no_other && gone
}

/// A source that asks for what it cannot have.
fn is_troubled(world: &World, who: usize) -> bool {
    let Some(id) = world.objects[who].and_then(Object::wants).map(usize::from) else {
        return false;
    };
    let document = world.documents[id];
    world.secrets[who].value == 0 || document.text.author != Author::Source(small(who)) || !document.live
}

/// The ledger has an entry only for what stands, or for a source that keeps all it has.
fn is_tidy(world: &World, id: usize) -> bool {
    world.documents[id].is_ours()
        || world.stored[id].is_none_or(|entry| is_troubled(world, usize::from(entry.holder)))
}

/// Whether the watch has something to tell an operator about a source.
fn hears(world: &World, operator: &Operator, who: usize) -> bool {
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
            mark: if self.unclaimed { Mark::Unclaimed } else { Mark::Foreign },
            ..Document::ABSENT
        };
        if !self.synced {
            world.objects[1] = None;
        }
        for who in 0..if self.synced { SOURCES } else { 0 } {
            world.documents[who] = Document {
                version: 1,
                live: true,
                mark: Mark::Source(small(who)),
                text: secrets[who],
            };
            world.stored[who] = Some(Entry {
                holder: small(who),
                uid: small(who),
                state: State::Written,
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
        let locked: Set = operator.runs.iter().flatten().fold(0, |set, run| set | run.locked);
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
        // A claim and a purge carry no check-and-set: that one of them arrives late, at a document
        // that became another's meanwhile, cannot be excluded.
        let fenced = !matches!(world.flight, Some(Call::Claim { .. } | Call::Purge { .. } | Call::Release { .. }));
        if world.budget.seizures > 0 && fenced {
            moves.extend((0..2).filter(|id| !world.documents[*id].live).map(Move::Seize));
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
                None => moves.extend((0..self.paths).map(|id| Move::Create(who, id))),
                Some(object) if !object.deleting => {
                    let others = (0..self.paths).map(Some).chain([None]).filter(|path| *path != object.path);
                    moves.extend(others.map(|path| Move::Path(who, path)));
                    moves.push(Move::Delete(who));
                }
                Some(_) => {}
            }
        }
    }

    fn make(&self, world: &mut World, step: Move) {
        fn turn<'a>(rules: &'a Rules, world: &'a mut World, at: usize, who: usize) -> Turn<'a> { Turn {
            rules,
            world,
            at,
            who,
        } }
        match step {
            Move::Start(at, who) => turn(self, world, at, who).start(),
            Move::Call(at, who) => turn(self, world, at, who).go(false),
            Move::CallLost(at, who) => {
                world.budget.losses -= 1;
                turn(self, world, at, who).go(true);
            }
            Move::Hear(at, who) => hear(world, at, who),
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
                self.seen_crash(world, at);
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
                    && world.vault(call) == super::world::Reply::Done
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
                    ..Document::ABSENT
                };
            }
            edit => self.edit(world, edit),
        }
    }

    fn edit(&self, world: &mut World, edit: Move) {
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
                if let [Some(a), Some(b)] = world.objects
                    && (a.path, b.path) == (Some(1), Some(0))
                {
                    self.did(Deed::Swapped);
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
                });
                world.uids += 1;
            }
            _ => {}
        }
    }

    fn seen_crash(&self, world: &World, at: usize) {
        let claims = |run: &Run| run.next == Stage::Act && run.acts[0] == Some(Act::Claim);
        if world.operators[at].is_some_and(|operator| operator.runs.iter().flatten().any(claims)) {
            self.did(Deed::CrashedBeforeClaim);
        }
    }
}

fn may_be_lost(run: &Run) -> bool {
    match run.next {
        Stage::Act => matches!(run.acts[0], Some(Act::Write | Act::Claim)),
        Stage::Erase(_) => true,
        _ => false,
    }
}

fn hear(world: &mut World, at: usize, who: usize) {
    let object = world.objects[who];
    let Some(operator) = &mut world.operators[at] else {
        return;
    };
    match object {
        Some(object) => {
            let wake = observe(operator, who, object);
            operator.dirty |= wake;
        }
        None => {
            operator.dirty |= names::forget(operator.sights, who);
            operator.sights[who] = None;
            operator.memory[who] = None;
        }
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
        runs: [None; SOURCES],
    };
    for (id, entry) in world.stored.iter().enumerate() {
        if let Some(entry) = entry {
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

/// The limits of a whole exploration, for its report.
pub fn budget(edits: u8, crashes: u8, losses: u8, changes: u8, seizures: u8) -> Budget {
    Budget {
        edits,
        crashes,
        losses,
        changes,
        seizures,
    }
}

/// Whether a mutation leaves the operator as it is.
pub fn is_plain(mutation: Mutation) -> bool {
    mutation == Mutation::None
}
