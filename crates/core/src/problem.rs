//! Everything that can be wrong with a source, defined once: what, where, and what to do about it.
//!
//! A source with a problem asks for nothing new and loses nothing. Nothing in this module can hold a secret
//! value.

use std::time::Duration;

use super::document::DocumentId;
use super::names::{ASKED, is_about_deletion};
use super::source::SourceKey;
use super::text::{hidden, nearest};
use crate::words;

/// When a failed operation is tried again without an external change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Retry {
    /// At once: another client was faster, and its change must be read.
    AtOnce,
    /// Soon, then later and later: the failure is temporary.
    Backoff,
    /// Every few minutes: the fix (to a policy, a mount, a Role) happens where we cannot see it.
    Slowly,
    /// Never: only a change to the source or its Secrets fixes it, and that change wakes us.
    OnChange,
}

words! {
    /// Reasons of the Events on sources and on the operator's own pod.
    pub enum Reason {
        /// Vault holds what the source asks for.
        Synced = "Synced",
        /// A document was changed or deleted in Vault, and is restored.
        DriftRepaired = "DriftRepaired",
        /// Documents that the source no longer asks for are deleted from Vault.
        Cleaned = "Cleaned",
        /// A document could not be written to Vault.
        SyncFailed = "SyncFailed",
        /// An annotation is invalid.
        InvalidAnnotation = "InvalidAnnotation",
        /// A document in Vault belongs to someone else.
        OwnershipConflict = "OwnershipConflict",
        /// A document may be left in Vault, and we cannot tell whether it is ours.
        PossibleOrphan = "PossibleOrphan",
        /// A value that is not text was written to Vault as base64.
        BinaryValue = "BinaryValue",
        /// On the pod: something keeps it from being ready.
        NotReady = "NotReady",
        /// On the pod: nothing keeps it from being ready any more.
        Ready = "Ready",
    }
}

impl Reason {
    /// Whether this is reported at one moment only, and nothing would report it again, because the ledger
    /// forgets the document.
    pub fn is_told_once(self) -> bool {
        self == Self::PossibleOrphan
    }

    /// Whether the Event is a Warning.
    pub fn is_warning(self) -> bool {
        !matches!(
            self,
            Self::Synced | Self::DriftRepaired | Self::Cleaned | Self::Ready
        )
    }
}

/// Something that keeps a source, or one document of it, from being synced. `Display` says what and
/// where; [`Problem::hint`] says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// The path annotation cannot name a document.
    #[error("vault-sync.io/path: {0}")]
    Path(#[from] PathFault),
    /// The `secrets` annotation cannot be read.
    #[error("vault-sync.io/secrets: {0}")]
    List(String),
    /// The pod template uses more Secrets than one source may sync.
    #[error("the pod template uses {count} Secrets; {limit} are allowed")]
    TooMany {
        /// How many it uses.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The namespace already has as many documents as it may have.
    #[error(
        "namespace {namespace:?} may have {limit} documents; there is no room for {count} more of this source"
    )]
    NamespaceFull {
        /// The namespace.
        namespace: String,
        /// How many the source asks for beside those that are there.
        count: usize,
        /// How many the namespace may have.
        limit: usize,
    },
    /// An annotation's value is not one of the allowed values.
    #[error(
        "vault-sync.io/{annotation}: {value:?} is not allowed{}; use {allowed}",
        hidden(value)
    )]
    Value {
        /// Annotation, without its prefix.
        annotation: &'static str,
        /// Its value, cut to a readable length.
        value: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// Two entries of the list give the same key of the document.
    #[error("key {key:?} of {document} would come from {first} and from {second}")]
    Collision {
        /// The document.
        document: DocumentId,
        /// The key in Vault.
        key: String,
        /// Where it comes from first.
        first: String,
        /// Where it comes from again.
        second: String,
    },
    /// A referenced Secret does not exist.
    #[error("failed to get secret {secret:?}: it does not exist in namespace {namespace:?}")]
    MissingSecret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        secret: String,
    },
    /// A listed key does not exist in its Secret.
    #[error("key not found: secret {secret:?} has no key {key:?}{}; available_keys: [{}]", hidden(key), available.join(", "))]
    MissingKey {
        /// The Secret.
        secret: String,
        /// The key that is missing.
        key: String,
        /// The keys that it has.
        available: Vec<String>,
    },
    /// A value is not text, and the source asks for text.
    #[error("secret {secret:?} key {key:?} is not UTF-8 text, and encoding is \"text\"")]
    NotText {
        /// The Secret.
        secret: String,
        /// Its key.
        key: String,
    },
    /// The document has no keys, and the mount cannot hold a document without keys.
    #[error("{document} would have no keys, which a KV v1 mount cannot hold")]
    Empty {
        /// The document.
        document: DocumentId,
    },
    /// The document is larger than `--max-document-size`.
    #[error("{document} would be {size} bytes, more than the allowed {limit}")]
    TooLarge {
        /// The document.
        document: DocumentId,
        /// Its size: keys and values, in bytes.
        size: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The document takes more memory than is available for payload.
    #[error(
        "{document} would take {size} bytes of memory while it is sent, more than the {limit} that there are"
    )]
    NoMemory {
        /// The document.
        document: DocumentId,
        /// How many bytes it takes at least.
        size: usize,
        /// How many bytes are available.
        limit: usize,
    },
    /// The document belongs to someone else.
    #[error("{document} {owner}")]
    Conflict {
        /// The document.
        document: DocumentId,
        /// Its owner.
        owner: Owner,
    },
    /// A request to Vault failed.
    #[error("{message}")]
    Vault {
        /// The request, and Vault's response.
        message: String,
        /// What to do.
        hint: String,
        /// When it is tried again.
        retry: Retry,
        /// How long Vault asks us to wait.
        after: Option<Duration>,
        /// Whether Vault as a whole may be down: then nothing else needs to be tried.
        down: bool,
    },
    /// A request to Kubernetes failed.
    #[error("{message}")]
    Kubernetes {
        /// The request, and the API server's response.
        message: String,
        /// What to do.
        hint: String,
        /// When it is tried again.
        retry: Retry,
    },
}

