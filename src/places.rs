//! The queue with its notifications: for the code that fills it, empties it, or gives up a place for a while.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use domain::queue::{Appointment, Depth, Moment, Next, Queue};
use domain::source::SourceKey;

/// The queue, and the notifications for tasks that wait for it.
pub struct Places {
    queue: Mutex<Queue>,
    /// The reference point of the queue's moments.
    born: Instant,
    /// Notified when a source becomes ready or a place becomes free.
    ready: Notify,
    /// Notified when a place at work becomes free.
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

    /// Makes sources ready that waited for something.
    pub fn recall(&self, keys: impl IntoIterator<Item = (SourceKey, Depth)>) {
        let now = self.now();
        let mut queue = self.queue();
        for (key, depth) in keys {
            queue.recall(&key, now, depth);
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// Returns the next source whose turn it is, when there is a place for it. `count` gets the queue's length.
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
                    // Whichever comes first: look again in both cases.
                    let _ = tokio::time::timeout_at(self.born + at, woken).await;
                }
            }
        }
    }

    /// Ends a source's turn. `again`: when it becomes ready again by itself.
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

    /// Gives a source's place at work to another, because the source waits for an answer.
    pub fn stall(&self, key: &SourceKey) {
        let has_stalled = self.queue().stall(key);
        if has_stalled {
            self.free();
        }
    }

    /// Waits for something that many sources can wait for together. The source holds no place at work meanwhile. It
    /// waits for a place before it continues.
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
