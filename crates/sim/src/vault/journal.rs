//! What changed in Vault, when, and who did it: for those who check that all was right.

use std::time::SystemTime;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// When it was made.
    pub at: SystemTime,
    /// Who made it: the request's `X-Sim-Actor`, or else the role and the accessor of its token.
    pub who: String,
    /// What was done.
    pub deed: Deed,
    /// The mount, without slashes at its ends; empty for what is not about a mount.
    pub mount: String,
    /// The mount's accessor: another one when the mount was made anew.
    pub accessor: String,
    /// The document's path in the mount, or the name of what was changed.
    pub path: String,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A version was written as a whole.
    Write(u64),
    /// A version was made of the latest one and a patch.
    Patch(u64),
    /// Versions were deleted; they can come back.
    Delete(Vec<u64>),
    /// Versions came back.
    Undelete(Vec<u64>),
    /// Versions were destroyed.
    Destroy(Vec<u64>),
    /// Versions fell out at the end of the history.
    Prune(Vec<u64>),
    /// The document was deleted for good, on KV v1 or with its metadata on KV v2.
    Purge,
    /// The custom metadata were set or changed.
    Claim,
    /// The settings of a document, or of a mount, were changed.
    Configure,
    /// A secrets engine was mounted.
    Mount,
    /// A secrets engine was taken away, with all that is in it.
    Unmount,
    /// A KV engine of version 1 became one of version 2.
    Upgrade,
    /// A policy was written, or deleted.
    Policy,
    /// A role was written, or deleted.
    Role,
    /// A token was made.
    Login,
    /// A token was revoked.
    Revoke,
    /// Vault was sealed.
    Seal,
    /// Vault was unsealed.
    Unseal,
}
