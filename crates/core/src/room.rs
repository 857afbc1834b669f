//! How many bytes of payload may be in memory at once, in shares by namespace.
//!
//! A document takes a part before anything of it is fetched, makes it larger as bytes arrive, and gives it back
//! when Vault has answered. What is taken never exceeds the total. Of the rest, a namespace that already holds
//! some gets more only while that leaves room for others: its own part stays below three times what is left (see
//! [`super::queue`] for the idea). So one namespace alone gets three quarters, and a quarter is left for the next.
//!
//! **No deadlock.** Nobody waits while it holds a part: a document whose part cannot be made larger at once gives
//! all of it back, and waits with empty hands for what it now knows to need. So each part that is taken
//! belongs to a document that waits for the network alone, whose waits have an end, and each part comes back.
//! When nothing is taken, the first who waits gets what it asks for, since nobody may ask for more than the total.
//! A document that comes back asks for at least twice as much as before, so it comes back a few times only.
//!
//! **No queue.** Who waits gets room in the order of arrival, but a large request does not hold back a small one
//! behind it, nor one that arrives later: the part that it waits for may belong to a write that hangs. While small
//! requests never cease, a very large one may wait for long; it is served as soon as they do.

use std::collections::{BTreeMap, HashMap};

/// How much a namespace may hold, for each byte that is left.
const SHARE: usize = 3;

/// Who holds how much, and who waits for how much.
#[derive(Debug)]
pub struct Room {
    total: usize,
    taken: usize,
    /// Of those namespaces that hold any.
    by_namespace: HashMap<String, usize>,
    /// By the order of arrival.
    waiting: BTreeMap<Ticket, Request>,
    next: u64,
}

/// Names one request that waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Request {
    namespace: String,
    bytes: usize,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            taken: 0,
            by_namespace: HashMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// The bytes that there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Takes so many bytes for a namespace, if they are free and it may have them.
    pub fn take(&mut self, namespace: &str, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        let left = self.total - self.taken;
        let own = self.by_namespace.get(namespace).copied().unwrap_or(0);
        let fits =
            bytes <= left && (own == 0 || own.saturating_add(bytes) <= SHARE.saturating_mul(left - bytes));
        if fits {
            self.taken += bytes;
            *self.by_namespace.entry(namespace.to_owned()).or_default() += bytes;
        }
        fits
    }

    /// Asks for bytes that are not free now; for more than there are, it means all.
    pub fn wait(&mut self, namespace: &str, bytes: usize) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let request = Request {
            namespace: namespace.to_owned(),
            bytes: bytes.min(self.total),
        };
        self.waiting.insert(ticket, request);
        ticket
    }

    /// Gives up waiting. Whether it still waited.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    /// Gives bytes back. Those whose request is granted now, in the order of their arrival.
    pub fn give_back(&mut self, namespace: &str, bytes: usize) -> Vec<Ticket> {
        self.taken = self.taken.saturating_sub(bytes);
        if let Some(own) = self.by_namespace.get_mut(namespace) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.by_namespace.remove(namespace);
            }
        }
        let mut granted = Vec::new();
        for (ticket, request) in std::mem::take(&mut self.waiting) {
            if self.take(&request.namespace, request.bytes) {
                granted.push(ticket);
            } else {
                self.waiting.insert(ticket, request);
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests;
