use super::*;
use crate::annotations;
use crate::document::{DocumentId, KvVersion, Mount};
use crate::settings::tests::settings;
use crate::source::Reference;
use crate::value::Digester;
use std::time::Duration;

fn key(name: &str) -> SourceKey {
    SourceKey {
        kind: Kind::Deployment,
        namespace: "shop".into(),
        name: name.into(),
    }
}

/// One for all, since digests compare only within one.
static DIGESTER: std::sync::LazyLock<Digester> = std::sync::LazyLock::new(Digester::default);

/// Notes a source with these annotations; whom that wakes.
fn observe(index: &mut Index, name: &str, annotations: &[(&str, &str)]) -> Vec<SourceKey> {
    let source = Source {
        key: key(name),
        uid: name.into(),
        created: 1,
        deleting: None,
        finalizer: false,
        annotations: annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        references: Vec::new(),
    };
    let ask = annotations::parse(&source.annotations);
    let print = format!("{annotations:?}");
    index.observe(&source, &ask, DIGESTER.fields([print.as_bytes()].into_iter()))
}

fn listing(index: &mut Index, name: &str, list: &str) -> Vec<SourceKey> {
    observe(index, name, &[("path", "secret/app"), ("secrets", list)])
}

fn index() -> Index {
    let scope = Scope {
        kinds: vec![Kind::Deployment],
        namespaces: vec!["shop".into()],
    };
    Index::new(NamespaceIsolation::Off, scope)
}

