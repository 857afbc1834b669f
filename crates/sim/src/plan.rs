//! What will happen in a world: its settings, and who does what when. Drawn from a seed as a whole before anything
//! begins, so that it can be told, and made shorter.

mod chance;
mod consequence;
mod scene;

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::network::Sky;

/// One world's plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What it was drawn from, and what everything is drawn from that happens by chance.
    pub seed: u64,
    /// How operators and Vault are set up.
    pub setup: Setup,
    /// What is done, in its order, each after a wait.
    pub acts: Vec<(Duration, Act)>,
}

/// How operators and Vault are set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that do not depend on each other"
)]
pub struct Setup {
    /// `--adopt`.
    #[serde(deserialize_with = "kept")]
    pub adopt: Word,
    /// `--deletion-policy`.
    #[serde(deserialize_with = "kept")]
    pub deletion: Word,
    /// `--finalizers`.
    pub finalizers: bool,
    /// `--namespace-isolation`.
    #[serde(deserialize_with = "kept")]
    pub isolation: Word,
    /// `--leader-elect`.
    pub election: bool,
    /// How many pods the first cluster has. More than one needs an election.
    pub pods: usize,
    /// How many clusters share the Vault, without a prefix for each: so they meet.
    pub clusters: usize,
    /// The version of the mount `secret`.
    pub kv: u8,
    /// Whether the policy says nothing of metadata.
    pub claimless: bool,
    /// How far the clocks of the pods are wrong, in milliseconds.
    pub skew: Vec<i64>,
    /// `VAULT_CLIENT_TIMEOUT`, in seconds: where it is short, slow writes land after nobody waits for them.
    pub timeout: u8,
    /// How many seconds logins take to begin with.
    pub login: u8,
    /// Whether the kubelet asks for readiness.
    pub probes: bool,
    /// Whether somebody reads the logs.
    pub logs: bool,
    /// Whether everything is looked at anew in the end; else what is remembered must be right.
    pub forced: bool,
    /// How long nobody does anything before everything is mended.
    pub calm: Duration,
}

/// A flag's value, or an annotation's.
pub type Word = &'static str;

/// A name among few, so that people meet: namespaces, Secrets, sources and paths.
pub type Few = u8;

/// The namespaces.
pub const NAMESPACES: [&str; 2] = ["shop", "bank"];
/// The Secrets of each.
pub const SECRETS: [&str; 3] = ["db", "api", "mq"];
/// The sources of each: the first two are Deployments, the others annotated Secrets.
pub const SOURCES: [&str; 4] = ["web", "job", "own", "two"];
/// The paths that sources ask for. The third lies below the first.
pub const PATHS: [&str; 3] = ["a", "b", "a/db"];

/// The paths at which people do something by hand. The last is where a write in the way of KV v2 ends up on KV v1.
pub const BY_HAND: [&str; 4] = ["a", "b", "a/db", "data/a"];

/// One of the sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Who {
    /// Its cluster.
    pub cluster: usize,
    /// Of [`NAMESPACES`].
    pub namespace: Few,
    /// Of [`SOURCES`].
    pub name: Few,
}

/// Something that somebody does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Act {
    /// A Secret gets a new value, and is created if it is not there.
    Rotate(usize, Few, Few),
    /// A Secret is deleted.
    DropSecret(usize, Few, Few),
    /// A source is created, or made anew as this.
    Apply(Who, Wanted),
    /// One annotation is set, or taken away.
    Annotate(
        Who,
        #[serde(deserialize_with = "kept")] Word,
        #[serde(deserialize_with = "maybe_kept")] Option<Word>,
    ),
    /// A source asks for another path.
    Move(Who, Few),
    /// A source is deleted.
    Remove(Who),
    /// Somebody takes the finalizers off.
    Strip(Who),
    /// Somebody does something with a document by hand.
    Hand(Document, Hand),
    /// Somebody deletes the ledger's ConfigMaps.
    LoseLedger(usize),
    /// Somebody edits a line of the ledger.
    EditLedger(usize, Edit),
    /// The mount is made anew, as this version.
    Remount(u8),
    /// The policy denies something, or nothing any more.
    Policy(Denied),
    /// Vault is sealed.
    Seal,
    /// Vault is unsealed.
    Unseal,
    /// Somebody revokes the operators' tokens.
    Revoke,
    /// A process ends where it stands.
    Kill(usize),
    /// A process is asked to end.
    Stop(usize),
    /// Logins take so many seconds from now on.
    SlowLogins(u8),
    /// The wires fare so from now on.
    Weather(Wires, Sky),
    /// All watches end.
    CutWatches(usize),
    /// An API server forgets history.
    Compact(usize),
}

/// What a source asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// Of [`PATHS`]; `None`: it is no source.
    pub path: Option<Few>,
    /// The Secrets that its pods use, as bits.
    pub uses: u8,
    /// Whether it lists them, to be one document.
    pub lists: bool,
    /// `vault-sync.io/adopt: "true"`.
    pub adopt: bool,
}

/// A document that people know: of a path, and of a Secret in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Document {
    /// Of [`BY_HAND`].
    pub path: Few,
    /// Of [`SECRETS`]; `None`: the path itself.
    pub secret: Option<Few>,
}

impl Document {
    /// Its path in the mount.
    pub fn path(self) -> String {
        let path = BY_HAND[usize::from(self.path)];
        match self.secret {
            Some(secret) => format!("{path}/{}", SECRETS[usize::from(secret)]),
            None => path.to_owned(),
        }
    }
}

/// What people do with documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Hand {
    /// Write something of their own.
    Write,
    /// Write what a source would.
    Copy,
    /// Delete the latest version.
    Delete,
    /// Bring the latest version back.
    Undelete,
    /// Destroy the latest version.
    Destroy,
    /// Delete it with all its versions.
    Purge,
    /// Put another tool's mark on it.
    Mark,
    /// Take all marks off.
    Unmark,
    /// As another tool that manages documents: write its own content, and put its mark on it.
    Manage,
}

/// What somebody makes of a line of the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Edit {
    /// Nothing.
    Drop,
    /// Something that is no line.
    Garble,
    /// The same of another source.
    Give,
}

/// What the policy denies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Denied {
    /// Nothing that the operator needs.
    Nothing,
    /// Everything.
    Everything,
    /// To write.
    Writes,
    /// To delete.
    Deletes,
    /// What is below the first path.
    OnePath,
}

/// Which wires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Wires {
    /// To the API servers.
    Kubernetes,
    /// To Vault.
    Vault,
}

/// A word of a plan, which is kept until the process ends.
fn kept<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    let word = String::deserialize(deserializer)?;
    Ok(word.leak())
}

fn maybe_kept<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Word>, D::Error> {
    let word = Option::<String>::deserialize(deserializer)?;
    Ok(word.map(|word| &*word.leak()))
}
