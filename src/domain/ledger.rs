//! The ledger: what we may have written, for whom, and what is still to be deleted.
//!
//! A document enters before its first write and leaves only when its delete is confirmed, so that a
//! crash between any two calls loses nothing. An entry never holds a value.

use serde::{Deserialize, Serialize};

use super::document::DocumentId;
use super::settings::DeletionPolicy;
use super::source::{Kind, SourceKey};

/// How far a document has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// We are about to write it for the first time. No title: whoever creates it before us has it.
    Creating,
    /// It stands, and it is ours.
    Written,
    /// It is to be deleted.
    Deleting,
    /// Our first write got no answer, and may have landed or may still land.
    OutcomeUnknown,
}

impl State {
    /// All of them, for metrics.
    pub const ALL: [Self; 4] = [
        Self::Creating,
        Self::Written,
        Self::Deleting,
        Self::OutcomeUnknown,
    ];

    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Written => "written",
            Self::Deleting => "deleting",
            Self::OutcomeUnknown => "outcome-unknown",
        }
    }
}

/// What the ledger says of one document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerEntry {
    /// The source that it was written for.
    pub holder: SourceKey,
    /// That object's UID.
    pub uid: String,
    /// How far it has come.
    pub state: State,
    /// When it came so far, in seconds since 1970; by Vault's clock where it was about to be created.
    pub since: i64,
    /// What happens to it when it is no longer wanted, as its source last said: remembered here,
    /// since the annotation may be gone by then.
    pub deletion: DeletionPolicy,
    /// The version that was there before our first write: 0, or that of a deleted document. The write makes the
    /// next one.
    pub base: u64,
    /// Whether it existed before us. Such a document is never purged.
    pub adopted: bool,
    /// Whether its source is paused: should it go meanwhile, the document stays.
    pub paused: bool,
}

/// One line of the ledger as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
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
    paused: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl LedgerEntry {
    /// The entry as it is taken over from an operator that did not end in good order: whether that operator's
    /// creating write was sent, and arrived, is unknown.
    #[must_use]
    pub fn inherited(mut self) -> Self {
        if self.state == State::Creating {
            self.state = State::OutcomeUnknown;
        }
        self
    }

    /// The line to store.
    pub fn to_line(&self, id: &DocumentId) -> String {
        let line = Line {
            mount: id.mount.clone(),
            path: id.path.clone(),
            kind: self.holder.kind,
            namespace: self.holder.namespace.clone(),
            name: self.holder.name.clone(),
            uid: self.uid.clone(),
            state: self.state,
            since: self.since,
            deletion: self.deletion,
            base: self.base,
            adopted: self.adopted,
            paused: self.paused,
        };
        // A struct of strings and numbers: there is nothing in it that serde_json could refuse.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// Reads a stored line. Whoever can write our ConfigMaps could have put anything there, so that
    /// nothing is taken on trust: a document that no annotation could name is garbage too.
    pub fn from_line(line: &str) -> Result<(DocumentId, Self), String> {
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        for path in [&line.mount, &line.path] {
            super::path::check_stored(path).map_err(|fault| fault.to_string())?;
        }
        let id = DocumentId {
            mount: line.mount,
            path: line.path,
        };
        let holder = SourceKey {
            kind: line.kind,
            namespace: line.namespace,
            name: line.name,
        };
        let entry = Self {
            holder,
            uid: line.uid,
            state: line.state,
            since: line.since,
            deletion: line.deletion,
            base: line.base,
            adopted: line.adopted,
            paused: line.paused,
        };
        Ok((id, entry))
    }
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
            paused: false,
        };
        let line = entry.to_line(&id);
        assert_eq!(
            line,
            r#"{"mount":"secret","path":"clusters/c1/app","kind":"Deployment","namespace":"shop","name":"web","uid":"u-1","state":"outcome-unknown","since":7,"deletion":"retain","base":4,"adopted":true}"#
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

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(line in ".{0,200}") {
            let _ = LedgerEntry::from_line(&line);
        }
    }
}
