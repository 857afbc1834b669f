use super::*;
use crate::settings::tests::settings;

fn v1(path: &str) -> Mount {
    Mount {
        path: path.into(),
        version: KvVersion::V1,
    }
}

fn v2(path: &str) -> Mount {
    Mount {
        path: path.into(),
        version: KvVersion::V2,
    }
}

fn at(written: &str, mount: &Mount, settings: &Settings) -> Result<String, String> {
    resolve(written, None, "shop", mount, settings)
        .map(|place| format!("{}:{}", place.id.mount, place.id.path))
        .map_err(|e| e.to_string())
}

#[test]
fn both_forms_name_the_same_document() {
    let plain = settings();
    for (written, mount, wanted) in [
        ("secret/data/app", v2("secret"), "secret:app"),
        ("secret/app", v2("secret"), "secret:app"),
        ("secret/data/data/app", v2("secret"), "secret:data/app"),
        ("secret/data/metadata/app", v2("secret"), "secret:metadata/app"),
        ("secret/app/data/x", v2("secret"), "secret:app/data/x"),
        ("team/kv/data/app", v2("team/kv"), "team/kv:app"),
        ("kv1/data/app", v1("kv1"), "kv1:data/app"),
        ("kv1/metadata/app", v1("kv1"), "kv1:metadata/app"),
        ("secret/data/My App/ü", v2("secret"), "secret:My App/ü"),
    ] {
        assert_eq!(at(written, &mount, &plain).unwrap(), wanted, "{written}");
    }
}

#[test]
fn what_names_no_document_is_refused() {
    let plain = settings();
    for (written, wanted) in [
        ("", "the path is empty"),
        ("  ", "the path is empty"),
        (
            "secret",
            "\"secret\" is only the mount; a document needs a path inside it",
        ),
        (
            "secret/data",
            "\"secret/data\" is only the mount; a document needs a path inside it",
        ),
        ("secret/", "the path begins or ends with \"/\""),
        ("/secret/app", "the path begins or ends with \"/\""),
        ("secret//app", "the path has an empty segment (\"//\")"),
        ("secret/./app", "the path has a \".\" segment"),
        ("secret/data/../app", "the path has a \"..\" segment"),
        (" secret/app", "the path begins or ends with a blank"),
        ("secret/app ", "the path begins or ends with a blank"),
        (
            "secret/%2e%2e/app",
            "the path has the character U+0025, which is not allowed",
        ),
        (
            "secret\\app",
            "the path has the character U+005C, which is not allowed",
        ),
        (
            "secret/a\tb",
            "the path has the character U+0009, which is not allowed",
        ),
        (
            "secret/a\u{200b}b",
            "the path has the character U+200B, which is not allowed",
        ),
        (
            "secret/a\u{a0}b",
            "the path has the character U+00A0, which is not allowed",
        ),
        (
            "secret/\u{ff0e}\u{ff0e}/x",
            "the path has characters that only look like others (its compatibility form differs)",
        ),
        (
            "secret/{namespace}/app",
            "the path has braces: placeholders are not supported, and a template was perhaps not rendered",
        ),
        (
            "secret/{{ .Values.x }}",
            "the path has braces: placeholders are not supported, and a template was perhaps not rendered",
        ),
        (
            "secret/a}",
            "the path has braces: placeholders are not supported, and a template was perhaps not rendered",
        ),
        (
            "secret/metadata/app",
            "\"metadata\" after the mount \"secret\" is a word of the KV v2 API, not a document",
        ),
        (
            "secret/config",
            "\"config\" after the mount \"secret\" is a word of the KV v2 API, not a document",
        ),
        (
            "secrets/app",
            "Vault has no secrets engine mounted at \"secrets/app\"",
        ),
    ] {
        assert_eq!(
            at(written, &v2("secret"), &plain).unwrap_err(),
            wanted,
            "{written:?}"
        );
    }
    assert_eq!(
        check(&format!("secret/{}", "a".repeat(506))),
        Err(PathFault::Long(513))
    );
    assert_eq!(check(&format!("secret/{}", "a".repeat(505))), Ok(()));
}

