//! The listeners, and what they ask of the rest of the process.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Tasks};
use crate::admin::{self, Checks, KubernetesReviewer};
use crate::cli::Config;
use crate::metrics::Metrics;
use crate::vault::{self, Vault};

/// The listeners for metrics and probes.
pub(super) async fn start(
    config: &Config,
    registry: Registry,
    client: &::kube::Client,
    vault: &Vault,
    tasks: &mut Tasks,
) -> Result<(), Error> {
    // They serve until the process ends, also while it drains.
    let never = CancellationToken::new();
    if let Some(address) = &config.metrics_bind_address {
        let listener = admin::bind("--metrics-bind-address", address).await?;
        let reviewer = config
            .enable_metrics_auth
            .then(|| KubernetesReviewer::new(client.clone()));
        let serving = admin::serve_metrics(listener, Arc::new(registry), reviewer, never.clone());
        tasks.spawn(async move {
            serving.await;
            Err(Error::Ended("the metrics listener has ended".into()))
        });
    }
    if let Some(address) = &config.health_probe_bind_address {
        let listener = admin::bind("--health-probe-bind-address", address).await?;
        let serving = admin::serve_health(listener, Arc::new(Probe(vault.clone())), never);
        tasks.spawn(async move {
            serving.await;
            Err(Error::Ended("the health listener has ended".into()))
        });
    }
    Ok(())
}

struct Probe(Vault);

/// Probes come from several sides, and strangers can ask too: an answer serves all of a second.
const PROBED_WITHIN: Duration = Duration::from_secs(1);

fn a_moment_ago() -> Instant {
    let now = Instant::now();
    now.checked_sub(PROBED_WITHIN).unwrap_or(now)
}

impl Checks for Probe {
    async fn vault(&self) -> Result<(), String> {
        let answer = self.0.health(a_moment_ago()).await;
        answer.map_err(|error| error.to_string())
    }

    async fn token(&self) -> Result<(), String> {
        let answer = self.0.lookup_self(a_moment_ago()).await;
        answer.map_err(|error| error.to_string())
    }
}

/// Counts what happens with Vault.
pub(super) struct VaultMetrics(pub(super) Metrics);

impl vault::Observer for VaultMetrics {
    fn auth_attempt(&self, success: bool) {
        self.0.auth_attempt(success);
    }

    fn up(&self, up: bool) {
        self.0.vault_up(up);
    }
}
