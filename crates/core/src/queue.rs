//! Which source is reconciled next. Each source runs once at a time, and namespaces take turns.
//!
//! Two limits keep a slow or broken source from delaying others. Up to `--concurrency` sources are **at
//! work**. A source that has waited for a response for a while counts as **stalled** instead, and its place
//! at work is free for the next. Sources at work and stalled together have four times as many places.
//!
//! For both limits, a namespace may have at most a multiple of what is still free. This is the dynamic
//! threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
//! IEEE/ACM ToN 6(2), 1998). So a namespace alone has nearly all places at work, and a source of another
//! namespace still starts at once. A namespace whose sources all hang fills half of the places. While fewer
//! namespaces hang than there are places, there is a place for another.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::source::SourceKey;

/// A moment: the time since some starting point, which is the same for all calls.
pub type Moment = Duration;

/// How many places there are in total, for each source that may be at work.
const PLACES: usize = 4;
/// How many sources of a namespace may be at work, for each place at work that is free: of sixteen, thirteen
/// if it is alone.
const SHARE: usize = 4;

/// How deeply a reconcile checks. The deeper of two is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Depth {
    /// Trusts what is remembered of Vault.
    #[default]
    Trusting,
    /// Reads Vault again, regardless of what is remembered.
    Full,
}

impl Depth {
    /// `Full` if `so`, otherwise `Trusting`.
    pub fn full_if(so: bool) -> Self {
        if so { Self::Full } else { Self::Trusting }
    }

    /// Whether Vault is read again.
    pub fn is_full(self) -> bool {
        self == Self::Full
    }
}

/// When a source becomes ready without an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appointment {
    /// The time.
    pub at: Moment,
    /// How deeply to check then.
    pub depth: Depth,
}

/// The queue. Time is an argument.
pub struct Queue {
    /// The namespaces that have a ready source, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    ready: HashMap<Arc<str>, VecDeque<SourceKey>>,
    slots: HashMap<SourceKey, Slot>,
    /// The same appointments as in `slots`, by time.
    agenda: BTreeSet<(Moment, SourceKey)>,
    waiting: usize,
    concurrency: usize,
    /// In total.
    running: Running,
    /// How many of the stalled sources wait for a place at work.
    returning: usize,
    /// For the namespaces that have a running source.
    by_namespace: HashMap<Arc<str>, Running>,
}

/// How many sources run.
#[derive(Clone, Copy, Default)]
struct Running {
    at_work: usize,
    stalled: usize,
}

impl Running {
    fn all(self) -> usize {
        self.at_work + self.stalled
    }
}

/// What the queue knows of one source.
#[derive(Default)]
struct Slot {
    ready: bool,
    progress: Progress,
    /// It was added while it ran, so it runs again.
    again: bool,
    depth: Depth,
    appointment: Option<Appointment>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Progress {
    #[default]
    No,
    AtWork,
    Stalled,
    /// Stalled, and waiting for a place at work.
    Returning,
}

/// What to do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Reconcile this source, with this depth.
    Run(SourceKey, Depth),
    /// No source is ready, or none has a place. Ask again at this time, or when something has happened.
    Wait(Option<Moment>),
}

impl Queue {
    /// An empty queue, with up to this many sources at work at a time.
    pub fn new(concurrency: usize) -> Self {
        Self {
            turns: VecDeque::new(),
            ready: HashMap::new(),
            slots: HashMap::new(),
            agenda: BTreeSet::new(),
            waiting: 0,
            concurrency,
            running: Running::default(),
            returning: 0,
            by_namespace: HashMap::new(),
        }
    }

