use super::*;

fn payload(pairs: &[(&str, &[u8])]) -> Payload {
    Payload {
        resource_version: "1".into(),
        data: pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Value::new(v.to_vec())))
            .collect(),
    }
}

fn entry(name: &str, keys: &[&str], prefix: &str) -> Entry {
    let keys = keys
        .iter()
        .map(|k| KeyPick {
            from: (*k).into(),
            to: (*k).into(),
        })
        .collect::<Vec<_>>();
    Entry {
        name: name.into(),
        keys: (!keys.is_empty()).then_some(keys),
        prefix: prefix.into(),
        optional: false,
        encoding: None,
    }
}

fn document(entries: Vec<Entry>) -> Wanted {
    Wanted {
        id: DocumentId::new("secret", "app"),
        version: KvVersion::V2,
        entries,
        encoding: Encoding::Auto,
        each: false,
        may_adopt: true,
    }
}

fn made(
    wanted: &Wanted,
    secrets: &[(&str, Payload)],
    limit: Option<usize>,
) -> Result<Vec<(String, String)>, String> {
    let secrets = secrets
        .iter()
        .map(|(name, payload)| ((*name).to_owned(), payload.clone()))
        .collect();
    match assemble(wanted, "shop", secrets, limit) {
        Assembled::Content { content, .. } => Ok(content
            .into_iter()
            .map(|(k, v)| (k, v.expose_text().unwrap().to_owned()))
            .collect()),
        Assembled::Nothing => Ok(vec![]),
        Assembled::Problems(problems) => Err(problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[test]
fn chosen_keys_of_all_entries_are_merged_under_their_prefixes() {
    let mut renamed = entry("b", &[], "");
    renamed.keys = Some(vec![
        KeyPick {
            from: "x".into(),
            to: "y".into(),
        },
        KeyPick {
            from: "x".into(),
            to: "z".into(),
        },
    ]);
    let wanted = document(vec![entry("a", &["k1"], "A_"), renamed, entry("a", &[], "ALL_")]);
    let secrets = [
        ("a", payload(&[("k1", b"1"), ("k2", b"2")])),
        ("b", payload(&[("x", b"3")])),
    ];
    assert_eq!(
        made(&wanted, &secrets, None).unwrap(),
        pairs(&[
            ("ALL_k1", "1"),
            ("ALL_k2", "2"),
            ("A_k1", "1"),
            ("y", "3"),
            ("z", "3")
        ])
    );
}

#[test]
fn what_is_missing_is_named_with_what_there_is() {
    let wanted = document(vec![entry("a", &["k1", "nope"], ""), entry("gone", &[], "")]);
    let secrets = [("a", payload(&[("k1", b"1"), ("k2", b"2")]))];
    assert_eq!(
        made(&wanted, &secrets, None).unwrap_err(),
        "key not found: secret \"a\" has no key \"nope\"; available_keys: [k1, k2]; \
         failed to get secret \"gone\": it does not exist in namespace \"shop\""
    );
}

#[test]
fn two_entries_for_one_key_are_both_named() {
    let wanted = document(vec![entry("a", &["k"], ""), entry("b", &[], "")]);
    let secrets = [("a", payload(&[("k", b"1")])), ("b", payload(&[("k", b"1")]))];
    assert_eq!(
        made(&wanted, &secrets, None).unwrap_err(),
        "key \"k\" of secret/app would come from entry 1 (secret \"a\", key \"k\") and from entry 2 (secret \"b\", key \"k\")"
    );
}

#[test]
fn optional_contributes_nothing_when_it_is_not_there() {
    let mut gone = entry("gone", &[], "");
    gone.optional = true;
    let mut part = entry("a", &["k", "nope"], "");
    part.optional = true;
    let secrets = [("a", payload(&[("k", b"1")]))];
    assert_eq!(
        made(&document(vec![gone.clone(), part]), &secrets, None).unwrap(),
        pairs(&[("k", "1")])
    );
    let alone = Wanted {
        each: true,
        ..document(vec![gone])
    };
    assert!(matches!(
        assemble(&alone, "shop", BTreeMap::new(), None),
        Assembled::Nothing
    ));
}

#[test]
fn nothing_is_mangled() {
    let binary = [("a", payload(&[("k", &[0xff, 0x00]), ("t", "ü".as_bytes())]))];
    let mut wanted = document(vec![entry("a", &[], "")]);
    assert_eq!(
        made(&wanted, &binary, None).unwrap(),
        pairs(&[("k", "/wA="), ("t", "ü")])
    );
    wanted.encoding = Encoding::Base64;
    assert_eq!(
        made(&wanted, &binary, None).unwrap(),
        pairs(&[("k", "/wA="), ("t", "w7w=")])
    );
    wanted.encoding = Encoding::Text;
    assert_eq!(
        made(&wanted, &binary, None).unwrap_err(),
        "secret \"a\" key \"k\" is not UTF-8 text, and encoding is \"text\""
    );
    wanted.entries[0].encoding = Some(Encoding::Base64);
    assert_eq!(
        made(&wanted, &binary, None).unwrap(),
        pairs(&[("k", "/wA="), ("t", "w7w=")])
    );
}

#[test]
fn sizes_and_empty_documents() {
    let secrets = [("a", payload(&[("key", b"12345")]))];
    let mut wanted = document(vec![entry("a", &[], "")]);
    assert!(made(&wanted, &secrets, Some(8)).is_ok());
    assert_eq!(
        made(&wanted, &secrets, Some(7)).unwrap_err(),
        "secret/app would be 8 bytes, more than the allowed 7"
    );
    let empty = [("a", payload(&[]))];
    assert_eq!(made(&wanted, &empty, None).unwrap(), vec![]);
    wanted.version = KvVersion::V1;
    assert_eq!(
        made(&wanted, &empty, None).unwrap_err(),
        "secret/app would have no keys, which a KV v1 mount cannot hold"
    );
}

#[test]
fn a_document_that_grows_too_large_is_counted_and_not_kept() {
    // Forty kilobytes, taken a hundred times over.
    let again: Vec<Entry> = (0..100).map(|n| entry("a", &[], &format!("{n}_"))).collect();
    let secrets = [("a", payload(&[("k", "x".repeat(40_000).as_bytes())]))];
    assert_eq!(
        made(&document(again), &secrets, Some(1000)).unwrap_err(),
        "secret/app would be 4000390 bytes, more than the allowed 1000"
    );
}

#[test]
fn of_a_great_many_problems_the_first_are_told() {
    let data: Vec<(String, Vec<u8>)> = (0..3000).map(|n| (format!("k{n:04}"), vec![0xff])).collect();
    let data: Vec<(&str, &[u8])> = data.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
    let secrets = [("a", payload(&data))];
    let absent: Vec<String> = (0..2000).map(|n| format!("no{n}")).collect();
    let absent: Vec<&str> = absent.iter().map(String::as_str).collect();
    for entries in [
        vec![entry("a", &absent, "")],
        vec![entry("a", &[], ""), entry("a", &[], "")],
    ] {
        let told = made(&document(entries), &secrets, None).unwrap_err();
        assert_eq!(told.matches("secret \"a\"").count() % 20, 0, "{told}");
        assert!(told.len() < 20_000, "{}", told.len());
    }
}

#[test]
fn values_that_no_entry_takes_are_dropped_as_they_are_fetched() {
    let mut some = payload(&[("a", b"1"), ("b", b"22"), ("c", b"333")]);
    keep_picked(
        &document(vec![entry("s", &["a"], ""), entry("s", &["c"], "")]),
        "s",
        &mut some,
    );
    let lengths: Vec<usize> = some.data.values().map(Value::len).collect();
    assert_eq!(lengths, [1, 0, 3]);
    let mut all = payload(&[("a", b"1"), ("b", b"22")]);
    keep_picked(
        &document(vec![entry("s", &["a"], ""), entry("s", &[], "")]),
        "s",
        &mut all,
    );
    assert_eq!(all.data.values().map(Value::len).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn only_a_source_that_asks_for_something_can_ask_wrongly() {
    let mistakes = |path: Option<&str>, deleting| {
        let mut annotations = BTreeMap::from([("pth".to_owned(), String::new())]);
        annotations.extend(path.map(|path| ("path".to_owned(), path.to_owned())));
        let source = Source {
            key: SourceKey {
                kind: Kind::Deployment,
                namespace: "shop".into(),
                name: "web".into(),
            },
            uid: "u-1".into(),
            created: 1,
            deleting,
            finalizer: true,
            annotations,
            references: Vec::new(),
        };
        let ask = crate::annotations::parse(&source.annotations);
        let Mistakes { problems, warnings } = Mistakes::of(&source, &ask);
        (
            problems.len(),
            warnings.len(),
            warnings.contains(&Warning::NothingUsed),
        )
    };
    assert_eq!(mistakes(Some("secret/app"), None), (0, 2, true));
    assert_eq!(mistakes(Some("secret//app"), None), (1, 2, true));
    assert_eq!(mistakes(Some("secret//app"), Some(1)), (0, 1, false));
    assert_eq!(mistakes(None, None), (0, 1, false));
}
