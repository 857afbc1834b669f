//! What will happen in a world: its settings, and who does what when. Drawn from a seed as a whole before anything
//! begins, so that it can be told, and made shorter.

use std::time::Duration;

use fastrand::Rng;
use serde::{Deserialize, Deserializer, Serialize};

use crate::network::Sky;
use crate::people::is_secret;

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

impl Plan {
    /// The plan of this seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let setup = Setup::draw(&mut rng);
        let mut acts = beginning(&setup, &mut rng);
        // Not everything in every world: a few things, often, meet in ways that many, seldom, do not.
        let themes: Vec<bool> = (0..THEMES).map(|_| rng.bool()).collect();
        let length = rng.usize(4..40);
        while acts.len() < length {
            // What was done once is done again: so things happen to the same few.
            if rng.u8(..4) == 0 {
                let again = acts[rng.usize(..acts.len())].1.clone();
                acts.push((pause(&mut rng), again));
                continue;
            }
            let theme = rng.usize(..THEMES);
            if !themes[theme] && rng.u8(..10) > 0 {
                continue;
            }
            if let Some(act) = draw(theme, &setup, &mut rng) {
                let follows = consequence(&act, &mut rng);
                acts.push((pause(&mut rng), act));
                acts.extend(follows);
            }
        }
        Self { seed, setup, acts }
    }
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

impl Setup {
    fn draw(rng: &mut Rng) -> Self {
        let clusters = if rng.u8(..5) == 0 { 2 } else { 1 };
        let election = rng.u8(..4) == 0;
        let pods = if election { rng.usize(1..3) } else { 1 };
        let skew = |rng: &mut Rng| match rng.u8(..6) {
            0 => rng.i64(-120_000..120_000),
            1 => rng.i64(-3_000..3_000),
            _ => 0,
        };
        Self {
            adopt: ["never", "never", "equal", "annotated", "all"][rng.usize(..5)],
            deletion: ["soft", "soft", "purge", "purge", "retain"][rng.usize(..5)],
            finalizers: rng.u8(..4) > 0,
            isolation: ["off", "off", "off", "prefix", "enforce"][rng.usize(..5)],
            election,
            pods,
            clusters,
            kv: if rng.u8(..5) == 0 { 1 } else { 2 },
            claimless: rng.u8(..5) == 0,
            skew: (0..pods + clusters).map(|_| skew(rng)).collect(),
            timeout: [60, 60, 60, 2, 5][rng.usize(..5)],
            login: [0, 0, 0, 0, 7][rng.usize(..5)],
            probes: rng.u8(..4) == 0,
            logs: rng.u8(..8) == 0,
            forced: rng.bool(),
            calm: Duration::from_secs(if rng.u8(..3) == 0 { 110 } else { 0 }),
        }
    }
}

fn few(rng: &mut Rng, of: usize) -> Few {
    // The first is met most.
    let number = rng.usize(..of);
    u8::try_from(if rng.bool() { number } else { 0 }).unwrap_or(0)
}

fn who(setup: &Setup, rng: &mut Rng) -> Who {
    Who {
        cluster: rng.usize(..setup.clusters),
        namespace: few(rng, NAMESPACES.len()),
        name: u8::try_from(rng.usize(..SOURCES.len())).unwrap_or(0),
    }
}

fn document(rng: &mut Rng) -> Document {
    Document {
        path: few(rng, BY_HAND.len()),
        secret: rng.bool().then(|| few(rng, SECRETS.len())),
    }
}

fn wanted(rng: &mut Rng) -> Wanted {
    Wanted {
        path: (rng.u8(..8) > 0).then(|| few(rng, PATHS.len())),
        uses: rng.u8(1..8),
        lists: rng.u8(..4) == 0,
        adopt: rng.u8(..4) == 0,
    }
}

/// Some Secrets and sources to begin with.
fn beginning(setup: &Setup, rng: &mut Rng) -> Vec<(Duration, Act)> {
    let mut acts = Vec::new();
    for cluster in 0..setup.clusters {
        for secret in 0..2 {
            acts.push((Duration::ZERO, Act::Rotate(cluster, 0, secret)));
        }
    }
    let wanted = Wanted {
        path: Some(0),
        ..wanted(rng)
    };
    acts.push((pause(rng), Act::Apply(who(setup, rng), wanted)));
    acts
}

/// How long nobody does anything: often hardly at all, so that things meet.
fn pause(rng: &mut Rng) -> Duration {
    let micros = match rng.u8(..10) {
        0..=3 => rng.u64(..3_000),
        4..=5 => rng.u64(..60_000),
        6..=7 => rng.u64(..2_000_000),
        8 => rng.u64(..20_000_000),
        _ => rng.u64(..150_000_000),
    };
    Duration::from_micros(micros)
}

