//! A world in which the whole operator can be simulated: a Kubernetes API server and a Vault at the wire, and
//! people, machines and accidents around them. Seeded: one seed, one story.
//!
//! The servers are values: a request and the time go in, a reply comes out. They start no thread, read no clock,
//! and draw nothing at random but from their seed. Between them and the operators is the [`network`], which loses,
//! delays and reorders. A [`plan`] says who does what when; [`people`] carry it out; the [`promises`] are checked at
//! each step, and when everything has come to rest.

pub mod kubernetes;
pub mod logs;
pub mod network;
pub mod people;
pub mod plan;
pub mod pod;
pub mod promises;
pub mod scale;
pub mod schedule;
pub mod story;
pub mod vault;
pub mod world;
