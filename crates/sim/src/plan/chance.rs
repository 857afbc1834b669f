//! How a plan is drawn from its seed.

use std::time::Duration;

use fastrand::Rng;

use super::consequence::of;
use super::scene;
use super::{
    Act, BY_HAND, Denied, Document, Edit, Few, Hand, NAMESPACES, PATHS, Plan, SECRETS, SOURCES, Setup,
    Wanted, Who, Wires,
};
use crate::network::Sky;

impl Plan {
    /// The plan of this seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut setup = Setup::draw(&mut rng);
        let mut acts = beginning(&setup, &mut rng);
        // Not everything in every world: a few things, often, meet in ways that many, seldom, do not.
        let mut themes: Vec<bool> = (0..THEMES).map(|_| rng.bool()).collect();
        let mut length = rng.usize(4..40);
        if rng.u8(..3) == 0 {
            acts.extend(scene::draw(&mut setup, &mut rng));
            // Little else, and little of that, so that it comes to its end; or much, so that it meets something.
            if rng.bool() {
                length = acts.len() + rng.usize(..3);
                themes.fill(false);
            }
        }
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
                let follows = of(&act, &mut rng);
                acts.push((pause(&mut rng), act));
                acts.extend(follows);
            }
        }
        Self { seed, setup, acts }
    }
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

pub(super) fn few(rng: &mut Rng, of: usize) -> Few {
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
pub(super) fn pause(rng: &mut Rng) -> Duration {
    let micros = match rng.u8(..10) {
        0..=3 => rng.u64(..3_000),
        4..=5 => rng.u64(..60_000),
        6..=7 => rng.u64(..2_000_000),
        8 => rng.u64(..20_000_000),
        _ if rng.bool() => rng.u64(..30_000_000),
        _ => rng.u64(..150_000_000),
    };
    Duration::from_micros(micros)
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
            _ if rng.bool() => Act::Remount(rng.u8(1..3)),
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
