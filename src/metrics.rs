//! Every metric family: its name, its labels, and the one method that changes it.
//!
//! Must not know what is counted, or why. Labels name only sources and namespaces. They never contain a
//! referenced Secret, a key, a path or an error's text, because those are secret or unbounded. A source's
//! series are removed when the source is gone ([`Metrics::forget`]).

mod labels;
mod process;

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use domain::ledger::State;
use domain::source::SourceKey;
use labels::{
    Attempt, ByErrorKind, ByErrorType, ByName, ByNamespace, ByResult, ByState, ConfigError, Numbers, Setting,
    Sources,
};

/// The content type of [`encode`]. <https://prometheus.io/docs/instrumenting/content_negotiation/>
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "vault_sync_operator";

/// Upper bounds of `sync_duration_seconds`: from a pass without any work to a Vault that times out.
const SYNC_SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
];

const SUCCESS: &str = "success";
const FAILED: &str = "failed";

/// All families. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_attempts: Family<Attempt, Counter>,
    sync_duration: Family<ByNamespace, Histogram>,
    auth_attempts: Family<ByResult, Counter>,
    secrets_discovered: Family<ByName, Gauge>,
    vault_errors: Family<ByErrorKind, Counter>,
    vault_write_errors: Family<ByErrorType, Counter>,
    secret_not_found: Family<ByNamespace, Counter>,
    secret_key_missing: Family<ByNamespace, Counter>,
    config_parse_errors: Family<ConfigError, Counter>,
    drift_repaired: Family<ByName, Counter>,
    ownership_conflicts: Family<ByName, Gauge>,
    documents_written: Family<ByNamespace, Counter>,
    documents_deleted: Family<ByNamespace, Counter>,
    ledger_documents: Family<ByState, Gauge>,
    ledger_pending_deletes: Gauge,
    ledger_newer_entries: Gauge,
    claims_unavailable: Gauge,
    events_dropped: Counter,
    vault_up: Gauge,
    leader: Gauge,
    queue_depth: Gauge,
    watches_behind: Gauge,
    runtime_info: Family<Setting, Gauge>,
    sources: Sources,
}

impl Metrics {
    /// Creates all families, and adds them to the registry with their prefix.
    pub fn register(registry: &mut Registry) -> Self {
        process::register(registry);
        let mut registry = Registrar(registry.sub_registry_with_prefix(PREFIX));
        let metrics = Self {
            sync_attempts: registry.add("sync_attempts", "Reconciles of a source, by result"),
            sync_duration: registry.register(
                "sync_duration_seconds",
                "Duration of the reconciles of a source, in seconds",
                Family::new_with_constructor(|| Histogram::new(SYNC_SECONDS)),
            ),
            auth_attempts: registry.add("auth_attempts", "Logins to Vault, by result"),
            secrets_discovered: registry.add("secrets_discovered", "Secrets that a source uses"),
            vault_errors: registry.add("vault_errors", "Failed calls to Vault, by kind of error"),
            vault_write_errors: registry.add(
                "vault_write_errors",
                "Vault errors by the Go operator's error type",
            ),
            secret_not_found: registry.add("secret_not_found_errors", "Referenced Secrets that do not exist"),
            secret_key_missing: registry.add(
                "secret_key_missing_errors",
                "Listed keys that are not in their Secret",
            ),
            config_parse_errors: registry.add("config_parse_errors", "Annotations that are not valid"),
            drift_repaired: registry.add("drift_repaired", "Documents restored after a change in Vault"),
            ownership_conflicts: registry.add(
                "ownership_conflicts",
                "Documents of a source that belong to another owner",
            ),
            documents_written: registry.add("documents_written", "Documents written to Vault"),
            documents_deleted: registry.add("documents_deleted", "Documents deleted from Vault"),
            ledger_documents: registry.add("ledger_documents", "Documents in the ledger, by state"),
            ledger_pending_deletes: registry.add("ledger_pending_deletes", "Documents still to be deleted"),
            ledger_newer_entries: registry.add(
                "ledger_newer_entries",
                "Ledger entries that only a newer version of the operator understands",
            ),
            claims_unavailable: registry
                .add("claims_unavailable", "Mounts where documents cannot carry claims"),
            events_dropped: registry.add(
                "events_dropped",
                "Events that were not written because of limits or errors",
            ),
            vault_up: registry.add("vault_up", "Whether Vault answers (1) or not (0)"),
            leader: registry.add("leader", "Whether this process is the leader (1) or not (0)"),
            queue_depth: registry.add("queue_depth", "Sources that wait for a reconcile"),
            watches_behind: registry.add(
                "watches_behind",
                "Kubernetes watches that fail or receive nothing, so that changes arrive late",
            ),
            runtime_info: registry.add("runtime_info", "Settings of the process"),
            sources: Sources::default(),
        };
        // Series with known labels exist from the start: a rate needs the zero before the first one.
        for result in [SUCCESS, FAILED] {
            drop(metrics.auth_attempts.get_or_create(&ByResult { result }));
        }
        for state in State::ALL.map(State::as_str) {
            drop(metrics.ledger_documents.get_or_create(&ByState { state }));
        }
        metrics
    }

