//! Decisions about one document: what to do if a source wants it, and if that source no longer does.
//!
//! Three pure functions answer three questions: who owns the document ([`title`]), what must be written
//! ([`decide`]), and what may be deleted ([`remove()`]).

mod course;
mod remove;

use super::document::{Cas, Claim, DocumentId, KvVersion, Mark, Observed, Release};
use super::ledger::{LedgerEntry, State};
use super::problem::Owner;
use super::settings::Adopt;
use super::source::SourceKey;
use super::value::Digest;

pub use course::{Act, Step, Wish};
pub use remove::{Departure, Removal, after, remove};

/// How this operator is identified in claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `--cluster-name`, if it is set.
    pub cluster: Option<String>,
    /// UID of this cluster's `kube-system` namespace.
    pub cluster_id: String,
    /// UIDs whose claims count as this cluster's own (`--adopt-cluster-id`).
    pub also: Vec<String>,
}

impl Identity {
    /// The claim that a source of this cluster puts on its documents.
    pub fn claim(&self, holder: &SourceKey, adopted: bool) -> Claim {
        Claim {
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id.clone(),
            holder: holder.clone(),
            adopted,
        }
    }

    fn is_ours(&self, claim: &Claim) -> bool {
        claim.cluster_id == self.cluster_id || self.also.contains(&claim.cluster_id)
    }
}

/// A live source of this cluster, with what ranks it among those that want the same document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contender {
    /// Which source.
    pub key: SourceKey,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its UID, which decides between two sources created in the same second.
    pub uid: String,
    /// Whether it has `vault-sync.io/adopt: "true"`.
    pub annotated: bool,
}

impl Contender {
    /// A holder that another operator of this cluster watches. We cannot know what it wants now, so we assume
    /// that it still wants the document. It is never older than another source.
    pub fn unseen(key: &SourceKey) -> Self {
        Self {
            key: key.clone(),
            created: i64::MAX,
            uid: String::new(),
            annotated: false,
        }
    }

    fn is_unseen(&self) -> bool {
        self.uid.is_empty()
    }

    fn is_older_than(&self, other: &Self) -> bool {
        (self.created, &self.uid) < (other.created, &other.uid)
    }
}

/// All facts about a document that a source wants.
#[derive(Clone, Debug)]
pub struct Scene<'a> {
    /// Our identity in claims.
    pub identity: &'a Identity,
    /// The source that wants it.
    pub me: &'a Contender,
    /// The other live sources of this cluster that want it now.
    pub rivals: &'a [Contender],
    /// The ledger's entry for it.
    pub entry: Option<&'a LedgerEntry>,
    /// What Vault shows.
    pub seen: &'a Observed,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// Whether claims can be put on documents of this mount.
    pub claims: bool,
    /// `--adopt`, or less if the path policy says so.
    pub adopt: Adopt,
}

impl Scene<'_> {
    /// The ledger's entry, if it says that the document is written and belongs to this source.
    fn standing_entry(&self) -> Option<&LedgerEntry> {
        self.entry.filter(|entry| entry.stands_for(&self.me.key))
    }
}

/// A source's right to a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Title {
    /// Whether the document existed before us.
    pub adopted: bool,
    /// Whether the next write creates or adopts the document, so that the ledger must say `creating` first.
    pub creating: bool,
}

/// The source's title to write the document, or else the document's owner.
pub fn title(scene: &Scene) -> Result<Title, Owner> {
    match scene.seen {
        Observed::Absent | Observed::Deleted { .. } => vacant(scene),
        Observed::Live {
            mark: Mark::Claimed(claim),
            ..
        } => claimed(scene, claim),
        Observed::Live {
            mark: Mark::Garbled, ..
        } => taken_over(scene, Owner::Unknown),
        Observed::Live {
            mark: Mark::Foreign(manager),
            ..
        } => foreign(scene, manager),
        Observed::Live {
            version,
            created,
            mark: mark @ (Mark::Unclaimed | Mark::Released(_) | Mark::Unreadable),
            ..
        } => match mark {
            Mark::Released(release) if release.version == *version => given_up(scene, release),
            _ => unclaimed(scene, *version, *created, mark),
        },
    }
}

