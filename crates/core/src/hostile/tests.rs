//! Random input, most of it close to what is expected.

use proptest::prelude::*;

use super::*;

/// Every annotation that is read.
const KNOWN: [&str; 11] = [
    "adopt",
    "deletion-policy",
    "encoding",
    "force-sync",
    "path",
    "paused",
    "preserve-on-delete",
    "reconcile",
    "rotation-check",
    "secret-versions",
    "secrets",
];

/// Texts that come close to what is expected, or are far from it.
fn text() -> impl Strategy<Value = String> {
    let tokens = [
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        ":",
        ",",
        "- ",
        "\n",
        "\n  ",
        " ",
        "\t",
        "name",
        "keys",
        "from",
        "to",
        "prefix",
        "optional",
        "encoding",
        "auto",
        "base64",
        "db",
        "true",
        "false",
        "null",
        "~",
        "0",
        "-1",
        "1e999",
        "18446744073709551616",
        "&a ",
        "*a",
        "<<: ",
        "!!binary ",
        "!x ",
        "|\n",
        ">\n",
        "? ",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "\\u0000",
        "\\ud800",
        "\u{0}",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{202e}",
        "ä",
        "🔑",
        "\"name\":\"db\"",
        "{\"name\":\"db\"}",
        "\"keys\":[\"k\"]",
        "secret/data/",
        "..",
        "/",
        "%2e",
    ];
    prop_oneof![
        3 => prop::collection::vec(prop::sample::select(tokens.to_vec()), 0..40).prop_map(|words| words.concat()),
        1 => any::<String>(),
        1 => (prop::collection::vec(prop::sample::select(tokens.to_vec()), 1..4), 1..3000_usize)
            .prop_map(|(words, times)| words.concat().repeat(times)),
    ]
}

/// One of these texts, with a few characters changed.
fn edited(good: Vec<&'static str>) -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..4_u8, any::<char>());
    let edits = prop::collection::vec(edit, 0..6);
    (prop::sample::select(good), edits).prop_map(|(good, edits)| {
        let mut text: Vec<char> = good.chars().collect();
        for (at, how, c) in edits {
            let at = at.index(text.len());
            match how {
                0 => text[at] = c,
                1 => text.insert(at, c),
                2 => text.extend_from_within(at..),
                _ => text.truncate(at.max(1)),
            }
        }
        text.into_iter().collect()
    })
}

/// A list as it should be, with a few characters changed.
fn nearly_a_list() -> impl Strategy<Value = String> {
    edited(vec![
        r#"[{"name":"db","keys":["user",{"from":"pass","to":"password"}],"prefix":"DB_"},{"name":"tls","optional":true,"encoding":"base64","keys":[]}]"#,
        "- name: db\n  keys: [user, {from: pass, to: password}]\n  prefix: DB_\n- {name: tls, optional: true}\n",
    ])
}

/// A ledger's line as it should be, with a few characters changed.
fn nearly_a_line() -> impl Strategy<Value = String> {
    edited(vec![
        r#"{"mount":"secret","path":"clusters/c1/app","kind":"Deployment","namespace":"shop","name":"web","uid":"u-1","state":"outcome-unknown","since":7,"deletion":"retain","adopted":true}"#,
        r#"{"mount":"team/kv","path":"a","kind":"Secret","namespace":"a","name":"b","uid":"","state":"written","since":-1,"deletion":"soft","paused":true}"#,
    ])
}

fn nearly_a_policy() -> impl Strategy<Value = String> {
    edited(vec![
        "- namespaces: [shop, 'team-*']\n  paths: ['secret/shop/*', 'secret/**/x?']\n  adopt: false\n- {namespaces: ['*'], paths: ['secret/*']}\n",
        r#"[{"namespaces":["*"],"paths":["**"]}]"#,
    ])
}

