//! The ledger: what we may have written, for which source, and what is still to be deleted.
//!
//! A document is added before its first write, and removed only after its delete is confirmed, so that a
//! crash between any two calls loses no document. An entry never holds a secret value.

mod store;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::document::DocumentId;
use super::names::{is_label, is_object_name};
use super::settings::DeletionPolicy;
use super::source::{Kind, SourceKey};
use crate::words;

pub use store::{Dropped, Garbage, Lines, Pending, Store};

words! {
    /// The state of a document.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum State {
        /// We are about to write it for the first time. This gives no title: if someone else creates it
        /// first, it is theirs.
        Creating = "creating",
        /// It exists, and it is ours.
        Written = "written",
        /// It is to be deleted.
        Deleting = "deleting",
        /// Our first write got no response. It may have been applied, or may still be.
        OutcomeUnknown = "outcome-unknown",
    }
}

/// The ledger's entry for one document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerEntry {
    /// The source that it was written for.
    pub holder: SourceKey,
    /// UID of that object.
    pub uid: String,
    /// Its state.
    pub state: State,
    /// When it entered this state, in seconds since 1970. For a document that was about to be created, this
    /// is Vault's time.
    pub since: i64,
    /// What happens to it when it is no longer wanted, as its source last specified. It is stored here
    /// because the annotation may be gone by then.
    pub deletion: DeletionPolicy,
    /// The version before our first write: 0, or the version of a deleted document. The write makes the next
    /// version. In state `Deleting`: the version that we have deleted, if the purge is still to follow and no
    /// claim can record the version. Content that can be read after that belongs to someone else.
    pub base: u64,
    /// Whether it existed before us. Such a document is never purged.
    pub adopted: bool,
    /// Whether our claim was on it. If it has no claim now, it is another document, or someone removed the
    /// claim.
    pub claimed: bool,
    /// Whether its source is paused. If the source is deleted while it is paused, the document stays.
    pub paused: bool,
}

/// One line of the ledger as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredLine {
    mount: String,
    path: String,
    kind: Kind,
    namespace: String,
    name: String,
    uid: String,
    state: State,
    since: i64,
    deletion: DeletionPolicy,
    #[serde(default, skip_serializing_if = "is_zero")]
    base: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    adopted: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    claimed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl LedgerEntry {
    /// Whether the document is written, and belongs to this source.
    pub fn stands_for(&self, source: &SourceKey) -> bool {
        self.holder == *source && self.state == State::Written
    }

    /// Whether we have deleted this version already, or somebody has written it since then.
    pub fn is_done_with(&self, version: u64) -> bool {
        self.state == State::Deleting && self.base != 0 && version >= self.base
    }

    /// Whether somebody has written after the version that we have deleted, up to this one.
    pub fn is_followed_by(&self, version: u64) -> bool {
        self.is_done_with(version) && version != self.base
    }

    /// The entry as taken over from an operator that did not shut down cleanly. It is not known whether that
    /// operator sent its creating write, and whether Vault applied it.
    #[must_use]
    pub fn inherited(mut self) -> Self {
        if self.state == State::Creating {
            self.state = State::OutcomeUnknown;
        }
        self
    }

    /// The line to store.
    pub fn to_line(&self, id: &DocumentId) -> String {
        let line = StoredLine {
            mount: id.mount.to_string(),
            path: id.path.to_string(),
            kind: self.holder.kind,
            namespace: self.holder.namespace.to_string(),
            name: self.holder.name.to_string(),
            uid: self.uid.clone(),
            state: self.state,
            since: self.since,
            deletion: self.deletion,
            base: self.base,
            adopted: self.adopted,
            claimed: self.claimed,
            paused: self.paused,
        };
        // A struct of strings and numbers, which serde_json never refuses.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// Reads a stored line. Anyone who can write our ConfigMaps may have stored anything there, so nothing is
    /// trusted. A document that no annotation could name is garbage too, and so is a source that cannot exist
    /// in Kubernetes.
    pub fn from_line(line: &str) -> Result<(DocumentId, Self), BadLine> {
        let line: StoredLine = match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => return Err(CommonFields::blame(line, &error.to_string())),
        };
        let id = document(line.mount, line.path)?;
        if !is_label(&line.namespace) {
            return Err(BadLine::Garbage("its namespace is no name of one".to_owned()));
        }
        if !is_object_name(&line.name) {
            return Err(BadLine::Garbage("its name is none of an object".to_owned()));
        }
        let holder = SourceKey {
            kind: line.kind,
            namespace: line.namespace.into(),
            name: line.name.into(),
        };
        let entry = Self {
            holder,
            uid: line.uid,
            state: line.state,
            since: line.since,
            deletion: line.deletion,
            base: line.base,
            adopted: line.adopted,
            claimed: line.claimed,
            paused: line.paused,
        };
        Ok((id, entry))
    }
}

/// A stored line that is not an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadLine {
    /// An entry for this document, with a word or a field that this version does not know. It must be kept
    /// unchanged, because what it asks for is not known either.
    Newer(DocumentId, String),
    /// Not an entry of any version.
    Garbage(String),
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Newer(_, why) | Self::Garbage(why)) = self;
        f.write_str(why)
    }
}

