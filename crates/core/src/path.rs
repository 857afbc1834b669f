//! From the path that people write to the document that Vault knows.
//!
//! Two steps, since the mount's extent and version are Vault's to say: [`check`] refuses what can
//! name no document in any mount; [`resolve`] places the rest inside its mount, behind the
//! cluster's prefix and the namespace's fence.

use unicode_normalization::UnicodeNormalization as _;

use super::document::{DocumentId, KvVersion, Mount};
use super::problem::PathFault;
use super::settings::{NamespaceIsolation, PrefixStyle, Settings};
use super::text::hides;

/// Longest path, in bytes, as it is written.
pub const LONGEST: usize = 512;

/// Words of the KV v2 API that stand where a document's path would begin.
/// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>
const API_WORDS: [&str; 6] = ["metadata", "delete", "undelete", "destroy", "subkeys", "config"];

/// Refuses what cannot name a document, or what two readers could read differently.
pub fn check(path: &str) -> Result<(), PathFault> {
    if path.len() > LONGEST {
        return Err(PathFault::Long(path.len()));
    }
    check_stored(path)?;
    // Not in `check_stored`: a document that has one in its name can still be deleted.
    if path.contains(['{', '}']) {
        return Err(PathFault::Brace);
    }
    Ok(())
}

/// [`check`] for a path that was resolved before: the prefixes put in front may have made it longer.
pub fn check_stored(path: &str) -> Result<(), PathFault> {
    if path.is_empty() || path.chars().all(char::is_whitespace) {
        return Err(PathFault::Empty);
    }
    if path.starts_with(' ') || path.ends_with(' ') {
        return Err(PathFault::Blank);
    }
    if let Some(c) = path.chars().find(|&c| c == '%' || c == '\\' || hides(c)) {
        return Err(PathFault::Character(c.into()));
    }
    if !path.nfkc().eq(path.chars()) {
        return Err(PathFault::LookAlike);
    }
    if path.starts_with('/') || path.ends_with('/') {
        return Err(PathFault::Slash);
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err(PathFault::EmptySegment),
            "." | ".." => return Err(PathFault::Dots(segment.to_owned())),
            _ => {}
        }
    }
    Ok(())
}

/// The path to ask Vault's mount table about: what is written, behind a prefix that goes in front
/// of the mount.
pub fn mount_query(written: &str, settings: &Settings) -> String {
    match settings.prefix_style {
        PrefixStyle::BeforeMount if !settings.cluster_prefix.is_empty() => {
            format!("{}/{written}", settings.cluster_prefix)
        }
        _ => written.to_owned(),
    }
}

/// Whether the mount at `mount` holds `query`: a prefix by whole segments.
pub fn is_within(query: &str, mount: &str) -> bool {
    query
        .strip_prefix(mount)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where a document is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The document.
    pub id: DocumentId,
    /// Its path inside the mount without the cluster's prefix: what fences and policies speak of.
    pub own: String,
}

/// Places the path that is written, and below it the `leaf` that discovery adds, inside `mount`: the
/// one that Vault says holds [`mount_query`].
pub fn resolve(
    written: &str,
    leaf: Option<&str>,
    namespace: &str,
    mount: &Mount,
    settings: &Settings,
) -> Result<Place, PathFault> {
    check(written)?;
    let query = mount_query(written, settings);
    if !is_within(&query, &mount.path) {
        return Err(PathFault::NoMount(written.to_owned()));
    }
    let inside = query[mount.path.len()..].trim_start_matches('/');
    let inside = match mount.version {
        KvVersion::V1 => inside,
        KvVersion::V2 => strip_data(inside, &mount.path)?,
    };
    let prefix = match settings.prefix_style {
        PrefixStyle::InsideMount => settings.cluster_prefix.as_str(),
        // What of it the mount's own path has not swallowed already stands in front.
        PrefixStyle::BeforeMount => settings
            .cluster_prefix
            .strip_prefix(&*mount.path)
            .unwrap_or("")
            .trim_start_matches('/'),
    };
    let own = match settings.prefix_style {
        PrefixStyle::InsideMount => inside,
        PrefixStyle::BeforeMount => inside
            .strip_prefix(prefix)
            .unwrap_or(inside)
            .trim_start_matches('/'),
    };
    if own.is_empty() {
        return Err(PathFault::OnlyMount(written.to_owned()));
    }
    let own = match leaf {
        None => fence(own, namespace, settings.isolation)?,
        Some(leaf) => fence(&format!("{own}/{leaf}"), namespace, settings.isolation)?,
    };
    let path = if prefix.is_empty() {
        own.clone()
    } else {
        format!("{prefix}/{own}")
    };
    Ok(Place {
        id: DocumentId::new(mount.path.clone(), path),
        own,
    })
}

/// Takes exactly one leading `data/` off: what is left is the document's own path, even when that
/// begins with `data/` again.
fn strip_data<'a>(inside: &'a str, mount: &str) -> Result<&'a str, PathFault> {
    let (first, rest) = inside.split_once('/').unwrap_or((inside, ""));
    match first {
        "data" => Ok(rest),
        word if API_WORDS.contains(&word) => Err(PathFault::ApiWord {
            mount: mount.to_owned(),
            word: word.to_owned(),
        }),
        _ => Ok(inside),
    }
}

fn fence(own: &str, namespace: &str, isolation: NamespaceIsolation) -> Result<String, PathFault> {
    let fenced = own
        .strip_prefix(namespace)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'));
    match isolation {
        NamespaceIsolation::Off => Ok(own.to_owned()),
        _ if fenced => Ok(own.to_owned()),
        NamespaceIsolation::Prefix => Ok(format!("{namespace}/{own}")),
        NamespaceIsolation::Enforce => Err(PathFault::Isolation {
            namespace: namespace.to_owned(),
            path: own.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
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
}
