//! Leader election, decided.
