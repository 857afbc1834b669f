//! vault-sync-operator: keeps the Kubernetes Secrets that workloads use in HashiCorp Vault.
//!
//! A pure core, [`domain`], inside a thin imperative shell. `docs/architecture.md` says which
//! module may know which.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod domain;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod telemetry;
pub mod vault;
pub mod yaml;
