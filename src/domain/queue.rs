//! Who is reconciled next: one source at a time each, in turns between namespaces.
//!
//! A namespace with a thousand failing sources delays another namespace's one source by one turn.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::source::SourceKey;

/// A moment: the time since some beginning, the same for all calls.
pub type Moment = Duration;

/// The queue. Time comes in as an argument.
#[derive(Default)]
pub struct Queue {
    /// The namespaces that have somebody ready, in the order of their turns.
    turns: VecDeque<String>,
    ready: HashMap<String, VecDeque<SourceKey>>,
    slots: HashMap<SourceKey, Slot>,
    /// The same appointments as in `slots`, by time.
    agenda: BTreeSet<(Moment, SourceKey)>,
    waiting: usize,
}

/// What the queue knows of one source.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts that do not depend on each other"
)]
struct Slot {
    ready: bool,
    running: bool,
    /// It was added while it ran: it runs again.
    again: bool,
    /// Vault is to be read again, whatever is remembered.
    recheck: bool,
    appointment: Option<(Moment, bool)>,
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Reconcile this source; the flag says whether Vault is to be read again.
    Run(SourceKey, bool),
    /// Nothing is ready; look again at this time, or when something is added.
    Wait(Option<Moment>),
}

impl Queue {
    /// Makes a source ready, once however often it is added. One that runs will run again.
    pub fn add(&mut self, key: &SourceKey, recheck: bool) {
        let slot = self.slots.entry(key.clone()).or_default();
        slot.recheck |= recheck;
        if slot.running {
            slot.again = true;
        } else if !slot.ready {
            slot.ready = true;
            self.waiting += 1;
            let line = self.ready.entry(key.namespace.clone()).or_default();
            if line.is_empty() {
                self.turns.push_back(key.namespace.clone());
            }
            line.push_back(key.clone());
        }
    }

    /// Sets the time at which a source becomes ready by itself; `None` takes it away. Each source
    /// has one such time.
    pub fn schedule(&mut self, key: &SourceKey, appointment: Option<(Moment, bool)>) {
        let slot = self.slots.entry(key.clone()).or_default();
        if let Some((at, _)) = slot.appointment.take() {
            self.agenda.remove(&(at, key.clone()));
        }
        slot.appointment = appointment;
        match appointment {
            Some((at, _)) => {
                self.agenda.insert((at, key.clone()));
            }
            None => self.forget_if_idle(key),
        }
    }

    /// Takes the next source whose turn it is. Whoever runs it says [`Queue::done`].
    pub fn next(&mut self, now: Moment) -> Next {
        while let Some((at, key)) = self.agenda.first().filter(|(at, _)| *at <= now).cloned() {
            self.agenda.remove(&(at, key.clone()));
            let recheck = self
                .slots
                .get_mut(&key)
                .and_then(|slot| slot.appointment.take())
                .is_some_and(|(_, r)| r);
            self.add(&key, recheck);
        }
        let Some(namespace) = self.turns.pop_front() else {
            return Next::Wait(self.agenda.first().map(|(at, _)| *at));
        };
        let Some(mut line) = self.ready.remove(&namespace) else {
            return self.next(now);
        };
        let Some(key) = line.pop_front() else {
            return self.next(now);
        };
        if !line.is_empty() {
            self.ready.insert(namespace.clone(), line);
            self.turns.push_back(namespace);
        }
        self.waiting -= 1;
        let slot = self.slots.entry(key.clone()).or_default();
        slot.ready = false;
        slot.running = true;
        let recheck = std::mem::take(&mut slot.recheck);
        Next::Run(key, recheck)
    }

    /// The source has been reconciled.
    pub fn done(&mut self, key: &SourceKey) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        slot.running = false;
        if std::mem::take(&mut slot.again) {
            self.add(key, false);
        }
        self.forget_if_idle(key);
    }

    /// How many sources are ready and not yet running.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody is ready.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    fn forget_if_idle(&mut self, key: &SourceKey) {
        if self
            .slots
            .get(key)
            .is_some_and(|s| !s.ready && !s.running && s.appointment.is_none())
        {
            self.slots.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::source::Kind;

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

    #[test]
    fn namespaces_take_turns() {
        let (mut queue, now) = (Queue::default(), Moment::from_secs(1000));
        for name in ["1", "2", "3"] {
            queue.add(&key("busy", name), false);
        }
        queue.add(&key("calm", "1"), false);
        assert_eq!(queue.len(), 4);
        assert_eq!(drain(&mut queue, now), ["busy/1", "calm/1", "busy/2", "busy/3"]);
        assert_eq!(queue.slots.len(), 0);
    }

    #[test]
    fn a_source_never_runs_twice_at_once_and_no_change_is_lost() {
        let (mut queue, now) = (Queue::default(), Moment::from_secs(1000));
        let a = key("n", "a");
        queue.add(&a, false);
        queue.add(&a, true);
        assert_eq!(queue.next(now), Next::Run(a.clone(), true));
        queue.add(&a, false);
        queue.add(&a, true);
        assert_eq!(queue.next(now), Next::Wait(None));
        queue.done(&a);
        assert_eq!(queue.next(now), Next::Run(a.clone(), true));
        queue.done(&a);
        assert_eq!(queue.next(now), Next::Wait(None));
    }

    #[test]
    fn appointments_come_due_once_and_the_last_word_counts() {
        let (mut queue, now) = (Queue::default(), Moment::from_secs(1000));
        let later = |s| now + Duration::from_secs(s);
        let (a, b) = (key("n", "a"), key("n", "b"));
        queue.schedule(&a, Some((later(10), true)));
        queue.schedule(&b, Some((later(5), false)));
        queue.schedule(&a, Some((later(20), true)));
        assert_eq!(queue.next(now), Next::Wait(Some(later(5))));
        assert_eq!(queue.next(later(5)), Next::Run(b.clone(), false));
        queue.done(&b);
        assert_eq!(queue.next(later(10)), Next::Wait(Some(later(20))));
        assert_eq!(queue.next(later(20)), Next::Run(a.clone(), true));
        queue.schedule(&a, None);
        queue.done(&a);
        assert_eq!(queue.next(later(99)), Next::Wait(None));
        assert_eq!(queue.slots.len(), 0);
    }
}
