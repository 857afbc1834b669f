//! A pod with an operator in it: the whole of it, as it is shipped, but for signals and listeners. Whatever ends it,
//! the kubelet starts it again.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vault_sync_operator::admin::{self, Checks};
use vault_sync_operator::cli::{self, Config, Surroundings};
use vault_sync_operator::machine::{Aside, Clock};
use vault_sync_operator::metrics;
use vault_sync_operator::run::{Duty, Operator, Outside, Tasks};

use crate::network::Cable;
use crate::promises::Alive;
use crate::world::World;

/// Restarts are waited for so long.
const RESTART: Duration = Duration::from_millis(300);

/// How often the kubelet asks.
const PROBED_EVERY: Duration = Duration::from_secs(10);

/// A pod that is always there.
pub struct Pod {
    now: Arc<Mutex<Process>>,
    cluster: usize,
}

/// The process that runs now, and what ends it.
#[derive(Clone, Default)]
struct Process {
    who: String,
    registry: Option<Arc<Registry>>,
    power: CancellationToken,
    stop: CancellationToken,
}

/// What a pod is told when it is made.
#[derive(Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Which cluster it is in.
    pub cluster: usize,
    /// The operator's flags, each with its value.
    pub flags: Vec<(&'static str, String)>,
    /// How far its clock is ahead of the true time, in milliseconds.
    pub skew: i64,
    /// `VAULT_CLIENT_TIMEOUT`, in seconds.
    pub timeout: u8,
    /// Whether the kubelet asks for its readiness.
    pub probes: bool,
}

impl Pod {
    /// Starts it.
    pub fn start(world: &Arc<World>, spec: Spec) -> Self {
        let now = Arc::new(Mutex::new(Process::default()));
        let cluster = spec.cluster;
        tokio::spawn(live(Arc::clone(world), spec, Arc::clone(&now)));
        Self { now, cluster }
    }

    /// What it shows now; `None`: no process runs.
    pub fn alive(&self) -> Option<Alive> {
        let process = self.now.lock();
        Some(Alive {
            who: process.who.clone(),
            cluster: self.cluster,
            series: metrics::encode(process.registry.as_ref()?),
        })
    }

    /// Ends the process where it stands. Another one is started.
    pub fn kill(&self) {
        self.now.lock().power.cancel();
    }

    /// Asks the process to end, as the kubelet does. Another one is started.
    pub fn stop(&self) {
        self.now.lock().stop.cancel();
    }
}

async fn live(world: Arc<World>, spec: Spec, now: Arc<Mutex<Process>>) {
    for number in 1.. {
        let who = format!("{}#{number}", spec.name);
        now.lock().who.clone_from(&who);
        let ends = now.lock().clone();
        world.tell(&who, || "starts".to_owned());
        tokio::select! {
            biased;
            () = ends.power.cancelled() => world.tell(&who, || "is killed".to_owned()),
            how = process(&world, &spec, &who, &now) => world.tell(&who, || format!("ends: {how}")),
        }
        // What it has left running hears nothing any more.
        ends.power.cancel();
        *now.lock() = Process::default();
        sleep(RESTART).await;
    }
}

/// One process, from its start to its end.
async fn process(world: &Arc<World>, spec: &Spec, who: &str, now: &Mutex<Process>) -> String {
    let Process { power, stop, .. } = now.lock().clone();
    let cable = Cable::new(world, who, spec.cluster, power.clone());
    let config = match config(spec) {
        Ok(config) => config,
        Err(complaint) => return complaint,
    };
    let client = cable.clone();
    let clock = Arc::clone(world);
    let skew = spec.skew;
    let outside = Outside {
        kubernetes: Arc::new(move || Ok(client.client())),
        vault: Arc::new(cable),
        clock: Clock::new(move || {
            let now = jiff::Timestamp::try_from(clock.now()).unwrap_or_default();
            now + jiff::SignedDuration::from_millis(skew)
        }),
        aside: Aside::new(|_, work| drop(tokio::spawn(work))),
    };
    let mut registry = Registry::default();
    let operator = match Operator::new(config, outside, &mut registry, stop) {
        Ok(operator) => operator,
        Err(error) => return error.to_string(),
    };
    now.lock().registry = Some(Arc::new(registry));
    if spec.probes {
        let probing = Box::pin(probe(Arc::clone(world), who.to_owned(), operator.probe()));
        tokio::spawn(async move { power.run_until_cancelled(probing).await });
    }
    match Box::pin(operator.run(Duty::Sync, Tasks::new())).await {
        Ok(()) => "in order".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Asks for readiness, as the kubelet does.
async fn probe(world: Arc<World>, who: String, checks: impl Checks) {
    let uri = Uri::from_static("/readyz");
    let mut last = None;
    sleep(PROBED_EVERY / 5).await;
    loop {
        let status = admin::probe(&uri, &checks).await.status();
        if last.replace(status) != Some(status) {
            world.tell(&who, || format!("is ready: {status}"));
        }
        sleep(PROBED_EVERY).await;
    }
}

/// The flags, read as the shipped program reads them.
fn config(spec: &Spec) -> Result<Config, String> {
    let flags = spec.flags.iter().map(|(name, value)| format!("--{name}={value}"));
    let args = ["vault-sync-operator".to_owned()].into_iter().chain(flags);
    let variable = |name: &str| match name {
        "POD_NAME" => Some(OsString::from(&spec.name)),
        "VAULT_CLIENT_TIMEOUT" => Some(OsString::from(format!("{}s", spec.timeout))),
        _ => None,
    };
    let surroundings = Surroundings {
        variable: &variable,
        file: &|_| None,
    };
    match cli::parse(args.map(OsString::from), &surroundings) {
        Ok((_, config)) => Ok(config),
        Err(exit) => Err(exit.text),
    }
}
