//! The KV calls: what is sent to Vault for a document, and what its replies mean. Owns the bodies;
//! knows nothing of connections, tokens and retries.
//!
//! Values go from [`Value`] straight into a request's bytes, and from a reply's bytes straight
//! into [`Value`]: there is no JSON tree in between that anybody could print.
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v1>

use std::collections::BTreeMap;
use std::fmt;

use rustify::enums::RequestMethod;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};

use super::error::{Call, Error, ErrorKind, says_nothing_here};
use super::transport::{Plain, Reply};
use crate::domain::document::{Cas, DocumentId, KvVersion, Mark, MetadataPatch, Mount, Observed};
use crate::domain::value::{Content, Held, Value};

/// The write of a whole document.
pub(super) fn write<'a>(mount: &Mount, id: &DocumentId, content: &'a Content, cas: Cas) -> Plain<Body<'a>> {
    match mount.version {
        KvVersion::V1 => Plain::new(RequestMethod::POST, id.to_string(), Body::V1(Texts(content))),
        KvVersion::V2 => Plain::new(
            RequestMethod::POST,
            format!("{}/data/{}", id.mount, id.path),
            Body::V2 {
                options: match cas {
                    Cas::None => None,
                    Cas::Version(cas) => Some(Options { cas }),
                },
                data: Texts(content),
            },
        ),
    }
}

/// The change of a document's custom metadata, as a merge patch: what it does not name stays.
pub(super) fn patch<'a>(
    id: &DocumentId,
    custom_metadata: &'a MetadataPatch,
) -> Plain<impl Serialize + use<'a>> {
    #[derive(Serialize)]
    struct Patch<'a> {
        custom_metadata: &'a MetadataPatch,
    }
    let path = format!("{}/metadata/{}", id.mount, id.path);
    Plain::new(RequestMethod::PATCH, path, Patch { custom_metadata })
}

/// Body of a write.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Body<'a> {
    V1(Texts<'a>),
    V2 {
        #[serde(skip_serializing_if = "Option::is_none")]
        options: Option<Options>,
        data: Texts<'a>,
    },
}

#[derive(Serialize)]
pub(super) struct Options {
    cas: u64,
}

/// The one place where values are put into a request.
pub(super) struct Texts<'a>(&'a Content);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            let text = value
                .expose_text()
                .ok_or_else(|| S::Error::custom("a value is not text"))?;
            map.serialize_entry(key, text)?;
        }
        map.end()
    }
}

/// What the reply to a read shows.
pub(super) fn observed(version: KvVersion, call: &Call, reply: &Reply) -> Result<Observed, Error> {
    if says_nothing_here(reply.status, &reply.body) {
        return Ok(Observed::Absent);
    }
    match version {
        KvVersion::V1 => {
            let held: Data<BTreeMap<String, Text>> = reply.ok(call)?.parse(call)?;
            Ok(Observed::Live {
                version: 0,
                created: 0,
                held: plain(held.data),
                mark: Mark::Unreadable,
            })
        }
        KvVersion::V2 => {
            // A deleted version is answered 404, with the metadata that matter.
            let shown = match reply.parse::<Data<Shown>>(call) {
                Ok(shown) if reply.status == 404 || reply.ok(call).is_ok() => shown.data,
                Err(misfit) if reply.ok(call).is_ok() => return Err(misfit),
                _ => return Err(reply.error(call)),
            };
            let Metadata {
                version,
                created_time,
                custom_metadata,
            } = shown.metadata;
            // Vaults before 1.9 do not show custom metadata.
            let mark = custom_metadata.map_or(Mark::Unreadable, |shown| {
                Mark::from_metadata(&shown.unwrap_or_default())
            });
            Ok(match shown.data {
                None => Observed::Deleted { version, mark },
                Some(held) => {
                    let created = created_time.parse::<jiff::Timestamp>().map_err(|_| {
                        Error::new(ErrorKind::Bug, call, "its time of creation is no RFC 3339 time")
                    })?;
                    Observed::Live {
                        version,
                        created: created.as_second(),
                        held: plain(held),
                        mark,
                    }
                }
            })
        }
    }
}

/// The version that a write made; 0 on KV v1, which answers with nothing.
pub(super) fn written(version: KvVersion, call: &Call, reply: &Reply) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Written {
        version: u64,
    }
    let reply = reply.ok(call)?;
    if version == KvVersion::V1 {
        return Ok(0);
    }
    let written: Result<Data<Written>, Error> = reply.parse(call);
    // Something was written, but not by the engine that we took it for.
    written
        .map(|written| written.data.version)
        .map_err(|misfit| Error {
            outcome_unknown: true,
            ..misfit
        })
}

