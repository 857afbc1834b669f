//! The promises: what must hold in every state, or in every state in which nothing is left to be done.

use domain::settings::DeletionPolicy;
use stateright::Property;

use super::Rules;
use super::moves::hears;
use super::world::{Author, DOCUMENTS, Document, Mark, Object, Operator, SOURCES, World, fault, small};

/// What must hold in every state.
pub fn promises() -> Vec<Property<Rules>> {
    vec![
        Property::always("no theft", |_, world: &World| world.faults & fault::THEFT == 0),
        Property::always("no rollback", |_, world: &World| {
            world.faults & fault::ROLLBACK == 0
        }),
        Property::always("new stands before old goes", |_, world: &World| {
            world.faults & fault::GAP == 0
        }),
        Property::always("no orphan", |rules: &Rules, world: &World| {
            (0..DOCUMENTS).all(|id| {
                let document = world.documents[id];
                !document.is_ours() || is_released(rules, document) || world.stored[id].is_some()
            })
        }),
        Property::always("convergence", |rules: &Rules, world: &World| {
            !is_quiescent(world) || has_converged(rules, world)
        }),
        Property::always("the ledger ends tidy", |rules: &Rules, world: &World| {
            !is_quiescent(world) || (0..DOCUMENTS).all(|id| is_tidy(rules, world, id))
        }),
    ]
}
/// The only operator, if nothing will happen any more unless somebody outside does something, or a
/// source tries once more what was refused.
pub fn resting(world: &World) -> Option<(usize, &Operator)> {
    let mut running = world
        .operators
        .iter()
        .enumerate()
        .filter_map(|(at, o)| Some((at, o.as_ref()?)));
    let (Some((at, operator)), None) = (running.next(), running.next()) else {
        return None;
    };
    let rests = world.epoch == Some(small(at))
        && world.flight.is_none()
        && operator.runs == [None; SOURCES]
        && operator.dirty == 0
        && operator.appointed == 0
        && operator.pending == 0
        && (0..SOURCES)
            .all(|who| !hears(world, operator, who) && operator.secrets[who] == world.secrets[who]);
    rests.then_some((at, operator))
}

/// Nothing will happen any more unless somebody outside does something.
fn is_quiescent(world: &World) -> bool {
    resting(world).is_some_and(|(_, operator)| operator.refused & !operator.retried == 0)
}

/// What a source wants and could have.
fn healthy(rules: &Rules, world: &World, who: usize) -> Option<usize> {
    let wants = usize::from(world.objects[who]?.wants()?);
    let document = world.documents[wants];
    let free = !document.live || document.text.author != Author::Foreign && !is_released(rules, document);
    (world.secrets[who].value != 0 && free).then_some(wants)
}

/// Whether we have given it up as it is. What is retained is everybody's to write, and a late call of ours may.
fn is_released(rules: &Rules, document: Document) -> bool {
    let retains = rules.deletion == DeletionPolicy::Retain;
    matches!(document.mark, Mark::Released(_, version, _) if retains || version == document.version)
}

fn wants(world: &World, who: usize, id: usize) -> bool {
    world.objects[who].and_then(Object::wants) == Some(small(id))
}

/// Vault holds exactly what the sources ask for.
fn has_converged(rules: &Rules, world: &World) -> bool {
    let stands = (0..SOURCES).all(|who| {
        let Some(id) = healthy(rules, world, who) else {
            return true;
        };
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
        let content = wants(world, author, id) || is_troubled(rules, world, author);
        let successor = (0..SOURCES).any(|who| wants(world, who, id) && world.secrets[who].value == 0);
        !document.live || is_released(rules, document) || content || successor
    });
    let gone = (world.objects.iter().flatten()).all(|object| !object.deleting);
    stands && no_other && gone
}

/// A source that asks for what it cannot have.
fn is_troubled(rules: &Rules, world: &World, who: usize) -> bool {
    let Some(id) = world.objects[who].and_then(Object::wants).map(usize::from) else {
        return false;
    };
    let document = world.documents[id];
    world.secrets[who].value == 0
        || is_released(rules, document)
        || document.text.author != Author::Source(small(who))
        || !document.live
}

/// The ledger has an entry only for what stands, or for a source that keeps all it has.
fn is_tidy(rules: &Rules, world: &World, id: usize) -> bool {
    world.documents[id].is_ours()
        || world.stored[id].is_none_or(|entry| is_troubled(rules, world, usize::from(entry.holder)))
}