#[test]
fn the_clusters_prefix_stands_inside_the_mount_or_before_it() {
    let inside = Settings {
        cluster_prefix: "clusters/c1".into(),
        ..settings()
    };
    assert_eq!(
        at("secret/data/app", &v2("secret"), &inside).unwrap(),
        "secret:clusters/c1/app"
    );
    assert_eq!(at("kv1/app", &v1("kv1"), &inside).unwrap(), "kv1:clusters/c1/app");
    let before = Settings {
        prefix_style: PrefixStyle::BeforeMount,
        ..inside
    };
    assert_eq!(
        mount_query("secret/data/app", &before),
        "clusters/c1/secret/data/app"
    );
    assert_eq!(
        at("secret/data/app", &v1("clusters"), &before).unwrap(),
        "clusters:c1/secret/data/app"
    );
    assert_eq!(
        at("secret/data/app", &v2("clusters/c1/secret"), &before).unwrap(),
        "clusters/c1/secret:app"
    );
    assert_eq!(
        at("secret/data/app", &v2("secret"), &before).unwrap_err(),
        "Vault has no secrets engine mounted at \"secret/data/app\""
    );
}

#[test]
fn discovered_documents_stand_below_the_path() {
    let enforce = Settings {
        isolation: NamespaceIsolation::Enforce,
        ..settings()
    };
    let below = |written: &str, settings: &Settings| {
        resolve(written, Some("db"), "shop", &v2("secret"), settings).map(|place| place.id.path)
    };
    assert_eq!(below("secret/data/app", &settings()), Ok("app/db".into()));
    assert_eq!(
        below("secret/data", &settings()),
        Err(PathFault::OnlyMount("secret/data".into()))
    );
    assert_eq!(below("secret/data/shop", &enforce), Ok("shop/db".into()));
}

#[test]
fn a_namespace_stays_behind_its_fence() {
    let enforce = Settings {
        isolation: NamespaceIsolation::Enforce,
        cluster_prefix: "clusters/c1".into(),
        ..settings()
    };
    let prefix = Settings {
        isolation: NamespaceIsolation::Prefix,
        ..enforce.clone()
    };
    assert_eq!(
        at("secret/data/shop/app", &v2("secret"), &enforce).unwrap(),
        "secret:clusters/c1/shop/app"
    );
    assert_eq!(
        at("secret/data/shop/app", &v2("secret"), &prefix).unwrap(),
        "secret:clusters/c1/shop/app"
    );
    assert_eq!(
        at("secret/data/app", &v2("secret"), &prefix).unwrap(),
        "secret:clusters/c1/shop/app"
    );
    for written in [
        "secret/data/app",
        "secret/data/data/shop/x",
        "secret/shopping/x",
        "secret/SHOP/x",
        "secret/data/shop",
    ] {
        assert!(at(written, &v2("secret"), &enforce).is_err(), "{written}");
        assert!(
            at(written, &v2("secret"), &prefix)
                .unwrap()
                .starts_with("secret:clusters/c1/shop/"),
            "{written}"
        );
    }
    let before = Settings {
        prefix_style: PrefixStyle::BeforeMount,
        ..enforce
    };
    assert_eq!(
        at("shop/data/app", &v1("clusters"), &before).unwrap(),
        "clusters:c1/shop/data/app"
    );
    assert!(at("secret/data/shop/app", &v1("clusters"), &before).is_err());
}

proptest::proptest! {
    /// The oracle knows nothing of mounts: whatever is accepted under enforcement lies, segment
    /// by segment, below prefix and namespace, and is made of segments that cannot climb.
    #[test]
    fn nothing_escapes(
        written in "(secret/)?(data/)?((shop|Shop|data|metadata|\\.|\\.\\.|%2e|a|\u{ff0e}|\u{200b}| )/?){0,5}",
        v2mount: bool,
        before: bool,
    ) {
        let settings = Settings {
            cluster_prefix: "clusters/c1".into(),
            isolation: NamespaceIsolation::Enforce,
            prefix_style: if before { PrefixStyle::BeforeMount } else { PrefixStyle::InsideMount },
            ..settings()
        };
        let mount = Mount {
            path: if before { "clusters".into() } else { "secret".into() },
            version: if v2mount { KvVersion::V2 } else { KvVersion::V1 },
        };
        if let Ok(Place { id, .. }) = resolve(&written, None, "shop", &mount, &settings) {
            let segments: Vec<&str> = id.path.split('/').collect();
            let fence: &[&str] = if before { &["c1", "shop"] } else { &["clusters", "c1", "shop"] };
            proptest::prop_assert!(segments.starts_with(fence), "{written:?} became {id}");
            proptest::prop_assert!(segments.len() > fence.len());
            proptest::prop_assert!(segments.iter().all(|s| !matches!(*s, "" | "." | ".." )), "{written:?} became {id}");
            proptest::prop_assert!(!id.path.contains('%'));
        }
    }
}
