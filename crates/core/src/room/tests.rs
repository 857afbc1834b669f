use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

#[test]
fn one_namespace_leaves_a_quarter_for_the_next() {
    let mut room = Room::new(100);
    let taken = (0..100).filter(|_| room.take("busy", 1)).count();
    assert_eq!(taken, 75);
    assert!(room.take("calm", 18));
    assert!(!room.take("busy", 1), "it has more than its share by now");
    assert_eq!(room.give_back("busy", 75), []);
    assert_eq!(room.give_back("calm", 18), []);
    assert_eq!((room.taken, room.by_namespace.len()), (0, 0));
}

#[test]
fn whoever_holds_nothing_may_have_all_that_is_left() {
    let mut room = Room::new(100);
    assert!(room.take("a", 40));
    assert!(!room.take("b", 61));
    assert!(room.take("b", 60));
    assert!(!room.take("c", 1));
}

#[test]
fn room_that_comes_back_goes_to_those_who_waited_in_their_order() {
    let mut room = Room::new(100);
    assert!(room.take("hung", 60));
    let large = room.wait("a", 1000);
    let small = [room.wait("a", 30), room.wait("b", 30), room.wait("c", 30)];
    assert_eq!(
        room.give_back("hung", 10),
        [small[0]],
        "the large one holds nobody up"
    );
    assert_eq!(room.give_back("hung", 50), [small[1], small[2]]);
    assert!(!room.withdraw(small[0]));
    assert_eq!(room.give_back("a", 30), []);
    assert_eq!(room.give_back("b", 30), []);
    assert_eq!(
        room.give_back("c", 30),
        [large],
        "it asked for more than there is"
    );
    assert!(!room.withdraw(large));
    let late = room.wait("b", 1);
    assert!(room.withdraw(late));
    assert_eq!(room.give_back("a", 100), []);
}

/// A document as the reconciler syncs it: it asks for a part, grows step by step, and ends.
#[derive(Clone, Debug)]
struct Document {
    namespace: String,
    steps: Vec<usize>,
    /// What it asks for before its first step.
    first: usize,
    holds: usize,
    done: usize,
    returns: usize,
}

fn document() -> impl Strategy<Value = Document> {
    let steps = prop::collection::vec(0_usize..40, 0..8);
    (0_u8..3, steps, 1_usize..10).prop_map(|(namespace, steps, first)| Document {
        namespace: namespace.to_string(),
        steps,
        first,
        holds: 0,
        done: 0,
        returns: 0,
    })
}

proptest! {
    /// Whatever the order in which they go on: what is taken stays within the total, and all come to an end.
    #[test]
    fn every_document_that_fits_alone_ends(
        documents in prop::collection::vec(document(), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        const TOTAL: usize = 100;
        let mut room = Room::new(TOTAL);
        let mut documents: Vec<Document> = documents;
        for document in &mut documents {
            while document.first + document.steps.iter().sum::<usize>() > TOTAL {
                document.steps.pop();
            }
        }
        let mut tickets: HashMap<Ticket, usize> = HashMap::new();
        let mut runs: VecDeque<usize> = VecDeque::new();
        let ask = |room: &mut Room, tickets: &mut HashMap<Ticket, usize>, runs: &mut VecDeque<usize>,
                       documents: &mut Vec<Document>, at: usize| {
            let document = &mut documents[at];
            if room.take(&document.namespace, document.first) {
                document.holds = document.first;
                runs.push_back(at);
            } else {
                tickets.insert(room.wait(&document.namespace, document.first), at);
            }
        };
        for at in 0..documents.len() {
            ask(&mut room, &mut tickets, &mut runs, &mut documents, at);
        }
        let mut order = order.iter().cycle();
        let mut ended = 0;
        while !runs.is_empty() {
            let at = runs.remove(order.next().unwrap().index(runs.len())).unwrap();
            let document = &mut documents[at];
            // What it has taken before its steps covers the first of them.
            let needs = document.first.max(document.steps[..document.done].iter().sum::<usize>()
                + document.steps.get(document.done).copied().unwrap_or(0));
            let ends = document.done == document.steps.len();
            let grows = needs.saturating_sub(document.holds);
            if !ends && room.take(&document.namespace, grows) {
                document.holds += grows;
                document.done += 1;
                runs.push_back(at);
            } else {
                let given = std::mem::take(&mut document.holds);
                let namespace = document.namespace.clone();
                if ends {
                    ended += 1;
                } else {
                    document.first = needs.max(2 * document.first).min(TOTAL);
                    document.done = 0;
                    document.returns += 1;
                    prop_assert!(document.returns < 8, "{document:?}");
                }
                for ticket in room.give_back(&namespace, given) {
                    let granted = tickets.remove(&ticket).unwrap();
                    documents[granted].holds = documents[granted].first;
                    runs.push_back(granted);
                }
                if !ends {
                    ask(&mut room, &mut tickets, &mut runs, &mut documents, at);
                }
            }
            prop_assert!(room.taken <= TOTAL);
            prop_assert_eq!(room.taken, documents.iter().map(|document| document.holds).sum::<usize>());
        }
        prop_assert_eq!(ended, documents.len());
        prop_assert_eq!(room.by_namespace.len() + room.waiting.len(), 0);
    }
}
