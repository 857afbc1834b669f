//! The operator as a whole: builds the parts, starts them, supervises them, and ends them in order.
//!
//! Every task is supervised: if any task ends, the process ends with its reason. On a signal, no new work
//! begins, and running work finishes. Then the ledger is stored, the Vault token is revoked, and the lease is
//! released last.

mod life;
mod serve;

use std::path::Path;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::cli::Config;
use crate::events::{Events, Writer};
use crate::kube;
use crate::lease;
use crate::ledger_io::CommitError;
use crate::machine::{Aside, Clock};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::vault::{self, Vault};
use domain::path_policy::{BadRule, Policy, Rule};
use domain::yaml::{self, BadYaml};
use life::Life;

pub use serve::Probe;

/// Why the operator has ended, other than by a signal. Each error says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configured value cannot be used.
    #[error("{0}")]
    Setup(String),
    /// There is no Kubernetes client.
    #[error(transparent)]
    Connect(#[from] kube::ConnectError),
    /// A listener could not be opened.
    #[error(transparent)]
    Bind(#[from] admin::BindError),
    /// The lease is lost: another process may write now.
    #[error("{0}")]
    Lost(#[from] lease::Lost),
    /// The ledger could not be used, or another operator has taken it over.
    #[error("{0}")]
    Ledger(#[from] CommitError),
    /// A task has ended that must never end.
    #[error("{0}")]
    Ended(String),
}

/// The tasks that run beside the work.
pub type Tasks = JoinSet<Result<(), Error>>;

/// What the operator runs for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Vault holds what the sources ask for, until the process is stopped.
    Sync,
    /// No document is wanted any more: deletes the documents in the ledger, each by its deletion policy. Ends
    /// when that is done.
    ClearOut,
}

/// Everything outside of the operator. A simulation provides its own; no other code knows the difference.
#[derive(Clone)]
pub struct Outside {
    /// Connects to Kubernetes.
    pub kubernetes: kube::Connect,
    /// Connects to Vault.
    pub vault: Arc<dyn vault::Wire>,
    /// The wall clock. Tokio's clock measures durations.
    pub clock: Clock,
    /// Where the lease is renewed.
    pub aside: Aside,
}

/// Runs the operator until a signal, a failure, or the end of its duty.
pub async fn run(config: Config, duty: Duty) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new();
    tasks.spawn(signals(stop.clone()));
    // Errors in the policy's file are reported even without a cluster.
    let policy = load_policy(config.path_policy.as_deref())?;
    let outside = outside(&config).await?;
    let mut registry = Registry::default();
    let operator = Operator::build(config, policy, outside, &mut registry, stop)?;
    serve::start(&operator, registry, &mut tasks).await?;
    operator.run(duty, tasks).await
}

/// Kubernetes, Vault and this machine, according to the flags.
async fn outside(config: &Config) -> Result<Outside, Error> {
    let cluster = kube::configure(config.kubeconfig.as_deref()).await?;
    Ok(Outside {
        kubernetes: kube::http(cluster),
        vault: vault::http(&config.vault).map_err(|error| Error::Setup(error.to_string()))?,
        clock: Clock::system(),
        aside: Aside::thread(),
    })
}

/// The operator, built but not started: the parts that live as long as it does.
pub struct Operator {
    config: Config,
    policy: Policy,
    outside: Outside,
    client: ::kube::Client,
    vault: Vault,
    metrics: Metrics,
    readiness: Readiness,
    stop: CancellationToken,
}

impl Operator {
    /// Builds the operator with what is outside of it, and registers its metrics. It ends in order after
    /// `stop`.
    pub fn new(
        config: Config,
        outside: Outside,
        registry: &mut Registry,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let policy = load_policy(config.path_policy.as_deref())?;
        Self::build(config, policy, outside, registry, stop)
    }

    fn build(
        config: Config,
        policy: Policy,
        outside: Outside,
        registry: &mut Registry,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let metrics = Metrics::register(registry);
        metrics.expect_vault_errors(&vault::LABELS);
        metrics.runtime_info(config.runtime.max_procs, config.runtime.memory_limit);
        let observer = Arc::new(serve::VaultMetrics(metrics.clone()));
        let vault = Vault::new(config.vault.clone(), Arc::clone(&outside.vault), observer);
        Ok(Self {
            policy,
            client: kube::client(Arc::clone(&outside.kubernetes))?,
            vault: vault.map_err(|error| Error::Setup(error.to_string()))?,
            config,
            outside,
            metrics,
            readiness: Readiness::default(),
            stop,
        })
    }

    fn events(&self) -> (Events, Writer) {
        let clock = self.outside.clock.clone();
        Events::new(
            self.client.clone(),
            &self.config.instance,
            clock,
            self.metrics.clone(),
        )
    }

    /// Runs the operator until it is stopped, fails, or completes its duty. It also ends if any of `tasks`
    /// ends; these run beside it.
    pub async fn run(self, duty: Duty, mut tasks: Tasks) -> Result<(), Error> {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            gomaxprocs = self.config.runtime.max_procs,
            gomemlimit_bytes = self.config.runtime.memory_limit,
            vault = self.config.vault.address,
            cluster = self.config.settings.cluster_name,
            "starting"
        );
        // The session ends after the work: its token is revoked when nothing needs it any more.
        let session_stop = CancellationToken::new();
        let mut session = tokio::spawn({
            let (vault, stop) = (self.vault.clone(), session_stop.clone());
            async move { vault.maintain(stop).await }
        });
        // It watches `stop` itself, and ends in order.
        let result = tokio::select! {
            result = Box::pin(Life::of(&self, duty)) => result,
            error = first_to_end(&mut tasks) => Err(error),
            ended = &mut session => {
                let how = if ended.is_err() { "panicked" } else { "ended" };
                return Err(Error::Ended(format!("the Vault session has {how}, which is a bug")));
            }
        };
        session_stop.cancel();
        if session.await.is_err() {
            tracing::error!("the Vault session has panicked, which is a bug");
        }
        result
    }
}

