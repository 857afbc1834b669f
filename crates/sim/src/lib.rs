//! A world in which the whole operator can be simulated: a Kubernetes API server and a Vault at the wire, and
//! people, machines and accidents around them. Seeded: one seed, one story.
//!
//! The servers are values: a request and the time go in, a reply comes out. They start no thread, read no clock,
//! and draw nothing at random but from their seed.

pub mod kubernetes;
pub mod vault;
