//! Bounds the payload in flight: how many bytes of Secrets may be in memory at once.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::domain::value::{Payload, Value};

const KIB: usize = 1024;
/// A Secret is at most 1 MiB. It is held up to four times for a moment: as the API server's reply in
/// base64, decoded, and as the request to Vault, twice while that is sent.
const WORST: usize = 4 * KIB;
/// Without a limit of memory: what the chart's default limit would give.
const DEFAULT: usize = 64 * KIB;

/// The budget, in KiB.
#[derive(Clone)]
pub struct Budget {
    total: u32,
    left: Arc<Semaphore>,
    freed: Arc<Notify>,
}

/// A part of the budget, until it is dropped.
pub struct Share {
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl Budget {
    /// Half of the memory limit (bytes), the other half being for everything else.
    pub fn new(limit: Option<u64>) -> Self {
        let half = limit.map_or(DEFAULT, |bytes| {
            usize::try_from(bytes / 2).unwrap_or(usize::MAX) / KIB
        });
        let total = u32::try_from(half.max(WORST))
            .unwrap_or(u32::MAX / 2)
            .min(u32::MAX / 2);
        Self {
            total,
            left: Arc::new(Semaphore::new(total as usize)),
            freed: Arc::default(),
        }
    }

    /// The most bytes that one document may have without taking more than there is: beyond that it
    /// would take the process down, and with it everybody else's documents.
    pub fn largest(&self) -> usize {
        self.total as usize * KIB / 4
    }

    /// Waits for room for this many Secrets of the worst size. One document that needs more than
    /// there is at all gets the whole, alone.
    pub async fn share(&self, secrets: usize) -> Share {
        let wanted = u32::try_from(secrets.saturating_mul(WORST))
            .unwrap_or(u32::MAX)
            .min(self.total);
        let permit = if wanted > self.total / 2 {
            self.when_there(wanted).await
        } else {
            self.left.clone().acquire_many_owned(wanted).await.ok()
        };
        match permit {
            Some(permit) => Share {
                permit: Some(permit),
                freed: self.freed.clone(),
            },
            None => unreachable!("nobody ever closes the budget"),
        }
    }

    /// Who wants most of the budget stands in no line: what a write that hangs holds may not come back soon,
    /// and all who come later would wait for it too.
    async fn when_there(&self, wanted: u32) -> Option<OwnedSemaphorePermit> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Listen before looking, or what is given back in between would go unheard.
            freed.as_mut().enable();
            match self.left.clone().try_acquire_many_owned(wanted) {
                Ok(permit) => return Some(permit),
                Err(TryAcquireError::Closed) => return None,
                Err(TryAcquireError::NoPermits) => freed.await,
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_waiters();
    }
}

impl Share {
    /// Gives back what the Secrets turned out not to need.
    pub fn shrink<'a>(&mut self, payloads: impl Iterator<Item = &'a Payload>) {
        let bytes: usize = payloads
            .flat_map(|payload| payload.data.values())
            .map(Value::len)
            .sum();
        let needed = (bytes * 4).div_ceil(KIB).max(1);
        let Some(permit) = &mut self.permit else { return };
        let surplus = permit.num_permits().saturating_sub(needed);
        drop(permit.split(surplus));
        self.freed.notify_waiters();
    }
}
