//! Limits the payload in flight: how many bytes of Secrets may be in memory at once. [`Room`] decides.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use domain::room::{Room, Ticket};

const MIB: usize = 1024 * 1024;
/// A Secret has at most 1 MiB. In JSON, each of its bytes may take six. Both forms are in memory while it is
/// sent.
const LEAST: usize = 8 * MIB;
/// Without a memory limit: the budget that the chart's default limit gives.
const DEFAULT: usize = 64 * MIB;
/// Reads beyond the one that each document always has. They share the API server with all other requests.
const SPARE_READS: usize = 16;

/// The budget, in bytes.
#[derive(Clone)]
pub struct Budget {
    inner: Arc<Mutex<Inner>>,
    total: usize,
    reads: Arc<Semaphore>,
}

struct Inner {
    room: Room,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A document's part of the budget; dropping it returns it.
pub struct Grant {
    budget: Budget,
    namespace: String,
    part: Mutex<Part>,
}

#[derive(Clone, Copy, Default)]
struct Part {
    /// Bytes taken from the budget.
    taken: usize,
    /// Bytes of those that the document uses.
    used: usize,
    /// Bytes granted at the beginning. They stay taken until [`Grant::settle`].
    granted: usize,
}

impl Budget {
    /// Half of the memory limit (in bytes); the other half is for everything else.
    pub fn new(limit: Option<u64>) -> Self {
        let half = limit.map_or(DEFAULT, |bytes| usize::try_from(bytes / 2).unwrap_or(usize::MAX));
        let total = half.clamp(LEAST, usize::MAX / 8);
        Self {
            inner: Arc::new(Mutex::new(Inner {
                room: Room::new(total),
                waiting: HashMap::new(),
            })),
            total,
            reads: Arc::new(Semaphore::new(SPARE_READS)),
        }
    }

    /// Most bytes that one document may have: several copies of it exist for a moment.
    pub fn largest(&self) -> usize {
        self.total / 4
    }

    /// All bytes of the budget.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The permit to read one more Secret of a document concurrently, if one is free now.
    pub fn spare_read(&self) -> Option<OwnedSemaphorePermit> {
        self.reads.clone().try_acquire_owned().ok()
    }

    /// Waits for this many bytes, at most the total. The caller must hold no other grant: see [`Room`].
    pub async fn grant(&self, namespace: &str, bytes: usize) -> Grant {
        let bytes = bytes.min(self.total);
        let grant = |bytes| Grant {
            budget: self.clone(),
            namespace: namespace.to_owned(),
            part: Mutex::new(Part {
                taken: bytes,
                used: 0,
                granted: bytes,
            }),
        };
        let mut wait = {
            let mut inner = self.lock();
            if inner.room.take(namespace, bytes) {
                return grant(bytes);
            }
            let ticket = inner.room.wait(namespace, bytes);
            let (granted, answer) = oneshot::channel();
            inner.waiting.insert(ticket, granted);
            Waiter {
                budget: self.clone(),
                namespace: namespace.to_owned(),
                ticket,
                bytes,
                answer: Some(answer),
            }
        };
        if let Some(answer) = &mut wait.answer {
            // The sender is dropped only after it was used.
            let _ = answer.await;
        }
        wait.answer = None;
        grant(bytes)
    }

    fn give_back(&self, namespace: &str, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut inner = self.lock();
        for ticket in inner.room.give_back(namespace, bytes) {
            if let Some(granted) = inner.waiting.remove(&ticket) {
                // A waiter that was cancelled meanwhile returns the bytes itself.
                let _ = granted.send(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

/// A waiter, which may be cancelled.
struct Waiter {
    budget: Budget,
    namespace: String,
    ticket: Ticket,
    bytes: usize,
    /// `None`: the bytes were granted, and a `Grant` holds them.
    answer: Option<oneshot::Receiver<()>>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.answer.is_none() {
            return;
        }
        let still_waits = {
            let mut inner = self.budget.lock();
            inner.waiting.remove(&self.ticket);
            inner.room.withdraw(self.ticket)
        };
        if !still_waits {
            self.budget.give_back(&self.namespace, self.bytes);
        }
    }
}

impl Grant {
    /// How many bytes are used.
    pub fn used(&self) -> usize {
        self.part().used
    }

    /// Uses more bytes, and enlarges the grant if needed. Returns whether the budget had room immediately.
    #[must_use]
    pub fn grow(&self, by: usize) -> bool {
        let mut part = self.part();
        let used = part.used.saturating_add(by);
        let more = used.saturating_sub(part.taken);
        let fits = self.budget.lock().room.take(&self.namespace, more);
        if fits {
            part.used = used;
            part.taken += more;
        }
        fits
    }

    /// Uses fewer bytes.
    pub fn shrink(&self, by: usize) {
        let mut part = self.part();
        part.used = part.used.saturating_sub(by);
        let surplus = part.taken - part.taken.min(part.used.max(part.granted));
        part.taken -= surplus;
        drop(part);
        self.budget.give_back(&self.namespace, surplus);
    }

    /// Uses exactly this many bytes. Returns whether the budget had room immediately.
    #[must_use]
    pub fn resize(&self, to: usize) -> bool {
        let used = self.used();
        if to > used {
            return self.grow(to - used);
        }
        self.shrink(used - to);
        true
    }

    /// Returns the unused bytes.
    pub fn settle(&self) {
        self.part().granted = 0;
        self.shrink(0);
    }

    fn part(&self) -> MutexGuard<'_, Part> {
        self.part.lock()
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let taken = self.part().taken;
        self.budget.give_back(&self.namespace, taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_uses_what_was_granted_before_it_takes_more() {
        let budget = Budget::new(Some(16 << 20));
        let taken = |grant: &Grant| grant.part().taken;
        let grant = futures_util::FutureExt::now_or_never(budget.grant("a", 100)).unwrap();
        assert!(grant.grow(60) && grant.grow(40));
        assert_eq!(taken(&grant), 100);
        assert!(grant.grow(50));
        assert_eq!((taken(&grant), grant.used()), (150, 150));
        grant.shrink(120);
        assert_eq!((taken(&grant), grant.used()), (100, 30));
        grant.settle();
        assert_eq!((taken(&grant), grant.used()), (30, 30));
        assert!(grant.resize(70) && grant.resize(10));
        assert_eq!((taken(&grant), grant.used()), (10, 10));
        assert!(!grant.grow(8 << 20));
        assert_eq!((taken(&grant), grant.used()), (10, 10));
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back_and_who_is_cut_off_leaves_nothing_taken() {
        let budget = Budget::new(Some(16 << 20));
        let all = budget.grant("a", usize::MAX).await;
        assert!(all.grow(8 << 20) && !all.grow(1));
        let asks = |namespace: &'static str| {
            let budget = budget.clone();
            tokio::spawn(async move { budget.grant(namespace, 1 << 20).await })
        };
        let (waits, cut_off) = (asks("b"), asks("c"));
        while budget.lock().waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        cut_off.abort();
        assert!(cut_off.await.is_err());
        assert_eq!(budget.lock().waiting.len(), 1);
        all.settle();
        all.shrink(2 << 20);
        assert_eq!(waits.await.unwrap().part().taken, 1 << 20);
        drop(all);
        assert_eq!(budget.grant("d", usize::MAX).await.part().taken, 8 << 20);
    }
}
