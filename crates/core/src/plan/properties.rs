//! What holds of every decision, whatever the scene.

use proptest::prelude::*;

use super::*;
use crate::settings::DeletionPolicy;
use crate::source::Kind;
use crate::value::Digester;
use crate::value::{Content, Value};

const ME: &str = "web";

fn key(name: &str) -> SourceKey {
    SourceKey {
        kind: Kind::Deployment,
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn contender(name: &str, created: i64, annotated: bool) -> Contender {
    Contender {
        key: key(name),
        created,
        uid: name.into(),
        annotated,
    }
}

fn identity() -> Identity {
    Identity {
        cluster: Some("c1".into()),
        cluster_id: "id-1".into(),
        also: vec!["id-old".into()],
    }
}

fn digest(text: &str) -> Digest {
    static DIGESTER: std::sync::LazyLock<Digester> = std::sync::LazyLock::new(Digester::default);
    DIGESTER.content(&Content::from([("k".to_owned(), Value::from(text))]))
}

fn marks() -> impl Strategy<Value = Mark> {
    let claim = (
        prop_oneof!["id-1", "id-old", "id-2"],
        prop_oneof![Just(ME), Just("api"), Just("gone")],
        any::<bool>(),
    );
    prop_oneof![
        Just(Mark::Unclaimed),
        Just(Mark::Garbled),
        claim.prop_map(|(cluster_id, holder, adopted)| Mark::Claimed(Claim {
            cluster: None,
            cluster_id,
            holder: key(holder),
            adopted,
        })),
        Just(Mark::Foreign("terraform".into())),
    ]
}

fn seen() -> impl Strategy<Value = Observed> {
    prop_oneof![
        Just(Observed::Absent),
        (1..4u64, marks()).prop_map(|(version, mark)| Observed::Deleted { version, mark }),
        (
            1..4u64,
            90..110i64,
            prop_oneof![Just("old"), Just("new")],
            marks()
        )
            .prop_map(|(version, created, text, mark)| Observed::Live {
                version,
                created,
                content: Some(digest(text)),
                mark
            }),
    ]
}

fn entries() -> impl Strategy<Value = Option<LedgerEntry>> {
    let entry = (
        prop_oneof![Just(ME), Just("api"), Just("gone")],
        0..State::ALL.len(),
        any::<bool>(),
        any::<bool>(),
    );
    proptest::option::of(entry.prop_map(|(holder, state, adopted, claimed)| LedgerEntry {
        holder: key(holder),
        uid: holder.into(),
        state: State::ALL[state],
        since: 100,
        deletion: DeletionPolicy::Soft,
        base: 0,
        adopted,
        claimed,
        paused: false,
    }))
}

fn adopts() -> impl Strategy<Value = Adopt> {
    prop_oneof![
        Just(Adopt::Never),
        Just(Adopt::Equal),
        Just(Adopt::Annotated),
        Just(Adopt::All)
    ]
}

proptest! {
    /// A step that was carried out leaves nothing to do: no decision leads to a second write of the same.
    #[test]
    fn a_step_carried_out_is_the_last(
        seen in seen(), entry in entries(), adopt in adopts(), claims: bool, annotated: bool, rival: bool,
    ) {
        let (identity, me) = (identity(), contender(ME, 10, annotated));
        let rivals: Vec<_> = rival.then(|| contender("api", 5, false)).into_iter().collect();
        let scene = Scene {
            identity: &identity, me: &me, rivals: &rivals, entry: entry.as_ref(), seen: &seen,
            version: KvVersion::V2, claims, adopt,
        };
        let Ok(step) = decide(&scene, digest("new")) else { return Ok(()) };
        let wish = Wish { holder: &me.key, uid: "u", deletion: DeletionPolicy::Soft, now: 100, base: seen.base(), unsettled: false };
        let entry = step.title.settled(&wish, entry.as_ref());
        let mark = match (claims, &seen) {
            (true, _) => Mark::Claimed(identity.claim(&me.key, step.title.adopted)),
            (false, Observed::Live { mark, .. } | Observed::Deleted { mark, .. }) => mark.clone(),
            (false, Observed::Absent) => Mark::Unclaimed,
        };
        let version = seen.version() + u64::from(step.write.is_some());
        let after = Observed::Live { version, created: 100, content: Some(digest("new")), mark };
        let scene = Scene { entry: Some(&entry), seen: &after, ..scene };
        if let Ok(again) = decide(&scene, digest("new")) {
            prop_assert_eq!((again.write, again.claim), (None, false));
        } else {
            // Without claims somebody else's mark may be left on it, which binds again.
            prop_assert!(!claims);
        }
    }

    /// Another cluster's live document, and one whose claim cannot be read, is written only if everything may be.
    #[test]
    fn what_others_claim_is_theirs(
        seen in seen(), entry in entries(), adopt in adopts(), claims: bool, annotated: bool,
    ) {
        let theirs = match &seen {
            Observed::Live { mark: Mark::Claimed(claim), .. } => claim.cluster_id == "id-2",
            Observed::Live { mark: Mark::Garbled, .. } => true,
            Observed::Live { mark: Mark::Foreign(_), .. } => !(annotated && adopt == Adopt::Annotated),
            _ => false,
        };
        let (identity, me) = (identity(), contender(ME, 10, annotated));
        let scene = Scene {
            identity: &identity, me: &me, rivals: &[], entry: entry.as_ref(), seen: &seen,
            version: KvVersion::V2, claims, adopt,
        };
        if theirs && adopt != Adopt::All {
            prop_assert!(decide(&scene, digest("new")).is_err());
        }
    }

    /// A removal never touches what another cluster claims, what cannot be read, or a version that was not seen.
    #[test]
    fn only_what_was_seen_and_is_ours_is_removed(
        seen in seen(), entry in entries(), wanted: bool, claimant_watched: bool, unsettled: bool,
        purged: bool,
        policy in prop_oneof![Just(DeletionPolicy::Soft), Just(DeletionPolicy::Purge), Just(DeletionPolicy::Retain)],
    ) {
        let Some(entry) = entry else { return Ok(()) };
        let identity = identity();
        let removal = remove(&Departure {
            identity: &identity, entry: &entry, seen: &seen, version: KvVersion::V2, wanted, claimant_watched,
            deletion: policy, unsettled, purged,
        });
        let deletes = matches!(removal, Removal::DeleteVersion(_) | Removal::Purge | Removal::Delete);
        match &seen {
            Observed::Live { mark: Mark::Garbled | Mark::Foreign(_), .. } => prop_assert!(!deletes),
            Observed::Live { .. } if purged => prop_assert!(!deletes),
            Observed::Live { mark: Mark::Claimed(claim), .. } if claim.cluster_id == "id-2" => prop_assert!(!deletes),
            Observed::Live { version, .. } => {
                if let Removal::DeleteVersion(deleted) = removal {
                    prop_assert_eq!(deleted, *version);
                }
            }
            Observed::Absent => prop_assert!(!deletes),
            Observed::Deleted { .. } => prop_assert!(!matches!(removal, Removal::DeleteVersion(_) | Removal::Delete)),
        }
        prop_assert!(!(wanted && deletes));
        prop_assert!(!(policy == DeletionPolicy::Retain && deletes));
        let by_claim = matches!(
            &seen,
            Observed::Live { mark: Mark::Claimed(claim), .. } | Observed::Deleted { mark: Mark::Claimed(claim), .. } if claim.adopted
        );
        prop_assert!(!((entry.adopted || by_claim) && removal == Removal::Purge));
        // Nothing that was only intended is deleted, unless a claim proves more. A claim is left on a deleted document too.
        let claimed = matches!(
            &seen,
            Observed::Live { mark: Mark::Claimed(_), .. }
                | Observed::Deleted { mark: Mark::Claimed(_) | Mark::Released(_), .. }
        );
        prop_assert!(!(entry.state == State::Creating && deletes && !claimed));
    }
}
