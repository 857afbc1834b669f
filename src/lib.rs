//! vault-sync-operator: keeps the Kubernetes Secrets that workloads use in HashiCorp Vault.
//!
//! A pure core, [`domain`], inside a thin imperative shell. `docs/architecture.md` says which
//! module may know which.

pub mod admin;
pub mod backoff;
pub mod cli;
pub mod cmd;
pub mod controller;
pub mod domain;
pub mod events;
pub mod kube;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod mounts;
pub mod readiness;
pub mod reconcile;
pub mod run;
pub mod telemetry;
pub mod vault;
pub mod yaml;
