//! A simulated Kubernetes API server: as much of it as the operator, and the people around it, use.

use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::mpsc::UnboundedReceiver;

/// What the API server answers.
pub enum Answer {
    /// A reply that is complete.
    Whole(Response<Bytes>),
    /// A watch: status 200, and then lines of JSON, one for each event, until the channel closes.
    Watch(UnboundedReceiver<Bytes>),
}

/// The API server and what it stores.
pub struct ApiServer {}

impl ApiServer {
    /// One with nothing in it but the namespaces that each cluster has.
    pub fn new(_seed: u64) -> Self {
        Self {}
    }

    /// Answers a request that arrives at this time.
    pub fn handle(&mut self, _now: SystemTime, _request: &Request<Bytes>) -> Answer {
        Answer::Whole(Response::new(Bytes::new()))
    }

    /// Ends the watches whose time is over, and whatever else goes by the clock.
    pub fn tick(&mut self, _now: SystemTime) {}
}
