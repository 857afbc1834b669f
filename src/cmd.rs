//! The commands beside `run`: each does one thing for a person or a hook, says how it went, and ends.

mod doctor;
mod release;

pub use doctor::doctor;
pub use release::release;