/// Nothing is there. A source that holds the document in the ledger, and still wants it, takes precedence.
fn vacant(scene: &Scene) -> Result<Title, Owner> {
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    Ok(Title {
        adopted: match scene.seen {
            Observed::Deleted { version, mark } => has_older_versions(scene, *version, mark),
            Observed::Absent | Observed::Live { .. } => false,
        },
        creating: scene.standing_entry().is_none(),
    })
}

/// Whether a deleted document may have versions that this cluster did not write. Such a document is never
/// purged, so that those versions stay. Only the ledger or our claim can prove that there are none. The entry
/// for a document that we are about to create proves nothing about the versions that we find.
fn has_older_versions(scene: &Scene, version: u64, mark: &Mark) -> bool {
    let entry = scene
        .entry
        .filter(|entry| matches!(entry.state, State::Written | State::Deleting))
        .filter(|entry| !entry.is_followed_by(version));
    let claim = match mark {
        // Nobody has written since we released it.
        Mark::Released(release) if release.version == version => Some(&release.claim),
        Mark::Claimed(claim) => Some(claim),
        _ => None,
    };
    let claim = claim.filter(|claim| scene.identity.is_ours(claim));
    // Someone has purged our document and written their own, or has written after us and then deleted it.
    let of_another = match mark {
        Mark::Claimed(claim) => !scene.identity.is_ours(claim),
        Mark::Released(release) => !scene.identity.is_ours(&release.claim),
        Mark::Garbled | Mark::Foreign(_) => true,
        Mark::Unclaimed | Mark::Unreadable => false,
    };
    if of_another || entry.is_some_and(|entry| lacks_claim(entry, mark)) {
        return true;
    }
    match (entry, claim) {
        (None, None) => true,
        _ => entry.is_some_and(|entry| entry.adopted) || claim.is_some_and(|claim| claim.adopted),
    }
}

/// A claim binds while its holder still wants the document.
fn claimed(scene: &Scene, claim: &Claim) -> Result<Title, Owner> {
    if !scene.identity.is_ours(claim) {
        let name = claim.cluster.clone().unwrap_or_else(|| claim.cluster_id.clone());
        return taken_over(scene, Owner::Cluster(name));
    }
    let holder = holder_of(scene, claim);
    if *holder != scene.me.key {
        contest(scene, holder)?;
    }
    Ok(Title {
        adopted: claim.adopted || scene.entry.is_some_and(|entry| entry.adopted),
        creating: false,
    })
}

/// Who holds a document with a claim of this cluster. Once the content is written, the ledger takes
/// precedence, because the claim is updated only after the write. Only the claim knows a source that another
/// operator watches.
fn holder_of<'s>(scene: &'s Scene, claim: &'s Claim) -> &'s SourceKey {
    let is_seen = !scene
        .rivals
        .iter()
        .any(|rival| rival.key == claim.holder && rival.is_unseen());
    match scene.entry {
        Some(entry) if entry.state == State::Written && is_seen => &entry.holder,
        _ => &claim.holder,
    }
}

/// Another tool's mark counts as a claim. It does not say whether that tool still wants the document.
fn foreign(scene: &Scene, manager: &str) -> Result<Title, Owner> {
    if scene.adopt == Adopt::Annotated && scene.me.annotated {
        return Ok(ADOPTED);
    }
    taken_over(scene, Owner::Tool(manager.to_owned()))
}

/// We released exactly this version. If it was retained, the source that left it there has it again when it
/// comes back. If it was deleted, and someone has undeleted it, it belongs to them.
fn given_up(scene: &Scene, release: &Release) -> Result<Title, Owner> {
    let claim = &release.claim;
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    if release.retained && scene.identity.is_ours(claim) && claim.holder == scene.me.key {
        Ok(Title {
            adopted: claim.adopted,
            creating: false,
        })
    } else {
        Err(Owner::Released)
    }
}

/// The document has no claim. It is ours if the ledger says so, otherwise only by adoption.
fn unclaimed(scene: &Scene, version: u64, created: i64, mark: &Mark) -> Result<Title, Owner> {
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    if scene
        .standing_entry()
        .is_some_and(|entry| lacks_claim(entry, mark))
    {
        // Drift: someone removed our claim, or put another document in place of ours. It is restored, but its
        // older versions may be theirs.
        return Ok(Title {
            adopted: true,
            creating: false,
        });
    }
    match scene.entry {
        Some(entry) if is_written(entry, scene.version, version, created, mark) => Ok(Title {
            adopted: entry.adopted,
            creating: false,
        }),
        _ => Err(Owner::Nobody),
    }
}

