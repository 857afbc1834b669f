//! The promises of the operator, each tested on a real Kubernetes and a real Vault.
//!
//! A file is a topic, a test's name a promise. What a test starts from is the crate `testkit`.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::needless_pass_by_value)]

mod bad_input;
mod cli;
mod clocks;
mod commands;
mod deletion;
mod documents;
mod drift;
mod endpoints;
mod explore;
mod fleet;
mod gateways;
mod ground;
mod hostile;
mod kube_faults;
mod leadership;
mod leaks;
mod ledger;
mod lifecycle;
mod limits;
mod memory;
mod metrics_guard;
mod mistakes;
mod moves;
mod no_churn;
mod outage;
mod ownership;
mod paths;
mod people;
mod remounts;
mod rights;
mod shares;
mod simulated_kubernetes;
mod simulated_vault;
mod sources;
mod sync;
mod vault_login;
mod vault_replies;
mod vault_session;
mod vault_tls;
mod wall;
mod wires;
