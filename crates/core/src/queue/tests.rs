//! Turns, appointments, places.

use super::*;
use crate::source::Kind;

fn key(namespace: &str, name: &str) -> SourceKey {
    SourceKey {
        kind: Kind::Deployment,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn drain(queue: &mut Queue, now: Moment) -> Vec<String> {
    let mut names = Vec::new();
    while let Next::Run(key, _) = queue.next(now) {
        names.push(format!("{}/{}", key.namespace, key.name));
        queue.done(&key);
    }
    names
}

#[expect(clippy::unnecessary_wraps, reason = "what is scheduled may also be nothing")]
fn due(at: Moment, depth: Depth) -> Option<Appointment> {
    Some(Appointment { at, depth })
}

#[test]
fn namespaces_take_turns() {
    let (mut queue, now) = (Queue::new(16), Moment::from_secs(1000));
    for name in ["1", "2", "3"] {
        queue.add(&key("busy", name), Depth::Trusting);
    }
    queue.add(&key("calm", "1"), Depth::Trusting);
    assert_eq!(queue.len(), 4);
    assert_eq!(drain(&mut queue, now), ["busy/1", "calm/1", "busy/2", "busy/3"]);
    assert_eq!(queue.slots.len(), 0);
}

#[test]
fn a_source_never_runs_twice_at_once_and_no_change_is_lost() {
    let (mut queue, now) = (Queue::new(16), Moment::from_secs(1000));
    let a = key("n", "a");
    queue.add(&a, Depth::Trusting);
    queue.add(&a, Depth::Full);
    assert_eq!(queue.next(now), Next::Run(a.clone(), Depth::Full));
    queue.add(&a, Depth::Trusting);
    queue.add(&a, Depth::Full);
    assert_eq!(queue.next(now), Next::Wait(None));
    queue.done(&a);
    assert_eq!(queue.next(now), Next::Run(a.clone(), Depth::Full));
    queue.done(&a);
    assert_eq!(queue.next(now), Next::Wait(None));
}

#[test]
fn appointments_come_due_once_and_the_last_word_counts() {
    let (mut queue, now) = (Queue::new(16), Moment::from_secs(1000));
    let later = |s| now + Duration::from_secs(s);
    let (a, b) = (key("n", "a"), key("n", "b"));
    queue.schedule(&a, due(later(10), Depth::Full));
    queue.schedule(&b, due(later(5), Depth::Trusting));
    queue.schedule(&a, due(later(20), Depth::Full));
    assert_eq!(queue.next(now), Next::Wait(Some(later(5))));
    assert_eq!(queue.next(later(5)), Next::Run(b.clone(), Depth::Trusting));
    queue.done(&b);
    assert_eq!(queue.next(later(10)), Next::Wait(Some(later(20))));
    assert_eq!(queue.next(later(20)), Next::Run(a.clone(), Depth::Full));
    queue.schedule(&a, None);
    queue.done(&a);
    assert_eq!(queue.next(later(99)), Next::Wait(None));
    assert_eq!(queue.slots.len(), 0);
}

/// Those that may run now, as many as there are; they go on running.
fn started(queue: &mut Queue) -> Vec<SourceKey> {
    let mut keys = Vec::new();
    while let Next::Run(key, _) = queue.next(Moment::from_secs(1000)) {
        keys.push(key);
    }
    keys
}

fn of<'a>(keys: &'a [SourceKey], namespace: &str) -> Vec<&'a SourceKey> {
    keys.iter().filter(|key| *key.namespace == *namespace).collect()
}

