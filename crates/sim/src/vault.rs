//! A simulated Vault: KV of both versions, logins by Kubernetes, policies, a seal.

use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};

/// Vault and what it stores.
pub struct Vault {}

impl Vault {
    /// One that is unsealed and has no mounts.
    pub fn new(_seed: u64) -> Self {
        Self {}
    }

    /// Answers a request that arrives at this time.
    pub fn handle(&mut self, _now: SystemTime, _request: &Request<Bytes>) -> Response<Bytes> {
        Response::new(Bytes::new())
    }
}
