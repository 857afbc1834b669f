//! Deciding: what is to be done about one document, when a source wants it and when it does not.
//!
//! Three questions, each a function from plain data to an answer: whose is the document
//! ([`title`]), what must be written ([`decide`]), what may be taken away ([`remove()`]).

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

/// Who this operator is, to those who read claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `--cluster-name`, when there is one.
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

/// A live source of this cluster with what ranks it among those that want the same document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contender {
    /// Which source.
    pub key: SourceKey,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its UID: what decides between two of the same second.
    pub uid: String,
    /// Whether it says `vault-sync.io/adopt: "true"`.
    pub annotated: bool,
}

impl Contender {
    /// A holder that another operator of this cluster watches, of which we cannot know what it wants
    /// now: it counts as one that does. It is nobody's elder.
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

/// All that bears on a document that a source wants.
#[derive(Clone, Debug)]
pub struct Scene<'a> {
    /// Who we are.
    pub identity: &'a Identity,
    /// The source that wants it.
    pub me: &'a Contender,
    /// The other live sources of this cluster that want it now.
    pub rivals: &'a [Contender],
    /// What the ledger says of it.
    pub entry: Option<&'a LedgerEntry>,
    /// What Vault shows.
    pub seen: &'a Observed,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// Whether claims can be put on documents of this mount.
    pub claims: bool,
    /// `--adopt`, or less where the path policy says so.
    pub adopt: Adopt,
}

impl Scene<'_> {
    /// What the ledger says of it, if it says that it is this source's and stands.
    fn standing_entry(&self) -> Option<&LedgerEntry> {
        self.entry.filter(|entry| entry.stands_for(&self.me.key))
    }
}

/// A right to a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Title {
    /// Whether the document existed before us.
    pub adopted: bool,
    /// Whether the next write brings it into being, so that the ledger must say `creating` first.
    pub creating: bool,
}

/// Whether the document is the source's to write, or else whose it is.
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

/// Nothing is there. Whoever holds it in the ledger, and still wants it, goes first.
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

