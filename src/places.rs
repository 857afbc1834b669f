//! The queue, for those who fill it, empty it, and give up a place in it for a while.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use domain::queue::{Appointment, Depth, Moment, Next, Queue};
use domain::source::SourceKey;

/// The queue, and what wakes those who wait for something in it.
pub struct Places {
    queue: Mutex<Queue>,
    /// The beginning from which the queue's moments count.
    born: Instant,
    /// A source became ready, or a place free.
    ready: Notify,
    /// A place at work became free.
    freed: Notify,
}

impl Places {
    /// `concurrency`: how many sources are reconciled at a time.
    pub fn new(concurrency: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::new(concurrency)),
            born: Instant::now(),
            ready: Notify::new(),
            freed: Notify::new(),
        }
    }

    /// Makes sources ready.
    pub fn add(&self, keys: &[SourceKey]) {
        let mut queue = self.queue();
        for key in keys {
            queue.add(key, Depth::Trusting);
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// Makes sources ready that have waited for something, each after a time of its own.
    pub fn recall(&self, keys: impl Iterator<Item = (SourceKey, Duration, Depth)>) {
        let now = self.now();
        let mut queue = self.queue();
        for (key, after, depth) in keys {
            queue.recall(&key, now + after, depth);
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// The next source whose turn it is, when there is a place for it. `count` gets the number of those who wait.
    pub async fn next(&self, count: impl Fn(usize)) -> (SourceKey, Depth) {
        loop {
            let woken = self.ready.notified();
            let next = {
                let mut queue = self.queue();
                let next = queue.next(self.now());
                count(queue.len());
                next
            };
            match next {
                Next::Run(key, depth) => return (key, depth),
                Next::Wait(None) => woken.await,
                Next::Wait(Some(at)) => {
                    // Whichever comes first; either way, look again.
                    let _ = tokio::time::timeout_at(self.born + at, woken).await;
                }
            }
        }
    }

    /// A source has been reconciled; when it is ready again by itself.
    pub fn done(&self, key: &SourceKey, again: Option<(Duration, Depth)>) {
        let due = |(after, depth)| Appointment {
            at: self.now() + after,
            depth,
        };
        let mut queue = self.queue();
        queue.schedule(key, again.map(due));
        queue.done(key);
        drop(queue);
        self.free();
    }

    /// A source has been waiting for an answer for a while: its place at work goes to another.
    pub fn stall(&self, key: &SourceKey) {
        self.queue().stall(key);
        self.free();
    }

    /// Waits for something that many sources wait for together: the more of them, the better. So none holds a place
    /// at work meanwhile; afterwards it waits for one.
    pub async fn give_up_while<T>(&self, key: &SourceKey, wait: impl Future<Output = T>) -> T {
        self.stall(key);
        let result = wait.await;
        loop {
            let freed = self.freed.notified();
            if self.queue().resume(key) {
                return result;
            }
            freed.await;
        }
    }

    fn free(&self) {
        self.freed.notify_waiters();
        self.ready.notify_one();
    }

    fn now(&self) -> Moment {
        self.born.elapsed()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}