    /// Makes a source ready. Adding it several times has no further effect. A source that runs will run
    /// again.
    pub fn add(&mut self, key: &SourceKey, depth: Depth) {
        let slot = self.slots.entry(key.clone()).or_default();
        slot.depth = slot.depth.max(depth);
        if slot.progress != Progress::No {
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

    /// Sets the time at which a source becomes ready without an event; `None` removes it. Each source has one
    /// such time.
    pub fn schedule(&mut self, key: &SourceKey, appointment: Option<Appointment>) {
        let slot = self.slots.entry(key.clone()).or_default();
        if let Some(before) = slot.appointment.take() {
            self.agenda.remove(&(before.at, key.clone()));
        }
        slot.appointment = appointment;
        match appointment {
            Some(Appointment { at, .. }) => {
                self.agenda.insert((at, key.clone()));
            }
            None => self.forget_if_idle(key),
        }
    }

    /// Wakes a source that waited for something, at this time. A source that is running now runs once more,
    /// because that run may have begun too early.
    pub fn recall(&mut self, key: &SourceKey, at: Moment, depth: Depth) {
        if self
            .slots
            .get(key)
            .is_some_and(|slot| slot.progress != Progress::No)
        {
            self.add(key, depth);
        } else {
            self.schedule(key, Some(Appointment { at, depth }));
        }
    }

    /// Takes the next source in turn. The caller reports [`Queue::stall`] if it takes long, and
    /// [`Queue::done`].
    pub fn next(&mut self, now: Moment) -> Next {
        self.keep_appointments(now);
        let Some(key) = self.take_turn() else {
            return Next::Wait(self.agenda.first().map(|(at, _)| *at));
        };
        self.waiting -= 1;
        self.count(&key.namespace, |running| running.at_work += 1);
        let slot = self.slots.entry(key.clone()).or_default();
        slot.ready = false;
        slot.progress = Progress::AtWork;
        let depth = std::mem::take(&mut slot.depth);
        Next::Run(key, depth)
    }

    fn keep_appointments(&mut self, now: Moment) {
        while let Some((at, key)) = self.agenda.first().filter(|(at, _)| *at <= now).cloned() {
            self.agenda.remove(&(at, key.clone()));
            let slot = self.slots.get_mut(&key);
            let appointment = slot.and_then(|slot| slot.appointment.take());
            self.add(&key, appointment.map_or(Depth::Trusting, |due| due.depth));
        }
    }

    /// The first source of the next namespace in turn that may have a place.
    fn take_turn(&mut self) -> Option<SourceKey> {
        // Sources that return have priority over sources that begin.
        let taken = self.running.at_work + self.returning;
        let at_work_left = self.concurrency.saturating_sub(taken);
        let places_left = (PLACES * self.concurrency).saturating_sub(self.running.all());
        let has_place = |namespace: &Arc<str>| {
            let own = self.by_namespace.get(namespace).copied().unwrap_or_default();
            own.at_work < SHARE * at_work_left && own.all() < places_left
        };
        let turn = self.turns.iter().position(has_place)?;
        let namespace = self.turns.remove(turn)?;
        let line = self.ready.get_mut(&namespace)?;
        let key = line.pop_front();
        if line.is_empty() {
            self.ready.remove(&namespace);
        } else {
            self.turns.push_back(namespace);
        }
        key
    }

    /// The source has waited for a response for a while: its place at work is free for another. Returns whether it had
    /// one.
    pub fn stall(&mut self, key: &SourceKey) -> bool {
        let slot = self.slots.get_mut(key);
        let Some(slot) = slot.filter(|slot| slot.progress == Progress::AtWork) else {
            return false;
        };
        slot.progress = Progress::Stalled;
        self.count(&key.namespace, |running| {
            running.at_work -= 1;
            running.stalled += 1;
        });
        true
    }

    /// Gives a stalled source a place at work again. Returns false if none is free. The caller then asks again when
    /// another source is done or stalls.
    pub fn resume(&mut self, key: &SourceKey) -> bool {
        let free = self.running.at_work < self.concurrency;
        let Some(slot) = self.slots.get_mut(key) else {
            return true;
        };
        match slot.progress {
            Progress::No | Progress::AtWork => return true,
            Progress::Stalled if !free => {
                slot.progress = Progress::Returning;
                self.returning += 1;
                return false;
            }
            Progress::Returning if !free => return false,
            Progress::Returning => self.returning -= 1,
            Progress::Stalled => {}
        }
        slot.progress = Progress::AtWork;
        self.count(&key.namespace, |running| {
            running.stalled -= 1;
            running.at_work += 1;
        });
        true
    }

    /// The source has been reconciled.
    pub fn done(&mut self, key: &SourceKey) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let again = std::mem::take(&mut slot.again);
        match std::mem::take(&mut slot.progress) {
            Progress::No => {}
            Progress::AtWork => self.count(&key.namespace, |running| running.at_work -= 1),
            Progress::Stalled => self.count(&key.namespace, |running| running.stalled -= 1),
            Progress::Returning => {
                self.returning -= 1;
                self.count(&key.namespace, |running| running.stalled -= 1);
            }
        }
        if again {
            self.add(key, Depth::Trusting);
        }
        self.forget_if_idle(key);
    }

    fn count(&mut self, namespace: &Arc<str>, change: impl Fn(&mut Running)) {
        change(&mut self.running);
        let own = self.by_namespace.entry(namespace.clone()).or_default();
        change(own);
        if own.all() == 0 {
            self.by_namespace.remove(namespace);
        }
    }

    /// How many sources are ready and not yet running.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether no source is ready.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many sources are stalled.
    pub fn stalled(&self) -> usize {
        self.running.stalled
    }

    fn forget_if_idle(&mut self, key: &SourceKey) {
        if self
            .slots
            .get(key)
            .is_some_and(|s| !s.ready && s.progress == Progress::No && s.appointment.is_none())
        {
            self.slots.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
