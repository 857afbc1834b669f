//! The operator as a whole: builds the parts, starts them, watches over them, ends them in order.
//!
//! Every task is supervised: the end of any of them ends the process, with its reason. On a signal
//! nothing new is begun, what runs is finished, the ledger is stored, the Vault token is revoked, and
//! the lease is given up last.

mod serve;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::backoff::Backoff;
use crate::cli::Config;
use crate::controller::Controller;
use crate::events::Events;
use crate::kube::{self, Kube};
use crate::lease::{self, Held, Lease, Tenure};
use crate::ledger::{CommitError, Ledger};
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::readiness::Readiness;
use crate::reconcile::{Budget, Locks, Notes, Reconciler, Shares};
use crate::vault::{self, Vault};
use domain::election::{Term, Timing};
use domain::index::Index;
use domain::ledger::State;
use domain::plan::Identity;
use domain::policy::{Policy, Rule};
use domain::source::{Kind, Scope};

/// A namespace may ask for so many times as many documents as it may have: what it asks for takes memory too.
const ASKED_FOR: usize = 4;

/// Why the operator has ended, other than by a signal. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that was configured cannot be used.
    #[error("{0}")]
    Setup(String),
    /// A listener could not be had.
    #[error(transparent)]
    Bind(#[from] admin::BindError),
    /// The lease is lost: another may write now.
    #[error("{0}")]
    Lost(#[from] lease::Lost),
    /// The ledger is another's.
    #[error("{0}")]
    Ledger(#[from] CommitError),
    /// A task has ended that never should.
    #[error("{0}")]
    Ended(String),
}

/// What runs beside the work.
type Tasks = JoinSet<Result<(), Error>>;

/// What the operator is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// Vault holds what the sources ask for, until the process is stopped.
    Sync,
    /// Nothing is wanted any more: all that the ledger names goes, each as its deletion policy says. Ends
    /// when that is done.
    ClearOut,
}

/// Runs the operator until a signal, a failure, or the end of its duty.
pub async fn run(config: Config, duty: Duty) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let mut tasks = Tasks::new();
    tasks.spawn(signals(stop.clone()));

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    metrics.expect_vault_errors(&vault::LABELS);
    metrics.runtime_info(config.runtime.max_procs, config.runtime.memory_limit);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        gomaxprocs = config.runtime.max_procs,
        gomemlimit_bytes = config.runtime.memory_limit,
        vault = config.vault.address,
        cluster = config.settings.cluster_name,
        "starting"
    );

    let policy = load_policy(config.path_policy.as_deref())?;
    let cluster = kube::configure(config.kubeconfig.as_deref())
        .await
        .map_err(Error::Setup)?;
    let client = kube::client(cluster.clone()).map_err(Error::Setup)?;
    let vault = Vault::new(
        config.vault.clone(),
        Arc::new(serve::VaultMetrics(metrics.clone())),
    )
    .map_err(|error| Error::Setup(error.to_string()))?;

    let readiness = Readiness::default();
    serve::start(
        &config,
        registry,
        &client,
        &vault,
        (&metrics, &readiness),
        &mut tasks,
    )
    .await?;
    // The session outlives the work: its token is revoked when nothing needs it any more.
    let session_stop = CancellationToken::new();
    let mut session = tokio::spawn({
        let (vault, stop) = (vault.clone(), session_stop.clone());
        async move { vault.maintain(stop).await }
    });

    // It heeds `stop` itself, and ends in order.
    let result = tokio::select! {
        result = Box::pin(operate(&config, duty, policy, (client, cluster), vault, metrics, readiness, &stop)) => result,
        result = watched(&mut tasks) => result,
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

/// Everything between being connected and being stopped.
#[expect(clippy::too_many_arguments, reason = "the parts that run has built")]
async fn operate(
    config: &Config,
    duty: Duty,
    policy: Policy,
    (client, cluster): (::kube::Client, ::kube::Config),
    vault: Vault,
    metrics: Metrics,
    readiness: Readiness,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let kube = Kube::new(client.clone(), config.discover);
    let index = index_of(config);
    let controller = Arc::new(Controller::new(
        kube.clone(),
        index,
        metrics.clone(),
        readiness.clone(),
        config.concurrency,
    ));
    let mut tasks = Tasks::new();
    let (events, writer) = Events::new(client.clone(), &config.instance, metrics.clone());
    // It ends when the last of those who publish is gone, after what they have published is written.
    let mut writing = tokio::spawn(writer.run());

    let seen = match duty {
        Duty::Sync => {
            readiness.waits("all sources", &"not all of them have been seen yet");
            see_sources(config, &controller, &kube, &readiness, &mut tasks, stop).await?
        }
        Duty::ClearOut => until(stop, "Kubernetes", &readiness, || kube.cluster_id()).await,
    };
    let Some(cluster_id) = seen else {
        return Ok(());
    };
    readiness.has("all sources");
    let epoch = lease::identity(&config.instance);
    let held = tokio::select! {
        held = elect(config, (client.clone(), cluster), &epoch, &readiness, stop) => held,
        result = watched(&mut tasks) => return result,
        ended = &mut writing => return Err(writer_ended(&ended)),
    };
    let Some(mut held) = held else {
        return Ok(());
    };
    metrics.leader(true);
    let tenure = held.as_ref().map_or_else(Tenure::forever, Held::tenure);
    let left: kube::Left = Arc::new({
        let tenure = tenure.clone();
        move || tenure.left()
    });
    // Whatever changes something asks, right before it leaves, whether we still lead.
    vault.change_while(Arc::clone(&left));
    let client = kube::limited(&client, left);
    let term = held.as_ref().and_then(Held::term);
    let ledger = tokio::select! {
        loaded = load_ledger(config, &client, &epoch, term, &readiness, stop) => loaded?,
        lost = lost(&mut held) => return Err(lost.into()),
        result = watched(&mut tasks) => return result,
        ended = &mut writing => return Err(writer_ended(&ended)),
    };
    let Some(ledger) = ledger else {
        release(held).await;
        return Ok(());
    };
    let reconciler = Reconciler {
        mounts: Mounts::new(vault.clone(), config.settings.mounts.clone()),
        ledger: Arc::clone(&ledger),
        index: Arc::clone(&controller.index),
        settings: config.settings.clone(),
        digester: controller.digester.clone(),
        metrics: metrics.clone(),
        budget: Budget::new(config.runtime.memory_limit),
        shares: Shares::new(config.max_documents),
        locks: Locks::default(),
        notes: Notes::default(),
        nothing_is_wanted: duty == Duty::ClearOut,
        tenure,
        cleanup_timeout: config.cleanup_timeout,
        resync: config.resync_interval,
        repeat: config.repeat_events,
        late_window: config.vault.timeout * 2,
        kube: Kube::new(client, config.discover),
        policy,
        identity: identity(config, cluster_id),
        events,
        vault,
    };
    let end = (duty == Duty::ClearOut).then(|| stop.clone());
    tasks.spawn(count_ledger(Arc::clone(&ledger), metrics.clone(), end));
    let work = lead(
        config,
        controller,
        Arc::new(reconciler),
        ledger,
        &mut held,
        &mut tasks,
        stop,
    );
    let result = tokio::select! {
        result = work => result,
        // Its senders live as long as the work does.
        ended = &mut writing => Err(writer_ended(&ended)),
    };
    metrics.leader(false);
    if result.is_ok() {
        // What was told last should still be heard, if that does not take long.
        let _ = tokio::time::timeout(Duration::from_secs(2), writing).await;
        release(held).await;
    }
    result
}

fn identity(config: &Config, cluster_id: String) -> Identity {
    Identity {
        cluster: Some(config.settings.cluster_name.clone()).filter(|name| !name.is_empty()),
        cluster_id,
        also: config.settings.adopt_cluster_ids.clone(),
    }
}

fn index_of(config: &Config) -> Index {
    let scope = Scope {
        kinds: config.kinds.clone(),
        namespaces: config.watch_namespaces.clone(),
    };
    let most = config.max_documents.saturating_mul(ASKED_FOR);
    Index::new(config.settings.isolation, scope).with_most_documents(most)
}

/// Waits for the lease, and holds it from then on: `Some(None)` where there is no election. `None`: the operator
/// was stopped before.
async fn elect(
    config: &Config,
    (client, cluster): (::kube::Client, ::kube::Config),
    epoch: &str,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Option<Option<Held>> {
    if !config.leader_elect {
        return Some(None);
    }
    let mut lease = Lease::new(client, &config.namespace, epoch.to_owned(), Timing::default());
    tracing::info!(identity = epoch, "waiting for the lease");
    let acquired = lease.acquire(stop, |trouble| told(readiness, "the lease", trouble));
    // Also while the ledger loads.
    acquired
        .await
        .then(|| Some(lease.hold(move || kube::client(cluster))))
}

/// Loads the ledger for whoever leads in this term. `None`: the operator was stopped before.
async fn load_ledger(
    config: &Config,
    client: &::kube::Client,
    epoch: &str,
    term: Option<Term>,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Option<Arc<Ledger>>, Error> {
    let loaded = until(stop, "the ledger", readiness, || async {
        match Ledger::load(client.clone(), &config.namespace, epoch, term.clone()).await {
            // Trying again would not help: another leads.
            Err(fenced @ CommitError::Fenced(_)) => Ok(Err(fenced)),
            loaded => loaded.map(Ok),
        }
    });
    Ok(loaded.await.transpose()?.map(Arc::new))
}

fn writer_ended(ended: &Result<(), tokio::task::JoinError>) -> Error {
    let how = if ended.is_err() { "panicked" } else { "ended" };
    Error::Ended(format!("the writer of Events has {how}, which is a bug"))
}

/// Waits until the lease is lost; for ever, if there is no election.
async fn lost(held: &mut Option<Held>) -> lease::Lost {
    match held {
        Some(held) => held.lost().await,
        None => std::future::pending().await,
    }
}

/// Watches everything, and returns the cluster's id when all sources are known: only then can be told
/// who wants which path. `None`: the operator was stopped before.
async fn see_sources(
    config: &Config,
    controller: &Arc<Controller>,
    kube: &Kube,
    readiness: &Readiness,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Result<Option<String>, Error> {
    let (listed, mut lists) = mpsc::channel(1);
    for (kind, namespace) in scopes(config) {
        let watching = Arc::clone(controller).watch(kind, namespace, listed.clone());
        tasks.spawn(async move { Err(Error::Ended(watching.await.to_string())) });
    }
    drop(listed);
    let Some(cluster_id) = until(stop, "Kubernetes", readiness, || kube.cluster_id()).await else {
        return Ok(None);
    };
    tokio::select! {
        () = async { while lists.recv().await.is_some() {} } => {}
        result = watched(tasks) => return result.map(|()| None),
        () = stop.cancelled() => return Ok(None),
    }
    tracing::info!(
        sources = controller.sources(),
        cluster_id,
        "all sources are known"
    );
    Ok(Some(cluster_id))
}

/// Does the work for as long as nothing ends it, and ends it in order.
async fn lead(
    config: &Config,
    controller: Arc<Controller>,
    reconciler: Arc<Reconciler>,
    ledger: Arc<Ledger>,
    held: &mut Option<Held>,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let ledger_stop = CancellationToken::new();
    let mut keeping = JoinSet::new();
    keeping.spawn({
        let (ledger, stop) = (Arc::clone(&ledger), ledger_stop.clone());
        async move { ledger.keep(stop).await }
    });
    let working = async {
        let working = controller.work(Arc::clone(&reconciler), stop.clone());
        tokio::pin!(working);
        tokio::select! {
            () = &mut working => return true,
            () = stop.cancelled() => {}
        }
        tokio::time::timeout(config.shutdown_grace, working).await.is_ok()
    };
    let drained = tokio::select! {
        drained = working => drained,
        // Not in good order: the epoch stays on the ledger, and tells the next operator to look twice.
        // The lease is held while work drains, and given up after it.
        lost = lost(held) => return Err(lost.into()),
        result = watched(tasks) => return result,
        kept = keeping.join_next() => return Err(match kept {
            Some(Ok(Err(error))) => Error::Ledger(error),
            _ => Error::Ended("the ledger's keeper has ended, which is a bug".into()),
        }),
    };
    if !drained {
        tracing::warn!("work was still running when the grace period ended; the ledger remembers it");
        // It may still write: the lease is not given up, but lapses.
        *held = None;
        return Ok(());
    }
    if reconciler.is_unsettled() {
        ledger.leave_unclean();
    }
    ledger_stop.cancel();
    if let Some(Ok(Err(error))) = keeping.join_next().await {
        tracing::warn!(%error, "the ledger could not be stored at the end");
    }
    Ok(())
}

async fn release(held: Option<Held>) {
    if let Some(held) = held {
        held.release().await;
    }
}

/// What to watch: each kind of source, and Secrets always, in each namespace or in all.
fn scopes(config: &Config) -> Vec<(Kind, Option<String>)> {
    let mut kinds = config.kinds.clone();
    if !kinds.contains(&Kind::Secret) {
        kinds.push(Kind::Secret);
    }
    let namespaces: Vec<Option<String>> = match config.watch_namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    kinds
        .into_iter()
        .flat_map(|kind| namespaces.iter().cloned().map(move |namespace| (kind, namespace)))
        .collect()
}

/// Tries until it succeeds, and says that it waits. `None`: the operator was stopped.
async fn until<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
    stop: &CancellationToken,
    whom: &str,
    readiness: &Readiness,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut said = String::new();
    loop {
        let error = tokio::select! {
            result = attempt() => match result {
                Ok(value) => {
                    readiness.has(whom);
                    return Some(value);
                }
                Err(error) => error.to_string(),
            },
            () = stop.cancelled() => return None,
        };
        if error != said {
            readiness.waits(whom, &error);
            tracing::warn!(error, "waiting for {whom}");
            said = error;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next()) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// Stops at the first signal; a second one ends the process where it stands.
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

/// The first task that ends, which none should before the operator does.
async fn watched(tasks: &mut Tasks) -> Result<(), Error> {
    match tasks.join_next().await {
        None => std::future::pending().await,
        Some(Ok(Ok(()))) => Err(Error::Ended("a task has ended early, which is a bug".into())),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(_)) => Err(Error::Ended("a task has panicked, which is a bug".into())),
    }
}

fn load_policy(file: Option<&Path>) -> Result<Policy, Error> {
    let Some(file) = file else {
        return Ok(Policy::default());
    };
    let fault = |what: String| Error::Setup(format!("--path-policy: {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| fault(error.to_string()))?;
    let rules = match domain::yaml::from_str(&text).map_err(&fault)? {
        serde_json::Value::Array(_) => domain::yaml::from_str(&text).map_err(&fault)?,
        _ => domain::yaml::from_str::<PolicyFile>(&text).map_err(&fault)?.rules,
    };
    Policy::new(rules).map_err(fault)
}

/// The policy's file: a list of rules, by itself or under this name.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    rules: Vec<Rule>,
}

fn told(readiness: &Readiness, what: &str, trouble: Option<String>) {
    match trouble {
        Some(why) => readiness.waits(what, &why),
        None => readiness.has(what),
    }
}

/// Keeps the ledger's gauges true, without a place in every change of it. Where an empty ledger is the end, it
/// says how far that is.
async fn count_ledger(
    ledger: Arc<Ledger>,
    metrics: Metrics,
    end_when_empty: Option<CancellationToken>,
) -> Result<(), Error> {
    let mut said = None;
    loop {
        metrics.ledger_newer_entries(ledger.newer());
        let mut left = 0;
        for (state, count) in ledger.count() {
            left += count;
            metrics.ledger_documents(state, count);
            if state == State::Deleting {
                metrics.ledger_pending_deletes(count);
            }
        }
        if let Some(end) = &end_when_empty {
            if said.replace(left) != Some(left) {
                tracing::info!(left, "documents of the ledger that are still to go");
            }
            if left == 0 {
                end.cancel();
            }
        }
        ledger.changed().await;
    }
}

#[cfg(test)]
mod tests;
