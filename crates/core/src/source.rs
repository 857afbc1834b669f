//! Sources: the annotated objects, reduced to what decisions need.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::words;

words! {
    /// Kinds of object that can be a source, in the order in which `--help` names them.
    #[derive(Serialize, Deserialize)]
    pub enum Kind {
        /// `apps/v1` Deployment.
        Deployment = "Deployment",
        /// `v1` Secret.
        Secret = "Secret",
        /// `apps/v1` StatefulSet.
        StatefulSet = "StatefulSet",
        /// `apps/v1` DaemonSet.
        DaemonSet = "DaemonSet",
        /// `batch/v1` CronJob.
        CronJob = "CronJob",
    }
}

/// Which object a source is, as people name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What an operator watches: `--kinds` and `--watch-namespaces`. Other operators in the cluster may watch the
/// rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Kinds of source.
    pub kinds: Vec<Kind>,
    /// Namespaces; empty: all.
    pub namespaces: Vec<String>,
}

impl Scope {
    /// Whether an object would be seen if it existed.
    pub fn contains(&self, key: &SourceKey) -> bool {
        self.kinds.contains(&key.kind)
            && (self.namespaces.is_empty() || self.namespaces.iter().any(|name| **name == *key.namespace))
    }
}

/// A source as Kubernetes showed it, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Which object.
    pub key: SourceKey,
    /// `metadata.uid`: distinguishes an object from a later one with the same name.
    pub uid: String,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// `metadata.deletionTimestamp`, in seconds since 1970, once deletion has begun.
    pub deleting: Option<i64>,
    /// Whether it carries our finalizer, which is also the predecessor's.
    pub finalizer: bool,
    /// Our annotations as they are written, without the prefix `vault-sync.io/`.
    pub annotations: BTreeMap<String, String>,
    /// The Secrets that its pod template names; empty for a Secret.
    pub references: Vec<Reference>,
}

/// A use of a Secret by a pod template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// The Secret's name, in the source's namespace.
    pub secret: String,
    /// Whether the workload starts without it. A Secret that is named twice is optional only if both uses
    /// are.
    pub optional: bool,
}
