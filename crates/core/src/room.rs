//! How many bytes of payload may be in memory at once, shared between namespaces.
//!
//! A document takes a share before any of it is fetched, enlarges the share as bytes arrive, and gives it
//! back when Vault has responded. The shares never exceed the total. A namespace that already holds some
//! memory gets more only while enough is left for others. What it holds stays below three times what is left
//! (see [`super::queue`] for the idea). So one namespace alone gets three quarters, and a quarter is left for
//! the next.
//!
//! **No deadlock.** No document waits while it holds a share. If its share cannot be enlarged at once, the
//! document gives all of it back, and waits for the size that it now knows to need. So each share belongs to
//! a document that waits only for the network. Those waits end, and each share comes back. When nothing is
//! taken, the first waiting document gets what it asks for, since no request may exceed the total. A document
//! that comes back asks for at least twice as much as before, so it comes back only a few times.
//!
//! **No queue.** Waiting documents get room in the order of arrival. But a large request does not hold back
//! smaller ones that come after it, because the share that it waits for may belong to a write that hangs. A
//! very large request may wait long while small ones keep coming. It is served as soon as they stop.

use std::collections::{BTreeMap, HashMap};

/// How many bytes a namespace may hold, for each byte that is left.
const SHARE: usize = 3;

/// Which namespaces hold how much, and which requests wait for how much.
#[derive(Debug)]
pub struct Room {
    total: usize,
    taken: usize,
    /// For the namespaces that hold any.
    by_namespace: HashMap<String, usize>,
    /// By the order of arrival.
    waiting: BTreeMap<Ticket, Request>,
    next: u64,
}

/// Identifies one waiting request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Request {
    namespace: String,
    bytes: usize,
}

impl Room {
    /// Room for this many bytes.
    pub fn new(total: usize) -> Self {
        Self {
            total,
            taken: 0,
            by_namespace: HashMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    /// The total number of bytes.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Takes bytes for a namespace, if they are free and the namespace may have them.
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

    /// Waits for bytes that are not free now. A request for more than the total counts as a request for the
    /// total.
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

    /// Stops waiting. Returns whether the request was still waiting.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        self.waiting.remove(&ticket).is_some()
    }

    /// Gives bytes back. Returns the requests that are granted now, in the order of their arrival.
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
