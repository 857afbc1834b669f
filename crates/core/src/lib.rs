//! The pure core: all decision logic.
//!
//! Functions take plain data and return a plan. They perform no I/O, read no clock and use no client of
//! Kubernetes or Vault; time is an argument. The core is a separate crate so that the compiler enforces this:
//! code cannot use a crate that is not a dependency. The crate's `clippy.toml` forbids the I/O and the clocks
//! of the standard library.

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