    /// Counts a reconcile that completed everything.
    pub fn sync_succeeded(&self, source: &SourceKey, took: Duration) {
        self.attempt(source, SUCCESS, took);
    }

    /// Counts a reconcile that left something undone.
    pub fn sync_failed(&self, source: &SourceKey, took: Duration) {
        self.attempt(source, FAILED, took);
    }

    fn attempt(&self, source: &SourceKey, result: &'static str, took: Duration) {
        let mut sources = self.sources.lock();
        let ByName { namespace, resource } = ByName::of(source);
        sources.shared(source);
        self.sync_attempts
            .get_or_create(&Attempt {
                namespace,
                resource,
                result,
            })
            .inc();
        self.sync_duration
            .get_or_create(&ByNamespace::of(&source.namespace))
            .observe(took.as_secs_f64());
    }

    /// Sets how many Secrets a source uses.
    pub fn secrets_discovered(&self, source: &SourceKey, count: usize) {
        self.numbers(
            source,
            &self.secrets_discovered,
            |numbers| &mut numbers.discovered,
            count,
        );
    }

    /// Sets how many documents of a source belong to another owner.
    pub fn ownership_conflicts(&self, source: &SourceKey, count: usize) {
        self.numbers(
            source,
            &self.ownership_conflicts,
            |numbers| &mut numbers.conflicts,
            count,
        );
    }

    fn numbers(
        &self,
        source: &SourceKey,
        family: &Family<ByName, Gauge>,
        number: impl Fn(&mut Numbers) -> &mut i64,
        count: usize,
    ) {
        let mut sources = self.sources.lock();
        let shared = sources.shared(source);
        shared
            .kinds
            .entry(source.kind)
            .and_modify(|numbers| *number(numbers) = whole(count));
        let sum = shared.kinds.values_mut().map(|numbers| *number(numbers)).sum();
        family.get_or_create(&ByName::of(source)).set(sum);
    }

    /// Counts a document of the source that was changed or deleted in Vault, and is restored.
    pub fn drift_repaired(&self, source: &SourceKey) {
        let mut sources = self.sources.lock();
        sources.shared(source);
        self.drift_repaired.get_or_create(&ByName::of(source)).inc();
    }

    /// Counts an annotation of the source that cannot be used; `error_type` is `Problem::config_error`.
    pub fn config_parse_error(&self, source: &SourceKey, error_type: &'static str) {
        let mut sources = self.sources.lock();
        let shared = sources.shared(source);
        shared.config_errors.insert(error_type);
        let ByName { namespace, resource } = ByName::of(source);
        self.config_parse_errors
            .get_or_create(&ConfigError {
                namespace,
                resource,
                error_type,
            })
            .inc();
    }

    /// A source is gone: so are its series.
    pub fn forget(&self, source: &SourceKey) {
        let name = ByName::of(source);
        let mut sources = self.sources.lock();
        let Some(shared) = sources.sources.get_mut(&name) else {
            return;
        };
        shared.kinds.remove(&source.kind);
        if !shared.kinds.is_empty() {
            for (family, number) in [
                (
                    &self.secrets_discovered,
                    (|n| n.discovered) as fn(&Numbers) -> i64,
                ),
                (&self.ownership_conflicts, |n| n.conflicts),
            ] {
                if let Some(gauge) = family.get(&name) {
                    gauge.set(shared.kinds.values().map(number).sum());
                }
            }
            return;
        }
        for &error_type in &shared.config_errors {
            let ByName { namespace, resource } = name.clone();
            self.config_parse_errors.remove(&ConfigError {
                namespace,
                resource,
                error_type,
            });
        }
        if let Some(namespace) = sources.remove(&name) {
            let labels = ByNamespace { namespace };
            for family in [
                &self.secret_not_found,
                &self.secret_key_missing,
                &self.documents_written,
                &self.documents_deleted,
            ] {
                family.remove(&labels);
            }
            self.sync_duration.remove(&labels);
        }
        for result in [SUCCESS, FAILED] {
            let ByName { namespace, resource } = name.clone();
            self.sync_attempts.remove(&Attempt {
                namespace,
                resource,
                result,
            });
        }
        self.secrets_discovered.remove(&name);
        self.ownership_conflicts.remove(&name);
        self.drift_repaired.remove(&name);
    }

