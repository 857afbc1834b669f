//! Short scenes: what people do one after the other, where it matters that it is just this, and which would seldom
//! come together by chance. Each is what has gone wrong once, or what a fault of a kind would show in.

use std::time::Duration;

use fastrand::Rng;

use super::chance::few;
use super::{Act, Document, Hand, NAMESPACES, PATHS, SECRETS, Setup, Wanted, Who, Wires};
use crate::network::Sky;

type Acts = Vec<(Duration, Act)>;

/// One of them. It sets up what it needs.
pub(super) fn draw(setup: &mut Setup, rng: &mut Rng) -> Acts {
    let scenes: [fn(&mut Setup, &mut Rng) -> Acts; 10] = [
        a_crash_in_the_middle,
        a_source_is_renamed,
        another_tool_marks_a_document,
        an_older_source_comes_late,
        a_document_is_taken_and_given_back,
        what_somebody_deleted_is_used_again,
        a_mount_is_made_anew_where_somebody_writes,
        a_creation_outlives_its_source,
        another_cluster_takes_a_document,
        a_standby_takes_over_long_after,
    ];
    scenes[rng.usize(..scenes.len())](setup, rng)
}

/// Long enough that what was done is seen to, and that the next object is younger by a second.
fn settled(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.u64(1_100..6_000))
}

/// An annotated Secret, whose document is its own.
fn own(cluster: usize, namespace: u8) -> Who {
    Who {
        cluster,
        namespace,
        name: 2,
    }
}

fn asks(path: u8) -> Wanted {
    Wanted {
        path: Some(path),
        uses: 1,
        lists: false,
        adopt: false,
    }
}

/// Where no claim tells whose a document is, its holder keeps it; age alone gives no title.
fn an_older_source_comes_late(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.claimless = true;
    setup.adopt = "never";
    setup.isolation = "off";
    let path = few(rng, PATHS.len());
    let elsewhere = (path + 1) % 2;
    let (older, holder) = (own(0, 0), own(0, 1));
    let mut acts = vec![
        (Duration::ZERO, Act::Apply(older, asks(elsewhere))),
        (settled(rng), Act::Apply(holder, asks(path))),
        (settled(rng), Act::Move(older, path)),
    ];
    if rng.bool() {
        acts.push((settled(rng), Act::Remove(holder)));
    }
    acts
}

/// Between any two calls, a crash must leave enough behind for the next process.
fn a_crash_in_the_middle(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.kv = 2;
    setup.claimless = false;
    setup.deletion = "soft";
    // Nothing holds the object back: the ledger alone knows of its document.
    setup.finalizers = false;
    let source = own(0, few(rng, NAMESPACES.len()));
    let path = few(rng, PATHS.len());
    let moment = |rng: &mut Rng| Duration::from_micros(rng.u64(..40_000));
    let created = (settled(rng), Act::Apply(source, asks(path)));
    if rng.bool() {
        vec![
            created,
            (moment(rng), Act::Kill(0)),
            (Duration::ZERO, Act::Remove(source)),
        ]
    } else {
        vec![
            created,
            (settled(rng), Act::Remove(source)),
            (moment(rng), Act::Kill(0)),
        ]
    }
}

/// A successor asks for the document of a source that is on its way out.
fn a_source_is_renamed(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.finalizers = true;
    let path = few(rng, PATHS.len());
    let source = own(0, few(rng, NAMESPACES.len()));
    let successor = Who { name: 3, ..source };
    vec![
        (Duration::ZERO, Act::Apply(source, asks(path))),
        (settled(rng), Act::Remove(source)),
        (
            Duration::from_micros(rng.u64(..6_000)),
            Act::Apply(successor, asks(path)),
        ),
    ]
}

/// A document that another tool has marked is overwritten once at most, by what is remembered.
fn another_tool_marks_a_document(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.kv = 2;
    setup.adopt = "never";
    setup.isolation = "off";
    let document = Document {
        path: few(rng, PATHS.len()),
        secret: None,
    };
    let source = own(0, 0);
    let changed = || Act::Apply(source, asks(document.path));
    vec![
        (Duration::ZERO, changed()),
        (settled(rng), Act::Hand(document, Hand::Mark)),
        (Duration::from_secs(rng.u64(3..120)), changed()),
        (settled(rng), changed()),
        (settled(rng), changed()),
    ]
}

