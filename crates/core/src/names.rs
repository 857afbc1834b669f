//! The names of our annotations, and which names Kubernetes accepts.

/// The prefix of all our annotations.
pub const PREFIX: &str = "vault-sync.io/";
/// The finalizer, which is also the predecessor's.
pub const FINALIZER: &str = "vault-sync.io/finalizer";
/// Turns sync on.
pub const PATH: &str = "path";
/// The predecessor's notes, which we remove.
pub const SECRET_VERSIONS: &str = "secret-versions";

pub(super) const SECRETS: &str = "secrets";
pub(super) const PRESERVE: &str = "preserve-on-delete";
pub(super) const DELETION_POLICY: &str = "deletion-policy";
pub(super) const RECONCILE: &str = "reconcile";
pub(super) const ROTATION_CHECK: &str = "rotation-check";
pub(super) const ENCODING: &str = "encoding";
pub(super) const ADOPT: &str = "adopt";
pub(super) const PAUSED: &str = "paused";
pub(super) const FORCE_SYNC: &str = "force-sync";

/// All annotations that users can set, in alphabetical order.
pub(super) const ASKED: [&str; 10] = [
    ADOPT,
    DELETION_POLICY,
    ENCODING,
    FORCE_SYNC,
    PATH,
    PAUSED,
    PRESERVE,
    RECONCILE,
    ROTATION_CHECK,
    SECRETS,
];

/// Whether an annotation affects the deletion of documents.
pub(super) fn is_about_deletion(name: &str) -> bool {
    matches!(name, PRESERVE | DELETION_POLICY)
}

/// Whether Kubernetes accepts this as the name of a Secret: a DNS subdomain. Other names must be refused,
/// because the name becomes part of an API request's path.
pub fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// Whether Kubernetes accepts this as the name of a namespace: a DNS label.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names>
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_label(name)
}

/// The same, for any length.
fn is_dns_label(label: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = label.as_bytes();
    label.first().is_some_and(|&c| alphanumeric(c))
        && label.last().is_some_and(|&c| alphanumeric(c))
        && label.iter().all(|&c| alphanumeric(c) || c == b'-')
}
