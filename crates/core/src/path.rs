//! From the path that people write to the document in Vault.
//!
//! This takes two steps, because only Vault knows where a mount ends and which version it has: [`check`]
//! refuses paths that cannot name a document in any mount; [`resolve`] places the others inside their mount,
//! behind the cluster's prefix and the namespace.

use unicode_normalization::UnicodeNormalization as _;

use super::document::{DocumentId, KvVersion, Mount};
use super::problem::PathFault;
use super::settings::{NamespaceIsolation, PrefixStyle, Settings};
use super::text::hides;

/// Longest path, in bytes, as it is written.
pub const LONGEST: usize = 512;

/// Words of the KV v2 API that can be where a document's path would begin.
/// <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>
const API_WORDS: [&str; 6] = ["metadata", "delete", "undelete", "destroy", "subkeys", "config"];

/// Refuses a path that cannot name a document, or that two readers could read differently.
pub fn check(path: &str) -> Result<(), PathFault> {
    if path.len() > LONGEST {
        return Err(PathFault::Long(path.len()));
    }
    check_stored(path)?;
    // Not in `check_stored`, so that a document with a brace in its name can still be deleted.
    if path.contains(['{', '}']) {
        return Err(PathFault::Brace);
    }
    Ok(())
}

/// [`check`] for a path that is already resolved: its prefixes may have made it longer.
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

/// The path to look up in Vault's mount table: the written path, with the cluster's prefix if that is in
/// front of the mount.
pub fn mount_query(written: &str, settings: &Settings) -> String {
    match settings.prefix_style {
        PrefixStyle::BeforeMount if !settings.cluster_prefix.is_empty() => {
            format!("{}/{written}", settings.cluster_prefix)
        }
        _ => written.to_owned(),
    }
}

/// Whether the mount at `mount` holds `query`, compared by whole segments.
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
    /// Its path inside the mount without the cluster's prefix, which namespace isolation and path policies
    /// check.
    pub own: String,
}

/// Places the written path, and below it the `leaf` that discovery adds, inside `mount`. This must be the
/// mount that holds [`mount_query`], according to Vault.
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
        // The part of the prefix that is not already in the mount's own path.
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

/// Removes exactly one leading `data/`. The rest is the document's own path, even if that begins with `data/`
/// again.
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
mod tests;