/// Whether a document has no claim although ours was on it. A released claim counts as none in state
/// `Deleting`, because we release the claim of a document when we delete it. In state `Written` it proves
/// nothing, because a late release of ours may have arrived.
fn lacks_claim(entry: &LedgerEntry, mark: &Mark) -> bool {
    entry.claimed
        && match mark {
            Mark::Unclaimed => true,
            Mark::Released(_) => entry.state == State::Deleting,
            Mark::Claimed(_) | Mark::Garbled | Mark::Foreign(_) | Mark::Unreadable => false,
        }
}

/// By how many seconds the clocks of one Vault's nodes may differ. The intention is dated by Vault's own
/// clock, and just before that we saw that nothing was there. So this tolerance cannot accept someone else's
/// document.
const CLOCK_SKEW: i64 = 5;

/// Whether the ledger proves that an unclaimed document is ours. An intention alone does not: if our write
/// had succeeded, the entry would say so. If our write got no response, or its operator crashed, the document
/// is ours if it is at the version that this write makes, and younger than our intention. This is the one
/// exception to our promise (no theft). A live document that we were about to adopt is not ours until we have
/// written it. A document without the claim that we had put on ours is another document.
fn is_written(entry: &LedgerEntry, kv: KvVersion, version: u64, created: i64, mark: &Mark) -> bool {
    match entry.state {
        State::Written | State::Deleting => !lacks_claim(entry, mark) && !entry.is_done_with(version),
        State::Creating => false,
        State::OutcomeUnknown => {
            let adopting = entry.adopted && entry.base == 0;
            let makes = entry.base.saturating_add(1);
            kv == KvVersion::V2 && version == makes && !adopting && created + CLOCK_SKEW >= entry.since
        }
    }
}

/// Decides between sources of one operator that want one document. The holder keeps it. If there is none,
/// and no claim can tell who was first, the oldest gets it.
fn rivalry(scene: &Scene, holder: Option<&SourceKey>) -> Result<(), Owner> {
    match holder {
        Some(holder) if *holder == scene.me.key => return Ok(()),
        Some(holder) if is_rival(scene, holder) => return contest(scene, holder),
        _ if scene.claims => return Ok(()),
        _ => {}
    }
    match scene.rivals.iter().find(|rival| rival.is_older_than(scene.me)) {
        Some(older) => Err(Owner::Source(older.key.clone())),
        None => Ok(()),
    }
}

fn is_rival(scene: &Scene, key: &SourceKey) -> bool {
    scene.rivals.iter().any(|rival| rival.key == *key)
}

/// Takes a document from the source that holds it. This needs adoption if the holder still wants the
/// document. If two sources could adopt from each other, only one of them may, because otherwise they would
/// take turns forever.
fn contest(scene: &Scene, holder: &SourceKey) -> Result<(), Owner> {
    let Some(rival) = scene.rivals.iter().find(|rival| rival.key == *holder) else {
        return Ok(());
    };
    let (me, same_namespace) = (scene.me, rival.key.namespace == scene.me.key.namespace);
    let prevails = match (me.annotated, rival.annotated) {
        (true, false) => true,
        (false, true) => false,
        _ => me.is_older_than(rival),
    };
    let allowed = match scene.adopt {
        Adopt::Never | Adopt::Equal => false,
        Adopt::Annotated => me.annotated && same_namespace,
        Adopt::All => true,
    };
    if allowed && prevails {
        Ok(())
    } else {
        Err(Owner::Source(holder.clone()))
    }
}

/// The title to a live document that is adopted, but not from a live source of this cluster. Until we have
/// written such a document, we must not delete it.
const ADOPTED: Title = Title {
    adopted: true,
    creating: true,
};

fn taken_over(scene: &Scene, owner: Owner) -> Result<Title, Owner> {
    if scene.adopt == Adopt::All {
        Ok(ADOPTED)
    } else {
        Err(owner)
    }
}

/// Whether an unclaimed document that is not ours may be adopted for this content.
fn adoptable(scene: &Scene, equal: bool) -> bool {
    match scene.adopt {
        Adopt::Never => false,
        Adopt::Equal => equal,
        Adopt::Annotated => equal || scene.me.annotated,
        Adopt::All => true,
    }
}