/// Stops at the first signal; a second one ends the process immediately.
async fn signals(stop: CancellationToken) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::Setup(format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if first {
            tracing::info!("stopping: finishing what runs");
            stop.cancel();
        }
    }
    std::process::exit(130);
}

fn load_policy(file: Option<&Path>) -> Result<Policy, Error> {
    let Some(file) = file else {
        return Ok(Policy::default());
    };
    read_policy(file).map_err(|fault| Error::Setup(format!("--path-policy: {}: {fault}", file.display())))
}

/// Why a file is not a policy.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum BadPolicy {
    Unreadable(#[from] std::io::Error),
    Yaml(#[from] BadYaml),
    Rule(#[from] BadRule),
}

fn read_policy(file: &Path) -> Result<Policy, BadPolicy> {
    let text = std::fs::read_to_string(file)?;
    let rules = match yaml::from_str(&text)? {
        serde_json::Value::Array(_) => yaml::from_str(&text)?,
        _ => yaml::from_str::<PolicyFile>(&text)?.rules,
    };
    Ok(Policy::new(rules)?)
}

/// The policy's file: a list of rules, either directly or under this name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    rules: Vec<Rule>,
}

/// The error of the first task that ends; no task may end before the operator does.
async fn first_to_end(tasks: &mut Tasks) -> Error {
    match tasks.join_next().await {
        None => std::future::pending().await,
        Some(Ok(Ok(()))) => Error::Ended("a task has ended early, which is a bug".into()),
        Some(Ok(Err(error))) => error,
        Some(Err(_)) => Error::Ended("a task has panicked, which is a bug".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_however_ends_the_operator() {
        let mut tasks = Tasks::new();
        tasks.spawn(async { panic!("a test") });
        assert_eq!(
            first_to_end(&mut tasks).await.to_string(),
            "a task has panicked, which is a bug"
        );
        tasks.spawn(async { Ok(()) });
        assert_eq!(
            first_to_end(&mut tasks).await.to_string(),
            "a task has ended early, which is a bug"
        );
        tasks.spawn(async { Err(Error::Ended("this".to_owned())) });
        assert_eq!(first_to_end(&mut tasks).await.to_string(), "this");

        let writer = tokio::spawn(async { panic!("a test") }).await;
        assert_eq!(
            life::writer_ended(&writer).to_string(),
            "the writer of Events has panicked, which is a bug"
        );
    }
}
