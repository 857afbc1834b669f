//! The state: Vault, Kubernetes, the stored ledger, and what each operator has in its memory.
//!
//! All of it is small numbers. Sources, documents and operators are indices; a [`Set`] has a bit for
//! each. What is marked *ghost* is known to the model alone.

use domain::document::Observed;
use domain::document::{Mark as DomainMark, Release};
use domain::ledger::{LedgerEntry, State};
use domain::settings::DeletionPolicy;

use super::names::{NAMES, Sights, digest};

pub const SOURCES: usize = 2;
pub const DOCUMENTS: usize = 3;
pub const OPERATORS: usize = 2;

/// A set of sources or of documents.
pub type Set = u8;

pub fn bit(index: usize) -> Set {
    1 << index
}

pub fn has(set: Set, index: usize) -> bool {
    set & bit(index) != 0
}

/// A small index in a form that is cheap to keep.
#[expect(clippy::cast_possible_truncation, reason = "there are three of anything")]
pub fn small(index: usize) -> u8 {
    index as u8
}

/// Who wrote a content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Author {
    /// Not we.
    Foreign,
    /// An operator of ours, for this source.
    Source(u8),
}

/// What a Secret or a document holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Text {
    pub author: Author,
    /// 0: the Secret is missing.
    pub value: u8,
    /// Counts the edits of the Secret: its resourceVersion. Ghost in Vault.
    pub edition: u8,
}

/// The claim in a document's custom metadata.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mark {
    Unclaimed,
    /// A source gave it up, at this version, which was retained or deleted.
    Released(u8, u8, bool),
    Source(u8),
    Foreign,
}

/// A KV v2 document.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Document {
    /// 0: nothing was ever there.
    pub version: u8,
    /// Whether the latest version is not deleted.
    pub live: bool,
    pub mark: Mark,
    pub text: Text,
    /// Whether a version of it, live or not, is somebody else's. Ghost.
    pub older: bool,
}

impl Document {
    pub const ABSENT: Self = Self {
        version: 0,
        live: false,
        mark: Mark::Unclaimed,
        text: Text {
            author: Author::Foreign,
            value: 0,
            edition: 0,
        },
        older: false,
    };

    /// What a read shows of it. Every write of the model, a person's too, is younger than every intention that
    /// the ledger holds, and what was there at the beginning is older.
    pub fn seen(self) -> Observed {
        let mark = match self.mark {
            Mark::Unclaimed => DomainMark::Unclaimed,
            Mark::Released(who, version, retained) => DomainMark::Released(Release {
                claim: NAMES.claims[usize::from(who)].clone(),
                version: u64::from(version),
                retained,
            }),
            Mark::Source(who) => DomainMark::Claimed(NAMES.claims[usize::from(who)].clone()),
            Mark::Foreign => DomainMark::Claimed(NAMES.foreign.clone()),
        };
        let version = u64::from(self.version);
        match (self.version, self.live) {
            (0, _) => Observed::Absent,
            (_, false) => Observed::Deleted { version, mark },
            (_, true) => Observed::Live {
                version,
                created: i64::from(self.mark != Mark::Foreign),
                content: Some(digest(self.text)),
                mark,
            },
        }
    }

    pub fn is_ours(self) -> bool {
        self.live && self.text.author != Author::Foreign
    }
}

/// A source in Kubernetes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Object {
    pub uid: u8,
    pub path: Option<u8>,
    pub deleting: bool,
    pub finalizer: bool,
    /// Whether it says `adopt: "true"`.
    pub adopt: bool,
}

impl Object {
    /// The document that it wants.
    pub fn wants(self) -> Option<u8> {
        self.path.filter(|_| !self.deleting)
    }

    /// What of it decides: our finalizer does so only on an object that is going.
    pub fn decisive(self) -> Self {
        Self {
            finalizer: self.finalizer && self.deleting,
            ..self
        }
    }
}

/// A line of the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    pub holder: u8,
    pub uid: u8,
    pub state: State,
    pub base: u8,
    pub adopted: bool,
    pub claimed: bool,
}

impl Entry {
    pub fn of(entry: &LedgerEntry) -> Self {
        let holder = NAMES.keys.iter().position(|key| *key == entry.holder);
        let uid = NAMES.uids.iter().position(|uid| *uid == entry.uid);
        Self {
            holder: small(holder.expect("a known holder")),
            uid: small(uid.expect("a known UID")),
            state: entry.state,
            base: u8::try_from(entry.base).expect("a small version"),
            adopted: entry.adopted,
            claimed: entry.claimed,
        }
    }

    pub fn spelt(self, deletion: DeletionPolicy) -> LedgerEntry {
        LedgerEntry {
            holder: NAMES.keys[usize::from(self.holder)].clone(),
            uid: NAMES.uids[usize::from(self.uid)].clone(),
            state: self.state,
            since: 1,
            deletion,
            base: u64::from(self.base),
            adopted: self.adopted,
            claimed: self.claimed,
            paused: false,
        }
    }
}

/// What an operator remembers of the document of a source.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Remembered {
    pub document: u8,
    pub version: u8,
    pub text: Text,
}

/// A call that changes Vault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    Write { to: u8, cas: Option<u8>, text: Text },
    Claim { of: u8, by: u8 },
    DeleteVersion { of: u8, version: u8 },
    Purge { of: u8 },
    Release { of: u8, version: u8, retained: bool },
}

/// What Vault says to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Done,
    Mismatch,
    NotFound,
}