    /// Counts a referenced Secret that does not exist.
    pub fn secret_not_found(&self, namespace: &str) {
        self.secret_not_found
            .get_or_create(&ByNamespace::of(namespace))
            .inc();
    }

    /// Counts a listed key that does not exist in its Secret.
    pub fn secret_key_missing(&self, namespace: &str) {
        self.secret_key_missing
            .get_or_create(&ByNamespace::of(namespace))
            .inc();
    }

    /// Counts a document that was written.
    pub fn document_written(&self, namespace: &str) {
        self.documents_written
            .get_or_create(&ByNamespace::of(namespace))
            .inc();
    }

    /// Counts a document that was deleted.
    pub fn document_deleted(&self, namespace: &str) {
        self.documents_deleted
            .get_or_create(&ByNamespace::of(namespace))
            .inc();
    }

    /// Creates the series of all possible values of `kind` and `error_type`, so that they exist from the
    /// start.
    pub fn expect_vault_errors(&self, labels: &[(&'static str, &'static str)]) {
        for &(kind, error_type) in labels {
            drop(self.vault_errors.get_or_create(&ByErrorKind { kind }));
            drop(self.vault_write_errors.get_or_create(&ByErrorType { error_type }));
        }
    }

    /// Counts a failed call to Vault: the error's kind, and the predecessor's error type.
    pub fn vault_error(&self, (kind, error_type): (&'static str, &'static str)) {
        self.vault_errors.get_or_create(&ByErrorKind { kind }).inc();
        self.vault_write_errors
            .get_or_create(&ByErrorType { error_type })
            .inc();
    }

    /// Counts a finished login to Vault.
    pub fn auth_attempt(&self, succeeded: bool) {
        let result = if succeeded { SUCCESS } else { FAILED };
        self.auth_attempts.get_or_create(&ByResult { result }).inc();
    }

    /// Sets how many documents the ledger has in a state.
    pub fn ledger_documents(&self, state: State, count: usize) {
        self.ledger_documents
            .get_or_create(&ByState {
                state: state.as_str(),
            })
            .set(whole(count));
    }

    /// Sets how many documents are still to be deleted.
    pub fn ledger_pending_deletes(&self, count: usize) {
        self.ledger_pending_deletes.set(whole(count));
    }

    /// Sets how many entries only a newer version understands.
    pub fn ledger_newer_entries(&self, count: usize) {
        self.ledger_newer_entries.set(whole(count));
    }

    /// Sets on how many mounts documents cannot carry claims (KV v1, or a policy without metadata).
    pub fn claims_unavailable(&self, mounts: usize) {
        self.claims_unavailable.set(whole(mounts));
    }

    /// Counts an Event that was not written.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Sets whether Vault answers.
    pub fn vault_up(&self, up: bool) {
        self.vault_up.set(i64::from(up));
    }

    /// Sets whether this process is the leader.
    pub fn leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Sets how many sources wait.
    pub fn queue_depth(&self, waiting: usize) {
        self.queue_depth.set(whole(waiting));
    }

    /// Sets how many watches fail or receive nothing.
    pub fn watches_behind(&self, watches: usize) {
        self.watches_behind.set(whole(watches));
    }

    /// Sets the process's settings, under the names that Go's runtime uses. Once per process.
    pub fn runtime_info(&self, max_procs: usize, memory_limit: Option<u64>) {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let limit = memory_limit.map_or_else(|| "off".to_owned(), |bytes| bytes.to_string());
        for (setting, value) in [
            ("gomaxprocs", max_procs.to_string()),
            ("numcpu", processors.to_string()),
            ("gomemlimit_bytes", limit),
            ("gogc", "off".to_owned()),
        ] {
            self.runtime_info
                .get_or_create(&Setting { setting, value })
                .set(1);
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The text of a scrape; its type is [`CONTENT_TYPE`].
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, and none of our metrics returns an error.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

/// Shortens the registration of families.
struct Registrar<'a>(&'a mut Registry);

impl Registrar<'_> {
    fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.register(name, help, M::default())
    }
}

#[cfg(test)]
mod tests;
