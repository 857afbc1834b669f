//! What is to be done about a document that its source no longer wants.

use super::{Identity, Seen, is_written};
use crate::domain::document::{Claim, KvVersion, Mark};
use crate::domain::ledger::LedgerEntry;
use crate::domain::settings::DeletionPolicy;

/// All that bears on a document that the ledger gives to a source which no longer wants it.
#[derive(Clone, Debug)]
pub struct Departure<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// What the ledger says of it.
    pub entry: &'a LedgerEntry,
    /// What Vault shows.
    pub seen: &'a Seen,
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
    Release,
    /// Nothing of ours is left: it is out of the ledger.
    Gone,
    /// Nothing is left yet, but a late write could still land: look again later.
    Watch,
    /// It is somebody else's by now: it is out of the ledger, and stays.
    Disown,
    /// It may be ours, and nothing proves it: it is reported, out of the ledger, and stays.
    Orphan,
}

/// Decides about a document that its source no longer wants.
pub fn remove(scene: &Departure) -> Removal {
    if scene.wanted {
        return Removal::HandOver;
    }
    let retain = scene.deletion == DeletionPolicy::Retain;
    match scene.seen {
        Seen::Absent | Seen::Deleted { .. } if scene.unsettled && !retain => Removal::Watch,
        Seen::Deleted {
            mark: Mark::Claimed(claim),
            ..
        } if scene.deletion == DeletionPolicy::Purge && holds(scene, claim) && !scene.entry.adopted => {
            Removal::Purge
        }
        Seen::Absent | Seen::Deleted { .. } => Removal::Gone,
        Seen::Live {
            version,
            mark: Mark::Claimed(claim),
            ..
        } if holds(scene, claim) => {
            if retain {
                Removal::Release
            } else {
                delete(scene, *version)
            }
        }
        Seen::Live {
            mark: Mark::Claimed(_) | Mark::Garbled,
            ..
        } => Removal::Disown,
        Seen::Live { .. } if retain => Removal::Gone,
        Seen::Live {
            version,
            created,
            mark: Mark::Unclaimed | Mark::Unreadable,
            ..
        } => {
            if is_written(scene.entry, scene.version, *version, *created) {
                delete(scene, *version)
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

fn delete(scene: &Departure, version: u64) -> Removal {
    match (scene.version, scene.deletion) {
        (KvVersion::V1, _) => Removal::Delete,
        (KvVersion::V2, DeletionPolicy::Purge) if !scene.entry.adopted => Removal::Purge,
        (KvVersion::V2, _) => Removal::DeleteVersion(version),
    }
}
