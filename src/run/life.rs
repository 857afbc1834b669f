//! One life of the operator, in order: it sees all sources, waits for the lease, loads the ledger, leads, and
//! ends. In each phase, the life ends if a part ends that must not end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Duty, Error, Operator, Tasks, first_to_end};
use crate::backoff::Backoff;
use crate::controller::Controller;
use crate::events::Events;
use crate::kube::{Kube, limited};
use crate::lease::{self, Held, Lease, Tenure};
use crate::ledger_io::{CommitError, Ledger};
use crate::machine::TimeLeft;
use crate::mounts::Mounts;
use crate::reconcile::{Budget, Locks, Notes, Quotas, Reconciler};
use domain::index::Index;
use domain::ledger::State;
use domain::plan::Identity;
use domain::source::{Kind, Scope};

/// A namespace may ask for this many times its document limit: what it asks for takes memory too.
const ASKED_FOR: usize = 4;

/// What runs while the operator lives, and what it holds.
pub(super) struct Life<'a> {
    on: &'a Operator,
    duty: Duty,
    kube: Kube,
    controller: Arc<Controller>,
    tasks: Tasks,
    /// The writer of Events. It ends after it has written all Events, when the last publisher is gone.
    writing: JoinHandle<()>,
    /// The lease. `None`: not acquired yet, or there is no leader election.
    held: Option<Held>,
}

