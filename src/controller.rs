//! What is reconciled, and when: watches fill the index, the index fills the queue, workers empty the queue.

mod dispatch;
mod outage;
mod resilient;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use crate::kube::Kube;
use crate::metrics::Metrics;
use crate::places::Places;
use crate::readiness::Readiness;
use domain::index::Index;
use domain::queue::Depth;
use domain::source::{Kind, SourceKey};
use domain::value::Digester;

pub use resilient::WatchEnded;

/// Index and queue, which watches, workers and reconciles share.
pub struct Controller {
    kube: Kube,
    /// The sources.
    pub index: Arc<Mutex<Index>>,
    /// The queue.
    pub places: Arc<Places>,
    /// Makes the fingerprints that tell a change from a repetition.
    pub digester: Digester,
    metrics: Metrics,
    readiness: Readiness,
    outage: outage::Outage,
    /// Passes over sources that are not being deleted. A deletion has a deadline, and does not wait for them.
    live: Mutex<HashMap<SourceKey, CancellationToken>>,
    /// The watches that may show outdated objects.
    behind: Mutex<BTreeSet<String>>,
    /// Namespaces with more misspelled annotations than are reported.
    unreported: Mutex<HashSet<Arc<str>>>,
    /// Whether workers empty the queue. A standby leaves it empty: it would otherwise collect every source
    /// that ever existed.
    works: AtomicBool,
}

impl Controller {
    /// Watches nothing yet. `concurrency`: how many sources are reconciled at a time.
    pub fn new(kube: Kube, index: Index, metrics: Metrics, readiness: Readiness, concurrency: usize) -> Self {
        Self {
            kube,
            index: Arc::new(Mutex::new(index)),
            places: Arc::new(Places::new(concurrency)),
            digester: Digester::default(),
            metrics,
            readiness,
            outage: outage::Outage::default(),
            live: Mutex::default(),
            behind: Mutex::default(),
            unreported: Mutex::default(),
            works: AtomicBool::new(false),
        }
    }

    /// How many sources are known.
    pub fn sources(&self) -> usize {
        self.index().len()
    }

    /// Watches one kind in one namespace (`None`: in all) until the process ends. Drops `listed` after the
    /// first complete list.
    pub async fn watch(
        self: Arc<Self>,
        kind: Kind,
        namespace: Option<String>,
        listed: watch::Listed,
    ) -> WatchEnded {
        if kind == Kind::Secret {
            watch::secrets(&self, namespace, listed).await
        } else {
            watch::workloads(&self, kind, namespace, listed).await
        }
    }

    fn enqueue(&self, keys: &[SourceKey]) {
        if keys.is_empty() || !self.works.load(Ordering::SeqCst) {
            return;
        }
        self.places.add(keys);
    }

    /// Requeues sources that have waited for Vault.
    fn enqueue_again(&self, keys: Vec<(SourceKey, Depth)>) {
        if !keys.is_empty() {
            self.places.recall(keys);
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<SourceKey, CancellationToken>> {
        self.live.lock()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }
}
