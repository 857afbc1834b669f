//! Reads JSON or YAML of unknown shape into a tree of bounded size.
//!
//! The length of the text alone is no bound. A YAML alias of three characters repeats everything that its
//! anchor holds. `[[],[],[]]` takes a hundred times the memory of its text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use crate::yaml::{self, BadYaml};

/// Roughly how many bytes of memory a tree may take. The largest list that is allowed takes a third of it.
const MOST: usize = 4 * 1024 * 1024;
/// Roughly what a value, a text or an object takes in addition to its content.
const VALUE: usize = 32;
const OBJECT: usize = 600;

/// Reads JSON.
pub(super) fn from_json(text: &str) -> Result<Json, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let tree = Tree(&mut { MOST }).deserialize(&mut reader)?;
    reader.end().map(|()| tree)
}

/// Reads YAML.
pub(super) fn from_yaml(text: &str) -> Result<Json, BadYaml> {
    yaml::read(text, Tree(&mut { MOST }))
}

/// The rest of the budget, in bytes.
struct Tree<'a>(&'a mut usize);

impl Tree<'_> {
    fn spend<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.0.checked_sub(bytes) {
            Some(left) => *self.0 = left,
            None => return Err(E::custom("it says more than a list has room for")),
        }
        Ok(())
    }

    fn leaf<E: Error>(mut self, leaf: impl Into<Json>) -> Result<Json, E> {
        self.spend(VALUE).map(|()| leaf.into())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a list or an object")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        self.leaf(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        self.leaf(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        self.leaf(value)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Json, E> {
        // Numbers have no meaning here. It is enough to know that this is one.
        self.leaf(0)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Json, E> {
        self.leaf(0)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        self.leaf(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        self.leaf(Json::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Json, E> {
        self.leaf(Json::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<Json, E> {
        self.spend(text.len())?;
        self.leaf(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Json, A::Error> {
        self.spend(VALUE)?;
        let mut list = Vec::new();
        while let Some(item) = seq.next_element_seed(Tree(&mut *self.0))? {
            list.push(item);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Json, A::Error> {
        self.spend(OBJECT)?;
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(VALUE + key.len())?;
            if object.contains_key(&key) {
                let key = crate::text::excerpt(&key);
                return Err(A::Error::custom(format_args!("{key:?} is given twice")));
            }
            let value = map.next_value_seed(Tree(&mut *self.0))?;
            object.insert(key, value);
        }
        Ok(Json::Object(object))
    }
}