/// What people do right after something: they look whether a change of a Secret still comes through; they rename a
/// source, which is to delete it and to create another; they delete one, and use its document for something else.
fn consequence(act: &Act, rng: &mut Rng) -> Vec<(Duration, Act)> {
    let soon = |rng: &mut Rng| Duration::from_micros(rng.u64(..6_000));
    match act {
        Act::Hand(document, _) if rng.u8(..3) == 0 => {
            let secret = document.secret.unwrap_or(0);
            let rotations = 0..rng.usize(1..3);
            rotations
                .map(|_| {
                    (
                        Duration::from_millis(rng.u64(1..6_000)),
                        Act::Rotate(0, 0, secret),
                    )
                })
                .collect()
        }
        Act::Apply(who, wanted) if rng.u8(..6) == 0 => {
            let settled = Duration::from_millis(rng.u64(20..3_000));
            let other = Who {
                // The other one of its kind.
                name: who.name ^ 1,
                ..*who
            };
            vec![
                (
                    settled,
                    Act::Rotate(who.cluster, who.namespace, few(rng, SECRETS.len())),
                ),
                (soon(rng), Act::Remove(*who)),
                (soon(rng), Act::Apply(other, wanted.clone())),
            ]
        }
        Act::Apply(who, wanted) if rng.u8(..8) == 0 => {
            let settled = Duration::from_millis(rng.u64(20..3_000));
            let uses = wanted.uses.trailing_zeros();
            let document = Document {
                path: wanted.path.unwrap_or(0),
                secret: (!is_secret(*who) && !wanted.lists).then(|| u8::try_from(uses).unwrap_or(0)),
            };
            let hand = if rng.bool() { Hand::Write } else { Hand::Undelete };
            vec![
                (settled, Act::Remove(*who)),
                (Duration::from_millis(rng.u64(..3_000)), Act::Hand(document, hand)),
            ]
        }
        _ => Vec::new(),
    }
}

const THEMES: usize = 12;

/// One act of a theme; `None`: there is none in this setup.
fn draw(theme: usize, setup: &Setup, rng: &mut Rng) -> Option<Act> {
    let cluster = rng.usize(..setup.clusters);
    let pods = setup.pods + setup.clusters - 1;
    Some(match theme {
        0 | 1 => Act::Rotate(cluster, few(rng, NAMESPACES.len()), few(rng, SECRETS.len())),
        2 => Act::Apply(who(setup, rng), wanted(rng)),
        3 => match rng.u8(..4) {
            0 => Act::Move(who(setup, rng), few(rng, PATHS.len())),
            1 if rng.bool() => Act::Strip(who(setup, rng)),
            _ => Act::Remove(who(setup, rng)),
        },
        4 => {
            let (name, value) = [
                ("deletion-policy", Some("retain")),
                ("deletion-policy", Some("purge")),
                ("deletion-policy", None),
                ("preserve-on-delete", Some("true")),
                ("preserve-on-delete", None),
                ("adopt", Some("true")),
                ("adopt", None),
                ("path", None),
                ("path", Some("../x")),
                ("force-sync", Some("1")),
                ("force-sync", Some("2")),
                ("rotation-check", Some("disabled")),
                ("paused", Some("true")),
                ("paused", None),
                ("paths", Some("x")),
                ("paths", None),
            ][rng.usize(..16)];
            Act::Annotate(who(setup, rng), name, value)
        }
        5 => Act::DropSecret(cluster, few(rng, NAMESPACES.len()), few(rng, SECRETS.len())),
        6 | 7 => {
            let hand = [
                Hand::Write,
                Hand::Write,
                Hand::Copy,
                Hand::Delete,
                Hand::Undelete,
                Hand::Destroy,
                Hand::Purge,
                Hand::Mark,
                Hand::Unmark,
                Hand::Manage,
            ][rng.usize(..10)];
            Act::Hand(document(rng), hand)
        }
        8 => {
            if rng.bool() {
                Act::Kill(rng.usize(..pods))
            } else {
                Act::Stop(rng.usize(..pods))
            }
        }
        9 => {
            let wires = if rng.bool() {
                Wires::Kubernetes
            } else {
                Wires::Vault
            };
            let sky = match rng.u8(..8) {
                0 => Sky::away(true),
                1 => Sky::away(false),
                2 => Sky::slow(),
                3 => Sky::stormy(true),
                4 | 5 => Sky::stormy(false),
                _ => Sky::default(),
            };
            Act::Weather(wires, sky)
        }
        10 => match rng.u8(..8) {
            7 => Act::SlowLogins([0, 2, 7][rng.usize(..3)]),
            0 => Act::Seal,
            1 | 2 => Act::Unseal,
            3 => Act::Revoke,
            4 => Act::Policy(
                [
                    Denied::Everything,
                    Denied::Writes,
                    Denied::Deletes,
                    Denied::OnePath,
                ][rng.usize(..4)],
            ),
            5 => Act::Policy(Denied::Nothing),
            _ if rng.u8(..4) == 0 => Act::Remount(rng.u8(1..3)),
            _ => return None,
        },
        _ => match rng.u8(..8) {
            0 if rng.bool() => Act::LoseLedger(cluster),
            0 => Act::EditLedger(cluster, [Edit::Drop, Edit::Garble, Edit::Give][rng.usize(..3)]),
            1..=4 => Act::CutWatches(cluster),
            _ => Act::Compact(cluster),
        },
    })
}
