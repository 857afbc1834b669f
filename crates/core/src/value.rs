//! Secret values, and the one type that holds them.
//!
//! All secret data is in a [`Value`]. It implements no `Debug`, no `Display` and no `Serialize`, and it wipes
//! its memory on drop. Only [`Value::expose`] and [`Value::expose_text`] give access to its bytes, so that a
//! search for `expose` finds every place that reads a secret.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use serde::Deserialize;
use zeroize::Zeroizing;

/// One secret value: any bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Zeroizing<Vec<u8>>);

impl Value {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Callers must not log, print or store them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

/// Decodes the standard base64 that the Kubernetes API uses for the values of a Secret.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl serde::de::Visitor<'_> for Base64 {
            type Value = Value;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value in base64")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map(Value::new)
                    // Not the decoder's message, which may quote its input.
                    .map_err(|_| E::custom("a value is not base64"))
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

/// The keys and values that a document holds, or is to hold. All values are text: `desired` has encoded the
/// others.
pub type Content = BTreeMap<String, Value>;

/// The content of a document as read from Vault. `None` is a value that is not a string. We never write such
/// a value, so it equals nothing that we want.
pub type Found = BTreeMap<String, Option<Value>>;

/// Whether Vault holds exactly the content that we would write.
pub fn same(held: &Found, content: &Content) -> bool {
    held.len() == content.len()
        && held
            .iter()
            .zip(content)
            .all(|((a, held), (b, wanted))| a == b && held.as_ref() == Some(wanted))
}

/// Sum of the lengths of keys and values, in bytes.
pub fn size(content: &Content) -> usize {
    content.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// The data of one Kubernetes Secret. It is fetched for one reconcile, and dropped after it.
#[derive(Clone)]
pub struct Payload {
    /// `metadata.resourceVersion`, to detect later whether the Secret has changed.
    pub resource_version: String,
    /// The keys and values.
    pub data: BTreeMap<String, Value>,
}

/// Fingerprint of a document's content. It is valid in one process only: it is keyed at random, so that it
/// reveals nothing about the values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(u64, u64);

/// Makes [`Digest`]s: two independently keyed hashes of 64 bits.
#[derive(Clone, Default)]
pub struct Digester(RandomState, RandomState);

impl Digester {
    /// Fingerprint of all keys and values.
    pub fn content(&self, content: &Content) -> Digest {
        self.fields(
            content
                .iter()
                .flat_map(|(key, value)| [key.as_bytes(), value.expose()]),
        )
    }

    /// Fingerprint of a sequence of byte strings. It also depends on where each string ends.
    pub fn fields<'a>(&self, fields: impl Iterator<Item = &'a [u8]>) -> Digest {
        let (mut a, mut b) = (self.0.build_hasher(), self.1.build_hasher());
        for field in fields {
            for hasher in [&mut a, &mut b] {
                hasher.write_usize(field.len());
                hasher.write(field);
            }
        }
        Digest(a.finish(), b.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pairs: &[(&str, &str)]) -> Content {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), Value::from(*v)))
            .collect()
    }

    fn held(pairs: &[(&str, Option<&str>)]) -> Found {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.map(Value::from)))
            .collect()
    }

    #[test]
    fn same_means_every_key_and_every_value() {
        let wanted = content(&[("a", "1"), ("b", "2")]);
        assert!(same(&held(&[("a", Some("1")), ("b", Some("2"))]), &wanted));
        assert!(!same(&held(&[("a", Some("1"))]), &wanted));
        assert!(!same(&held(&[("a", Some("1")), ("b", None)]), &wanted));
        assert!(!same(&held(&[("a", Some("1")), ("c", Some("2"))]), &wanted));
        assert!(!same(
            &held(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]),
            &wanted
        ));
        assert!(same(&held(&[]), &content(&[])));
    }

    #[test]
    fn digests_tell_borders_apart() {
        let digester = Digester::default();
        let digest = |pairs: &[(&str, &str)]| digester.content(&content(pairs));
        assert!(digest(&[("a", "bc")]) == digest(&[("a", "bc")]));
        assert!(digest(&[("a", "bc")]) != digest(&[("ab", "c")]));
        assert!(digest(&[]) != digest(&[("", "")]));
    }

    #[test]
    fn base64_errors_quote_nothing() {
        let error = serde_json::from_str::<Value>("\"hunter2!\"")
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("a value is not base64"), "{error}");
        assert!(!error.contains("hunter2"));
        let value: Value = serde_json::from_str("\"aGk=\"")
            .map_err(|e| e.to_string())
            .unwrap_or("".into());
        assert!(value.expose() == b"hi");
    }
}