/// Why a path does not name a document.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathFault {
    /// It is empty.
    #[error("the path is empty")]
    Empty,
    /// It has a blank at an end.
    #[error("the path begins or ends with a blank")]
    Blank,
    /// It has a slash at an end.
    #[error("the path begins or ends with \"/\"")]
    Slash,
    /// It has two slashes in a row.
    #[error("the path has an empty segment (\"//\")")]
    EmptySegment,
    /// It has a `.` or `..` segment.
    #[error("the path has a {0:?} segment")]
    Dots(String),
    /// It has a character that is invisible, or that escapes.
    #[error("the path has the character U+{0:04X}, which is not allowed")]
    Character(u32),
    /// It has a brace, from a placeholder or from a template that was not rendered.
    #[error("the path has braces: placeholders are not supported, and a template was perhaps not rendered")]
    Brace,
    /// It has a character that only looks like another: its compatibility form differs.
    #[error("the path has characters that only look like others (its compatibility form differs)")]
    LookAlike,
    /// It is longer than 512 bytes.
    #[error("the path is {0} bytes long; 512 are allowed")]
    Long(usize),
    /// No mount has this path.
    #[error("Vault has no secrets engine mounted at {0:?}")]
    NoMount(String),
    /// Vault does not say which mount has it. Vault's response is the same for no mount and for a mount that
    /// we may not see.
    #[error(
        "Vault shows no secrets engine for {0:?}: none is mounted there, or the operator's policy allows nothing below it (403)"
    )]
    Hidden(String),
    /// The mount is not a KV engine.
    #[error("the secrets engine at {mount:?} is of type {kind:?}, not kv")]
    NotKv {
        /// The mount.
        mount: String,
        /// Its type.
        kind: String,
    },
    /// The path ends at the mount.
    #[error("{0:?} is only the mount; a document needs a path inside it")]
    OnlyMount(String),
    /// It has a word of the KV v2 API where the document's path should begin.
    #[error("{word:?} after the mount {mount:?} is a word of the KV v2 API, not a document")]
    ApiWord {
        /// The mount.
        mount: String,
        /// The word.
        word: String,
    },
    /// `--namespace-isolation=enforce`.
    #[error(
        "the path inside the mount must begin with {namespace:?} (--namespace-isolation=enforce); it is {path:?}"
    )]
    Isolation {
        /// The source's namespace.
        namespace: String,
        /// The path after the cluster's prefix.
        path: String,
    },
    /// `--path-policy`.
    #[error("the path policy does not let namespace {namespace:?} write {path:?}")]
    Policy {
        /// The source's namespace.
        namespace: String,
        /// The document in logical form, without the cluster's prefix.
        path: String,
    },
}

/// The owner of a document, as far as the source's users may know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Owner {
    /// A source of this cluster.
    #[error("belongs to {0}")]
    Source(SourceKey),
    /// A source of this cluster in another namespace, which the source's users need not know.
    #[error("belongs to a source in another namespace")]
    Elsewhere,
    /// Another cluster. Its name or id is only for the log: users of one cluster need not know the others.
    #[error("belongs to another cluster")]
    Cluster(String),
    /// No claim is on it, and we have not written it.
    #[error("exists already and was not written by this operator")]
    Nobody,
    /// A source released it and left it there (`retain`), or someone has undeleted it.
    #[error("was left there by another source when that gave it up")]
    Released,
    /// It has a claim that cannot be read.
    #[error("carries a claim that is incomplete")]
    Unknown,
    /// Another tool, by its `managed-by`. The source's users need not know which tool; the log names it.
    #[error("is managed by another tool (by its custom metadata \"managed-by\")")]
    Tool(String),
}

