//! What people do right after something, so that things meet which seldom would by chance.

use std::time::Duration;

use fastrand::Rng;

use super::chance::{few, pause};
use super::{Act, Document, Hand, SECRETS, SOURCES, Wanted, Who, Wires};
use crate::network::Sky;
use crate::people::is_secret;

/// What people do right after something: they look whether a change of a Secret still comes through; they rename a
/// source, which is to delete it and to create another; they create one for a moment, while Vault is slow; they delete one,
/// and use its document for something else.
pub(super) fn of(act: &Act, rng: &mut Rng) -> Vec<(Duration, Act)> {
    let soon = |rng: &mut Rng| Duration::from_micros(rng.u64(..6_000));
    match act {
        // It is deleted, and a source comes and goes there: what was there before it stays.
        Act::Hand(document, Hand::Write) if document.path < 3 && rng.u8(..4) == 0 => {
            let (who, wanted) = source_of(*document);
            vec![
                (soon(rng), Act::Hand(*document, Hand::Delete)),
                (soon(rng), Act::Apply(who, wanted)),
                (Duration::from_millis(rng.u64(200..4_000)), Act::Remove(who)),
            ]
        }
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
            let other = Who {
                name: who.name ^ 1,
                ..*who
            };
            let within = |rng: &mut Rng, millis: u64| Duration::from_millis(rng.u64(..millis));
            vec![
                (soon(rng), Act::Weather(Wires::Vault, Sky::late())),
                (soon(rng), Act::Apply(other, wanted.clone())),
                (within(rng, 8_000), Act::Remove(other)),
                (within(rng, 20_000), Act::Weather(Wires::Vault, Sky::default())),
            ]
        }
        // The same document, by hand, just before or just after.
        Act::Apply(who, wanted) if rng.u8(..8) == 0 => {
            let meanwhile = Duration::from_micros(rng.u64(..25_000));
            let hand = if rng.bool() { Hand::Write } else { Hand::Copy };
            vec![(meanwhile, Act::Hand(document_of(*who, wanted), hand))]
        }
        Act::Apply(who, wanted) if rng.u8(..8) == 0 => {
            let settled = Duration::from_millis(rng.u64(20..3_000));
            let document = document_of(*who, wanted);
            let hand = if rng.bool() { Hand::Write } else { Hand::Undelete };
            vec![
                (settled, Act::Remove(*who)),
                (Duration::from_millis(rng.u64(..3_000)), Act::Hand(document, hand)),
            ]
        }
        // What is deleted meanwhile is not in what the API server remembers.
        Act::Weather(Wires::Kubernetes, sky) if sky.lost == 1000 && rng.bool() => {
            let who = Who {
                cluster: 0,
                namespace: 0,
                name: few(rng, SOURCES.len()),
            };
            vec![
                (soon(rng), Act::Remove(who)),
                (soon(rng), Act::Compact(0)),
                (pause(rng), Act::Weather(Wires::Kubernetes, Sky::default())),
            ]
        }
        // Where a write in the way of KV v2 would end up, somebody keeps something.
        Act::Remount(1) => {
            let document = Document {
                path: 3,
                secret: Some(0),
            };
            let later = Duration::from_millis(rng.u64(1_200..4_000));
            vec![
                (soon(rng), Act::Hand(document, Hand::Write)),
                (later, Act::Rotate(0, 0, 0)),
            ]
        }
        _ => Vec::new(),
    }
}

/// A source that asks for a document.
fn source_of(document: Document) -> (Who, Wanted) {
    let who = Who {
        cluster: 0,
        namespace: 0,
        name: if document.secret.is_some() { 0 } else { 2 },
    };
    let wanted = Wanted {
        path: Some(document.path),
        uses: 1 << document.secret.unwrap_or(0),
        lists: false,
        adopt: false,
    };
    (who, wanted)
}

/// A document that a source asks for.
fn document_of(who: Who, wanted: &Wanted) -> Document {
    let uses = u8::try_from(wanted.uses.trailing_zeros()).unwrap_or(0);
    Document {
        path: wanted.path.unwrap_or(0),
        secret: (!is_secret(who) && !wanted.lists).then_some(uses),
    }
}
