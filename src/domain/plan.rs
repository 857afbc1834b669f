//! Deciding: what is to be done about one document, when a source wants it and when it does not.
//!
//! Three questions, each a function from plain data to an answer: whose is the document
//! ([`title`]), what must be written ([`decide`]), what may be taken away ([`remove()`]).

mod remove;

use super::document::{Cas, Claim, DocumentId, KvVersion, Mark, Observed};
use super::ledger::{LedgerEntry, State};
use super::problem::Owner;
use super::settings::{Adopt, DeletionPolicy};
use super::source::SourceKey;
use super::value::{Digest, Digester};

pub use remove::{Departure, Removal, remove};

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
    pub fn claim(&self, holder: &SourceKey) -> Claim {
        Claim {
            cluster: self.cluster.clone(),
            cluster_id: self.cluster_id.clone(),
            holder: holder.clone(),
        }
    }

    fn is_ours(&self, claim: &Claim) -> bool {
        claim.cluster_id == self.cluster_id || self.also.contains(&claim.cluster_id)
    }
}

/// What Vault showed of a document, its content reduced to a fingerprint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// See [`Observed::Absent`].
    Absent,
    /// See [`Observed::Deleted`].
    Deleted {
        /// The latest version's number.
        version: u64,
        /// Its mark, which does not bind.
        mark: Mark,
    },
    /// See [`Observed::Live`].
    Live {
        /// The latest version's number; 0 on KV v1.
        version: u64,
        /// When that was written, in seconds since 1970; 0 on KV v1.
        created: i64,
        /// The content; `None` when it holds what we would never write.
        content: Option<Digest>,
        /// Its mark.
        mark: Mark,
    },
}

impl Seen {
    /// Takes the fingerprint, and drops the values.
    pub fn of(observed: Observed, digester: &Digester) -> Self {
        match observed {
            Observed::Absent => Self::Absent,
            Observed::Deleted { version, mark } => Self::Deleted { version, mark },
            Observed::Live {
                version,
                created,
                held,
                mark,
            } => {
                let content: Option<_> = held.into_iter().map(|(key, value)| Some((key, value?))).collect();
                Self::Live {
                    version,
                    created,
                    content: content.map(|content| digester.content(&content)),
                    mark,
                }
            }
        }
    }

    /// The version to check a write against.
    pub fn version(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Deleted { version, .. } | Self::Live { version, .. } => *version,
        }
    }

    /// The claim that binds: that of a live document.
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Live {
                mark: Mark::Claimed(claim),
                ..
            } => Some(claim),
            _ => None,
        }
    }

    fn mark(&self) -> Option<&Mark> {
        match self {
            Self::Absent => None,
            Self::Deleted { mark, .. } | Self::Live { mark, .. } => Some(mark),
        }
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
    pub seen: &'a Seen,
    /// The KV version of its mount.
    pub version: KvVersion,
    /// Whether claims can be put on documents of this mount.
    pub claims: bool,
    /// `--adopt`, or less where the path policy says so.
    pub adopt: Adopt,
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
        Seen::Absent | Seen::Deleted { .. } => vacant(scene),
        Seen::Live {
            mark: Mark::Claimed(claim),
            ..
        } => claimed(scene, claim),
        Seen::Live {
            mark: Mark::Garbled, ..
        } => taken_over(scene, Owner::Unknown),
        Seen::Live {
            version,
            created,
            mark: Mark::Unclaimed | Mark::Unreadable,
            ..
        } => unclaimed(scene, *version, *created),
    }
}

/// Nothing is there. Whoever holds it in the ledger, and still wants it, goes first.
fn vacant(scene: &Scene) -> Result<Title, Owner> {
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    let mine = scene
        .entry
        .filter(|entry| entry.holder == scene.me.key && entry.state == State::Written);
    Ok(Title {
        adopted: mine.is_some_and(|entry| entry.adopted),
        creating: mine.is_none(),
    })
}

/// A claim binds while its holder still wants the document.
fn claimed(scene: &Scene, claim: &Claim) -> Result<Title, Owner> {
    if !scene.identity.is_ours(claim) {
        let name = claim.cluster.clone().unwrap_or_else(|| claim.cluster_id.clone());
        return taken_over(scene, Owner::Cluster(name));
    }
    if claim.holder != scene.me.key {
        contest(scene, &claim.holder)?;
    }
    Ok(Title {
        adopted: scene.entry.is_some_and(|entry| entry.adopted),
        creating: false,
    })
}