/// The document's owner, if the source cannot have it whatever it holds. Then its Secrets need not be
/// fetched.
pub fn foreign_whatever_it_holds(scene: &Scene) -> Option<Owner> {
    match title(scene) {
        Ok(_) => None,
        Err(Owner::Nobody | Owner::Released) if adoptable(scene, true) => None,
        Err(owner) => Some(owner),
    }
}

/// Decides what to do about a document that is to hold `content`.
pub fn decide(scene: &Scene, content: Digest) -> Result<Step, Owner> {
    let equal = matches!(scene.seen, Observed::Live { content: Some(held), .. } if *held == content);
    let title = match title(scene) {
        Err(Owner::Nobody | Owner::Released) if adoptable(scene, equal) => ADOPTED,
        other => other?,
    };
    let title = Title {
        creating: title.creating && !equal,
        ..title
    };
    let claim = Mark::Claimed(scene.identity.claim(&scene.me.key, title.adopted));
    Ok(Step {
        write: (!equal).then_some(match scene.version {
            KvVersion::V1 => Cas::None,
            KvVersion::V2 => Cas::Version(scene.seen.version()),
        }),
        claim: scene.claims && scene.seen.mark() != Some(&claim),
        title,
        revives: match scene.seen {
            Observed::Deleted {
                mark: Mark::Claimed(claim),
                ..
            } => !scene.identity.is_ours(claim),
            Observed::Deleted { mark, .. } => matches!(mark, Mark::Garbled | Mark::Foreign(_)),
            Observed::Absent | Observed::Live { .. } => false,
        },
    })
}

/// Whether another tool has put its mark on a document since we read it, as the response to a write shows. A
/// mark is not a version, so check-and-set does not detect it.
pub fn is_overtaken(seen: &Observed, shown: &Mark) -> bool {
    matches!(shown, Mark::Foreign(_)) && seen.mark() != Some(shown)
}

/// Whether a document that we announced, and that turned out to belong to `owner`, is removed from the
/// ledger, because we must not delete it later. A document that another source of this cluster may have stays
/// in the ledger: it is ours in any case.
pub fn is_vain(me: &SourceKey, entry: &LedgerEntry, owner: &Owner) -> bool {
    entry.holder == *me && entry.state == State::Creating && !matches!(owner, Owner::Source(_))
}

/// Whether a check-and-set mismatch of a creating write removes the document from the ledger. The mismatch
/// proves that someone else created the document, unless an earlier write of ours got no response: that
/// write may have created it.
pub fn is_refuted(me: &SourceKey, entry: &LedgerEntry) -> bool {
    entry.holder == *me && entry.state == State::Creating
}

/// The claim on a live document, if it names exactly this source. Without a ledger, this is enough proof that
/// the document belongs to the source.
pub fn proof<'s>(identity: &Identity, holder: &SourceKey, seen: &'s Observed) -> Option<&'s Claim> {
    seen.claim()
        .filter(|claim| claim.cluster_id == identity.cluster_id && claim.holder == *holder)
}

/// Whether what is remembered of a document may be trusted. It may only while the ledger says that the source
/// holds the document. Otherwise another source may have had it since, and given it back.
pub fn may_trust(me: &SourceKey, entry: Option<&LedgerEntry>) -> bool {
    entry.is_some_and(|entry| entry.stands_for(me))
}

/// The result of a reconcile for a document that its source wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Vault holds it.
    Stands,
    /// It could not be written now, but it was before: its last good content stays.
    Stale,
    /// It was never there for this source.
    Missing,
}

/// Whether documents that a source no longer wants may be deleted: only when the new ones exist.
pub fn may_clean(desired: impl IntoIterator<Item = Standing>) -> bool {
    desired.into_iter().all(|standing| standing != Standing::Missing)
}

/// The documents in the ledger that the source no longer wants. If not `all` of them may be deleted, only
/// those that were never written for the source, or that are already being deleted.
pub fn leaving<'a>(
    entries: &'a [(DocumentId, LedgerEntry)],
    is_desired: impl Fn(&DocumentId) -> bool + 'a,
    all: bool,
) -> impl Iterator<Item = &'a (DocumentId, LedgerEntry)> {
    entries
        .iter()
        .filter(move |(id, entry)| !is_desired(id) && (all || entry.state != State::Written))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