/// An [`Act`](domain::plan::Act) that is still to come; the version that a
/// write is checked against is kept once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Act {
    Record,
    Restate,
    Finalizer,
    Write,
    Settle,
    Claim,
}

/// What a reconcile does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Read the foreseen document.
    Look,
    /// Read the source.
    Read,
    /// Store the announcement of the document in the ledger.
    Announce,
    /// Read the Secret, and decide.
    Fetch,
    /// The next of the acts.
    Act,
    /// Read the next document that is to go, and decide.
    Leave,
    /// Delete it, or release it.
    Erase(Call),
    /// Take it out of the ledger.
    Strike(u8),
    /// Take the finalizer off.
    Release,
}

/// A reconcile that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct Run {
    pub next: Stage,
    pub recheck: bool,
    /// The documents that are locked.
    pub locked: Set,
    /// The document that is wanted, as foreseen.
    pub hint: Option<u8>,
    /// The source as read.
    pub object: Option<Object>,
    /// The document as read.
    pub seen: Option<Document>,
    pub memory: Option<Remembered>,
    /// The Secret as read.
    pub secret: Option<Text>,
    pub acts: [Option<Act>; 5],
    pub cas: Option<u8>,
    pub creating: bool,
    pub adopted: bool,
    /// Whether the document that is leaving was purged, and that was answered.
    pub purged: bool,
    /// The documents that are still to go.
    pub leaving: Set,
    /// Something failed that time may cure.
    pub failed: bool,
    /// A write may still land: look again when that is over.
    pub later: bool,
    /// The documents to which a write could still be under way when it began.
    pub unsettled: Set,
    /// Used by a mutation alone.
    pub cleaned: bool,
}

/// A running operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Operator {
    /// The ledger as it believes it.
    pub ledger: [Option<Entry>; DOCUMENTS],
    /// What of it is still to be stored.
    pub pending: Set,
    /// Documents to which a write of ours, or of the operator before us, may still be under way.
    pub unsettled: Set,
    pub sights: Sights,
    pub secrets: [Text; SOURCES],
    pub memory: [Option<Remembered>; SOURCES],
    /// The queue: who is to be reconciled, who of them with a look at Vault, and who again when
    /// no late write can come any more.
    pub dirty: Set,
    pub recheck: Set,
    pub appointed: Set,
    /// Who waits for a document that another has, and who of them has tried in vain since anything
    /// happened.
    pub refused: Set,
    pub retried: Set,
    pub runs: [Option<Run>; SOURCES],
}

/// How often the environment may still do something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Edits by users.
    pub edits: u8,
    /// Operators that end, in good order or not.
    pub crashes: u8,
    /// Replies of Vault's that are lost.
    pub losses: u8,
    /// Changes of the leader while the old one goes on.
    pub changes: u8,
    /// Documents that another cluster creates.
    pub seizures: u8,
    /// What a person does to documents by hand.
    pub hands: u8,
}

/// A promise that was broken by an event rather than by a state. Ghost.
pub mod fault {
    pub const THEFT: u8 = 1;
    pub const ROLLBACK: u8 = 2;
    pub const GAP: u8 = 4;
}

/// Everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub documents: [Document; DOCUMENTS],
    pub objects: [Option<Object>; SOURCES],
    pub secrets: [Text; SOURCES],
    pub stored: [Option<Entry>; DOCUMENTS],
    /// Who has put its epoch on the ledger last.
    pub epoch: Option<u8>,
    pub operators: [Option<Operator>; OPERATORS],
    /// A call of which nobody knows whether it will still arrive.
    pub flight: Option<Call>,
    pub budget: Budget,
    pub uids: u8,
    pub faults: u8,
}

impl World {
    /// Vault does what it is told.
    pub fn vault(&mut self, call: Call) -> Reply {
        match call {
            Call::Write { to, cas, text } => {
                let document = &mut self.documents[usize::from(to)];
                if cas.is_some_and(|cas| cas != document.version) {
                    return Reply::Mismatch;
                }
                if document.live && document.text.author == Author::Foreign {
                    self.faults |= fault::THEFT;
                }
                if document.text.author == text.author && document.text.edition > text.edition {
                    self.faults |= fault::ROLLBACK;
                }
                *document = Document {
                    version: document.version + 1,
                    live: true,
                    mark: document.mark,
                    text,
                    older: document.older,
                };
            }
            Call::Claim { of, by } => return self.mark(of, Mark::Source(by)),
            Call::Release {
                of,
                version,
                retained,
            } => {
                // A mark of ours on somebody's document goes: that takes nothing from anybody.
                let document = &mut self.documents[usize::from(of)];
                let Mark::Source(who) = document.mark else {
                    return Reply::Done;
                };
                document.mark = Mark::Released(who, version, retained);
            }
            Call::DeleteVersion { of, version } => {
                let document = &mut self.documents[usize::from(of)];
                if document.version == version && document.live {
                    if document.text.author == Author::Foreign {
                        self.faults |= fault::THEFT;
                    }
                    document.live = false;
                }
            }
            Call::Purge { of } => {
                let document = &mut self.documents[usize::from(of)];
                if document.older || (document.live && document.text.author == Author::Foreign) {
                    self.faults |= fault::THEFT;
                }
                *document = Document::ABSENT;
            }
        }
        Reply::Done
    }

    fn mark(&mut self, of: u8, mark: Mark) -> Reply {
        let document = &mut self.documents[usize::from(of)];
        if document.version == 0 {
            return Reply::NotFound;
        }
        if document.live && document.text.author == Author::Foreign {
            self.faults |= fault::THEFT;
        }
        document.mark = mark;
        Reply::Done
    }
}
