//! Documents in Vault: where they are, what was observed of them, and the claim that they carry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::source::SourceKey;
use super::value::{Content, Digest, Digester, Found};

/// Version of a KV secrets engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KvVersion {
    /// No versions, no check-and-set, no metadata.
    V1,
    /// Versions, check-and-set, custom metadata.
    V2,
}

/// A mounted KV secrets engine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mount {
    /// Its path, without slashes at the ends: `secret`, `team/kv`.
    pub path: Arc<str>,
    /// The version of its KV engine.
    pub version: KvVersion,
}

/// Name of a document: a mount and the path inside it, without `data/`, which is only part of the API. Clones
/// share their text, because each name is kept in several places.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DocumentId {
    /// Path of the mount, without slashes at the ends.
    pub mount: Arc<str>,
    /// Path inside the mount, without slashes at the ends.
    pub path: Arc<str>,
}

impl DocumentId {
    /// Shorthand for table tests, and for callers that have both parts.
    pub fn new(mount: impl Into<Arc<str>>, path: impl Into<Arc<str>>) -> Self {
        Self {
            mount: mount.into(),
            path: path.into(),
        }
    }
}

/// The logical form, which `vault kv` accepts: `secret/app`.
impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mount, self.path)
    }
}

/// The check-and-set of a write.
/// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#create-update-secret>
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cas {
    /// No check: KV v1 does not support check-and-set.
    None,
    /// The write succeeds only if this is the latest version. 0: only if there never was a version.
    Version(u64),
}

/// What Vault holds at a document's path. `C` is the type of the content: either the values that were read,
/// or a fingerprint, which is enough to decide. The fingerprint is `None` if the document holds a value that
/// we never write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observed<C = Option<Digest>> {
    /// There never was a version (KV v2), or there is no document (KV v1).
    Absent,
    /// KV v2: versions exist, and the latest is deleted or destroyed.
    Deleted {
        /// The latest version's number.
        version: u64,
        /// The mark in the custom metadata. A claim in it is not binding.
        mark: Mark,
    },
    /// The document has content.
    Live {
        /// The latest version's number; 0 on KV v1.
        version: u64,
        /// When that version was written, in seconds since 1970 by Vault's clock; 0 on KV v1.
        created: i64,
        /// The content.
        content: C,
        /// The mark in the custom metadata.
        mark: Mark,
    },
}

impl Observed<Found> {
    /// Computes the fingerprint, and drops the values.
    pub fn digest(self, digester: &Digester) -> Observed {
        match self {
            Self::Absent => Observed::Absent,
            Self::Deleted { version, mark } => Observed::Deleted { version, mark },
            Self::Live {
                version,
                created,
                content,
                mark,
            } => {
                let texts = content.into_iter().map(|(key, value)| Some((key, value?)));
                let content: Option<Content> = texts.collect();
                Observed::Live {
                    version,
                    created,
                    content: content.map(|content| digester.content(&content)),
                    mark,
                }
            }
        }
    }
}

impl<C> Observed<C> {
    /// The version that a write is checked against.
    pub fn version(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Deleted { version, .. } | Self::Live { version, .. } => *version,
        }
    }

    /// The version of a deleted document. 0: the document is live, or never existed.
    pub fn base(&self) -> u64 {
        match self {
            Self::Deleted { version, .. } => *version,
            Self::Absent | Self::Live { .. } => 0,
        }
    }

    /// Whether there is no live document now.
    pub fn is_vacant(&self) -> bool {
        matches!(self, Self::Absent | Self::Deleted { .. })
    }

    /// The binding claim. Only the claim on a live document is binding.
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Live {
                mark: Mark::Claimed(claim),
                ..
            } => Some(claim),
            _ => None,
        }
    }

    /// The mark, whether or not its claim is binding.
    pub fn mark(&self) -> Option<&Mark> {
        match self {
            Self::Absent => None,
            Self::Deleted { mark, .. } | Self::Live { mark, .. } => Some(mark),
        }
    }
}

/// The owner's mark on a KV v2 document, in its custom metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// `--cluster-name`, for people to read. Omitted if it is not set, because Vault refuses empty values.
    pub cluster: Option<String>,
    /// UID of the cluster's `kube-system` namespace, which identifies the cluster.
    pub cluster_id: String,
    /// The source that holds the document. A claim has no UID, because an object that is deleted and created
    /// again under the same name is the same holder.
    pub holder: SourceKey,
    /// Whether the document has versions that are older than this cluster's. Such a document is never purged,
    /// even if the ledger, which also records this, is lost.
    pub adopted: bool,
}