#[test]
fn as_many_are_at_work_as_concurrency_says() {
    let mut queue = Queue::new(3);
    for name in ["1", "2", "3", "4", "5"] {
        queue.add(&key("n", name), Depth::Trusting);
    }
    let running = started(&mut queue);
    assert_eq!(running.len(), 3);
    assert_eq!(queue.next(Moment::from_secs(1000)), Next::Wait(None));
    queue.done(&running[1]);
    assert_eq!(started(&mut queue), [key("n", "4")]);
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_busy_namespace_leaves_somebody_of_another_begin_at_once() {
    let mut queue = Queue::new(16);
    for number in 0..1000 {
        queue.add(&key("busy", &number.to_string()), Depth::Trusting);
    }
    assert_eq!(started(&mut queue).len(), 13);
    queue.add(&key("calm", "1"), Depth::Trusting);
    assert_eq!(started(&mut queue), [key("calm", "1")]);
    queue.done(&key("calm", "1"));
    queue.done(&key("busy", "0"));
    assert_eq!(started(&mut queue), [key("busy", "13")], "thirteen again");
}

#[test]
fn a_namespace_whose_sources_all_hang_leaves_places_for_others() {
    let mut queue = Queue::new(16);
    for number in 0..1000 {
        queue.add(&key("hung", &number.to_string()), Depth::Trusting);
    }
    let mut hung = 0;
    loop {
        let running = started(&mut queue);
        if running.is_empty() {
            break;
        }
        hung += running.len();
        for key in &running {
            queue.stall(key);
        }
    }
    assert_eq!((hung, queue.stalled()), (32, 32), "half of 64 places");
    for number in 0..100 {
        queue.add(&key("calm", &number.to_string()), Depth::Trusting);
    }
    assert_eq!(started(&mut queue).len(), 13, "as if there were no other");
}

#[test]
fn while_fewer_namespaces_hang_than_there_are_places_there_is_one_for_another() {
    let mut queue = Queue::new(4);
    for namespace in 0..15 {
        for number in 0..20 {
            queue.add(
                &key(&format!("hung{namespace}"), &number.to_string()),
                Depth::Trusting,
            );
        }
    }
    loop {
        let running = started(&mut queue);
        if running.is_empty() {
            break;
        }
        for key in &running {
            queue.stall(key);
        }
    }
    assert_eq!(queue.stalled(), 15, "of 16 places");
    queue.add(&key("calm", "1"), Depth::Trusting);
    assert_eq!(of(&started(&mut queue), "calm"), [&key("calm", "1")]);
}

#[test]
fn places_come_back() {
    let mut queue = Queue::new(1);
    let (a, b) = (key("n", "a"), key("n", "b"));
    queue.add(&a, Depth::Trusting);
    queue.add(&b, Depth::Trusting);
    assert_eq!(started(&mut queue), std::slice::from_ref(&a));
    queue.stall(&a);
    queue.stall(&a);
    assert_eq!(started(&mut queue), std::slice::from_ref(&b));
    queue.done(&b);
    queue.done(&a);
    queue.done(&a);
    assert_eq!((queue.running.all(), queue.by_namespace.len()), (0, 0));
    assert_eq!(queue.slots.len(), 0);
}

#[test]
fn whoever_is_recalled_while_it_runs_runs_again() {
    let (mut queue, now) = (Queue::new(16), Moment::from_secs(1000));
    let (runs, waits) = (key("n", "runs"), key("n", "waits"));
    queue.add(&runs, Depth::Trusting);
    assert_eq!(queue.next(now), Next::Run(runs.clone(), Depth::Trusting));
    let later = now + Duration::from_secs(5);
    queue.recall(&runs, later, Depth::Full);
    queue.recall(&waits, later, Depth::Trusting);
    // What it has learnt while it ran is that it should wait for long.
    queue.schedule(&runs, due(now + Duration::from_mins(2), Depth::Trusting));
    queue.done(&runs);
    assert_eq!(queue.next(now), Next::Run(runs, Depth::Full));
    assert_eq!(queue.next(now), Next::Wait(Some(later)));
    assert_eq!(queue.next(later), Next::Run(waits, Depth::Trusting));
}

#[test]
fn whoever_returns_to_work_waits_for_a_place_and_comes_before_others() {
    let mut queue = Queue::new(1);
    for name in ["a", "b", "c"] {
        queue.add(&key("shop", name), Depth::Trusting);
    }
    let zero = Moment::ZERO;
    let run = |name: &str| Next::Run(key("shop", name), Depth::Trusting);
    assert_eq!(queue.next(zero), run("a"));
    assert!(queue.resume(&key("shop", "a")), "it never left");
    queue.stall(&key("shop", "a"));
    assert_eq!(queue.next(zero), run("b"));
    assert!(!queue.resume(&key("shop", "a")));
    assert!(!queue.resume(&key("shop", "a")), "asking twice is asking once");
    queue.stall(&key("shop", "b"));
    assert_eq!(queue.next(zero), Next::Wait(None), "the place is a's");
    assert!(queue.resume(&key("shop", "a")));
    assert!(!queue.resume(&key("shop", "b")));
    // One that ends while it waits leaves nothing behind.
    queue.done(&key("shop", "b"));
    queue.done(&key("shop", "a"));
    assert_eq!(queue.next(zero), run("c"));
    queue.done(&key("shop", "c"));
    assert_eq!(
        (queue.stalled(), queue.returning, queue.running.at_work),
        (0, 0, 0)
    );
}
