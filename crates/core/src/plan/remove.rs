//! What to do about a document that its source no longer wants.

use super::{Identity, is_written, lacks_claim};
use crate::document::{Claim, KvVersion, Mark, Observed, Release};
use crate::ledger::{LedgerEntry, State};
use crate::settings::DeletionPolicy;

/// All facts about a document that the ledger assigns to a source that no longer wants it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of a document that do not depend on each other"
)]
pub struct Departure<'a> {
    /// Our identity in claims.
    pub identity: &'a Identity,
    /// The ledger's entry for it.
    pub entry: &'a LedgerEntry,
    /// What Vault shows.
    pub seen: &'a Observed,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// Whether another live source of this cluster wants it, or has a claim on it and a problem.
    pub wanted: bool,
    /// Whether the holder that the claim names would be seen if it existed.
    pub claimant_watched: bool,
    /// The deletion policy that applies to it.
    pub deletion: DeletionPolicy,
    /// Whether a write of ours could still arrive.
    pub unsettled: bool,
    /// Whether this pass has already purged the document, and Vault has confirmed it.
    pub purged: bool,
}

/// What to do about such a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removal {
    /// Another source takes it over; it stays as it is.
    HandOver,
    /// Delete this version (KV v2), and look again.
    DeleteVersion(u64),
    /// Delete all versions and the metadata (KV v2), and look again.
    Purge,
    /// Delete it (KV v1), and look again.
    Delete,
    /// Mark the claim as released, then remove the document from the ledger.
    Release {
        /// The document's latest version.
        version: u64,
        /// Whether that version is retained. Otherwise it was deleted.
        retained: bool,
    },
    /// Nothing of ours is left: remove it from the ledger.
    Gone,
    /// Nothing is there now, but a late write could still arrive: look again later.
    Watch,
    /// It belongs to someone else now: remove it from the ledger, and leave it in Vault.
    Disown,
    /// It may be ours, but nothing proves it: report it, remove it from the ledger, and leave it in Vault.
    Orphan,
}

/// What is left of a document after a delete that Vault has confirmed. It need not be read again: anything
/// that appears there later belongs to someone else. It must be read again only while a late write of ours
/// could still arrive.
pub fn after(removal: &Removal, seen: Observed) -> Observed {
    match (removal, seen) {
        (Removal::DeleteVersion(version), Observed::Live { mark, .. }) => Observed::Deleted {
            version: *version,
            mark,
        },
        (Removal::Purge | Removal::Delete, _) => Observed::Absent,
        (_, seen) => seen,
    }
}

/// Decides about a document that its source no longer wants.
pub fn remove(scene: &Departure) -> Removal {
    if scene.wanted {
        return Removal::HandOver;
    }
    let retain = scene.deletion == DeletionPolicy::Retain;
    match scene.seen {
        Observed::Absent | Observed::Deleted { .. } if scene.unsettled && !retain => Removal::Watch,
        Observed::Deleted { version, mark } if may_purge(scene, mark) && explains(scene, *version, mark) => {
            Removal::Purge
        }
        // If the claim outlived its document, what someone writes there later would count as ours.
        Observed::Deleted {
            version,
            mark: Mark::Claimed(claim),
        } if holds(scene, claim) => Removal::Release {
            version: *version,
            retained: false,
        },
        Observed::Absent | Observed::Deleted { .. } => Removal::Gone,
        // It was created after the purge. It could only be ours if a creating write got no response, and
        // nothing distinguishes such a document from someone else's.
        Observed::Live { .. } if scene.purged => Removal::Orphan,
        Observed::Live {
            version,
            mark: mark @ Mark::Claimed(claim),
            ..
        } if holds(scene, claim) => {
            if retain {
                Removal::Release {
                    version: *version,
                    retained: true,
                }
            } else {
                delete(scene, *version, mark)
            }
        }
        Observed::Live {
            mark: Mark::Claimed(_) | Mark::Garbled | Mark::Foreign(_),
            ..
        } => Removal::Disown,
        // We released exactly this version, and someone has undeleted it since.
        Observed::Live {
            version,
            mark: Mark::Released(release),
            ..
        } if release.version == *version => Removal::Disown,
        Observed::Live { .. } if retain => Removal::Gone,
        Observed::Live {
            version,
            created,
            mark: mark @ (Mark::Unclaimed | Mark::Released(_) | Mark::Unreadable),
            ..
        } => {
            if is_written(scene.entry, scene.version, *version, *created, mark) {
                delete(scene, *version, mark)
            } else if scene.entry.state == State::Creating {
                // We never wrote it.
                Removal::Disown
            } else {
                Removal::Orphan
            }
        }
    }
}

/// Whether a claim allows us to delete the document. A claim of this cluster binds other sources only while
/// its holder wants the document. If we watch the holder, it does not want the document (see
/// [`Departure::wanted`]), and we were about to replace the claim. If we do not watch it, the claim binds.
fn holds(scene: &Departure, claim: &Claim) -> bool {
    scene.identity.is_ours(claim) && (claim.holder == scene.entry.holder || scene.claimant_watched)
}

/// Whether the versions of a deleted document are known to be ours, so that they may be destroyed. The proof
/// is our claim, a claim that we released at exactly this version, or, if there cannot be a claim, the
/// ledger.
fn explains(scene: &Departure, version: u64, mark: &Mark) -> bool {
    match mark {
        Mark::Claimed(claim) => holds(scene, claim),
        Mark::Released(release) => release.version == version && holds(scene, &release.claim),
        Mark::Garbled | Mark::Foreign(_) => false,
        Mark::Unclaimed | Mark::Unreadable => {
            let entry = scene.entry;
            matches!(entry.state, State::Written | State::Deleting)
                && !lacks_claim(entry, mark)
                && !entry.is_followed_by(version)
        }
    }
}

/// A purge must destroy only what we wrote. So it is not allowed for a document with older versions than
/// ours, as the ledger or the claim records.
fn may_purge(scene: &Departure, mark: &Mark) -> bool {
    let adopted_by_claim = match mark {
        Mark::Claimed(claim) | Mark::Released(Release { claim, .. }) => claim.adopted,
        _ => false,
    };
    scene.version == KvVersion::V2
        && scene.deletion == DeletionPolicy::Purge
        && !scene.entry.adopted
        && !adopted_by_claim
}

fn delete(scene: &Departure, version: u64, mark: &Mark) -> Removal {
    match scene.version {
        KvVersion::V1 => Removal::Delete,
        KvVersion::V2 if may_purge(scene, mark) => Removal::Purge,
        KvVersion::V2 => Removal::DeleteVersion(version),
    }
}
