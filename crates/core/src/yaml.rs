//! YAML: the only module that uses `serde_yaml`, which is no longer maintained.
//!
//! We set our own bounds on what may be read: those for a list are in `annotations/list.rs` and
//! `annotations/tree.rs`. The budget of `serde-saphyr`, which the `kube` crates bring, does not replace them:
//!
//! - It counts aliases, not what they expand to: `&a` with 30 kB and ten thousand times `*a` is within a
//!   budget that normal lists need too. And JSON needs the bound on a tree in any case.
//! - It runs another parser. What that parser counts is not what `serde_yaml` then does, and it refuses text
//!   that `serde_yaml` reads, with its own messages.

use serde::de::{DeserializeOwned, DeserializeSeed};

use super::text::without_mark;

/// Text that is not YAML, or not of the shape that is needed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BadYaml(#[from] serde_yaml::Error);

/// Reads one YAML document. The error says what is wrong, and at which line and column as far as that is
/// known. It is for configuration, which may be quoted. A byte order mark at the beginning is skipped.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, BadYaml> {
    Ok(serde_yaml::from_str(without_mark(text))?)
}

/// The same, for a reader with its own bounds.
pub fn read<T>(text: &str, seed: impl for<'de> DeserializeSeed<'de, Value = T>) -> Result<T, BadYaml> {
    Ok(seed.deserialize(serde_yaml::Deserializer::from_str(text))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn errors_say_where() {
        let read = |text| from_str::<Vec<BTreeMap<String, bool>>>(text);
        assert_eq!(read("- a: true\n- {b: false}\n").unwrap().len(), 2);
        assert_eq!(read("\u{feff}- a: true\n").unwrap().len(), 1);
        let error = read("- a: true\n- b: maybe\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#".[1].b: invalid type: string "maybe", expected a boolean at line 2 column 6"#
        );
        let error = read("- a: true\n b\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "did not find expected '-' indicator at line 2 column 2, while parsing a block collection"
        );
    }

    #[test]
    fn a_nest_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            let below = below.trim_end_matches(", ");
            writeln!(text, "a{level}: &a{level} [{below}]").unwrap();
        }
        let error = from_str::<serde_json::Value>(&text).unwrap_err();
        assert_eq!(error.to_string(), "repetition limit exceeded");
    }
}
