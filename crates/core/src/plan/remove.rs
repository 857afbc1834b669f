//! What is to be done about a document that its source no longer wants.

use super::{Identity, is_written, lacks_claim};
use crate::document::{Claim, KvVersion, Mark, Observed, Release};
use crate::ledger::{LedgerEntry, State};
use crate::settings::DeletionPolicy;

/// All that bears on a document that the ledger gives to a source which no longer wants it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts of a document that do not depend on each other"
)]
pub struct Departure<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// What the ledger says of it.
    pub entry: &'a LedgerEntry,
    /// What Vault shows.
    pub seen: &'a Observed,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// Whether another live source of this cluster wants it, or has a claim on it and a problem.
    pub wanted: bool,
    /// Whether the holder that the claim names would be seen if it were there.
    pub claimant_watched: bool,
    /// What happens to it.
    pub deletion: DeletionPolicy,
    /// Whether a write of ours could still be under way to it.
    pub unsettled: bool,
    /// Whether this pass has purged the document already, and Vault has confirmed it.
    pub purged: bool,
}

/// What is to be done about such a document.
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
    /// Mark the claim as released; then it is out of the ledger.
    Release {
        /// The document's latest version.
        version: u64,
        /// Whether that version stays (it is deleted else).
        retained: bool,
    },
    /// Nothing of ours is left: it is out of the ledger.
    Gone,
    /// Nothing is left yet, but a late write could still land: look again later.
    Watch,
    /// It is somebody else's by now: it is out of the ledger, and stays.
    Disown,
    /// It may be ours, and nothing proves it: it is reported, out of the ledger, and stays.
    Orphan,
}

/// What is left of a document after a delete that Vault has confirmed. There is no need to look again: what
/// stands there from now on is somebody else's. Only while a late write of ours could arrive, a look must tell.
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
        // A claim that outlived its document would give us what somebody writes there later.
        Observed::Deleted {
            version,
            mark: Mark::Claimed(claim),
        } if holds(scene, claim) => Removal::Release {
            version: *version,
            retained: false,
        },
        Observed::Absent | Observed::Deleted { .. } => Removal::Gone,
        // It was created since. Of ours, only a creation without an answer could have come; nothing tells that one
        // from anybody's.
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
        // We gave up this very version, and somebody has undeleted it since.
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

/// A claim of this cluster binds for others only while its holder wants the document. Where we would
/// see that, none does (see [`Departure::wanted`]), and another's name in the claim is one that we
/// were about to replace; where we would not, it binds.
fn holds(scene: &Departure, claim: &Claim) -> bool {
    scene.identity.is_ours(claim) && (claim.holder == scene.entry.holder || scene.claimant_watched)
}

/// Whether the versions of a deleted document are known to be ours, so that they may go for good: by our claim, by one
/// that we released at this very version, or, where no claim could be put, by the ledger.
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

/// A purge destroys only what we made: never a document with versions from before us, as the ledger or the
/// claim remembers.
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
