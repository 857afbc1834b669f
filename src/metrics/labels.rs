//! The label sets, and which sources have series.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::encoding::EncodeLabelSet;

use domain::source::{Kind, SourceKey};

/// Labels of per-source metrics. `resource` is the source's name, whatever its kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByName {
    pub(super) namespace: String,
    pub(super) resource: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct Attempt {
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ConfigError {
    pub(super) namespace: String,
    pub(super) resource: String,
    pub(super) error_type: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByNamespace {
    pub(super) namespace: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByResult {
    pub(super) result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByErrorKind {
    pub(super) kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByErrorType {
    pub(super) error_type: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct ByState {
    pub(super) state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct Setting {
    pub(super) setting: &'static str,
    pub(super) value: String,
}

/// Sources that have series. A Deployment and a Secret with the same name share theirs, as the specified
/// labels require. Gauges then show the sum, and the series are removed with the last of the two.
#[derive(Clone, Default, Debug)]
pub(super) struct Sources(pub(super) Arc<Mutex<ByNames>>);

/// How many namespaces without sources keep their series, so that their last numbers can still be scraped.
pub(super) const MOST_EMPTY: usize = 100;

#[derive(Default, Debug)]
pub(super) struct ByNames {
    pub(super) sources: HashMap<ByName, Shared>,
    /// How many names each namespace has.
    counts: HashMap<String, usize>,
    /// Namespaces without names, in the order in which they became empty.
    empty: VecDeque<String>,
}

impl ByNames {
    /// What the sources of this name share; adds the source to it.
    pub(super) fn shared(&mut self, source: &SourceKey) -> &mut Shared {
        let name = ByName::of(source);
        if !self.sources.contains_key(&name) {
            let count = self.counts.entry(name.namespace.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.empty.retain(|empty| *empty != name.namespace);
            }
        }
        let shared = self.sources.entry(name).or_default();
        shared.kinds.entry(source.kind).or_default();
        shared
    }

    /// Removes a name. Returns the namespace whose series are removed now, if there is one.
    pub(super) fn remove(&mut self, name: &ByName) -> Option<String> {
        self.sources.remove(name)?;
        let count = self.counts.get_mut(&name.namespace)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.counts.remove(&name.namespace);
        self.empty.push_back(name.namespace.clone());
        if self.empty.len() > MOST_EMPTY {
            self.empty.pop_front()
        } else {
            None
        }
    }
}

#[derive(Default, Debug)]
pub(super) struct Shared {
    pub(super) kinds: BTreeMap<Kind, Numbers>,
    pub(super) config_errors: BTreeSet<&'static str>,
}

#[derive(Default, Debug)]
pub(super) struct Numbers {
    pub(super) discovered: i64,
    pub(super) conflicts: i64,
}

impl Sources {
    pub(super) fn lock(&self) -> MutexGuard<'_, ByNames> {
        // Each statement leaves the numbers consistent, so a panic elsewhere leaves no partial change.
        self.0.lock()
    }
}

impl ByName {
    pub(super) fn of(source: &SourceKey) -> Self {
        Self {
            namespace: source.namespace.to_string(),
            resource: source.name.to_string(),
        }
    }
}

impl ByNamespace {
    pub(super) fn of(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }
}