impl Problem {
    /// The Event's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Path(_) | Self::List(_) | Self::Value { .. } | Self::Collision { .. } => {
                Reason::InvalidAnnotation
            }
            Self::Conflict { .. } => Reason::OwnershipConflict,
            _ => Reason::SyncFailed,
        }
    }

    /// The `error_type` label of `config_parse_errors_total`, for problems that the author of an annotation
    /// has to fix.
    pub fn config_error(&self) -> Option<&'static str> {
        match self {
            Self::Path(_) => Some("invalid_path"),
            Self::List(_) => Some("invalid_secrets"),
            Self::Value { .. } => Some("invalid_value"),
            Self::Collision { .. } => Some("key_collision"),
            _ => None,
        }
    }

    /// When it is tried again without an external change.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Vault { retry, .. } | Self::Kubernetes { retry, .. } => *retry,
            // When a document is deleted, the sources that wait for room are woken. If an expected
            // document is not created after all, only the next try may find the room.
            Self::Conflict { .. }
            | Self::NamespaceFull { .. }
            | Self::Path(PathFault::Hidden(_) | PathFault::NoMount(_) | PathFault::NotKv { .. }) => {
                Retry::Slowly
            }
            _ => Retry::OnChange,
        }
    }

    /// How long to wait at least.
    pub fn after(&self) -> Option<Duration> {
        match self {
            Self::Vault { after, .. } => *after,
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let fixed = match self {
            Self::Path(fault) => return fault.hint(),
            Self::List(_) => {
                r#"write a list such as [{"name": "db", "keys": ["password"], "prefix": "DB_"}]; nothing in Vault was changed"#
            }
            Self::Value {
                annotation: "preserve-on-delete" | "deletion-policy",
                ..
            } => "correct the value; until then the documents are retained",
            Self::TooMany { .. } => {
                "name those that are needed in vault-sync.io/secrets; nothing in Vault was changed"
            }
            Self::NamespaceFull { .. } => {
                "documents that are there are kept up to date, and none is added; have other sources of the namespace ask for less, or raise --max-documents-per-namespace"
            }
            Self::Value { .. } => "correct the value, or remove the annotation",
            Self::Collision { .. } => {
                r#"give one of them a prefix, or another name with {"from": …, "to": …}"#
            }
            Self::MissingSecret { .. } => {
                "it may be generated by kustomize or similar tools that have not run yet: ensure secret generators run before operator sync; the document follows as soon as the Secret appears"
            }
            Self::MissingKey { .. } => {
                "correct the key's name, or add it to the Secret; the document keeps its last good content"
            }
            Self::NotText { .. } => r#"set encoding to "base64" or "auto""#,
            Self::Empty { .. } => "add a key to the Secret, or use a KV v2 mount",
            Self::TooLarge { .. } => {
                "choose fewer keys, split the Secret, or raise --max-document-size and the memory limit (GOMEMLIMIT)"
            }
            Self::NoMemory { .. } => {
                "choose fewer keys, split the Secret, or raise the memory limit (GOMEMLIMIT)"
            }
            Self::Conflict {
                owner: Owner::Nobody, ..
            } => {
                r#"choose another path, delete the document in Vault, or let the operator adopt it: with its flag --adopt=annotated and vault-sync.io/adopt: "true" here, or for a migration with --adopt=equal"#
            }
            Self::Conflict {
                owner: Owner::Released,
                ..
            } => {
                r#"choose another path, or let the operator adopt it: with its flag --adopt=annotated and vault-sync.io/adopt: "true" here"#
            }
            Self::Conflict { .. } => "choose another path, or have its owner give the document up",
            Self::Vault { hint, .. } | Self::Kubernetes { hint, .. } => return hint.clone(),
        };
        fixed.to_owned()
    }
}

impl PathFault {
    fn hint(&self) -> String {
        match self {
            Self::Hidden(_) => {
                "correct the path, mount a KV engine there, or let the policy of the operator's role allow it; where asking is denied, \
                 state the mount with --mount=PATH=1|2"
                    .to_owned()
            }
            Self::NoMount(_) | Self::NotKv { .. } => {
                "mount a KV engine there, or begin the path with one that exists, such as secret/data/app"
                    .to_owned()
            }
            Self::Isolation { namespace, .. } => format!("write it as <mount>/{namespace}/…"),
            Self::Policy { .. } => {
                "choose a path that the policy allows, or ask whoever runs the operator".to_owned()
            }
            _ => "name a document as secret/data/app or secret/app; nothing in Vault was changed".to_owned(),
        }
    }
}