/// A released claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// The claim.
    pub claim: Claim,
    /// The document's latest version at that time, or 0 if it was not known. Later versions belong to someone
    /// else.
    pub version: u64,
    /// Whether that version was retained. Otherwise it was deleted.
    pub retained: bool,
}

/// What the custom metadata says about ownership.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mark {
    /// No owner: the document has no mark.
    Unclaimed,
    /// No owner any more: we released it.
    Released(Release),
    /// Owned, with a complete claim.
    Claimed(Claim),
    /// Owned by an unknown owner: it carries our mark, but an incomplete claim.
    Garbled,
    /// Owned by another tool, which its `managed-by` names.
    Foreign(String),
    /// The mount has no metadata, or the policy does not allow reading it.
    Unreadable,
}

/// The only key that other tools use too, for the same purpose.
const MANAGED_BY: &str = "managed-by";
const MANAGER: &str = "vault-sync-operator";
// Users and other tools have keys called `cluster`, `kind` and `name`. The prefix keeps ours distinct.
const CLUSTER: &str = "vault-sync.io/cluster";
const CLUSTER_ID: &str = "vault-sync.io/cluster-id";
const NAMESPACE: &str = "vault-sync.io/namespace";
const KIND: &str = "vault-sync.io/kind";
const NAME: &str = "vault-sync.io/name";
const ADOPTED: &str = "vault-sync.io/adopted";
const RELEASED: &str = "vault-sync.io/released";
const RETAINED: &str = "true";
const DELETED: &str = "deleted";
const RELEASED_VERSION: &str = "vault-sync.io/released-version";

impl Mark {
    /// Reads the mark from a document's custom metadata.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Self {
        let get = |key: &str| metadata.get(key).filter(|v| !v.is_empty()).cloned();
        match get(MANAGED_BY) {
            None => return Self::Unclaimed,
            Some(manager) if manager != MANAGER => return Self::Foreign(manager),
            Some(_) => {}
        }
        let claim = || {
            Some(Claim {
                cluster: get(CLUSTER),
                cluster_id: get(CLUSTER_ID)?,
                holder: SourceKey {
                    kind: get(KIND)?.parse().ok()?,
                    namespace: get(NAMESPACE)?.into(),
                    name: get(NAME)?.into(),
                },
                adopted: get(ADOPTED).is_some(),
            })
        };
        match (claim(), get(RELEASED)) {
            (Some(claim), Some(how)) => Self::Released(Release {
                claim,
                retained: how == RETAINED,
                version: get(RELEASED_VERSION)
                    .and_then(|version| version.parse().ok())
                    .unwrap_or(0),
            }),
            (None, Some(_)) => Self::Unclaimed,
            (Some(claim), None) => Self::Claimed(claim),
            (None, None) => Self::Garbled,
        }
    }

    /// The change to custom metadata that puts this mark back in place of our claim.
    pub fn restoring(&self) -> MetadataPatch {
        let manager = match self {
            Self::Claimed(claim) => return claim.patch(),
            Self::Foreign(manager) => Some(manager.clone()),
            Self::Garbled => Some(MANAGER.to_owned()),
            Self::Unclaimed | Self::Released(_) | Self::Unreadable => None,
        };
        let ours = [
            CLUSTER,
            CLUSTER_ID,
            NAMESPACE,
            KIND,
            NAME,
            ADOPTED,
            RELEASED,
            RELEASED_VERSION,
        ];
        let mut patch: MetadataPatch = ours.into_iter().map(|key| (key, None)).collect();
        patch.insert(MANAGED_BY, manager);
        patch
    }
}

/// A change to a document's custom metadata. `None` removes a key. Keys that are not named stay unchanged.
pub type MetadataPatch = BTreeMap<&'static str, Option<String>>;

impl Claim {
    /// The change to custom metadata that puts this claim on a document.
    pub fn patch(&self) -> MetadataPatch {
        BTreeMap::from([
            (MANAGED_BY, Some(MANAGER.to_owned())),
            (CLUSTER, self.cluster.clone()),
            (CLUSTER_ID, Some(self.cluster_id.clone())),
            (NAMESPACE, Some(self.holder.namespace.to_string())),
            (KIND, Some(self.holder.kind.to_string())),
            (NAME, Some(self.holder.name.to_string())),
            (ADOPTED, self.adopted.then(|| "true".to_owned())),
            (RELEASED, None),
            (RELEASED_VERSION, None),
        ])
    }

