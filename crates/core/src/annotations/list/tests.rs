use super::*;

fn list(text: &str) -> Result<Vec<Entry>, String> {
    parse(text).map_err(|problem| problem.to_string())
}

fn pick(from: &str, to: &str) -> KeyPick {
    KeyPick {
        from: from.into(),
        to: to.into(),
    }
}

#[test]
fn a_list_is_json_or_yaml() {
    let wanted = vec![
        Entry {
            name: "db".into(),
            keys: Some(vec![pick("user", "user"), pick("pass", "password")]),
            prefix: "DB_".into(),
            optional: false,
            encoding: None,
        },
        Entry {
            name: "tls".into(),
            keys: None,
            prefix: String::new(),
            optional: true,
            encoding: Some(Encoding::Base64),
        },
    ];
    let json = r#"[{"name":"db","keys":["user",{"from":"pass","to":"password"},"user"],"prefix":"DB_"},
                   {"name":"tls","optional":true,"encoding":"base64","keys":[]}]"#;
    let yaml = "- name: db\n  keys: [user, {from: pass, to: password}]\n  prefix: DB_\n\
                - {name: tls, optional: true, encoding: base64}\n";
    assert_eq!(list(json).unwrap(), wanted);
    assert_eq!(list(yaml).unwrap(), wanted);
}

#[test]
fn a_list_that_cannot_be_read_says_where() {
    for (text, words) in [
        (
            "[{\"name\": \"db\"",
            "vault-sync.io/secrets: this is not JSON: EOF while parsing an object at line 1 column 14",
        ),
        (
            "{\"name\":\"db\"}",
            "vault-sync.io/secrets: a list is needed, this is an object",
        ),
        ("\"db\"", "vault-sync.io/secrets: a list is needed, this is text"),
        ("db", "vault-sync.io/secrets: a list is needed, this is text"),
        ("7", "vault-sync.io/secrets: a list is needed, this is a number"),
        (
            "[\"db\"]",
            "vault-sync.io/secrets: entry 1: an object with a name is needed, this is text",
        ),
        (
            "[{\"name\":\"db\"},{\"keys\":[\"a\"]}]",
            "vault-sync.io/secrets: entry 2: it has no name of a Secret",
        ),
        (
            "[{\"name\":\"\"}]",
            "vault-sync.io/secrets: entry 1: it has no name of a Secret",
        ),
        (
            "[{\"name\":7}]",
            "vault-sync.io/secrets: entry 1: its name must be text, this is a number",
        ),
        (
            "[{\"name\":\"../x\"}]",
            "vault-sync.io/secrets: entry 1: \"../x\" cannot be the name of a Secret",
        ),
        (
            "[{\"name\":\"a\",\"keys\":\"k\"}]",
            "vault-sync.io/secrets: entry 1 (\"a\"): its keys must be a list, this is text",
        ),
        (
            "[{\"name\":\"a\",\"keys\":[1]}]",
            "vault-sync.io/secrets: entry 1 (\"a\"): a key must be text, or an object with \"from\" and \"to\"; this is a number",
        ),
        (
            "[{\"name\":\"a\",\"keys\":[\"\"]}]",
            "vault-sync.io/secrets: entry 1 (\"a\"): a key is empty",
        ),
        (
            "[{\"name\":\"a\",\"optional\":\"yes\"}]",
            "vault-sync.io/secrets: entry 1 (\"a\"): optional must be true or false, this is text",
        ),
    ] {
        assert_eq!(list(text).unwrap_err(), words, "{text}");
    }
    for text in ["", "null", "[]"] {
        assert_eq!(
            list(text).unwrap_err(),
            "vault-sync.io/secrets: the list is empty; remove the annotation to discover the Secrets, or name them",
            "{text:?}"
        );
    }
}