/// A mistake to report that does not keep a source from being synced.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Warning {
    /// An annotation with our prefix that does not exist.
    #[error(
        "vault-sync.io/{name}{} is not a known annotation{} {RETAINED}",
        place(*on_template),
        known_annotation(name),
        RETAINED = RETAINED
    )]
    UnknownKey {
        /// Its name without the prefix, cut to a readable length.
        name: String,
        /// Whether it is on the pod template, where annotations have no effect.
        on_template: bool,
    },
    /// An annotation with a prefix that is nearly ours.
    #[error(
        "{name}{} is not a known annotation{} {RETAINED}",
        place(*on_template),
        known_annotation(own_part(name)),
        RETAINED = RETAINED
    )]
    NearlyOurs {
        /// Its full name, cut to a readable length.
        name: String,
        /// Whether it is on the pod template, where annotations have no effect.
        on_template: bool,
    },
    /// Annotations that have no effect because there is no path.
    #[error(
        "without vault-sync.io/path nothing is brought to Vault, and {names} {}; set the path, or remove what else is set",
        if names.contains(',') { "have no effect" } else { "has no effect" }
    )]
    NoPath {
        /// Their full names, separated by commas.
        names: String,
    },
    /// Further annotations that do not exist.
    #[error("further annotations with vault-sync.io/ in front are not known. {RETAINED}", RETAINED = RETAINED)]
    MoreKeys,
    /// An annotation on the pod template, where it is not read.
    #[error(
        "vault-sync.io/{name} is on the pod template (spec.template), where it has no effect; move it to the object's own metadata.annotations{}",
        retained_until_moved(name)
    )]
    OnTemplate {
        /// Its name without the prefix.
        name: &'static str,
    },
    /// A path on a workload that uses no Secret.
    #[error(
        "vault-sync.io/path: the pod template uses no Secret in env, envFrom or volumes, so nothing is brought to Vault; \
         name the Secrets in vault-sync.io/secrets, or use one in the pod template"
    )]
    NothingUsed,
    /// A value that is not allowed, and that has a safe meaning.
    #[error(
        "vault-sync.io/{annotation}: {value:?} is not allowed{}; use {allowed}. {meaning}",
        hidden(value)
    )]
    Value {
        /// Annotation, without its prefix.
        annotation: &'static str,
        /// Its value, cut to a readable length.
        value: String,
        /// The allowed values.
        allowed: &'static str,
        /// What the value counts as.
        meaning: &'static str,
    },
    /// A binary value under `encoding: auto`.
    #[error(
        "secret {secret:?} key {key:?} is not UTF-8 text and is stored as base64; pin it with encoding: \"base64\""
    )]
    Binary {
        /// The Secret.
        secret: String,
        /// Its key.
        key: String,
    },
}

impl Warning {
    /// The Event's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Binary { .. } => Reason::BinaryValue,
            _ => Reason::InvalidAnnotation,
        }
    }

    /// The `error_type` label of `config_parse_errors_total`.
    pub fn config_error(&self) -> Option<&'static str> {
        match self {
            Self::UnknownKey { .. } | Self::NearlyOurs { .. } | Self::MoreKeys => Some("unknown_annotation"),
            Self::OnTemplate { .. } | Self::NoPath { .. } => Some("misplaced_annotation"),
            Self::Value { .. } => Some("invalid_value"),
            Self::NothingUsed | Self::Binary { .. } => None,
        }
    }

    /// Whether this alone is a reason to track an object that asks for nothing: someone wanted to ask for
    /// something.
    pub fn is_misspelt(&self) -> bool {
        matches!(
            self,
            Self::UnknownKey { .. }
                | Self::NearlyOurs { .. }
                | Self::MoreKeys
                | Self::OnTemplate { .. }
                | Self::NoPath { .. }
        )
    }

    /// Whether the author has something to correct, and is reminded of it.
    pub fn is_mistake(&self) -> bool {
        !matches!(self, Self::Binary { .. })
    }
}

/// What happens to documents while an annotation cannot be understood.
const RETAINED: &str = "Until it is corrected or removed, documents are retained.";

fn place(on_template: bool) -> &'static str {
    if on_template {
        ", on the pod template (spec.template),"
    } else {
        ""
    }
}

/// The part of a full name after the slash.
fn own_part(full: &str) -> &str {
    full.split_once('/').map_or(full, |(_, name)| name)
}

fn known_annotation(name: &str) -> String {
    match nearest(name, &ASKED) {
        Some(known) => format!("; did you mean vault-sync.io/{known}?"),
        None => format!("; the known ones are {}.", ASKED.join(", ")),
    }
}

fn retained_until_moved(name: &str) -> String {
    if is_about_deletion(name) {
        format!(". {RETAINED}")
    } else {
        String::new()
    }
}