/// No claim is on it: it is ours if the ledger says so, else only by adoption.
fn unclaimed(scene: &Scene, version: u64, created: i64) -> Result<Title, Owner> {
    rivalry(scene, scene.entry.map(|entry| &entry.holder))?;
    match scene.entry {
        Some(entry) if is_written(entry, scene.version, version, created) => Ok(Title {
            adopted: entry.adopted,
            creating: false,
        }),
        _ => Err(Owner::Nobody),
    }
}

/// By how many seconds the clocks of one Vault's nodes may differ. The intention is dated by Vault's own
/// clock; nothing was there when we looked, just before it, so this can let in nobody else's.
const CLOCK_SKEW: i64 = 5;

/// Whether the ledger gives us an unclaimed document. One that we were about to create is ours when
/// it is at version 1 and younger than our intention: the promise's one exception. One that we were
/// about to adopt is not, before we have written it.
fn is_written(entry: &LedgerEntry, kv: KvVersion, version: u64, created: i64) -> bool {
    match entry.state {
        State::Written | State::Deleting => true,
        State::Creating | State::OutcomeUnknown => {
            kv == KvVersion::V2 && version == 1 && !entry.adopted && created + CLOCK_SKEW >= entry.since
        }
    }
}

/// Sources of one operator that want the same document: where claims tell, the one that holds it
/// keeps it; where they do not, the oldest has it, whatever was written before.
fn rivalry(scene: &Scene, holder: Option<&SourceKey>) -> Result<(), Owner> {
    if scene.claims {
        return match holder {
            Some(holder) if *holder != scene.me.key => contest(scene, holder),
            _ => Ok(()),
        };
    }
    match scene.rivals.iter().find(|rival| rival.is_older_than(scene.me)) {
        Some(older) => Err(Owner::Source(older.key.clone())),
        None => Ok(()),
    }
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

fn taken_over(scene: &Scene, owner: Owner) -> Result<Title, Owner> {
    if scene.adopt == Adopt::All {
        Ok(Title {
            adopted: true,
            creating: false,
        })
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

/// What is to be done about a document that a source wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The write, if Vault holds something else.
    pub write: Option<Cas>,
    /// Whether the claim must be put on it, or renewed.
    pub claim: bool,
    /// The right that it rests on.
    pub title: Title,
    /// Whether the write brings back a deleted document on which another cluster's claim is left.
    pub revives: bool,
}

/// One call in carrying out a [`Step`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Write the document into the ledger, and wait until that is stored.
    Record,
    /// Say in the ledger what is wished now of a document that it knows; a crash may lose that.
    Restate,
    /// Make sure of the finalizer.
    Finalizer,
    /// Write the content.
    Write(Cas),
    /// Say in the ledger that the document stands; a crash may lose that.
    Settle,
    /// Put the claim on it.
    Claim,
}

impl Step {
    /// The calls in their order. The ledger knows of a document before Vault does, so that a crash
    /// after any of them leaves nothing that nobody knows; each call rests on the one before.
    pub fn course(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> Vec<Act> {
        // By its first version alone we know a document that carries no claim of ours yet. Before a second
        // one comes, it must be stored that the first was ours; mostly it is, and that costs nothing.
        let proven = self.title.creating || self.write.is_none() || !self.claim;
        let recorded =
            entry.is_some_and(|entry| entry.holder == *me && entry.state != State::Deleting && proven);
        let mut acts = vec![if recorded { Act::Restate } else { Act::Record }];
        if self.write.is_some() || self.claim {
            acts.push(Act::Finalizer);
        }
        let write = self
            .write
            .map(Act::Write)
            .into_iter()
            .chain((self.title.creating || self.is_first(me, entry)).then_some(Act::Settle));
        let claim = self.claim.then_some(Act::Claim);
        // What is written under another's claim is another's, should we crash before ours is on it; so
        // there ours comes first. Nowhere else: no check-and-set keeps it from a document that another has
        // created since we looked.
        if self.revives {
            acts.extend(claim.into_iter().chain(write));
        } else {
            acts.extend(write.chain(claim));
        }
        acts
    }

    /// The ledger's entry before the write: what [`Act::Record`] and [`Act::Restate`] store. A document
    /// that exists is not the source's before its content has been written there: until then it is
    /// one to take away again, and not one for which the source could give up another.
    pub fn entry(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        let entry = self.title.entry(wish, old);
        if self.title.creating || !self.is_first(wish.holder, old) {
            return entry;
        }
        LedgerEntry {
            state: State::Deleting,
            ..entry
        }
    }

    /// Whether it writes what nothing shows to have been written for the source before.
    fn is_first(&self, me: &SourceKey, entry: Option<&LedgerEntry>) -> bool {
        let stood = entry.is_some_and(|entry| entry.holder == *me && entry.state == State::Written);
        self.write.is_some() && !stood
    }
}

impl Title {
    /// The ledger's entry of a document to which nothing is written first.
    pub fn entry(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        let own = old.filter(|old| old.holder == *wish.holder);
        let state = match own {
            // The write that got no answer may still be the one that creates it.
            Some(LedgerEntry {
                state: State::OutcomeUnknown,
                ..
            }) if self.creating => State::OutcomeUnknown,
            _ if self.creating => State::Creating,
            _ => State::Written,
        };
        let since = own
            .filter(|old| old.state == state)
            .map_or(wish.now, |old| old.since);
        let Wish {
            holder,
            uid,
            deletion,
            ..
        } = *wish;
        LedgerEntry {
            holder: holder.clone(),
            uid: uid.to_owned(),
            state,
            since,
            deletion,
            adopted: self.adopted,
            paused: false,
        }
    }

    /// The entry after the write: what [`Act::Settle`] stores.
    pub fn settled(&self, wish: &Wish, old: Option<&LedgerEntry>) -> LedgerEntry {
        Self {
            creating: false,
            ..*self
        }
        .entry(wish, old)
    }
}

/// What a source wishes for a document, as the ledger keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The source.
    pub holder: &'a SourceKey,
    /// Its UID.
    pub uid: &'a str,
    /// What happens to the document when it is no longer wanted.
    pub deletion: DeletionPolicy,
    /// Seconds since 1970, by Vault's clock where it is known.
    pub now: i64,
}

/// Decides about a document that shall hold `content`.
pub fn decide(scene: &Scene, content: Digest) -> Result<Step, Owner> {
    let equal = matches!(scene.seen, Seen::Live { content: Some(held), .. } if *held == content);
    let title = match title(scene) {
        Err(Owner::Nobody) if adoptable(scene, equal) => Title {
            adopted: true,
            creating: false,
        },
        other => other?,
    };
    let stood = scene
        .entry
        .is_some_and(|entry| entry.holder == scene.me.key && entry.state == State::Written);
    // What we adopt and have not written yet is not ours to delete.
    let creating = title.creating || (title.adopted && !stood && !equal);
    let title = Title { creating, ..title };
    let claim = Mark::Claimed(scene.identity.claim(&scene.me.key));
    Ok(Step {
        write: (!equal).then_some(match scene.version {
            KvVersion::V1 => Cas::None,
            KvVersion::V2 => Cas::Version(scene.seen.version()),
        }),
        claim: scene.claims && scene.seen.mark() != Some(&claim),
        title,
        revives: match scene.seen {
            Seen::Deleted {
                mark: Mark::Claimed(claim),
                ..
            } => !scene.identity.is_ours(claim),
            Seen::Deleted { mark, .. } => *mark == Mark::Garbled,
            Seen::Absent | Seen::Live { .. } => false,
        },
    })
}

/// Whether a document that was announced, and turned out to be the `owner`'s, leaves the ledger: it is
/// not ours to delete later. One that another source of this cluster may have is ours all the same.
pub fn is_vain(me: &SourceKey, entry: &LedgerEntry, owner: &Owner) -> bool {
    entry.holder == *me && entry.state == State::Creating && !matches!(owner, Owner::Source(_))
}

/// Whether a live document carries exactly this source's claim: proof enough that it is the source's,
/// when there is no ledger to ask.
pub fn is_proven(identity: &Identity, holder: &SourceKey, seen: &Seen) -> bool {
    seen.claim()
        .is_some_and(|claim| claim.cluster_id == identity.cluster_id && claim.holder == *holder)
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
    desired: &'a [DocumentId],
    all: bool,
) -> impl Iterator<Item = &'a (DocumentId, LedgerEntry)> {
    entries
        .iter()
        .filter(move |(id, entry)| !desired.contains(id) && (all || entry.state != State::Written))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan_properties.rs"]
mod properties;
