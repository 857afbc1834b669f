//! The settings of the operator's administrator that the pure core needs for its decisions.

use serde::{Deserialize, Serialize};

use super::document::Mount;
use crate::words;

words! {
    /// `--cluster-prefix-style`: where the cluster's prefix is.
    pub enum PrefixStyle {
        /// `secret/data/clusters/c1/app`: below the mount, so that one policy prefix isolates a cluster.
        InsideMount = "inside-mount",
        /// `clusters/c1/secret/data/app`: in front of everything, as the predecessor wrote it.
        BeforeMount = "before-mount",
    }
}

words! {
    /// `--namespace-isolation`.
    pub enum NamespaceIsolation {
        /// Any namespace may name any path.
        Off = "off",
        /// A path must begin with its source's namespace.
        Enforce = "enforce",
        /// The namespace is added to the beginning of a path that does not begin with it.
        Prefix = "prefix",
    }
}

words! {
    /// `--adopt`: which existing documents may be taken over. Each value also allows what the ones before it
    /// allow.
    pub enum Adopt {
        /// None.
        Never = "never",
        /// Unclaimed documents that hold what we would write.
        Equal = "equal",
        /// Unclaimed documents, and those of other sources in the same namespace, for a source with
        /// `vault-sync.io/adopt: "true"`.
        Annotated = "annotated",
        /// All documents. For a migration.
        All = "all",
    }
}

words! {
    /// `--deletion-policy`: what happens to documents that no source asks for any more.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum DeletionPolicy {
        /// The version that we saw is deleted by its number. It can be undeleted.
        Soft = "soft",
        /// All versions and the metadata are deleted.
        Purge = "purge",
        /// The documents stay, and count as unclaimed.
        Retain = "retain",
    }
}

/// `--discover`: what auto-discovery reads in addition to env, envFrom and volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Discover {
    /// `imagePullSecrets`.
    pub image_pull_secrets: bool,
    /// `nodePublishSecretRef` of CSI volumes.
    pub csi: bool,
}

/// All settings together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// `--cluster-name`; empty: not set.
    pub cluster_name: String,
    /// `--cluster-prefix` with the name filled in, without slashes at the ends; empty: not set.
    pub cluster_prefix: String,
    /// `--cluster-prefix-style`.
    pub prefix_style: PrefixStyle,
    /// `--namespace-isolation`.
    pub isolation: NamespaceIsolation,
    /// `--adopt`.
    pub adopt: Adopt,
    /// `--adopt-cluster-id`: UIDs of clusters whose claims count as this cluster's own.
    pub adopt_cluster_ids: Vec<String>,
    /// `--deletion-policy`.
    pub deletion: DeletionPolicy,
    /// `--max-document-size` in bytes; `None`: Vault decides.
    pub max_document_size: Option<usize>,
    /// `--finalizers`.
    pub finalizers: bool,
    /// `--mount`: mounts that Vault need not be asked about.
    pub mounts: Vec<Mount>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the flags' defaults give.
    pub(crate) fn settings() -> Settings {
        Settings {
            cluster_name: String::new(),
            cluster_prefix: String::new(),
            prefix_style: PrefixStyle::InsideMount,
            isolation: NamespaceIsolation::Off,
            adopt: Adopt::Never,
            adopt_cluster_ids: Vec::new(),
            deletion: DeletionPolicy::Soft,
            max_document_size: None,
            finalizers: true,
            mounts: Vec::new(),
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        assert_eq!("before-mount".parse(), Ok(PrefixStyle::BeforeMount));
        assert_eq!(DeletionPolicy::Purge.to_string(), "purge");
        assert_eq!(
            "Always".parse::<Adopt>().unwrap_err().to_string(),
            "\"Always\" is not allowed; use never, equal, annotated or all"
        );
        assert!(
            Adopt::Never < Adopt::Equal && Adopt::Equal < Adopt::Annotated && Adopt::Annotated < Adopt::All
        );
    }
}