/// What a source remembers of its document is not true any more when another has had it meanwhile.
fn a_document_is_taken_and_given_back(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.adopt = if rng.bool() { "annotated" } else { "all" };
    setup.forced = false;
    let namespace = few(rng, NAMESPACES.len());
    let path = few(rng, PATHS.len());
    let holder = own(0, namespace);
    let taker = Who { name: 3, ..holder };
    let adopts = Wanted {
        adopt: true,
        ..asks(path)
    };
    let away = match rng.u8(..3) {
        0 => Act::Remove(taker),
        1 => Act::Move(taker, (path + 1) % 2),
        _ => Act::Annotate(taker, "path", None),
    };
    vec![
        (Duration::ZERO, Act::Apply(holder, asks(path))),
        (settled(rng), Act::Apply(taker, adopts)),
        (settled(rng), away),
    ]
}

/// The versions of somebody else's deleted document are not ours to purge.
fn what_somebody_deleted_is_used_again(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.kv = 2;
    setup.deletion = "purge";
    let document = Document {
        path: few(rng, PATHS.len()),
        secret: None,
    };
    let user = own(0, 0);
    vec![
        (Duration::ZERO, Act::Hand(document, Hand::Write)),
        (settled(rng), Act::Hand(document, Hand::Delete)),
        (settled(rng), Act::Apply(user, asks(document.path))),
        (settled(rng), Act::Remove(user)),
    ]
}

/// A write in the way of KV v2 would end up where somebody keeps something on KV v1.
fn a_mount_is_made_anew_where_somebody_writes(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.kv = 2;
    setup.isolation = "off";
    let secret = few(rng, SECRETS.len());
    let user = Who {
        cluster: 0,
        namespace: 0,
        name: rng.u8(..2),
    };
    let below = Document {
        path: 3,
        secret: Some(secret),
    };
    vec![
        (Duration::ZERO, Act::Rotate(0, 0, secret)),
        (
            Duration::ZERO,
            Act::Apply(
                user,
                Wanted {
                    uses: 1 << secret,
                    ..asks(0)
                },
            ),
        ),
        (settled(rng), Act::Remount(1)),
        (
            Duration::from_millis(rng.u64(..500)),
            Act::Hand(below, Hand::Write),
        ),
        (settled(rng), Act::Rotate(0, 0, secret)),
    ]
}

/// What is created without an answer may stand only after its source has gone.
fn a_creation_outlives_its_source(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.kv = 2;
    setup.claimless = false;
    setup.deletion = "soft";
    setup.timeout = 5;
    let user = own(0, few(rng, NAMESPACES.len()));
    let path = few(rng, PATHS.len());
    // Longer than anybody waits for an answer, and no longer than for what may still land.
    let late = Sky {
        slow: (300, Duration::from_secs(9)),
        ..Sky::default()
    };
    vec![
        (settled(rng), Act::Weather(Wires::Vault, late)),
        (
            Duration::from_millis(rng.u64(..100)),
            Act::Apply(user, asks(path)),
        ),
        (Duration::from_millis(rng.u64(..3_000)), Act::Remove(user)),
        (
            Duration::from_secs(20),
            Act::Weather(Wires::Vault, Sky::default()),
        ),
    ]
}

/// What another cluster has adopted stays when the source goes that had it before.
fn another_cluster_takes_a_document(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.clusters = 2;
    setup.skew.resize(setup.pods + setup.clusters, 0);
    setup.adopt = "all";
    setup.kv = 2;
    setup.claimless = false;
    let path = few(rng, PATHS.len());
    vec![
        (Duration::ZERO, Act::Apply(own(0, 0), asks(path))),
        (settled(rng), Act::Apply(own(1, 0), asks(path))),
        (settled(rng), Act::Remove(own(0, 0))),
    ]
}

/// Who waits for the lease sees sources come and go, and has nothing left of them when it leads.
fn a_standby_takes_over_long_after(setup: &mut Setup, rng: &mut Rng) -> Acts {
    setup.election = true;
    setup.skew.resize(2 + setup.clusters, 0);
    setup.pods = 2;
    let user = Who {
        cluster: 0,
        namespace: 0,
        name: 0,
    };
    vec![
        (
            Duration::from_secs(5),
            Act::Apply(user, asks(few(rng, PATHS.len()))),
        ),
        (settled(rng), Act::Remove(user)),
        (Duration::from_secs(rng.u64(200..400)), Act::Stop(0)),
        (Duration::from_secs(5), Act::Stop(1)),
    ]
}