/// Whether a deleted document has versions that this cluster did not write: those stay when the document is
/// purged. Only the ledger, or our claim, can say that it has none. An entry for a document that we are
/// about to create says nothing about the versions that we find.
fn has_older_versions(scene: &Scene, version: u64, mark: &Mark) -> bool {
    let entry = scene
        .entry
        .filter(|entry| matches!(entry.state, State::Written | State::Deleting))
        .filter(|entry| !entry.is_followed_by(version));
    let claim = match mark {
        // Nobody has written since we gave it up.
        Mark::Released(release) if release.version == version => Some(&release.claim),
        Mark::Claimed(claim) => Some(claim),
        _ => None,
    };
    let claim = claim.filter(|claim| scene.identity.is_ours(claim));
    // Somebody has purged ours and written their own, or has written after us and gone.
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

/// Who holds a document with a claim of this cluster. Once its content is written, the ledger is ahead of the claim,
/// which is put after it. Of a source that another operator watches only the claim knows.
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

/// Another tool's mark is a claim. It does not say whether that tool still wants the document.
fn foreign(scene: &Scene, manager: &str) -> Result<Title, Owner> {
    if scene.adopt == Adopt::Annotated && scene.me.annotated {
        return Ok(ADOPTED);
    }
    taken_over(scene, Owner::Tool(manager.to_owned()))
}

/// We gave up this very version. What was retained goes on with the source that left it there, when that comes
/// back; what was deleted, and somebody has undeleted, is theirs.
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

/// No claim is on it: it is ours if the ledger says so, else only by adoption.
fn unclaimed(scene: &Scene, version: u64, created: i64, mark: &Mark) -> Result<Title, Owner> {
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    if scene
        .standing_entry()
        .is_some_and(|entry| lacks_claim(entry, mark))
    {
        // Drift: somebody took our claim off, or put another document in the place of ours. It is restored, and
        // its older versions may be theirs.
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

/// Whether a document carries no claim although ours was on it. One that we release goes with a document that we
/// delete; on one that stands, a late release of ours says nothing.
fn lacks_claim(entry: &LedgerEntry, mark: &Mark) -> bool {
    entry.claimed
        && match mark {
            Mark::Unclaimed => true,
            Mark::Released(_) => entry.state == State::Deleting,
            Mark::Claimed(_) | Mark::Garbled | Mark::Foreign(_) | Mark::Unreadable => false,
        }
}

/// By how many seconds the clocks of one Vault's nodes may differ. The intention is dated by Vault's own
/// clock; nothing was there when we looked, just before it, so this can let in nobody else's.
const CLOCK_SKEW: i64 = 5;

/// Whether the ledger gives us an unclaimed document. An intention alone gives no right to it: if our write
/// had succeeded, the entry would say so. If our write got no answer (or its operator crashed), the document
/// is ours when it is at the version that this write makes, and younger than our intention: the promise's one
/// exception. A live document that we were about to adopt is not ours before we have written it.
/// And one that lacks the claim which we had put on ours is another.
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

/// Sources of one operator that want the same document: the one that holds it keeps it. Where nobody does,
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

/// Takes a document from the source that holds it: freely when that no longer wants it, and by
/// adoption when it does. Of two that could adopt from each other only one may, or they would take
/// turns for ever.
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

/// The right to a live document that is taken over from outside this cluster. What we adopt and have not
/// written yet is not ours to delete.
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

/// Whose the document is, if no content would make it the source's: then there is no use in fetching any.
pub fn foreign_whatever_it_holds(scene: &Scene) -> Option<Owner> {
    match title(scene) {
        Ok(_) => None,
        Err(Owner::Nobody | Owner::Released) if adoptable(scene, true) => None,
        Err(owner) => Some(owner),
    }
}

/// Decides about a document that shall hold `content`.
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

/// Whether another tool has put its mark on a document since it was looked at, as the reply to a write shows. A
/// mark is no version, so that no check-and-set hears of it.
pub fn is_overtaken(seen: &Observed, shown: &Mark) -> bool {
    matches!(shown, Mark::Foreign(_)) && seen.mark() != Some(shown)
}

/// Whether a document that was announced, and turned out to be the `owner`'s, leaves the ledger: it is
/// not ours to delete later. One that another source of this cluster may have is ours all the same.
pub fn is_vain(me: &SourceKey, entry: &LedgerEntry, owner: &Owner) -> bool {
    entry.holder == *me && entry.state == State::Creating && !matches!(owner, Owner::Source(_))
}

/// Whether the check-and-set mismatch of a creating write takes the document out of the ledger. It proves that
/// somebody else has created the document, unless an earlier write of ours got no answer: that one may have.
pub fn is_refuted(me: &SourceKey, entry: &LedgerEntry) -> bool {
    entry.holder == *me && entry.state == State::Creating
}

/// The claim on a live document, if it is exactly this source's: proof enough that the document is the
/// source's, when there is no ledger to ask.
pub fn proof<'s>(identity: &Identity, holder: &SourceKey, seen: &'s Observed) -> Option<&'s Claim> {
    seen.claim()
        .filter(|claim| claim.cluster_id == identity.cluster_id && claim.holder == *holder)
}

/// Whether what is remembered of a document may be trusted: only while the ledger says that the source holds
/// it. Another source may have had it since, and given it back.
pub fn may_trust(me: &SourceKey, entry: Option<&LedgerEntry>) -> bool {
    entry.is_some_and(|entry| entry.stands_for(me))
}

/// How a document that its source wants came out of a reconcile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Vault holds it.
    Stands,
    /// It could not be brought there now, but was there before: its last good content stays.
    Stale,
    /// It never stood.
    Missing,
}

/// Whether documents that a source no longer wants may go: new ones stand before old ones go.
pub fn may_clean(desired: impl IntoIterator<Item = Standing>) -> bool {
    desired.into_iter().all(|standing| standing != Standing::Missing)
}

/// The documents of the ledger that the source no longer wants. If not `all` of them may go, only what
/// never stood for it goes, or what was about to go before.
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