proptest! {
    #[test]
    fn any_annotations_are_read_in_bounds_and_refused_in_words(
        known in prop::collection::btree_map(prop::sample::select(KNOWN.to_vec()), text(), 0..6),
        others in prop::collection::btree_map(any::<String>(), any::<String>(), 0..3),
        references in 0..600_usize,
    ) {
        let known = known.into_iter().map(|(name, value)| (name.to_owned(), value));
        annotations(others.into_iter().chain(known).collect(), references);
    }

    #[test]
    fn any_list_is_read_in_bounds_and_refused_in_words(list in prop_oneof![text(), nearly_a_list()]) {
        let written = BTreeMap::from([("path", "secret/a".to_owned()), ("secrets", list)]);
        annotations(written.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), 0);
    }

    #[test]
    fn any_line_of_the_ledger_is_refused_or_kept_as_it_is(line in prop_oneof![text(), nearly_a_line()]) {
        ledger_line(&line);
    }

    #[test]
    fn any_path_stays_behind_its_fences(
        written in prop_oneof![
            text(),
            "(clusters/c1/)?(secret|team/kv)?/?(data/)?((shop|data|metadata|\\.|\\.\\.|%2e|a|ä|\u{ff0e}|\u{200b}| )/?){0,6}",
        ],
        leaf in prop::option::of("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?"),
        mount in prop::sample::select(vec!["secret", "team/kv", "clusters", "clusters/c1", "", "s"]),
        choices: u8,
    ) {
        path(&written, leaf.as_deref(), mount, choices);
    }

    #[test]
    fn any_policy_is_refused_or_answers(
        file in prop_oneof![text(), nearly_a_policy()],
        namespace in "[a-z*?-]{0,12}",
        own in "[a-z/*?.]{0,40}",
    ) {
        policy(&file, &namespace, "secret", &own);
    }

    #[test]
    fn any_duration_is_refused_or_written_again(text in prop_oneof![text(), "[-+.0-9]{0,30}(h|m|s|ms|us|µs|ns|d)?[0-9.]{0,5}[hms]{0,2}"]) {
        duration(&text);
    }
}

/// Stars multiply the ways in which a glob can match; all of them together are looked at once.
#[test]
fn a_glob_takes_no_exponential_time() {
    let globs = [
        "*a".repeat(200),
        "**a".repeat(200),
        "*?".repeat(200),
        "**/".repeat(200),
    ];
    for glob in globs {
        let file = format!("- namespaces: ['*']\n  paths: ['{glob}b']\n");
        policy(&file, &"a".repeat(63), "secret", &"a".repeat(500));
        policy(&file, &"a".repeat(63), "secret", &"a/".repeat(250));
    }
}

/// As much of one thing as an annotation can hold, which is where parsers of YAML take their time.
#[test]
fn a_quarter_of_a_megabyte_of_anything_is_survived() {
    const ROOM: usize = 256 * 1024;
    for unit in [
        "[",
        "{",
        "[]",
        "{}",
        "- ",
        "-\n",
        "? ",
        ": ",
        "a: ",
        "{a: ",
        "[a, ",
        "\"",
        "'",
        "&a ",
        "*a ",
        "*a,",
        "!!x ",
        "#",
        "\n",
        "\n ",
        "\t",
        "%",
        "|\n",
        ">\n",
        "---\n",
        "a,",
        "0",
        "9",
        "1e9",
        "-",
        "\\",
        "\u{0}",
        "🔑",
        "\u{202e}",
        "- name: db\n",
        "a: {b: [",
        "{\"name\":\"a\"},",
        "- &a [*a]\n",
    ] {
        for front in ["", "[", "- ", "{a: ", "- &a x\n- [", "- name: db\n  keys: ["] {
            for room in [ROOM, ROOM / 2] {
                let count = (room - front.len()) / unit.len();
                let text = format!("{front}{}", unit.repeat(count));
                let names: &[&str] = if front.is_empty() { &KNOWN } else { &["secrets"] };
                for name in names {
                    let mut written = BTreeMap::from([("path".to_owned(), "secret/a".to_owned())]);
                    written.insert((*name).to_owned(), text.clone());
                    annotations(written, 0);
                }
            }
        }
    }
}
