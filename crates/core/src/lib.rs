//! The pure core: all that decides.
//!
//! Plain data in, a plan out. Nothing in here performs I/O, reads a clock or knows a client of
//! Kubernetes or Vault; time is an argument. It is a crate of its own so that the compiler keeps that wall: what is
//! not among its dependencies cannot be used. `clippy.toml` beside it refuses what the standard library could do.

pub mod annotations;
pub mod desired;
pub mod discovery;
pub mod document;
pub mod duration;
pub mod election;
#[cfg(any(test, fuzzing))]
pub mod hostile;
pub mod index;
pub mod ledger;
pub mod names;
pub mod path;
pub mod path_policy;
pub mod plan;
pub mod problem;
pub mod queue;
pub mod room;
pub mod settings;
pub mod source;
pub mod text;
pub mod value;
pub mod words;
pub mod yaml;
