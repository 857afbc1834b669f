//! The KV calls: the requests for a document, and what the replies mean. Owns the bodies; knows nothing of
//! connections, tokens and retries.
//!
//! Values pass from [`Value`] directly into a request's bytes, and from a reply's bytes directly into
//! [`Value`]. There is no JSON tree in between that could be printed.
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>
//! <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v1>

use std::collections::BTreeMap;
use std::fmt;

use rustify::enums::RequestMethod;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};

use super::error::{Call, Error, ErrorKind, says_nothing_here};
use super::transport::{Plain, Reply, json_len};
use domain::document::{Cas, DocumentId, KvVersion, Mark, MetadataPatch, Mount, Observed};
use domain::value::{Content, Found, Value};

/// The request that writes a whole document.
pub(super) fn write<'a>(mount: &Mount, id: &DocumentId, content: &'a Content, cas: Cas) -> Plain<Body<'a>> {
    match mount.version {
        KvVersion::V1 => Plain::new(RequestMethod::POST, id.to_string(), Body::V1(Texts(content))),
        KvVersion::V2 => Plain::new(
            RequestMethod::POST,
            format!("{}/data/{}", id.mount, id.path),
            Body::V2 {
                options: match cas {
                    Cas::None => None,
                    Cas::Version(cas) => Some(WriteOptions { cas }),
                },
                data: Texts(content),
            },
        ),
    }
}

/// The request that changes a document's custom metadata, as a merge patch: keys that it does not name stay.
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
        options: Option<WriteOptions>,
        data: Texts<'a>,
    },
}

#[derive(Serialize)]
pub(super) struct WriteOptions {
    cas: u64,
}

/// The only place that puts values into a request.
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

/// The length of a write's body, in bytes.
pub fn encoded_len(content: &Content) -> usize {
    // The bytes around the content in a KV v2 write.
    const AROUND: usize = 64;
    AROUND + json_len(&Texts(content)).unwrap_or(0)
}

/// What the reply to a read shows.
pub(super) fn observed(version: KvVersion, call: &Call, reply: &Reply) -> Result<Observed<Found>, Error> {
    if says_nothing_here(reply.status, &reply.body) {
        return Ok(Observed::Absent);
    }
    match version {
        KvVersion::V1 => {
            let content: Data<BTreeMap<String, Text>> = reply.ok(call)?.parse(call)?;
            Ok(Observed::Live {
                version: 0,
                created: 0,
                content: plain(content.data),
                mark: Mark::Unreadable,
            })
        }
        KvVersion::V2 => {
            // For a deleted version, Vault answers 404 with the needed metadata.
            let shown = match reply.parse::<Data<Shown>>(call) {
                Ok(shown) if reply.status == 404 || reply.ok(call).is_ok() => shown.data,
                Err(misfit) if reply.ok(call).is_ok() => return Err(misfit),
                _ => return Err(reply.error(call)),
            };
            let Metadata {
                version,
                created_time,
                custom,
            } = shown.metadata;
            let mark = custom.mark();
            Ok(match shown.data {
                None => Observed::Deleted { version, mark },
                Some(content) => {
                    let created = created_time.parse::<jiff::Timestamp>().map_err(|_| {
                        Error::new(ErrorKind::Bug, call, "its time of creation is no RFC 3339 time")
                    })?;
                    Observed::Live {
                        version,
                        created: created.as_second(),
                        content: plain(content),
                        mark,
                    }
                }
            })
        }
    }
}

/// The result of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The new version. 0 on KV v1, which returns no version.
    pub version: u64,
    /// The mark that the document had at that time.
    pub mark: Mark,
}

/// The result that a reply to a write contains.
pub(super) fn written(version: KvVersion, call: &Call, reply: &Reply) -> Result<Written, Error> {
    #[derive(Deserialize)]
    struct NewVersion {
        version: u64,
        #[serde(default, rename = "custom_metadata")]
        custom: Custom,
    }
    let reply = reply.ok(call)?;
    if version == KvVersion::V1 {
        return Ok(Written {
            version: 0,
            mark: Mark::Unreadable,
        });
    }
    let made: Result<Data<NewVersion>, Error> = reply.parse(call);
    // A write was accepted, but by another engine than expected.
    let Data { data: made } = made.map_err(|misfit| Error {
        outcome_unknown: true,
        ..misfit
    })?;
    Ok(Written {
        version: made.version,
        mark: made.custom.mark(),
    })
}

/// Refuses content that cannot be written, before anything is sent.
pub(super) fn check(call: &Call, content: &Content) -> Result<(), Error> {
    let text = content.values().all(|value| value.expose_text().is_some());
    if text {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Invalid, call, "a value is not text"))
    }
}

/// Every reply from Vault that has content has it in `data`.
#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub(super) data: T,
}

/// A version as KV v2 returns it.
#[derive(Deserialize)]
struct Shown {
    data: Option<BTreeMap<String, Text>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    version: u64,
    created_time: String,
    #[serde(default, rename = "custom_metadata")]
    custom: Custom,
}

/// Custom metadata. `null` means that there is none. If the field is absent, this Vault (before 1.9) does not
/// return it.
#[derive(Default)]
enum Custom {
    #[default]
    Hidden,
    Shown(BTreeMap<String, String>),
}

impl Custom {
    fn mark(&self) -> Mark {
        match self {
            Self::Hidden => Mark::Unreadable,
            Self::Shown(metadata) => Mark::from_metadata(metadata),
        }
    }
}

impl<'de> Deserialize<'de> for Custom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer)
            .map(Option::unwrap_or_default)
            .map(Self::Shown)
    }
}

fn plain(content: BTreeMap<String, Text>) -> Found {
    content
        .into_iter()
        .map(|(key, Text(value))| (key, value))
        .collect()
}

/// A value as Vault holds it: any JSON. Only strings are kept.
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
mod tests;
