use proptest::prelude::*;

use super::*;
use crate::settings::DeletionPolicy;
use crate::source::Kind;

/// A key that a person can read: what matters is that each document has its own.
fn key_of(id: &DocumentId) -> String {
    format!("{}.{}", id.mount, id.path)
}

fn id(path: &str) -> DocumentId {
    DocumentId::new("secret", path)
}

fn entry(namespace: &str, name: &str, state: State) -> LedgerEntry {
    LedgerEntry {
        holder: SourceKey {
            kind: Kind::Deployment,
            namespace: namespace.into(),
            name: name.into(),
        },
        uid: "u-1".to_owned(),
        state,
        since: 1,
        deletion: DeletionPolicy::Soft,
        base: 0,
        adopted: false,
        claimed: false,
        paused: false,
    }
}

fn empty() -> Store {
    let mut store = Store::new(key_of);
    store.loaded();
    store
}

fn set(path: &str, entry: &LedgerEntry) -> Vec<(DocumentId, Option<LedgerEntry>)> {
    vec![(id(path), Some(entry.clone()))]
}

/// Writes what the first shard has to write.
fn written(store: &mut Store) -> Lines {
    let pending = store.take_pending(0).unwrap();
    store.stored(0, Some("1".to_owned()));
    pending.lines
}

#[test]
fn an_empty_ledger_is_stored_for_its_epoch_alone() {
    let mut store = empty();
    assert!(!store.is_stamped(0));
    let pending = store.take_pending(0).unwrap();
    assert_eq!(pending.name, "vault-sync-operator-ledger-0");
    assert_eq!((pending.version, pending.lines), (None, Lines::new()));
    store.stored(0, Some("7".to_owned()));
    assert!(store.is_stamped(0));
    assert_eq!(store.shard(0), ("vault-sync-operator-ledger-0", Some("7")));
    assert_eq!(store.take_pending(0), None);
}

#[test]
fn what_is_counted_follows_the_entries() {
    let mut store = empty();
    store.apply(set("a", &entry("shop", "web", State::Creating)));
    store.apply(set("b", &entry("shop", "web", State::Written)));
    store.apply(set("c", &entry("shop", "api", State::Written)));
    store.apply(set("d", &entry("team", "web", State::Deleting)));
    let web = entry("shop", "web", State::Written).holder;
    let of = |store: &Store| {
        let found = store.of(&web);
        found
            .into_iter()
            .map(|(id, _)| id.path.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&store), ["a", "b"]);
    assert_eq!((store.documents_in("shop"), store.documents_in("team")), (3, 1));
    assert_eq!(store.count()[&State::Written], 2);
    // It changes hands, and the last of a namespace goes.
    store.apply(set("b", &entry("shop", "api", State::Written)));
    store.apply(vec![(id("d"), None)]);
    assert_eq!(of(&store), ["a"]);
    assert_eq!((store.documents_in("shop"), store.documents_in("team")), (3, 0));
    assert_eq!((store.holders().count(), store.documents()), (2, 3));
}

#[test]
fn only_what_changes_is_news() {
    let mut store = empty();
    let (creating, later) = (
        entry("shop", "web", State::Creating),
        entry("shop", "web", State::Written),
    );
    assert!(store.apply(set("a", &creating)));
    // The same again, while it waits to be stored: whoever asks wants to know when it is.
    assert!(store.apply(set("a", &creating)));
    assert_eq!(written(&mut store).len(), 1);
    assert!(!store.apply(set("a", &creating)));
    assert!(!store.apply(vec![(id("b"), None)]));
    assert!(store.apply(set("a", &later)));
}

#[test]
fn what_could_not_be_stored_does_not_undo_what_came_since() {
    let mut store = empty();
    let (creating, deleting) = (
        entry("shop", "web", State::Creating),
        entry("shop", "web", State::Deleting),
    );
    store.apply(set("a", &creating));
    store.apply(set("b", &creating));
    let failed = store.take_pending(0).unwrap();
    store.apply(set("a", &deleting));
    store.restore(0, failed.lines);
    let expected = [("secret.a", &deleting, "a"), ("secret.b", &creating, "b")];
    let expected = expected.map(|(key, entry, path)| (key.to_owned(), Some(entry.to_line(&id(path)))));
    assert_eq!(written(&mut store), Lines::from(expected));
}

#[test]
fn what_had_no_answer_is_written_again_as_something_else() {
    let mut store = empty();
    written(&mut store);
    store.apply(set("a", &entry("shop", "web", State::Creating)));
    let lost = store.take_pending(0).unwrap();
    assert_eq!((lost.version.as_deref(), lost.unanswered), (Some("1"), 0));
    store.restore_unanswered(0, lost.lines);
    store.apply(vec![(id("a"), None)]);
    let next = store.take_pending(0).unwrap();
    assert_eq!((next.version.as_deref(), next.unanswered), (Some("1"), 1));
    assert_eq!(next.lines, Lines::from([("secret.a".to_owned(), None)]));
    store.stored(0, Some("2".to_owned()));
    assert_eq!(store.take_pending(0), None);
    // With no line left to write, too.
    store.restore_unanswered(0, Lines::new());
    assert_eq!(store.take_pending(0).unwrap().unanswered, 2);
}