#[test]
fn a_secret_that_one_source_fetches_first_still_wakes_those_that_wait_for_it() {
    let mut index = index();
    listing(&mut index, "waits", r#"[{"name": "db"}]"#);
    index.learn_secret("shop", "db", None);
    listing(&mut index, "comes", r#"[{"name": "db"}]"#);
    index.learn_secret("shop", "db", Some("7"));
    assert_eq!(
        index.observe_secret("shop", "db", Some("7")),
        [key("waits"), key("comes")]
    );
}

#[test]
fn a_deletion_that_the_watch_shows_during_a_fetch_is_not_undone_by_it() {
    let mut index = index();
    listing(&mut index, "app", r#"[{"name": "db"}]"#);
    assert_eq!(index.observe_secret("shop", "db", None), [key("app")]);
    index.learn_secret("shop", "db", Some("7"));
    assert!(index.is_missing("shop", "db"));
}

/// Found by a model checker: another source wrote to the document meanwhile, and nobody looked.
#[test]
fn what_a_source_did_not_want_for_a_moment_is_not_remembered() {
    let mut index = index();
    let remembers = |index: &Index| !index.state(&key("app")).unwrap().memory.documents.is_empty();
    listing(&mut index, "app", r#"[{"name": "db"}]"#);
    let mut memory = Memory::default();
    let nothing = Digester::default().fields(std::iter::empty());
    let known = Remembered {
        era: 1,
        version: 1,
        content: nothing,
        inputs: nothing,
    };
    memory.documents.insert(DocumentId::new("secret", "app"), known);
    let uid = index.get(&key("app")).unwrap().uid.clone();
    index.remember(&key("app"), &uid, memory);
    listing(&mut index, "app", r#"[{"name": "db", "keys": ["user"]}]"#);
    assert!(remembers(&index));
    listing(&mut index, "app", r#"[{"name": "other"}]"#);
    assert!(!remembers(&index));
}

#[test]
fn a_source_whose_list_cannot_be_read_loses_nothing_to_another() {
    let mut index = index();
    listing(&mut index, "holds", r#"[{"name": "db"}]"#);
    listing(&mut index, "waits", r#"[{"name": "db"}]"#);
    listing(&mut index, "holds", r#"[{"name": "db"]"#);
    let (id, holder, settings) = (DocumentId::new("secret", "app"), key("holds"), settings());
    let mount = Mount {
        path: "secret".into(),
        version: KvVersion::V2,
    };
    let rivals = index.rivals(&key("waits"), &mount, &id, &[&holder], |key, hint| {
        hint.places(key, &mount, &settings)
    });
    assert_eq!(rivals.len(), 1);
    assert_eq!(rivals[0].key, holder);
}

#[test]
fn a_source_that_asks_for_more_than_it_may_loses_nothing_to_another() {
    let mut index = index();
    listing(&mut index, "holds", r#"[{"name": "db"}]"#);
    listing(&mut index, "waits", r#"[{"name": "db"}]"#);
    observe(&mut index, "holds", &[("path", &"x".repeat(100_000))]);
    let hint = index.get(&key("holds")).unwrap().hint.as_ref().unwrap();
    assert!(hint.path.is_empty() && hint.secrets.is_empty());
    let (id, holder, settings) = (DocumentId::new("secret", "app"), key("holds"), settings());
    let mount = Mount {
        path: "secret".into(),
        version: KvVersion::V2,
    };
    let rivals = index.rivals(&key("waits"), &mount, &id, &[&holder], |key, hint| {
        hint.places(key, &mount, &settings)
    });
    assert_eq!(rivals.len(), 1);
}

#[test]
fn objects_with_a_misspelt_annotation_have_room_in_bounds_and_give_it_back() {
    let mut index = index();
    for number in 0..100 {
        assert!(index.has_room_for_misspelt("shop"));
        observe(&mut index, &format!("stray{number}"), &[("Path", "")]);
    }
    assert!(!index.has_room_for_misspelt("shop"));
    assert!(index.has_room_for_misspelt("other"));
    // Sources that ask for something take none of it.
    listing(&mut index, "web", r#"[{"name": "db"}]"#);
    // One is corrected, one shown again, one goes.
    observe(&mut index, "stray0", &[("path", "secret/app")]);
    observe(&mut index, "stray1", &[("Path", ""), ("pth", "")]);
    assert!(index.has_room_for_misspelt("shop"));
    observe(&mut index, "stray0", &[("Path", "")]);
    assert!(!index.has_room_for_misspelt("shop"));
    index.forget(&key("stray2"));
    assert!(index.has_room_for_misspelt("shop"));
    for number in 0..100 {
        index.bury(&key(&format!("stray{number}")));
    }
    assert!(index.askless.is_empty());
}

#[test]
fn a_source_that_asks_for_something_else_has_its_problems_reported_at_once() {
    const LATER: Duration = Duration::from_mins(50);
    let mut index = index();
    listing(&mut index, "web", r#"[{"name": "db"}]"#);
    let set = |index: &mut Index, repeat_at| {
        let memory = Memory {
            repeat_at,
            ..Memory::default()
        };
        index.remember(&key("web"), "web", memory);
    };
    let repeat_at = |index: &Index| index.state(&key("web")).unwrap().memory.repeat_at;
    set(&mut index, Some(LATER));
    let paused = [
        ("path", "secret/app"),
        ("secrets", r#"[{"name": "db"}]"#),
        ("paused", "true"),
    ];
    observe(&mut index, "web", &paused);
    assert_eq!(repeat_at(&index), Some(LATER));
    listing(&mut index, "web", r#"[{"name": "other"}]"#);
    assert_eq!(repeat_at(&index), Some(Duration::ZERO));
    set(&mut index, None);
    listing(&mut index, "web", r#"[{"name": "third"}]"#);
    assert_eq!(repeat_at(&index), None);
}

/// Twenty sources want the same five hundred documents. Each source is resolved once, not once for each document.
#[test]
fn who_wants_a_document_costs_no_more_than_its_sharers() {
    let mut index = index();
    for number in 0..20 {
        let source = Source {
            key: key(&format!("app{number:02}")),
            uid: number.to_string(),
            created: number,
            deleting: None,
            finalizer: false,
            annotations: [("path".to_owned(), "secret/app".to_owned())].into(),
            references: (0..500)
                .map(|at| Reference {
                    secret: format!("s{at}"),
                    optional: false,
                })
                .collect(),
        };
        let ask = annotations::parse(&source.annotations);
        let print = DIGESTER.fields([source.uid.as_bytes()].into_iter());
        index.observe(&source, &ask, print);
    }
    let settings = settings();
    let mount = Mount {
        path: "secret".into(),
        version: KvVersion::V2,
    };
    let resolved = std::cell::Cell::new(0);
    let places = |key: &SourceKey, hint: &Hint| {
        let places = hint.places(key, &mount, &settings)?;
        resolved.set(resolved.get() + places.len());
        Ok(places)
    };
    for at in 0..500 {
        let id = DocumentId::new("secret", format!("app/s{at}"));
        let rivals = index.rivals(&key("app00"), &mount, &id, &[], places);
        assert_eq!(rivals.len(), 19);
    }
    assert_eq!(resolved.get(), 19 * 500);
    // One that changes is resolved anew, and gives the others up with each of them named once.
    let woken = observe(
        &mut index,
        "app07",
        &[("path", "secret/other"), ("secrets", r#"[{"name": "s1"}]"#)],
    );
    assert_eq!(woken.len(), 20);
    let id = DocumentId::new("secret", "app/s1");
    assert_eq!(index.rivals(&key("app00"), &mount, &id, &[], places).len(), 18);
}

#[test]
fn a_standby_keeps_nothing_of_sources_that_are_gone_but_some_last_words() {
    let mut index = index();
    for number in 0..3000 {
        let name = format!("ghost{number}");
        listing(&mut index, &name, r#"[{"name": "db"}]"#);
        index.forget(&key(&name));
    }
    listing(&mut index, "plain", r#"[{"name": "db"}]"#);
    observe(&mut index, "plain", &[]);
    assert!(index.is_empty() && index.secrets.is_empty() && index.neighbours.is_empty());
    assert_eq!(index.states.len(), 1000);
    listing(&mut index, "last", r#"[{"name": "db"}]"#);
    index.forget(&key("last"));
    index.lead(&[key("last")].into());
    assert_eq!(index.states.keys().collect::<Vec<_>>(), [&key("last")]);
    // A leader ends each last word itself, and may need any of them until then.
    for number in 0..3000 {
        let name = format!("ghost{number}");
        listing(&mut index, &name, r#"[{"name": "db"}]"#);
        index.forget(&key(&name));
    }
    assert_eq!(index.states.len(), 3001);
}

/// A namespace of at most ten documents, and Deployments that use so many Secrets.
fn app(index: &mut Index, name: &str, secrets: usize) -> Vec<SourceKey> {
    let source = Source {
        key: key(name),
        uid: name.into(),
        created: 1,
        deleting: None,
        finalizer: false,
        annotations: [("path".to_owned(), format!("secret/{name}"))].into(),
        references: (0..secrets)
            .map(|at| Reference {
                secret: format!("s{at}"),
                optional: false,
            })
            .collect(),
    };
    let ask = annotations::parse(&source.annotations);
    let print = DIGESTER.fields([name.as_bytes(), &secrets.to_le_bytes()].into_iter());
    index.observe(&source, &ask, print)
}

fn refused(index: &Index) -> Vec<(&str, usize)> {
    let mut refused: Vec<_> = index
        .sources
        .iter()
        .filter_map(|(key, tracked)| Some((&*key.name, tracked.refused?)))
        .collect();
    refused.sort_unstable();
    refused
}

#[test]
fn a_namespace_has_its_share_and_those_that_come_last_wait_for_room() {
    let mut index = index().with_most_documents(10);
    for (name, secrets) in [("a", 6), ("b", 4), ("c", 3), ("d", 2)] {
        app(&mut index, name, secrets);
    }
    assert_eq!(refused(&index), [("c", 3), ("d", 2)]);
    assert_eq!(app(&mut index, "c", 3), [], "no news while there is no room");
    app(&mut index, "b", 5);
    assert_eq!(
        refused(&index),
        [("b", 5), ("c", 3), ("d", 2)],
        "it keeps its four"
    );
    assert_eq!(index.documents["shop"], 10);
    let woken = app(&mut index, "a", 3);
    assert_eq!(woken, [key("a"), key("b"), key("d")], "as many as fit");
    app(&mut index, "b", 5);
    app(&mut index, "d", 2);
    assert_eq!(refused(&index), [("c", 3)]);
    for name in ["a", "b", "c", "d"] {
        index.forget(&key(name));
    }
    assert!(index.documents.is_empty());
}

#[test]
fn what_is_remembered_of_a_source_outlives_its_object_until_it_is_buried() {
    let mut index = index();
    index.lead(&HashSet::new());
    listing(&mut index, "web", r#"[{"name": "db"}]"#);
    index.remember(
        &key("web"),
        "web",
        Memory {
            healthy: Some(true),
            ..Memory::default()
        },
    );
    index.remember(&key("web"), "another", Memory::default());
    assert_eq!(
        index.states[&key("web")].memory.healthy,
        Some(true),
        "it was about another object"
    );
    assert_eq!(index.state_mut(&key("web")).count_failure(true), 1);
    index.forget(&key("web"));
    let state = index.state(&key("web")).unwrap();
    assert_eq!((state.memory.healthy, state.failures), (None, 1));
    assert!(state.last_word.is_some());
    listing(&mut index, "web", r#"[{"name": "db"}]"#);
    assert!(index.state(&key("web")).unwrap().last_word.is_none());
    assert_eq!(index.bury(&key("web")).failures, 1);
    assert!(index.states.is_empty() && index.is_empty());
}

#[test]
fn a_deletion_counts_from_when_it_was_seen_first() {
    const AT: fn(u64) -> Duration = Duration::from_secs;
    let mut state = SourceState::default();
    for (uid, now, lasts) in [("u-1", 5, 0), ("u-1", 8, 3), ("u-2", 9, 0), ("u-2", 10, 1)] {
        assert_eq!(state.deleting_for(uid, AT(now)), AT(lasts), "{uid} at {now}");
    }
}
