use super::*;
use crate::settings::DeletionPolicy;
use crate::source::Kind;
use crate::value::Digester;
use crate::value::{Content, Value};

fn key(namespace: &str, name: &str) -> SourceKey {
    SourceKey {
        kind: Kind::Deployment,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn contender(name: &str, created: i64) -> Contender {
    Contender {
        key: key("shop", name),
        created,
        uid: name.into(),
        annotated: false,
    }
}

fn annotated(name: &str, created: i64) -> Contender {
    Contender {
        annotated: true,
        ..contender(name, created)
    }
}

fn identity() -> Identity {
    Identity {
        cluster: Some("c1".into()),
        cluster_id: "id-1".into(),
        also: vec!["id-old".into()],
    }
}

fn claim(cluster_id: &str, holder: &str) -> Mark {
    Mark::Claimed(Claim {
        cluster: Some("c1".into()),
        cluster_id: cluster_id.into(),
        holder: key("shop", holder),
        adopted: false,
    })
}

/// The claim of a document that has versions from before this cluster.
fn adopted(mark: Mark) -> Mark {
    match mark {
        Mark::Claimed(claim) => Mark::Claimed(Claim {
            adopted: true,
            ..claim
        }),
        other => other,
    }
}

/// What carries this mark was given up at a version.
fn released(version: u64, mark: Mark) -> Mark {
    match mark {
        Mark::Claimed(claim) => Mark::Released(Release {
            claim,
            version,
            retained: false,
        }),
        other => other,
    }
}

fn digest(text: &str) -> Digest {
    // One digester for the whole test process: digests compare only within one.
    static DIGESTER: std::sync::LazyLock<Digester> = std::sync::LazyLock::new(Digester::default);
    DIGESTER.content(&Content::from([("k".to_owned(), Value::from(text))]))
}

fn live(version: u64, content: &str, mark: Mark) -> Observed {
    Observed::Live {
        version,
        created: 100,
        content: Some(digest(content)),
        mark,
    }
}

fn entry(holder: &str, state: State) -> LedgerEntry {
    LedgerEntry {
        holder: key("shop", holder),
        uid: holder.into(),
        state,
        since: 100,
        deletion: DeletionPolicy::Soft,
        base: 0,
        adopted: false,
        claimed: false,
        paused: false,
    }
}

struct Case {
    me: Contender,
    rivals: Vec<Contender>,
    entry: Option<LedgerEntry>,
    seen: Observed,
    version: KvVersion,
    claims: bool,
    adopt: Adopt,
}

fn case(seen: Observed) -> Case {
    Case {
        me: contender("web", 10),
        rivals: vec![],
        entry: None,
        seen,
        version: KvVersion::V2,
        claims: true,
        adopt: Adopt::Equal,
    }
}

/// The source asks for the content "new".
fn decided(case: &Case) -> Result<Step, Owner> {
    let identity = identity();
    let scene = Scene {
        identity: &identity,
        me: &case.me,
        rivals: &case.rivals,
        entry: case.entry.as_ref(),
        seen: &case.seen,
        version: case.version,
        claims: case.claims,
        adopt: case.adopt,
    };
    decide(&scene, digest("new"))
}

#[expect(clippy::unnecessary_wraps, reason = "compared with results")]
fn step(write: Option<Cas>, claim: bool, adopted: bool, creating: bool) -> Result<Step, Owner> {
    Ok(Step {
        write,
        claim,
        title: Title { adopted, creating },
        revives: false,
    })
}

/// The same, of a deleted document that was another cluster's.
fn reviving(step: Result<Step, Owner>) -> Result<Step, Owner> {
    step.map(|step| Step {
        revives: true,
        ..step
    })
}

fn other(name: &str) -> Result<Step, Owner> {
    Err(Owner::Source(key("shop", name)))
}

#[test]
fn what_is_not_there_is_created() {
    assert_eq!(
        decided(&case(Observed::Absent)),
        step(Some(Cas::Version(0)), true, false, true)
    );
    let deleted = Observed::Deleted {
        version: 4,
        mark: claim("id-2", "web"),
    };
    assert_eq!(
        decided(&case(deleted)),
        reviving(step(Some(Cas::Version(4)), true, true, true))
    );
    let on_v1 = Case {
        version: KvVersion::V1,
        claims: false,
        ..case(Observed::Absent)
    };
    assert_eq!(decided(&on_v1), step(Some(Cas::None), false, false, true));
}

#[test]
fn what_differs_is_written_once_and_what_does_not_is_left() {
    let mine = Some(entry("web", State::Written));
    let old = Case {
        entry: mine.clone(),
        ..case(live(3, "old", claim("id-1", "web")))
    };
    assert_eq!(decided(&old), step(Some(Cas::Version(3)), false, false, false));
    let same = Case {
        entry: mine.clone(),
        ..case(live(3, "new", claim("id-1", "web")))
    };
    assert_eq!(decided(&same), step(None, false, false, false));
    let unclaimed = Case {
        entry: mine.clone(),
        ..case(live(3, "new", Mark::Unclaimed))
    };
    assert_eq!(decided(&unclaimed), step(None, true, false, false));
    let no_rights = Case {
        claims: false,
        ..unclaimed
    };
    assert_eq!(decided(&no_rights), step(None, false, false, false));
    let drifted = Case {
        entry: mine,
        ..case(Observed::Deleted {
            version: 3,
            mark: claim("id-1", "web"),
        })
    };
    assert_eq!(
        decided(&drifted),
        step(Some(Cas::Version(3)), false, false, false)
    );
}

#[test]
fn another_clusters_claim_binds_whatever_its_name() {
    let theirs = case(live(3, "new", claim("id-2", "web")));
    assert_eq!(decided(&theirs), Err(Owner::Cluster("c1".into())));
    let all = Case {
        adopt: Adopt::All,
        ..theirs
    };
    assert_eq!(decided(&all), step(None, true, true, false));
    let recovered = case(live(3, "new", claim("id-old", "web")));
    assert_eq!(decided(&recovered), step(None, true, false, false));
    assert_eq!(decided(&case(live(3, "new", Mark::Garbled))), Err(Owner::Unknown));
}

#[test]
fn a_claim_of_this_cluster_binds_while_its_holder_wants_the_document() {
    let held = case(live(3, "old", claim("id-1", "api")));
    assert_eq!(decided(&held), step(Some(Cas::Version(3)), true, false, false));
    let wanted = Case {
        rivals: vec![contender("api", 20)],
        ..held
    };
    assert_eq!(decided(&wanted), other("api"));
    // An unrelated rival changes nothing.
    let unrelated = Case {
        rivals: vec![contender("job", 5)],
        ..case(live(3, "old", claim("id-1", "api")))
    };
    assert!(decided(&unrelated).is_ok());
}

#[test]
fn of_two_that_could_adopt_from_each_other_one_does() {
    let turn = |me: Contender, rival: Contender, adopt| {
        let seen = live(3, "old", claim("id-1", &rival.key.name));
        decided(&Case {
            me,
            rivals: vec![rival],
            adopt,
            ..case(seen)
        })
        .is_ok()
    };
    assert!(turn(annotated("web", 10), contender("api", 5), Adopt::Annotated));
    assert!(!turn(contender("api", 5), annotated("web", 10), Adopt::Annotated));
    assert!(!turn(annotated("web", 10), annotated("api", 5), Adopt::Annotated));
    assert!(turn(annotated("api", 5), annotated("web", 10), Adopt::Annotated));
    assert!(turn(contender("api", 5), contender("web", 10), Adopt::All));
    assert!(!turn(contender("web", 10), contender("api", 5), Adopt::All));
    assert!(!turn(annotated("web", 10), contender("api", 5), Adopt::Equal));
    let elsewhere = Contender {
        key: key("bank", "api"),
        ..contender("api", 5)
    };
    let seen = live(
        3,
        "old",
        Mark::Claimed(Claim {
            holder: elsewhere.key.clone(),
            ..identity().claim(&elsewhere.key, false)
        }),
    );
    let across = Case {
        me: annotated("web", 10),
        rivals: vec![elsewhere],
        adopt: Adopt::Annotated,
        ..case(seen)
    };
    assert!(decided(&across).is_err());
    assert!(
        decided(&Case {
            adopt: Adopt::All,
            ..across
        })
        .is_ok()
    );
}

/// Found by the crash explorer: the claim of who takes a document over fails, and the one who lost it takes it back
/// before that is tried again.
#[test]
fn who_takes_a_document_over_has_it_before_the_claim_says_so() {
    let between = |me: Contender, rival: Contender| {
        decided(&Case {
            me,
            rivals: vec![rival],
            entry: Some(entry("taker", State::Written)),
            adopt: Adopt::Annotated,
            ..case(live(2, "taken", claim("id-1", "web")))
        })
    };
    let (taker, loser) = (annotated("taker", 20), contender("web", 10));
    assert_eq!(between(loser.clone(), taker.clone()), other("taker"));
    assert!(between(taker, loser.clone()).is_ok());
    // One that was handed over, and is wanted again before its heir has written it, goes on with its old holder.
    let handed_over = |me: Contender, rival: Contender| {
        decided(&Case {
            me,
            rivals: vec![rival],
            entry: Some(entry("heir", State::Deleting)),
            ..case(live(2, "old", claim("id-1", "web")))
        })
        .is_ok()
    };
    assert!(handed_over(loser.clone(), contender("heir", 20)));
    assert!(!handed_over(contender("heir", 20), loser));
    // Of a source that another operator watches only the claim knows.
    let unseen = Case {
        rivals: vec![Contender::unseen(&key("shop", "api"))],
        entry: Some(entry("web", State::Written)),
        ..case(live(2, "old", claim("id-1", "api")))
    };
    assert_eq!(decided(&unseen), other("api"));
}

#[test]
fn an_unclaimed_document_is_adopted_only_as_allowed() {
    let found = |content: &str, adopt, me: Contender| {
        decided(&Case {
            me,
            adopt,
            ..case(live(3, content, Mark::Unclaimed))
        })
    };
    let (plain, marked) = (contender("web", 10), annotated("web", 10));
    for adopt in [Adopt::Never, Adopt::Equal, Adopt::Annotated] {
        assert_eq!(found("old", adopt, plain.clone()), Err(Owner::Nobody), "{adopt}");
    }
    assert_eq!(found("new", Adopt::Never, marked.clone()), Err(Owner::Nobody));
    assert_eq!(
        found("new", Adopt::Equal, plain.clone()),
        step(None, true, true, false)
    );
    assert_eq!(found("old", Adopt::Equal, marked.clone()), Err(Owner::Nobody));
    assert_eq!(
        found("old", Adopt::Annotated, marked),
        step(Some(Cas::Version(3)), true, true, true)
    );
    assert_eq!(
        found("old", Adopt::All, plain),
        step(Some(Cas::Version(3)), true, true, true)
    );
}

#[test]
fn another_tools_document_is_taken_over_only_by_someone_who_asks_for_it() {
    let foreign = || live(3, "new", Mark::Foreign("external-secrets".into()));
    let found = |adopt, me: Contender| {
        decided(&Case {
            me,
            adopt,
            ..case(foreign())
        })
    };
    let (plain, marked) = (contender("web", 10), annotated("web", 10));
    let theirs = Err(Owner::Tool("external-secrets".into()));
    for adopt in [Adopt::Never, Adopt::Equal, Adopt::Annotated] {
        assert_eq!(found(adopt, plain.clone()), theirs, "{adopt}");
    }
    assert_eq!(found(Adopt::Equal, marked.clone()), theirs);
    let taken = step(None, true, true, false);
    assert_eq!(found(Adopt::Annotated, marked), taken);
    assert_eq!(found(Adopt::All, plain), taken);
    // Not even what the ledger says that we wrote: the mark is younger.
    let written = Case {
        entry: Some(entry("web", State::Written)),
        ..case(foreign())
    };
    assert_eq!(decided(&written), theirs);
    for deletion in [
        DeletionPolicy::Soft,
        DeletionPolicy::Purge,
        DeletionPolicy::Retain,
    ] {
        let removal = departed(&entry("web", State::Written), &foreign(), KvVersion::V2, deletion);
        assert_eq!(removal, Removal::Disown, "{deletion}");
    }
    // Where it is deleted it binds nobody, but ours must be on it before our content is.
    let deleted = Observed::Deleted {
        version: 4,
        mark: Mark::Foreign("external-secrets".into()),
    };
    assert_eq!(
        decided(&case(deleted)),
        reviving(step(Some(Cas::Version(4)), true, true, true))
    );
}

#[test]
fn versions_from_before_us_are_remembered_by_ledger_and_claim() {
    let deleted = |mark, entry| {
        let case = Case {
            entry,
            ..case(Observed::Deleted { version: 4, mark })
        };
        decided(&case).unwrap().title.adopted
    };
    let written = || Some(entry("web", State::Written));
    let before = |entry: Option<LedgerEntry>| {
        entry.map(|entry| LedgerEntry {
            adopted: true,
            ..entry
        })
    };
    for (what, mark, entry, expected) in [
        ("nobody explains them", Mark::Unclaimed, None, true),
        ("another cluster's", claim("id-2", "web"), None, true),
        ("metadata are hidden", Mark::Unreadable, None, true),
        (
            "an intention explains nothing",
            Mark::Unclaimed,
            Some(entry("web", State::Creating)),
            true,
        ),
        (
            "nobody wrote since we gave it up",
            released(4, claim("id-1", "web")),
            None,
            false,
        ),
        ("somebody did", released(3, claim("id-1", "web")), None, true),
        (
            "another cluster gave it up",
            released(4, claim("id-2", "web")),
            None,
            true,
        ),
        ("our claim does", claim("id-1", "web"), None, false),
        (
            "or one of the cluster before a restore",
            claim("id-old", "api"),
            None,
            false,
        ),
        ("our claim says so", adopted(claim("id-1", "web")), None, true),
        ("the ledger does", Mark::Unreadable, written(), false),
        (
            "the ledger says so",
            claim("id-1", "web"),
            before(written()),
            true,
        ),
        (
            "the claim knows more",
            adopted(claim("id-1", "web")),
            written(),
            true,
        ),
    ] {
        assert_eq!(deleted(mark, entry), expected, "{what}");
    }
    // The ledger is lost, and the claim still tells.
    let lost = case(live(3, "old", adopted(claim("id-1", "web"))));
    assert_eq!(decided(&lost), step(Some(Cas::Version(3)), false, true, false));
    let claimed = decided(&case(live(3, "new", Mark::Unclaimed))).unwrap();
    assert!(claimed.title.adopted);
}

#[test]
fn after_a_write_without_an_answer_only_a_young_first_version_is_ours() {
    let creating = |seen, since| {
        let entry = LedgerEntry {
            since,
            ..entry("web", State::OutcomeUnknown)
        };
        decided(&Case {
            entry: Some(entry),
            ..case(seen)
        })
    };
    let one = live(1, "old", Mark::Unclaimed);
    assert_eq!(
        creating(one.clone(), 100),
        step(Some(Cas::Version(1)), true, false, false)
    );
    assert_eq!(creating(one, 401), Err(Owner::Nobody));
    assert_eq!(creating(live(2, "old", Mark::Unclaimed), 100), Err(Owner::Nobody));
    // Over a deleted document it is the version after that one.
    let over_deleted = |version| {
        let entry = LedgerEntry {
            base: 4,
            adopted: true,
            ..entry("web", State::OutcomeUnknown)
        };
        decided(&Case {
            entry: Some(entry),
            ..case(live(version, "old", Mark::Unclaimed))
        })
    };
    assert_eq!(over_deleted(5), step(Some(Cas::Version(5)), true, true, false));
    for version in [1, 4, 6] {
        assert_eq!(over_deleted(version), Err(Owner::Nobody), "{version}");
    }
}

#[test]
fn a_refused_creation_is_no_title() {
    let (me, intention) = (key("shop", "web"), entry("web", State::Creating));
    let one = live(1, "theirs", Mark::Unclaimed);
    let announced = Case {
        entry: Some(intention.clone()),
        ..case(one.clone())
    };
    assert_eq!(decided(&announced), Err(Owner::Nobody));
    for deletion in [DeletionPolicy::Soft, DeletionPolicy::Purge] {
        let removal = departed(&intention, &one, KvVersion::V2, deletion);
        assert_eq!(removal, Removal::Disown, "{deletion}");
    }
    assert!(is_refuted(&me, &intention));
    assert!(!is_refuted(&key("shop", "api"), &intention));
    // An earlier write of ours may be the one that created it.
    assert!(!is_refuted(&me, &entry("web", State::OutcomeUnknown)));
    assert!(!is_refuted(&me, &entry("web", State::Written)));
    // What an operator that crashed was about to create, it may have created.
    assert_eq!(intention.inherited().state, State::OutcomeUnknown);
    assert_eq!(entry("web", State::Deleting).inherited().state, State::Deleting);
}

#[test]
fn memory_counts_only_while_the_ledger_names_its_source() {
    let me = key("shop", "web");
    assert!(may_trust(&me, Some(&entry("web", State::Written))));
    assert!(!may_trust(&me, Some(&entry("api", State::Written))));
    // It was another's meanwhile, and was handed back.
    assert!(!may_trust(&me, Some(&entry("web", State::Deleting))));
    assert!(!may_trust(&me, None));
}

#[test]
fn without_claims_the_holder_keeps_the_path_and_the_oldest_gets_a_free_one() {
    let v1 = |me: Contender, rival: Contender, holder: Option<&str>, seen: Observed| {
        let entry = holder.map(|name| entry(name, State::Written));
        let case = Case {
            me,
            rivals: vec![rival],
            entry,
            version: KvVersion::V1,
            claims: false,
            ..case(seen)
        };
        decided(&case).is_ok()
    };
    let there = || Observed::Live {
        version: 0,
        created: 0,
        content: Some(digest("old")),
        mark: Mark::Unreadable,
    };
    let (old, young) = (contender("api", 5), contender("web", 10));
    assert!(v1(old.clone(), young.clone(), None, Observed::Absent));
    assert!(!v1(young.clone(), old.clone(), None, Observed::Absent));
    assert!(!v1(old.clone(), young.clone(), Some("web"), there()));
    assert!(v1(young.clone(), old.clone(), Some("web"), there()));
    // Its holder wants it no more.
    assert!(v1(old.clone(), young.clone(), Some("gone"), there()));
    assert!(!v1(young.clone(), old.clone(), Some("gone"), there()));
    // The same second: the UID decides.
    assert!(v1(contender("a", 5), contender("b", 5), None, Observed::Absent));
    assert!(!v1(contender("b", 5), contender("a", 5), None, Observed::Absent));
}

fn departed(entry: &LedgerEntry, seen: &Observed, version: KvVersion, deletion: DeletionPolicy) -> Removal {
    let identity = identity();
    remove(&Departure {
        identity: &identity,
        entry,
        seen,
        version,
        wanted: false,
        claimant_watched: true,
        deletion,
        unsettled: false,
        purged: false,
    })
}

const RETAIN: Removal = Removal::Release {
    version: 3,
    retained: true,
};
const FORGET: Removal = Removal::Release {
    version: 3,
    retained: false,
};

#[test]
fn what_a_source_left_there_it_has_again_when_it_comes_back() {
    let found = |version, retained, mark| {
        let Mark::Claimed(claim) = mark else {
            unreachable!("a claim")
        };
        let release = Release {
            claim,
            version: 3,
            retained,
        };
        decided(&case(live(version, "old", Mark::Released(release))))
    };
    let mine = || claim("id-1", "web");
    assert_eq!(
        found(3, true, mine()),
        step(Some(Cas::Version(3)), true, false, false)
    );
    let nobodys = Err(Owner::Nobody);
    assert_eq!(found(4, true, mine()), nobodys, "somebody has written since");
    for (what, retained, mark) in [
        ("it was deleted, and undeleted by hand", false, mine()),
        ("another source left it", true, claim("id-1", "api")),
        ("another cluster left it", true, claim("id-2", "web")),
    ] {
        assert_eq!(found(3, retained, mark), Err(Owner::Released), "{what}");
    }
}

#[test]
fn what_is_ours_goes_by_the_policy() {
    let written = entry("web", State::Written);
    let found = LedgerEntry {
        adopted: true,
        ..written.clone()
    };
    let mine = live(3, "x", claim("id-1", "web"));
    let v2 = |entry: &LedgerEntry, deletion| departed(entry, &mine, KvVersion::V2, deletion);
    assert_eq!(v2(&written, DeletionPolicy::Soft), Removal::DeleteVersion(3));
    assert_eq!(v2(&written, DeletionPolicy::Purge), Removal::Purge);
    assert_eq!(v2(&written, DeletionPolicy::Retain), RETAIN);
    assert_eq!(v2(&found, DeletionPolicy::Purge), Removal::DeleteVersion(3));
    let by_claim = live(3, "x", adopted(claim("id-1", "web")));
    assert_eq!(
        departed(&written, &by_claim, KvVersion::V2, DeletionPolicy::Purge),
        Removal::DeleteVersion(3)
    );
    let on_v1 = Observed::Live {
        version: 0,
        created: 0,
        content: None,
        mark: Mark::Unreadable,
    };
    let v1 = |entry: &LedgerEntry, deletion| departed(entry, &on_v1, KvVersion::V1, deletion);
    assert_eq!(v1(&written, DeletionPolicy::Soft), Removal::Delete);
    assert_eq!(v1(&written, DeletionPolicy::Retain), Removal::Gone);
    assert_eq!(
        v1(&entry("web", State::OutcomeUnknown), DeletionPolicy::Soft),
        Removal::Orphan
    );
    assert_eq!(
        v1(&entry("web", State::Creating), DeletionPolicy::Soft),
        Removal::Disown
    );
}

#[test]
fn what_is_not_ours_stays() {
    let written = entry("web", State::Written);
    for mark in [claim("id-2", "web"), Mark::Garbled] {
        assert_eq!(
            departed(
                &written,
                &live(3, "x", mark),
                KvVersion::V2,
                DeletionPolicy::Purge
            ),
            Removal::Disown
        );
    }
    let unclaimed = live(2, "x", Mark::Unclaimed);
    assert_eq!(
        departed(&written, &unclaimed, KvVersion::V2, DeletionPolicy::Soft),
        Removal::DeleteVersion(2)
    );
    let creating = entry("web", State::OutcomeUnknown);
    assert_eq!(
        departed(&creating, &unclaimed, KvVersion::V2, DeletionPolicy::Soft),
        Removal::Orphan
    );
    let first = live(1, "x", Mark::Unclaimed);
    assert_eq!(
        departed(&creating, &first, KvVersion::V2, DeletionPolicy::Soft),
        Removal::DeleteVersion(1)
    );
}

#[test]
fn a_delete_is_confirmed_only_when_no_write_can_follow() {
    let (identity, written) = (identity(), entry("web", State::Deleting));
    let gone = Observed::Deleted {
        version: 3,
        mark: claim("id-1", "web"),
    };
    let departure = |seen, wanted, unsettled| Departure {
        identity: &identity,
        entry: &written,
        seen,
        version: KvVersion::V2,
        wanted,
        claimant_watched: true,
        deletion: DeletionPolicy::Soft,
        unsettled,
        purged: false,
    };
    // Its claim goes too: nothing is to be ours only because we once had something there.
    assert_eq!(remove(&departure(&gone, false, false)), FORGET);
    let given_up = Observed::Deleted {
        version: 3,
        mark: released(3, claim("id-1", "web")),
    };
    assert_eq!(remove(&departure(&given_up, false, false)), Removal::Gone);
    assert_eq!(remove(&departure(&Observed::Absent, false, false)), Removal::Gone);
    assert_eq!(remove(&departure(&gone, false, true)), Removal::Watch);
    assert_eq!(remove(&departure(&Observed::Absent, false, true)), Removal::Watch);
    let there = live(3, "x", claim("id-1", "web"));
    assert_eq!(remove(&departure(&there, true, false)), Removal::HandOver);
    assert_eq!(remove(&departure(&there, false, true)), Removal::DeleteVersion(3));
}

#[test]
fn what_stands_after_an_answered_delete_is_not_looked_at() {
    let ours = || claim("id-1", "web");
    let seen = || live(3, "x", ours());
    let deleted = Observed::Deleted {
        version: 3,
        mark: ours(),
    };
    assert_eq!(after(&Removal::DeleteVersion(3), seen()), deleted);
    assert_eq!(after(&Removal::Purge, seen()), Observed::Absent);
    assert_eq!(after(&Removal::Delete, seen()), Observed::Absent);
    // While a late write of ours could arrive, it is looked at all the same.
    let (identity, entry) = (identity(), entry("web", State::Written));
    let late = |purged, mark| {
        remove(&Departure {
            identity: &identity,
            entry: &entry,
            seen: &live(1, "x", mark),
            version: KvVersion::V2,
            wanted: false,
            claimant_watched: true,
            deletion: DeletionPolicy::Purge,
            unsettled: true,
            purged,
        })
    };
    assert_eq!(late(true, Mark::Unclaimed), Removal::Orphan);
    assert_eq!(late(true, ours()), Removal::Orphan);
    assert_eq!(late(false, ours()), Removal::Purge);
}

#[test]
fn a_purge_leaves_versions_that_we_did_not_make() {
    let gone = |mark| Observed::Deleted { version: 3, mark };
    let purged = |entry: &LedgerEntry, mark| {
        departed(entry, &gone(mark), KvVersion::V2, DeletionPolicy::Purge) == Removal::Purge
    };
    let written = entry("web", State::Written);
    let found = LedgerEntry {
        adopted: true,
        ..written.clone()
    };
    assert!(purged(&written, claim("id-1", "web")));
    // A mount without rights on metadata: the version went first, and the purge stays pending.
    assert!(purged(&entry("web", State::Deleting), Mark::Unreadable));
    assert!(!purged(&found, claim("id-1", "web")));
    assert!(!purged(&written, adopted(claim("id-1", "web"))));
    assert!(!purged(&written, claim("id-2", "web")));
    // That very version, and no later one. What can be read there is somebody else's.
    let pending = LedgerEntry {
        base: 3,
        ..entry("web", State::Deleting)
    };
    let purge = |seen: &Observed| departed(&pending, seen, KvVersion::V2, DeletionPolicy::Purge);
    let deleted = |version| Observed::Deleted {
        version,
        mark: Mark::Unreadable,
    };
    assert_eq!(purge(&deleted(3)), Removal::Purge);
    assert_eq!(purge(&deleted(4)), Removal::Gone);
    for version in [3, 4] {
        assert_eq!(purge(&live(version, "theirs", Mark::Unreadable)), Removal::Orphan);
    }
    let back = Case {
        entry: Some(pending),
        claims: false,
        ..case(live(4, "theirs", Mark::Unreadable))
    };
    assert_eq!(decided(&back), Err(Owner::Nobody));
    // Written by hand where we had deleted ours.
    let by_hand = live(4, "theirs", released(3, claim("id-1", "web")));
    assert_eq!(decided(&case(by_hand)), Err(Owner::Nobody));
    assert!(!purged(&written, Mark::Foreign("terraform".into())));
    assert!(!purged(&entry("web", State::OutcomeUnknown), Mark::Unclaimed));
}

#[test]
fn a_mark_that_was_not_there_before_a_write_is_heard_of() {
    let tool = |name: &str| Mark::Foreign(name.to_owned());
    let own = live(1, "ours", claim("id-1", "web"));
    assert!(is_overtaken(&own, &tool("external-secrets")));
    assert!(is_overtaken(&Observed::Absent, &tool("external-secrets")));
    assert!(!is_overtaken(&own, &claim("id-1", "web")));
    assert!(!is_overtaken(&own, &Mark::Unclaimed));
    // It was taken over from this tool; the claim comes after the write.
    let adopted = live(1, "theirs", tool("terraform"));
    assert!(!is_overtaken(&adopted, &tool("terraform")));
    assert!(is_overtaken(&adopted, &tool("external-secrets")));
}

/// Somebody has purged our document and written their own, or taken our claim off.
#[test]
fn what_lacks_the_claim_that_we_had_put_on_it_is_another_document() {
    let marked = |state| LedgerEntry {
        claimed: true,
        ..entry("web", state)
    };
    for deletion in [DeletionPolicy::Soft, DeletionPolicy::Purge] {
        for state in [State::Written, State::Deleting] {
            let seen = live(2, "theirs", Mark::Unclaimed);
            let removal = departed(&marked(state), &seen, KvVersion::V2, deletion);
            assert_eq!(removal, Removal::Orphan, "{state:?} {deletion}");
        }
    }
    // While its source wants it, that is drift: restored, and never purged.
    let drifted = Case {
        entry: Some(marked(State::Written)),
        ..case(live(2, "theirs", Mark::Unclaimed))
    };
    assert_eq!(decided(&drifted), step(Some(Cas::Version(2)), true, true, false));
    // Another cluster has had it meanwhile: its deleted version stays.
    for mark in [claim("id-2", "web"), released(2, claim("id-2", "web"))] {
        let had = Case {
            entry: Some(marked(State::Written)),
            ..case(Observed::Deleted { version: 2, mark })
        };
        assert!(decided(&had).is_ok_and(|step| step.title.adopted));
    }
    let deleted_since = Case {
        entry: Some(marked(State::Written)),
        ..case(Observed::Deleted {
            version: 1,
            mark: Mark::Unclaimed,
        })
    };
    assert_eq!(
        decided(&deleted_since),
        step(Some(Cas::Version(1)), true, true, false)
    );
    let pending = Case {
        entry: Some(marked(State::Deleting)),
        ..case(live(2, "theirs", Mark::Unclaimed))
    };
    assert_eq!(decided(&pending), Err(Owner::Nobody));
    // A purge that waits for its permission purges the version that we deleted, and no other.
    let deleted = |version| Observed::Deleted {
        version,
        mark: released(3, claim("id-1", "web")),
    };
    let purge = |seen: Observed| {
        departed(
            &marked(State::Deleting),
            &seen,
            KvVersion::V2,
            DeletionPolicy::Purge,
        )
    };
    assert_eq!(purge(deleted(3)), Removal::Purge);
    assert_eq!(purge(deleted(4)), Removal::Gone);
    assert_eq!(
        purge(live(3, "undeleted", released(3, claim("id-1", "web")))),
        Removal::Disown
    );
    assert_eq!(
        purge(live(4, "theirs", released(3, claim("id-1", "web")))),
        Removal::Orphan
    );
}

#[test]
fn a_purge_goes_on_after_a_soft_delete() {
    let written = entry("web", State::Deleting);
    let gone = Observed::Deleted {
        version: 3,
        mark: claim("id-1", "web"),
    };
    assert_eq!(
        departed(&written, &gone, KvVersion::V2, DeletionPolicy::Purge),
        Removal::Purge
    );
    assert_eq!(
        departed(&written, &gone, KvVersion::V2, DeletionPolicy::Soft),
        FORGET
    );
}

#[test]
fn new_documents_stand_before_old_ones_go() {
    use Standing::{Missing, Stale, Stands};
    assert!(may_clean([]));
    assert!(may_clean([Stands, Stale]));
    assert!(!may_clean([Stands, Missing]));
}

#[test]
fn the_ledger_comes_before_vault_and_the_claim_after_it() {
    let me = key("shop", "web");
    let step = |write, claim, creating| Step {
        write,
        claim,
        title: Title {
            adopted: false,
            creating,
        },
        revives: false,
    };
    let create = step(Some(Cas::Version(0)), true, true);
    assert_eq!(
        create.course(&me, None),
        [
            Act::Record,
            Act::Finalizer,
            Act::Write(Cas::Version(0)),
            Act::Settle,
            Act::Claim
        ]
    );
    let announced = entry("web", State::Creating);
    assert_eq!(create.course(&me, Some(&announced))[0], Act::Restate);
    let written = entry("web", State::Written);
    let rotate = step(Some(Cas::Version(3)), false, false);
    assert_eq!(
        rotate.course(&me, Some(&written)),
        [Act::Restate, Act::Finalizer, Act::Write(Cas::Version(3))]
    );
    assert_eq!(
        step(None, false, false).course(&me, Some(&written)),
        [Act::Restate]
    );
    // What is deleted can carry another cluster's claim still: ours comes before the content.
    let revive = Step {
        revives: true,
        ..create
    };
    assert_eq!(
        revive.course(&me, None),
        [
            Act::Record,
            Act::Finalizer,
            Act::Claim,
            Act::Write(Cas::Version(0)),
            Act::Settle
        ]
    );
    // What another held, or what was about to be deleted, is stored as ours first.
    assert_eq!(
        rotate.course(&me, Some(&entry("api", State::Written)))[0],
        Act::Record
    );
    assert_eq!(
        rotate.course(&me, Some(&entry("web", State::Deleting)))[0],
        Act::Record
    );
    // By its first version alone a document without a claim is known: that must be stored before a second.
    let unproven = step(Some(Cas::Version(1)), true, false);
    assert_eq!(unproven.course(&me, Some(&written))[0], Act::Record);
}

/// Found by a model checker: the write that takes a document over gets no answer, or is refused, and the
/// source counts the document among those that it has, and gives up its old one for it.
#[test]
fn what_is_taken_over_is_not_there_before_it_is_written() {
    let me = key("shop", "web");
    let wish = Wish {
        holder: &me,
        uid: "u",
        deletion: DeletionPolicy::Soft,
        now: 900,
        base: 0,
        unsettled: true,
    };
    let case = Case {
        entry: Some(entry("gone", State::Written)),
        ..case(live(3, "old", claim("id-1", "gone")))
    };
    let taking = decided(&case).unwrap();
    let before = taking.entry(&wish, case.entry.as_ref());
    assert_eq!((&before.holder, before.state), (&me, State::Deleting));
    assert_eq!(
        taking.course(&me, case.entry.as_ref()),
        [
            Act::Record,
            Act::Finalizer,
            Act::Write(Cas::Version(3)),
            Act::Settle,
            Act::Claim
        ]
    );
    assert_eq!(taking.title.settled(&wish, Some(&before)).state, State::Written);
    let case = Case {
        entry: Some(entry("web", State::Written)),
        ..case
    };
    let rotating = decided(&case).unwrap();
    assert_eq!(rotating.entry(&wish, case.entry.as_ref()).state, State::Written);
}

/// Found by a model checker: a document that was handed over to a source which then asks for something that it
/// cannot have stayed for as long as that lasted.
#[test]
fn a_source_in_trouble_keeps_what_it_had_and_nothing_else() {
    let states = [
        State::Written,
        State::Deleting,
        State::Creating,
        State::OutcomeUnknown,
    ];
    let entries = states.map(|state| (DocumentId::new("secret", state.as_str()), entry("web", state)));
    let desired = [DocumentId::new("secret", "creating")];
    let left = |all| -> Vec<State> {
        leaving(&entries, |id| desired.contains(id), all)
            .map(|(_, entry)| entry.state)
            .collect()
    };
    assert_eq!(
        left(true),
        [State::Written, State::Deleting, State::OutcomeUnknown]
    );
    assert_eq!(left(false), [State::Deleting, State::OutcomeUnknown]);
}

/// Found by a model checker: a document that we had created over another source's deleted one, whose claim
/// was still on it, was forgotten when that source came back.
#[test]
fn what_another_source_may_have_is_not_forgotten() {
    let (me, other) = (key("shop", "web"), key("shop", "api"));
    let announced = entry("web", State::Creating);
    assert!(is_vain(&me, &announced, &Owner::Nobody));
    assert!(is_vain(&me, &announced, &Owner::Cluster("c2".into())));
    assert!(!is_vain(&me, &announced, &Owner::Source(other.clone())));
    assert!(!is_vain(&other, &announced, &Owner::Nobody));
    assert!(!is_vain(
        &me,
        &entry("web", State::OutcomeUnknown),
        &Owner::Nobody
    ));
}

#[test]
fn an_entry_says_what_will_be_true_whatever_comes_next() {
    let me = key("shop", "web");
    let wish = Wish {
        holder: &me,
        uid: "u",
        deletion: DeletionPolicy::Purge,
        now: 900,
        base: 0,
        unsettled: true,
    };
    let title = |creating| Title {
        adopted: false,
        creating,
    };
    let made = |state, since| LedgerEntry {
        uid: "u".into(),
        since,
        deletion: DeletionPolicy::Purge,
        ..entry("web", state)
    };
    // A write of ours may be under way: an old leader's, or one without an answer.
    assert_eq!(title(true).entry(&wish, None), made(State::OutcomeUnknown, 900));
    assert_eq!(
        title(true).entry(&wish, Some(&entry("web", State::OutcomeUnknown))),
        made(State::OutcomeUnknown, 100)
    );
    // Nothing of ours can arrive any more, and nothing is there: a new intention.
    let settled = Wish {
        unsettled: false,
        ..wish
    };
    assert_eq!(
        title(true).entry(&settled, Some(&entry("web", State::OutcomeUnknown))),
        made(State::Creating, 900)
    );
    assert_eq!(title(true).entry(&settled, None), made(State::Creating, 900));
    assert_eq!(
        title(true).entry(&settled, Some(&entry("api", State::Creating))),
        made(State::Creating, 900)
    );
    assert_eq!(
        title(true).entry(&settled, Some(&entry("web", State::Creating))),
        made(State::Creating, 100)
    );
    assert_eq!(
        title(false).entry(&wish, Some(&entry("web", State::Written))),
        made(State::Written, 100)
    );
    assert_eq!(
        title(true).settled(&wish, Some(&entry("web", State::Creating))),
        made(State::Written, 900)
    );
}

#[test]
fn a_document_that_was_being_taken_over_goes_with_its_new_holder() {
    // The ledger says web; a crash came before the claim did, and api is gone or elsewhere.
    let between = live(3, "x", claim("id-1", "api"));
    assert_eq!(
        departed(
            &entry("web", State::Written),
            &between,
            KvVersion::V2,
            DeletionPolicy::Soft
        ),
        Removal::DeleteVersion(3)
    );
}

#[test]
fn what_an_unseen_holder_claims_stays() {
    let (identity, written) = (identity(), entry("web", State::Written));
    let seen = live(3, "x", claim("id-1", "api"));
    let departure = |claimant_watched| Departure {
        identity: &identity,
        entry: &written,
        seen: &seen,
        version: KvVersion::V2,
        wanted: false,
        claimant_watched,
        deletion: DeletionPolicy::Soft,
        unsettled: false,
        purged: false,
    };
    assert_eq!(remove(&departure(true)), Removal::DeleteVersion(3));
    assert_eq!(remove(&departure(false)), Removal::Disown);
    // Nor is it taken over, unless everything may be.
    let held = Case {
        rivals: vec![Contender::unseen(&key("shop", "api"))],
        ..case(seen.clone())
    };
    assert_eq!(decided(&held), other("api"));
    assert!(
        decided(&Case {
            adopt: Adopt::All,
            ..held
        })
        .is_ok()
    );
}

#[test]
fn only_a_whole_claim_on_a_live_document_proves_anything() {
    let proven = |seen: Observed| proof(&identity(), &key("shop", "web"), &seen).is_some();
    assert!(proven(live(3, "x", claim("id-1", "web"))));
    for mark in [
        claim("id-1", "api"),
        claim("id-2", "web"),
        claim("id-old", "web"),
        Mark::Unclaimed,
        Mark::Garbled,
    ] {
        assert!(!proven(live(3, "x", mark)));
    }
    assert!(!proven(Observed::Deleted {
        version: 3,
        mark: claim("id-1", "web")
    }));
    assert!(!proven(Observed::Absent));
}
