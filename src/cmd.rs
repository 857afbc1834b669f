//! The commands beside `run`: each does one task for a user or a hook, reports the result, and ends.

mod doctor;
mod release;

pub use doctor::doctor;
pub use release::release;