    /// The change that releases a document at this version, which is either retained or deleted.
    pub fn release(version: u64, retained: bool) -> MetadataPatch {
        let how = if retained { RETAINED } else { DELETED };
        BTreeMap::from([
            (RELEASED, Some(how.to_owned())),
            (RELEASED_VERSION, Some(version.to_string())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;

    fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn a_claim_is_read_whole_or_not_at_all() {
        let whole = [
            ("managed-by", "vault-sync-operator"),
            ("vault-sync.io/cluster", "c1"),
            ("vault-sync.io/cluster-id", "u-1"),
            ("vault-sync.io/namespace", "shop"),
            ("vault-sync.io/kind", "Deployment"),
            ("vault-sync.io/name", "web"),
            ("team", "a user's own"),
        ];
        let claim = Claim {
            cluster: Some("c1".into()),
            cluster_id: "u-1".into(),
            holder: SourceKey {
                kind: Kind::Deployment,
                namespace: "shop".into(),
                name: "web".into(),
            },
            adopted: false,
        };
        assert_eq!(Mark::from_metadata(&metadata(&whole)), Mark::Claimed(claim));
        assert_eq!(Mark::from_metadata(&metadata(&whole[..3])), Mark::Garbled);
        assert_eq!(Mark::from_metadata(&metadata(&whole[6..])), Mark::Unclaimed);
        let mut released = metadata(&whole);
        released.insert("vault-sync.io/released".into(), "true".into());
        released.insert("vault-sync.io/released-version".into(), "3".into());
        assert!(matches!(
            Mark::from_metadata(&released),
            Mark::Released(Release { version: 3, retained: true, claim }) if claim.cluster_id == "u-1"
        ));
        released.insert("vault-sync.io/released".into(), "deleted".into());
        released.insert("vault-sync.io/released-version".into(), "by hand".into());
        assert!(matches!(
            Mark::from_metadata(&released),
            Mark::Released(Release {
                version: 0,
                retained: false,
                ..
            })
        ));
        released.remove("vault-sync.io/name");
        assert_eq!(Mark::from_metadata(&released), Mark::Unclaimed);
        let mut adopted = metadata(&whole);
        adopted.insert("vault-sync.io/adopted".into(), "true".into());
        assert!(matches!(Mark::from_metadata(&adopted), Mark::Claimed(claim) if claim.adopted));
    }

    #[test]
    fn another_tools_mark_is_somebodys_whatever_else_is_there() {
        for (pairs, expected) in [
            (
                vec![("managed-by", "external-secrets"), ("name", "theirs")],
                Mark::Foreign("external-secrets".into()),
            ),
            (
                // A tool took over what we once released.
                vec![
                    ("managed-by", "terraform"),
                    ("vault-sync.io/cluster-id", "u-1"),
                    ("vault-sync.io/released", "true"),
                ],
                Mark::Foreign("terraform".into()),
            ),
            (vec![("managed-by", "")], Mark::Unclaimed),
            (
                // Keys without our prefix are a user's own, and make no claim.
                vec![("cluster", "c1"), ("kind", "Deployment"), ("name", "web")],
                Mark::Unclaimed,
            ),
        ] {
            assert_eq!(Mark::from_metadata(&metadata(&pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_claim_without_a_cluster_name_takes_an_old_name_away() {
        let claim = Claim {
            cluster: None,
            cluster_id: "u-1".into(),
            holder: SourceKey {
                kind: Kind::Secret,
                namespace: "shop".into(),
                name: "db".into(),
            },
            adopted: false,
        };
        let patch = claim.patch();
        assert_eq!(patch["vault-sync.io/cluster"], None);
        assert_eq!(patch["vault-sync.io/released"], None);
        assert_eq!(patch["vault-sync.io/adopted"], None);
        assert_eq!(patch["vault-sync.io/kind"], Some("Secret".to_owned()));
        for key in ["cluster", "kind", "name", "released"] {
            assert!(!patch.contains_key(key), "{key} is a user's own");
        }
    }
}