#[test]
fn garbage_is_handed_back_and_removed() {
    let good = entry("shop", "web", State::Written);
    let mut store = Store::new(key_of);
    let data = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(key, path)| ((*key).to_owned(), good.to_line(&id(path))));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let version = || Some("1".to_owned());
    assert_eq!(
        store.load("one".to_owned(), version(), data(&[("secret.a", "a")])),
        []
    );
    let mut second = data(&[("secret.a", "a"), ("secret.x", "b")]);
    second.insert("secret.c".to_owned(), "no JSON".to_owned());
    let dropped = store.load("two".to_owned(), version(), second);
    store.loaded();
    let dropped: Vec<_> = dropped
        .iter()
        .map(|dropped| (dropped.key.as_str(), &dropped.why))
        .collect();
    assert!(
        matches!(
            dropped[..],
            [
                ("secret.a", Garbage::Twice(_)),
                ("secret.c", Garbage::Unreadable(_)),
                ("secret.x", Garbage::Misplaced(_))
            ]
        ),
        "{dropped:?}"
    );
    assert_eq!((store.documents(), store.shards()), (1, 2));
    let pending = store.take_pending(1).unwrap();
    assert_eq!((pending.name.as_str(), pending.version), ("two", version()));
    assert!(pending.lines.len() == 3 && pending.lines.values().all(Option::is_none));
    // The good one stays as it is.
    assert_eq!(store.take_pending(0).unwrap().lines, Lines::new());
}

#[test]
fn an_unclean_ledger_is_doubted() {
    let mut store = empty();
    store.apply(set("a", &entry("shop", "web", State::Creating)));
    store.apply(set("b", &entry("shop", "web", State::Written)));
    assert_eq!(store.inherit(), HashSet::from([id("a"), id("b")]));
    assert_eq!(store.get(&id("a")).unwrap().state, State::OutcomeUnknown);
    assert_eq!(store.get(&id("b")).unwrap().state, State::Written);
}

#[test]
fn a_shard_that_somebody_edits_is_stored_anew() {
    let mut store = empty();
    let good = entry("shop", "web", State::Written);
    store.apply(set("a", &good));
    written(&mut store);
    let there = BTreeMap::from([("intruder".to_owned(), "x".to_owned())]);
    store.rewrite(0, Some("9".to_owned()), &there);
    let pending = store.take_pending(0).unwrap();
    assert_eq!(pending.version.as_deref(), Some("9"));
    let expected = [("intruder", None), ("secret.a", Some(good.to_line(&id("a"))))];
    assert_eq!(
        pending.lines,
        Lines::from(expected.map(|(key, line)| (key.to_owned(), line)))
    );
}

#[test]
fn a_full_shard_is_followed_by_another_whose_creation_is_guarded() {
    let mut store = empty();
    let mut wordy = entry("shop", "web", State::Written);
    wordy.uid = "u".repeat(1024);
    let mut number = 0;
    while store.shards() == 1 {
        store.apply(set(&format!("app/{number}"), &wordy));
        // Also when the second is made: nothing of the first changes then, but to write it shows who leads.
        written(&mut store);
        number += 1;
    }
    assert!((15..25).contains(&number), "{number}");
    assert_eq!(store.shard(1), ("vault-sync-operator-ledger-1", None));
    store.apply(set("other", &wordy));
    assert_eq!(store.take_pending(1).unwrap().lines.len(), 2);
    // When there is room in it again, it is used again.
    for number in 0..10 {
        store.apply(vec![(id(&format!("app/{number}")), None)]);
    }
    store.apply(set("another", &wordy));
    assert!(
        store
            .take_pending(0)
            .unwrap()
            .lines
            .contains_key("secret.another")
    );
}

proptest! {
    /// Whatever changes, and whichever writes fail: what is stored in the end is what the ledger says, and
    /// another process reads the same from it.
    #[test]
    fn what_is_stored_is_what_it_says(
        steps in prop::collection::vec((0..6_u8, 0..5_usize, any::<bool>()), 1..60),
    ) {
        let mut store = empty();
        let mut there = BTreeMap::new();
        let mut store_all = |store: &mut Store, works: bool| {
            let Some(pending) = store.take_pending(0) else { return };
            if !works {
                return store.restore(0, pending.lines);
            }
            for (key, line) in pending.lines {
                match line {
                    Some(line) => there.insert(key, line),
                    None => there.remove(&key),
                };
            }
            store.stored(0, Some("1".to_owned()));
        };
        for (document, state, works) in steps {
            let state = State::ALL.get(state);
            let change = state.map(|&state| entry("shop", "web", state));
            store.apply(vec![(id(&format!("app/{document}")), change)]);
            store_all(&mut store, works);
        }
        store_all(&mut store, true);
        let mut read = Store::new(key_of);
        prop_assert_eq!(read.load("one".to_owned(), None, there), []);
        prop_assert_eq!(read.entries, store.entries);
        prop_assert_eq!(read.shards[0].bytes, store.shards[0].bytes);
    }
}