impl Life<'_> {
    /// Runs a whole life, and returns how it ended.
    pub(super) async fn of(on: &Operator, duty: Duty) -> Result<(), Error> {
        let kube = Kube::new(on.client.clone(), on.config.discover);
        let controller = Arc::new(Controller::new(
            kube.clone(),
            on.index(),
            on.metrics.clone(),
            on.readiness.clone(),
            on.config.concurrency,
        ));
        let (events, writer) = on.events();
        let mut life = Life {
            on,
            duty,
            kube,
            controller,
            tasks: Tasks::new(),
            writing: tokio::spawn(writer.run()),
            held: None,
        };
        let Some(cluster_id) = Box::pin(life.see_sources()).await? else {
            return Ok(());
        };
        let epoch = lease::identity(&on.config.instance);
        let Some(held) = life.unless_it_ends(Box::pin(on.elect(&epoch))).await? else {
            return Ok(());
        };
        life.held = held;
        on.metrics.leader(true);
        let leading = life.lead(&epoch, on.identity(cluster_id), events);
        let result = Box::pin(leading).await;
        on.metrics.leader(false);
        if result.is_ok() {
            // The last Events should still be written, if that is quick.
            let _ = tokio::time::timeout(Duration::from_secs(2), life.writing).await;
            if let Some(held) = life.held {
                held.release().await;
            }
        }
        result
    }

    /// The result of a phase, or an error if a part ends first that must not end.
    async fn unless_it_ends<T>(&mut self, phase: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            done = phase => Ok(done),
            error = self.end() => Err(error),
        }
    }

    /// Waits for the end of a part that must not end.
    async fn end(&mut self) -> Error {
        let lost = async {
            match &mut self.held {
                Some(held) => held.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = first_to_end(&mut self.tasks) => error,
            ended = &mut self.writing => writer_ended(&ended),
            lost = lost => lost.into(),
        }
    }

    /// Watches everything, and returns the cluster's ID when all sources are known: only then is it clear
    /// which source wants which path. `None`: the operator was stopped first.
    async fn see_sources(&mut self) -> Result<Option<String>, Error> {
        let on = self.on;
        let kube = self.kube.clone();
        let cluster_id = on.until("Kubernetes", || kube.cluster_id());
        if self.duty == Duty::ClearOut {
            return self.unless_it_ends(Box::pin(cluster_id)).await;
        }
        let why = "not all of them have been seen yet";
        let _unseen = on.readiness.waits("all sources", &why);
        let (listed, mut lists) = mpsc::channel(1);
        for (kind, namespace) in on.scopes() {
            let watching = Arc::clone(&self.controller).watch(kind, namespace, listed.clone());
            self.tasks
                .spawn(async move { Err(Error::Ended(watching.await.to_string())) });
        }
        drop(listed);
        let seen = async {
            let cluster_id = cluster_id.await?;
            let all = async { while lists.recv().await.is_some() {} };
            on.stop.run_until_cancelled(all).await?;
            Some(cluster_id)
        };
        let seen = self.unless_it_ends(Box::pin(seen)).await?;
        if let Some(cluster_id) = &seen {
            let sources = self.controller.sources();
            tracing::info!(sources, cluster_id, "all sources are known");
        }
        Ok(seen)
    }

    /// Loads the ledger, and works until something ends it.
    async fn lead(&mut self, epoch: &str, identity: Identity, events: Events) -> Result<(), Error> {
        let on = self.on;
        let tenure = self.held.as_ref().map_or_else(Tenure::forever, Held::tenure);
        let left: TimeLeft = Arc::new({
            let tenure = tenure.clone();
            move || tenure.left()
        });
        // Each change checks whether we still lead, immediately before it is sent.
        on.vault.change_while(Arc::clone(&left));
        let client = limited(&on.client, left);
        let term = self.held.as_ref().and_then(Held::term);
        let loading = on.until("the ledger", || async {
            match Ledger::load(client.clone(), &on.config.namespace, epoch, term.clone()).await {
                // A retry would not help: another process leads.
                Err(fenced @ CommitError::Fenced(_)) => Ok(Err(fenced)),
                loaded => loaded.map(Ok),
            }
        });
        let Some(ledger) = self.unless_it_ends(Box::pin(loading)).await?.transpose()? else {
            return Ok(());
        };
        let ledger = Arc::new(ledger);
        let config = &on.config;
        let reconciler = Arc::new(Reconciler {
            mounts: Mounts::new(on.vault.clone(), config.settings.mounts.clone()),
            ledger: Arc::clone(&ledger),
            index: Arc::clone(&self.controller.index),
            settings: config.settings.clone(),
            digester: self.controller.digester.clone(),
            metrics: on.metrics.clone(),
            budget: Budget::new(config.runtime.memory_limit),
            quotas: Quotas::new(config.max_documents),
            places: Arc::clone(&self.controller.places),
            locks: Locks::default(),
            notes: Notes::default(),
            nothing_is_wanted: self.duty == Duty::ClearOut,
            tenure,
            clock: on.outside.clock.clone(),
            cleanup_timeout: config.cleanup_timeout,
            resync: config.resync_interval,
            repeat: config.repeat_events,
            late_window: config.vault.timeout * 2,
            kube: Kube::new(client, config.discover),
            policy: on.policy.clone(),
            identity,
            events,
            vault: on.vault.clone(),
        });
        let counting = self.count_ledger(Arc::clone(&ledger));
        self.tasks.spawn(counting);
        self.work(reconciler, ledger).await
    }

    /// Does the work, and ends it in order.
    async fn work(&mut self, reconciler: Arc<Reconciler>, ledger: Arc<Ledger>) -> Result<(), Error> {
        let ledger_stop = CancellationToken::new();
        let mut keeping = JoinSet::new();
        keeping.spawn({
            let (ledger, stop) = (Arc::clone(&ledger), ledger_stop.clone());
            async move { ledger.keep(stop).await }
        });
        let on = self.on;
        let controller = Arc::clone(&self.controller);
        let working = async {
            let working = controller.work(Arc::clone(&reconciler), on.stop.clone());
            tokio::pin!(working);
            tokio::select! {
                () = &mut working => return true,
                () = on.stop.cancelled() => {}
            }
            tokio::time::timeout(on.config.shutdown_grace, working)
                .await
                .is_ok()
        };
        let drained = tokio::select! {
            drained = working => drained,
            // Not a clean shutdown: the epoch stays on the ledger, so that the next operator checks again.
            // The lease is held while work drains, and released afterwards.
            error = self.end() => return Err(error),
            kept = keeping.join_next() => return Err(match kept {
                Some(Ok(Err(error))) => Error::Ledger(error),
                _ => Error::Ended("the ledger's keeper has ended, which is a bug".into()),
            }),
        };
        if !drained {
            tracing::warn!("work was still running when the grace period ended; the ledger remembers it");
            // The work may still write, so the lease is not released, but expires.
            self.held = None;
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

    /// Updates the ledger's gauges in one place, after each change. If an empty ledger is the goal, logs how
    /// much is left.
    fn count_ledger(&self, ledger: Arc<Ledger>) -> impl Future<Output = Result<(), Error>> + use<> {
        let metrics = self.on.metrics.clone();
        let end_when_empty = (self.duty == Duty::ClearOut).then(|| self.on.stop.clone());
        async move {
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
    }
}

/// Builds the parts of a life.
impl Operator {
    fn index(&self) -> Index {
        let scope = Scope {
            kinds: self.config.kinds.clone(),
            namespaces: self.config.watch_namespaces.clone(),
        };
        let most = self.config.max_documents.saturating_mul(ASKED_FOR);
        Index::new(self.config.settings.isolation, scope).with_most_documents(most)
    }

    fn identity(&self, cluster_id: String) -> Identity {
        let settings = &self.config.settings;
        Identity {
            cluster: Some(settings.cluster_name.clone()).filter(|name| !name.is_empty()),
            cluster_id,
            also: settings.adopt_cluster_ids.clone(),
        }
    }

    /// What to watch: each kind of source, and always Secrets, in each namespace or in all.
    fn scopes(&self) -> Vec<(Kind, Option<String>)> {
        let mut kinds = self.config.kinds.clone();
        if !kinds.contains(&Kind::Secret) {
            kinds.push(Kind::Secret);
        }
        let namespaces: Vec<Option<String>> = match self.config.watch_namespaces.as_slice() {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        kinds
            .into_iter()
            .flat_map(|kind| namespaces.iter().cloned().map(move |namespace| (kind, namespace)))
            .collect()
    }

    /// Waits for the lease, and holds it from then on. `Some(None)`: there is no leader election. `None`: the
    /// operator was stopped first.
    async fn elect(&self, epoch: &str) -> Option<Option<Held>> {
        if !self.config.leader_elect {
            return Some(None);
        }
        let Self {
            outside, readiness, ..
        } = self;
        let mut lease = Lease::new(
            self.client.clone(),
            &self.config.namespace,
            epoch.to_owned(),
            outside.clock.clone(),
        );
        tracing::info!(identity = epoch, "waiting for the lease");
        let waits = Mutex::new(None);
        let acquired = lease.acquire(&self.stop, |trouble| {
            *waits.lock() = trouble.map(|why| readiness.waits("the lease", &why));
        });
        // The lease is renewed even while the ledger loads.
        acquired
            .await
            .then(|| Some(lease.hold(Arc::clone(&outside.kubernetes), &outside.aside)))
    }

    /// Retries until success, and reports that it waits. `None`: the operator was stopped.
    async fn until<T, E: std::fmt::Display, F: Future<Output = Result<T, E>>>(
        &self,
        whom: &str,
        attempt: impl Fn() -> F,
    ) -> Option<T> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut said = String::new();
        let mut waits = None;
        loop {
            let error = match self.stop.run_until_cancelled(attempt()).await? {
                Ok(value) => return Some(value),
                Err(error) => error.to_string(),
            };
            if error != said {
                waits.replace(self.readiness.waits(whom, &error));
                tracing::warn!(error, "waiting for {whom}");
                said = error;
            }
            let rest = tokio::time::sleep(backoff.next());
            self.stop.run_until_cancelled(rest).await?;
        }
    }
}

pub(super) fn writer_ended(ended: &Result<(), tokio::task::JoinError>) -> Error {
    let how = if ended.is_err() { "panicked" } else { "ended" };
    Error::Ended(format!("the writer of Events has {how}, which is a bug"))
}