/// The fields that every version writes.
#[derive(Deserialize)]
struct CommonFields {
    mount: String,
    path: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "namespace")]
    _namespace: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "state")]
    _state: String,
}

impl CommonFields {
    /// Distinguishes the line of a newer version from garbage.
    fn blame(line: &str, why: &str) -> BadLine {
        let Ok(Self { mount, path, .. }) = serde_json::from_str(line) else {
            return BadLine::Garbage(why.to_owned());
        };
        match document(mount, path) {
            Ok(id) => BadLine::Newer(id, why.to_owned()),
            Err(garbage) => garbage,
        }
    }
}

fn document(mount: String, path: String) -> Result<DocumentId, BadLine> {
    for path in [&mount, &path] {
        super::path::check_stored(path).map_err(|fault| BadLine::Garbage(fault.to_string()))?;
    }
    Ok(DocumentId::new(mount, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back() {
        let id = DocumentId::new("secret", "clusters/c1/app");
        let entry = LedgerEntry {
            holder: SourceKey {
                kind: Kind::Deployment,
                namespace: "shop".into(),
                name: "web".into(),
            },
            uid: "u-1".into(),
            state: State::OutcomeUnknown,
            since: 7,
            deletion: DeletionPolicy::Retain,
            base: 4,
            adopted: true,
            claimed: true,
            paused: false,
        };
        let line = entry.to_line(&id);
        assert_eq!(
            line,
            r#"{"mount":"secret","path":"clusters/c1/app","kind":"Deployment","namespace":"shop","name":"web","uid":"u-1","state":"outcome-unknown","since":7,"deletion":"retain","base":4,"adopted":true,"claimed":true}"#
        );
        assert_eq!(LedgerEntry::from_line(&line), Ok((id, entry)));
    }

    #[test]
    fn garbage_is_told_not_believed() {
        for line in [
            "",
            "null",
            "{}",
            r#"{"mount":"secret","path":"../x","kind":"Deployment","namespace":"a","name":"b","uid":"","state":"written","since":1,"deletion":"soft"}"#,
            r#"{"mount":"","path":"x","kind":"Deployment","namespace":"a","name":"b","uid":"","state":"written","since":1,"deletion":"soft"}"#,
            r#"{"mount":"secret","path":"x","kind":"Pod","namespace":"a","name":"b","uid":"","state":"written","since":1,"deletion":"soft"}"#,
        ] {
            assert!(LedgerEntry::from_line(line).is_err(), "{line}");
        }
    }

    /// An entry of this version, with one field set to this JSON.
    fn with(field: &str, value: serde_json::Value) -> String {
        let mut line = serde_json::json!({
            "mount": "secret", "path": "app", "kind": "Deployment", "namespace": "shop", "name": "web",
            "uid": "u-1", "state": "written", "since": 1, "deletion": "soft",
        });
        line[field] = value;
        line.to_string()
    }

    #[test]
    fn a_line_of_a_newer_version_is_told_from_garbage() {
        for (field, value, newer) in [
            ("state", "archived".into(), true),
            ("kind", "Job".into(), true),
            ("deletion", "archive".into(), true),
            ("version", 2.into(), true),
            ("since", "2026-01-01".into(), true),
            ("path", "../sys".into(), false),
            ("mount", "".into(), false),
            ("state", 7.into(), false),
            ("name", serde_json::Value::Null, false),
        ] {
            let line = with(field, value);
            let found = LedgerEntry::from_line(&line).unwrap_err();
            match found {
                BadLine::Newer(id, _) => {
                    assert!(newer, "{line}");
                    assert_eq!(id, DocumentId::new("secret", "app"));
                }
                BadLine::Garbage(_) => assert!(!newer, "{line}"),
            }
        }
        let mut two = with("state", "archived".into());
        two.insert_str(1, r#""path":"../sys","#);
        assert!(LedgerEntry::from_line(&two).is_err(), "{two}");
    }

    #[test]
    fn a_source_that_cannot_exist_is_garbage() {
        let long = "a".repeat(64);
        for (field, value, fits) in [
            ("namespace", "shop", true),
            ("namespace", "a/secrets/x?y=", false),
            ("namespace", "..", false),
            ("namespace", "", false),
            ("namespace", "Shop", false),
            ("namespace", "a.b", false),
            ("namespace", "-a", false),
            ("namespace", &long, false),
            ("name", "web", true),
            ("name", "web.v1", true),
            ("name", &long, true),
            ("name", "../kube-system", false),
            ("name", "a..b", false),
            ("name", "web?dryRun=All", false),
            ("name", "web/status", false),
            ("name", "", false),
        ] {
            let found = LedgerEntry::from_line(&with(field, value.into()));
            assert_eq!(found.is_ok(), fits, "{field} {value}");
            assert!(!matches!(found, Err(BadLine::Newer(..))), "{field} {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(line in ".{0,200}") {
            let _ = LedgerEntry::from_line(&line);
        }
    }
}
