//! The listeners, and what they need from the rest of the process.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Operator, Tasks};
use crate::admin::{self, Checks, KubernetesReviewer, Unhealthy};
use crate::events::{Events, Note};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::vault::{self, Vault};
use domain::problem::Reason;

/// Starts the listeners for metrics and probes.
pub(super) async fn start(operator: &Operator, registry: Registry, tasks: &mut Tasks) -> Result<(), Error> {
    let Operator { config, client, .. } = operator;
    // They serve until the process ends, also while work drains.
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
        let pod = config.pod_uid.as_ref().map(|uid| {
            let (events, writer) = operator.events();
            tasks.spawn(async move {
                writer.run().await;
                Err(Error::Ended("the writer of our pod's Events has ended".into()))
            });
            Pod {
                events,
                namespace: config.namespace.clone(),
                name: config.instance.clone(),
                uid: uid.clone(),
                last: Mutex::new(None),
            }
        });
        let probe = Probe {
            pod,
            ..operator.probe()
        };
        let serving = admin::serve_health(listener, Arc::new(probe), never);
        tasks.spawn(async move {
            serving.await;
            Err(Error::Ended("the health listener has ended".into()))
        });
    }
    Ok(())
}

impl Operator {
    /// The state that the health endpoints check.
    pub fn probe(&self) -> Probe {
        Probe {
            vault: self.vault.clone(),
            readiness: self.readiness.clone(),
            pod: None,
        }
    }
}

/// The state that the health endpoints check: Vault, the token, and what the operator waits for.
pub struct Probe {
    vault: Vault,
    readiness: Readiness,
    pod: Option<Pod>,
}

/// Our own pod. An Event on it reports what prevents readiness, because the kubelet's Events contain only the
/// status of the probe's reply.
struct Pod {
    events: Events,
    namespace: String,
    name: String,
    uid: String,
    /// What was reported last. `None`: nothing yet.
    last: Mutex<Option<Result<(), Unhealthy>>>,
}

impl Pod {
    fn tell(&self, ready: Result<(), Unhealthy>) {
        let mut last = self.last.lock();
        if last.as_ref() == Some(&ready) {
            return;
        }
        // A pod that is ready from the start does not report it.
        let note = match &ready {
            Ok(()) if last.is_none() => None,
            Ok(()) => Some((
                Reason::Ready,
                "nothing keeps the operator from being ready any more".to_owned(),
            )),
            Err(reason) => Some((Reason::NotReady, format!("the operator is not ready: {reason}"))),
        };
        *last = Some(ready);
        if let Some((reason, text)) = note {
            self.events
                .publish_on_pod(&self.namespace, &self.name, &self.uid, &Note { reason, text });
        }
    }
}

/// Probes come from several clients, and strangers can ask too: each answer is shared for a second.
const PROBED_WITHIN: Duration = Duration::from_secs(1);

fn a_moment_ago() -> Instant {
    let now = Instant::now();
    now.checked_sub(PROBED_WITHIN).unwrap_or(now)
}

impl Checks for Probe {
    async fn vault(&self) -> Result<(), Unhealthy> {
        let answer = self.vault.health(a_moment_ago()).await;
        answer.map_err(Unhealthy::new)
    }

    async fn token(&self) -> Result<(), Unhealthy> {
        let answer = self.vault.lookup_self(a_moment_ago()).await;
        answer.map_err(|error| Unhealthy::new(format_args!("{error} — {}", error.kind.hint())))
    }

    fn kubernetes(&self) -> Result<(), Unhealthy> {
        self.readiness.check().map_err(Unhealthy::new)
    }

    fn told(&self, ready: Result<(), Unhealthy>) {
        if let Some(pod) = &self.pod {
            pod.tell(ready);
        }
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