/// Refuses what cannot be written, before anything is sent.
pub(super) fn check(call: &Call, content: &Content) -> Result<(), Error> {
    let text = content.values().all(|value| value.expose_text().is_some());
    if text {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Invalid, call, "a value is not text"))
    }
}

/// Every reply of Vault's that has content has it in `data`.
#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

/// A version, as KV v2 shows it.
#[derive(Deserialize)]
struct Shown {
    data: Option<BTreeMap<String, Text>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    created_time: String,
    /// `null` says that there are none, its absence that this Vault does not show them.
    #[serde(default, deserialize_with = "present")]
    custom_metadata: Option<Option<BTreeMap<String, String>>>,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn plain(held: BTreeMap<String, Text>) -> Held {
    held.into_iter().map(|(key, Text(value))| (key, value)).collect()
}

/// A value as Vault holds it: any JSON, of which only strings are kept.
struct Text(Option<Value>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyJson;
        impl<'de> Visitor<'de> for AnyJson {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(Value::from(text))))
            }
            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(Value::from(text))))
            }
            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }
        deserializer.deserialize_any(AnyJson)
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Operation;
    use super::*;
    use crate::domain::document::Claim;
    use crate::domain::source::{Kind, SourceKey};
    use rustify::endpoint::Endpoint as _;

    const V1: Mount = Mount {
        path: String::new(),
        version: KvVersion::V1,
    };
    const V2: Mount = Mount {
        path: String::new(),
        version: KvVersion::V2,
    };

    fn content(pairs: &[(&str, &str)]) -> Content {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
            .collect()
    }

    fn see(version: KvVersion, status: u16, body: &str) -> Result<Observed, Error> {
        observed(
            version,
            &Call::new(Operation::Read, "secret/app"),
            &Reply::new(status, body),
        )
    }

    fn sent(request: &Plain<impl Serialize + Send + Sync>) -> String {
        String::from_utf8(request.body().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn writes_are_literal_json() {
        let id = DocumentId::new("secret", "team/app");
        let content = content(&[("a\"b", "line\nquote\" back\\ \u{1} é 🔑"), ("z", "")]);
        let request = write(&V2, &id, &content, Cas::Version(3));
        assert_eq!(request.path(), "secret/data/team/app");
        assert_eq!(
            sent(&request),
            r#"{"options":{"cas":3},"data":{"a\"b":"line\nquote\" back\\ \u0001 é 🔑","z":""}}"#
        );
        assert!(sent(&write(&V2, &id, &content, Cas::None)).starts_with(r#"{"data":{"#));
        let request = write(&V1, &id, &content, Cas::None);
        assert_eq!(request.path(), "secret/team/app");
        assert_eq!(
            sent(&request),
            r#"{"a\"b":"line\nquote\" back\\ \u0001 é 🔑","z":""}"#
        );
    }

    #[test]
    fn binary_is_refused_and_not_shown() {
        let content = Content::from([("k".to_owned(), Value::new(vec![0xff, b'h', b'u', b'n']))]);
        let id = DocumentId::new("secret", "app");
        assert_eq!(
            check(&Call::new(Operation::Write, "secret/app"), &content)
                .unwrap_err()
                .to_string(),
            "cannot write secret/app: a value is not text"
        );
        assert!(write(&V2, &id, &content, Cas::None).body().is_err());
    }

    #[test]
    fn patches_take_keys_away_with_null() {
        let request = patch(&DocumentId::new("secret", "app"), &Claim::release())
            .body()
            .unwrap()
            .unwrap();
        assert_eq!(request, br#"{"custom_metadata":{"released":"true"}}"#);
        let change = MetadataPatch::from([("cluster", None), ("name", Some("web".to_owned()))]);
        let request = patch(&DocumentId::new("secret", "app"), &change);
        assert_eq!(request.path(), "secret/metadata/app");
        assert_eq!(
            sent(&request),
            r#"{"custom_metadata":{"cluster":null,"name":"web"}}"#
        );
    }

    #[test]
    fn a_live_document_is_read_whole() {
        let body = r#"{"request_id":"x","data":{"data":{"a":"1\n\"","n":1,"f":1.5,"b":true,"z":null,"l":[1,"x"],"m":{"k":"v"}},
            "metadata":{"created_time":"2026-11-24T10:44:29.003343387Z","custom_metadata":{"managed-by":"vault-sync-operator",
            "cluster-id":"u","namespace":"shop","kind":"Secret","name":"db"},"deletion_time":"","destroyed":false,"version":2}}}"#;
        let Ok(Observed::Live {
            version: 2,
            created: 1_795_517_069,
            held,
            mark,
        }) = see(KvVersion::V2, 200, body)
        else {
            panic!("not live at version 2")
        };
        assert!(held["a"] == Some(Value::from("1\n\"")));
        assert_eq!(held.len(), 7);
        assert!(held.iter().all(|(key, value)| key == "a" || value.is_none()));
        let holder = SourceKey {
            kind: Kind::Secret,
            namespace: "shop".into(),
            name: "db".into(),
        };
        assert_eq!(
            mark,
            Mark::Claimed(Claim {
                cluster: None,
                cluster_id: "u".into(),
                holder
            })
        );
    }

    #[test]
    fn a_document_that_is_not_live_says_how() {
        let deleted = r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-24T10:44:29Z","custom_metadata":null,
            "deletion_time":"2026-11-24T10:44:29.05Z","destroyed":false,"version":7}},"warnings":null}"#;
        let unseen =
            r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-24T10:44:29Z","version":7}}}"#;
        let is = |wanted: &Observed, got: Result<Observed, Error>| got.is_ok_and(|got| got == *wanted);
        assert!(is(
            &Observed::Deleted {
                version: 7,
                mark: Mark::Unclaimed
            },
            see(KvVersion::V2, 404, deleted)
        ));
        assert!(is(
            &Observed::Deleted {
                version: 7,
                mark: Mark::Unreadable
            },
            see(KvVersion::V2, 404, unseen)
        ));
        assert!(is(&Observed::Absent, see(KvVersion::V2, 404, r#"{"errors":[]}"#)));
        assert!(is(&Observed::Absent, see(KvVersion::V1, 404, r#"{"errors":[]}"#)));
        let live = r#"{"data":{"a":"1"},"lease_duration":2764800}"#;
        let held = Held::from([("a".to_owned(), Some(Value::from("1")))]);
        let seen = Observed::Live {
            version: 0,
            created: 0,
            held,
            mark: Mark::Unreadable,
        };
        assert!(is(&seen, see(KvVersion::V1, 200, live)));
    }

    #[test]
    fn absence_is_never_guessed() {
        let kind = |version, status, body| see(version, status, body).err().map(|error| error.kind);
        for (version, status, body, expected) in [
            (
                KvVersion::V2,
                404,
                r#"{"errors":["no handler for route"]}"#,
                ErrorKind::NotFound,
            ),
            (KvVersion::V2, 404, "<html>", ErrorKind::Bug),
            (KvVersion::V2, 404, "", ErrorKind::NotFound),
            (
                KvVersion::V1,
                404,
                r#"{"data":null,"warnings":["Invalid path for a versioned"]}"#,
                ErrorKind::NotFound,
            ),
            (
                KvVersion::V2,
                200,
                r#"{"data":{"data":{"a":"1"},"options":{"cas":0}}}"#,
                ErrorKind::Bug,
            ),
            (KvVersion::V2, 200, "<html>", ErrorKind::Bug),
            (KvVersion::V1, 200, "", ErrorKind::Bug),
            (
                KvVersion::V2,
                403,
                r#"{"errors":["permission denied"]}"#,
                ErrorKind::Denied,
            ),
        ] {
            assert_eq!(kind(version, status, body), Some(expected), "{status} {body}");
        }
    }

    #[test]
    fn a_reply_that_does_not_fit_is_not_quoted() {
        let error = see(KvVersion::V1, 200, r#"{"data":"hunter2"}"#).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Bug);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn a_write_tells_its_version() {
        let call = Call::new(Operation::Write, "secret/app");
        let made = |version, status, body| written(version, &call, &Reply::new(status, body));
        assert_eq!(
            made(
                KvVersion::V2,
                200,
                r#"{"data":{"version":12,"custom_metadata":null}}"#
            ),
            Ok(12)
        );
        assert_eq!(made(KvVersion::V1, 204, ""), Ok(0));
        let misfit = made(KvVersion::V2, 204, "").unwrap_err();
        assert_eq!((misfit.kind, misfit.outcome_unknown), (ErrorKind::Bug, true));
    }
}
