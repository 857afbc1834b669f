use super::*;

fn ask(pairs: &[(&str, &str)]) -> Ask {
    parse(
        &pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

fn warnings(pairs: &[(&str, &str)]) -> Vec<String> {
    ask(pairs).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn an_unknown_annotation_is_reported_with_the_nearest_known_one_and_retains() {
    for (name, words) in [
        (
            "preserve-on-deletion",
            "vault-sync.io/preserve-on-deletion is not a known annotation; did you mean vault-sync.io/preserve-on-delete? \
             Until it is corrected or removed, documents are retained.",
        ),
        (
            "Path",
            "vault-sync.io/Path is not a known annotation; did you mean vault-sync.io/path? \
             Until it is corrected or removed, documents are retained.",
        ),
        (
            "owner",
            "vault-sync.io/owner is not a known annotation; the known ones are adopt, deletion-policy, encoding, \
             force-sync, path, paused, preserve-on-delete, reconcile, rotation-check, secrets. \
             Until it is corrected or removed, documents are retained.",
        ),
    ] {
        let pairs = [("path", "secret/a"), ("deletion-policy", "purge"), (name, "")];
        assert_eq!(warnings(&pairs), [words]);
        let asked = ask(&pairs);
        assert_eq!(asked.problems, []);
        assert_eq!(asked.deletion, Some(DeletionPolicy::Retain));
        assert_eq!(asked.path.as_deref(), Some("secret/a"));
    }
    assert_eq!(
        warnings(&[("path", "secret/a"), ("secret-versions", "{}")]),
        [] as [&str; 0]
    );
}

#[test]
fn a_name_that_is_nearly_ours_is_reported_with_the_one_that_was_meant_and_retains() {
    let kept = |full: &str| {
        keep(
            [(&full.to_owned(), &"v".to_owned())].into_iter(),
            &OnTemplate::default(),
        )
    };
    for full in [
        "Vault-Sync.io/path",
        "vaultsync.io/path",
        "vault-synch.io/Path",
        "valut-sync.io/pth",
    ] {
        let kept = kept(full);
        assert!(are_meant_for_us(&kept), "{full}");
        let asked = parse(&kept);
        let words: Vec<_> = asked.warnings.iter().map(ToString::to_string).collect();
        let expected = format!(
            "{full} is not a known annotation; did you mean vault-sync.io/path? \
             Until it is corrected or removed, documents are retained."
        );
        assert_eq!(words, [expected]);
        assert_eq!(asked.deletion, Some(DeletionPolicy::Retain));
    }
    for theirs in [
        "vault.io/path",
        "sync.io/path",
        "app.io/path",
        "path",
        "vaultsync.io/owner",
    ] {
        assert_eq!(kept(theirs), BTreeMap::new(), "{theirs}");
    }
}

#[test]
fn without_a_path_what_has_no_effect_is_reported() {
    let pairs = [
        ("secrets", "[]"),
        ("preserve-on-delete", "true"),
        ("secret-versions", "{}"),
    ];
    assert_eq!(
        warnings(&pairs),
        [
            "without vault-sync.io/path nothing is brought to Vault, and vault-sync.io/preserve-on-delete, \
             vault-sync.io/secrets have no effect; set the path, or remove what else is set"
        ]
    );
    assert_eq!(warnings(&[("secret-versions", "{}")]), [] as [&str; 0]);
}

#[test]
fn only_a_word_that_is_known_says_whether_versions_are_remembered() {
    for (text, trust, words) in [
        ("disabled", false, None),
        ("enabled", true, None),
        ("", true, None),
        (
            "disable",
            true,
            Some(
                "vault-sync.io/rotation-check: \"disable\" is not allowed; use enabled or disabled. It counts as enabled.",
            ),
        ),
    ] {
        let pairs = [("path", "secret/a"), ("rotation-check", text)];
        assert_eq!(ask(&pairs).trust, trust, "{text}");
        assert_eq!(warnings(&pairs), words.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn an_annotation_on_the_pod_template_is_reported_and_one_about_deletion_retains() {
    for (name, words, deletion) in [
        (
            "template/path",
            "vault-sync.io/path is on the pod template (spec.template), where it has no effect; \
             move it to the object's own metadata.annotations",
            None,
        ),
        (
            "template/preserve-on-delete",
            "vault-sync.io/preserve-on-delete is on the pod template (spec.template), where it has no effect; \
             move it to the object's own metadata.annotations. Until it is corrected or removed, documents are retained.",
            Some(DeletionPolicy::Retain),
        ),
        (
            "template/nearly/Vault-Sync.io/path",
            "Vault-Sync.io/path, on the pod template (spec.template), is not a known annotation; \
             did you mean vault-sync.io/path? Until it is corrected or removed, documents are retained.",
            Some(DeletionPolicy::Retain),
        ),
        (
            "template/preserve-on-deletion",
            "vault-sync.io/preserve-on-deletion, on the pod template (spec.template), is not a known annotation; \
             did you mean vault-sync.io/preserve-on-delete? Until it is corrected or removed, documents are retained.",
            Some(DeletionPolicy::Retain),
        ),
    ] {
        assert_eq!(warnings(&[(name, "")]), [words]);
        assert_eq!(ask(&[(name, "")]).deletion, deletion, "{name}");
    }
}

#[test]
fn of_an_objects_annotations_what_is_ours_is_kept_in_bounds() {
    let own = |names: &[&str]| -> BTreeMap<String, String> {
        let pair = |name: &&str| (format!("vault-sync.io/{name}"), "value".to_owned());
        names.iter().map(pair).collect()
    };
    let template: OnTemplate = serde_json::from_str(
        r#"{"vault-sync.io/path": "p", "vault-sync.io/secrets": null, "vault-sync.io/x": "y", "other": {"a": 1},
            "vault-sync.io/secret-versions": "{}", "vaultsync.io/path": "p"}"#,
    )
    .unwrap();
    let mut all = own(&["path", "Path"]);
    all.insert("app.io/path".into(), "theirs".into());
    let kept: Vec<_> = keep(all.iter(), &template).into_iter().collect();
    let kept: Vec<_> = kept.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        kept,
        [
            ("Path", ""),
            ("path", "value"),
            ("template/nearly/vaultsync.io/path", ""),
            ("template/secrets", ""),
            ("template/x", "")
        ]
    );
    let many: Vec<String> = (0..300).map(|n| format!("x{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let kept = keep(own(&many).iter(), &OnTemplate::default());
    assert_eq!(kept.len(), 9);
    let told = parse(&kept).warnings;
    assert_eq!(told.len(), 9);
    assert_eq!(
        told[8].to_string(),
        "further annotations with vault-sync.io/ in front are not known. \
         Until it is corrected or removed, documents are retained."
    );
    assert!(are_meant_for_us(&kept));
    assert!(!are_meant_for_us(&keep(
        own(&["secret-versions"]).iter(),
        &OnTemplate::default()
    )));
}

#[test]
fn periods() {
    for (text, period) in [
        ("off", None),
        ("", None),
        ("0", None),
        ("90s", Some(90)),
        ("1.5h", Some(5400)),
        ("1h30m", Some(5400)),
        ("1s", Some(30)),
        ("8760h", Some(31_536_000)),
    ] {
        assert_eq!(
            ask(&[("path", "secret/a"), ("reconcile", text)]).recheck,
            period.map(Duration::from_secs),
            "{text}"
        );
    }
    let bad = ask(&[("path", "secret/a"), ("reconcile", "often")]);
    assert_eq!(bad.recheck, None);
    assert_eq!(
        bad.warnings[0].to_string(),
        "vault-sync.io/reconcile: \"often\" is not allowed; use off, or a duration up to 8760h, such as 90s or 1h30m. It counts as off."
    );
    for long in ["8761h", "2562047h", "1e30h", "99999999999999999999s", "-1s"] {
        let bad = ask(&[("path", "secret/a"), ("reconcile", long)]);
        assert_eq!((bad.recheck, bad.warnings.len()), (None, 1), "{long}");
    }
}

#[test]
fn what_cannot_be_read_about_deletion_retains() {
    for (annotations, wanted) in [
        (vec![], None),
        (vec![("preserve-on-delete", "true")], Some(DeletionPolicy::Retain)),
        (vec![("preserve-on-delete", "false")], None),
        (vec![("preserve-on-delete", "yes")], Some(DeletionPolicy::Retain)),
        (vec![("deletion-policy", "purge")], Some(DeletionPolicy::Purge)),
        (vec![("deletion-policy", "PURGE")], Some(DeletionPolicy::Retain)),
        (
            vec![("deletion-policy", "purge"), ("preserve-on-delete", "true")],
            Some(DeletionPolicy::Retain),
        ),
        (
            vec![("deletion-policy", "soft"), ("preserve-on-delete", "false")],
            Some(DeletionPolicy::Soft),
        ),
    ] {
        assert_eq!(ask(&annotations).deletion, wanted, "{annotations:?}");
    }
}

#[test]
fn an_unclear_pause_pauses() {
    assert!(!ask(&[]).paused);
    assert!(ask(&[("paused", "true")]).paused);
    let unclear = ask(&[("paused", "yes")]);
    assert!(unclear.paused);
    assert_eq!(unclear.problems.len(), 1);
    assert_eq!(
        ask(&[("paused", "true\u{200b}")]).problems[0].to_string(),
        "vault-sync.io/paused: \"true\\u{200b}\" is not allowed (the text has the invisible character U+200B); \
         use true or false"
    );
}
