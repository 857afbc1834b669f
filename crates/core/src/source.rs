//! Sources: the annotated objects, reduced to what deciding needs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Kinds of object that can be a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `v1` Secret.
    Secret,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `batch/v1` CronJob.
    CronJob,
}

impl Kind {
    /// All of them, in the order in which `--help` names them.
    pub const ALL: [Self; 5] = [
        Self::Deployment,
        Self::Secret,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::CronJob,
    ];

    /// The API's name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::Secret => "Secret",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind {0:?}; allowed are Deployment, Secret, StatefulSet, DaemonSet, CronJob")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownKind(super::problem::excerpt(text)))
    }
}

/// Which object a source is: what people call it by.
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

/// What an operator watches: `--kinds` and `--watch-namespaces`. There may be others in the cluster
/// that watch the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// Kinds of source.
    pub kinds: Vec<Kind>,
    /// Namespaces; empty: all.
    pub namespaces: Vec<String>,
}

impl Scope {
    /// Whether an object would be seen if it were there.
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
    /// `metadata.uid`: tells an object from its successor under the same name.
    pub uid: String,
    /// `metadata.creationTimestamp`, in seconds since 1970.
    pub created: i64,
    /// `metadata.deletionTimestamp`, in seconds since 1970, once deletion has begun.
    pub deleting: Option<i64>,
    /// Whether it carries our finalizer (which is the predecessor's too).
    pub finalizer: bool,
    /// The annotations of ours, as they are written, without the `vault-sync.io/` in front.
    pub annotations: BTreeMap<String, String>,
    /// The Secrets that its pod template names; empty for a Secret.
    pub references: Vec<Reference>,
}

/// A use of a Secret by a pod template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    /// The Secret's name, in the source's namespace.
    pub secret: String,
    /// Whether the workload starts without it. A Secret that is named twice is optional only if
    /// both uses say so.
    pub optional: bool,
}