#[test]
fn a_list_has_bounds_and_says_which() {
    let entries = |count: usize, secrets: usize| {
        let entry = |n| format!(r#"{{"name":"a{}"}}"#, n % secrets);
        format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    assert_eq!(list(&entries(2000, 500)).unwrap().len(), 2000);
    let keys = |count: usize, name: &str| {
        let keys = vec![format!(r#""{name}""#); count].join(",");
        format!(r#"[{{"name":"a","keys":[{keys}]}}]"#)
    };
    // The same key once more is none more.
    assert_eq!(list(&keys(2001, "k")).unwrap().len(), 1);
    let many = (0..2001)
        .map(|n| format!(r#""k{n}""#))
        .collect::<Vec<_>>()
        .join(",");
    let many = format!(r#"[{{"name":"a","keys":[{many}]}}]"#);
    let (key, longer) = ("k".repeat(253), "k".repeat(254));
    assert_eq!(list(&keys(1, &key)).unwrap().len(), 1);
    for (text, words) in [
        (entries(2001, 1), "it has 2001 entries; 2000 are allowed"),
        (entries(501, 501), "it names 501 Secrets; 500 are allowed"),
        (many, "its entries name 2001 keys together; 2000 are allowed"),
        (
            keys(1, &longer),
            "entry 1 (\"a\"): a key is 254 bytes long; 253 are allowed",
        ),
        (
            format!(r#"[{{"name":"a","keys":[{{"from":"k","to":"{longer}"}}]}}]"#),
            "entry 1 (\"a\"): a key is 254 bytes long; 253 are allowed",
        ),
        (
            format!(r#"[{{"name":"a","prefix":"{longer}"}}]"#),
            "entry 1 (\"a\"): its prefix is 254 bytes long; 253 are allowed",
        ),
        ("[".repeat(131_072), "it nests too deeply"),
        (format!("{{a: {}", "[".repeat(100_000)), "it nests too deeply"),
        (
            format!("[{}]", vec!["{}"; 40_000].join(",")),
            "a list longer than 65536 bytes must be JSON, and this is not: \
             it says more than a list has room for at line 1 column 20973",
        ),
    ] {
        assert_eq!(
            list(&text).unwrap_err(),
            format!("vault-sync.io/secrets: {words}")
        );
    }
}

#[test]
fn aliases_of_yaml_cannot_blow_a_list_up() {
    // Each alias is three characters, and stands for thirty thousand.
    let scalar = format!("- &a {}\n- [{}]\n", "x".repeat(30_000), "*a,".repeat(10_000));
    assert_eq!(
        list(&scalar).unwrap_err(),
        "vault-sync.io/secrets: this is neither JSON nor YAML: \
         .[1][138]: it says more than a list has room for at line 1 column 3"
    );
    let honest = "- &db {name: db, keys: &keys [user, pass]}\n- {name: other, keys: *keys}\n";
    assert_eq!(list(honest).unwrap()[1].keys.as_ref().unwrap().len(), 2);
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_known_one() {
    for (text, words) in [
        (
            r#"[{"name":"s1","key":["user"]}]"#,
            "entry 1 (\"s1\") has the unknown field \"key\"; did you mean \"keys\"?",
        ),
        (
            r#"[{"name":"db"},{"name":"db","perfix":"X"}]"#,
            "entry 2 (\"db\") has the unknown field \"perfix\"; did you mean \"prefix\"?",
        ),
        (
            "- Name: db\n",
            "entry 1 has the unknown field \"Name\"; did you mean \"name\"?",
        ),
        (
            "- &a {name: db}\n- <<: *a\n",
            "entry 2 has the unknown field \"<<\"; the known ones are name, keys, prefix, optional, encoding",
        ),
        (
            "[{\"name\":\"db\",\"keys\u{200b}\":[]}]",
            "entry 1 (\"db\") has the unknown field \"keys\\u{200b}\"; did you mean \"keys\"? \
             (the text has the invisible character U+200B)",
        ),
    ] {
        assert_eq!(
            list(text).unwrap_err(),
            format!("vault-sync.io/secrets: {words}"),
            "{text}"
        );
    }
}

#[test]
fn a_field_that_is_given_twice_is_refused() {
    for text in [
        r#"[{"name":"db","keys":["a"],"keys":["b"]}]"#,
        "- name: db\n  keys: [a]\n  keys: [b]\n",
    ] {
        let said = list(text).unwrap_err();
        assert!(said.contains("\"keys\" is given twice"), "{said}");
    }
}

#[test]
fn a_byte_order_mark_in_front_is_skipped_and_other_invisible_characters_are_named() {
    for text in ["\u{feff}[{\"name\":\"db\"}]", "\u{feff}- name: db\n"] {
        assert_eq!(list(text).unwrap()[0].name, "db", "{text:?}");
    }
    // Too long for YAML, whose parser skips one by itself.
    let long = format!("\u{feff}[{{\"name\":\"db\"}}{}]", " ".repeat(70_000));
    assert_eq!(list(&long).unwrap().len(), 1);
    for (text, words) in [
        (
            "-\u{a0}name: db\n",
            "a list is needed, this is an object (the text has the invisible character U+00A0)",
        ),
        (
            "- name:\u{a0}db\n",
            "entry 1: an object with a name is needed, this is text (the text has the invisible character U+00A0)",
        ),
        (
            "[{\"name\":\"db\"}]\u{200b}",
            "this is not JSON: trailing characters at line 1 column 16 (the text has the invisible character U+200B)",
        ),
        (
            "- name: \u{feff}db\n",
            "entry 1: \"\\u{feff}db\" cannot be the name of a Secret (the text has the invisible character U+FEFF)",
        ),
        (
            "- name: db\u{2060}\n",
            "entry 1: \"db\\u{2060}\" cannot be the name of a Secret (the text has the invisible character U+2060)",
        ),
    ] {
        assert_eq!(
            list(text).unwrap_err(),
            format!("vault-sync.io/secrets: {words}"),
            "{text:?}"
        );
    }
}

#[test]
fn names_of_secrets() {
    for good in ["db", "a.b-c", "0", "x1.y2"] {
        assert!(is_object_name(good), "{good}");
    }
    for bad in ["", "Db", "a/b", "..", "-a", "a-", "a..b", "a b", "ä"] {
        assert!(!is_object_name(bad), "{bad}");
    }
}
