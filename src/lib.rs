//! vault-sync-operator: syncs the Kubernetes Secrets that workloads use into HashiCorp Vault.
//!
//! A thin imperative shell around a pure core, the crate [`domain`]. `docs/architecture.md` defines which
//! module may use which.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod cmd;
pub mod controller;
pub mod events;
pub mod kube;
pub mod lease;
pub mod ledger_io;
pub mod machine;
pub mod metrics;
pub mod mounts;
pub mod places;
pub mod readiness;
pub mod reconcile;
pub mod run;
pub mod telemetry;
pub mod vault;
