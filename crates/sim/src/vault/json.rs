//! JSON bodies, with the limits and the words of Vault.

use serde_json::error::Category;
use serde_json::{Map, Value};

use super::reply::Reply;

/// The longest string in a body, in bytes.
const LONGEST_STRING: usize = 1 << 20;
/// How many entries an object, and elements an array, may have.
const MOST_ENTRIES: usize = 10_000;
/// How deep a body may be nested.
const DEEPEST: usize = 300;

/// Why a body is not taken.
pub(super) enum Fault {
    /// It breaks off, goes on after its end, or is beyond a limit.
    Refused(String),
    /// It is no JSON, or no object.
    Unfit(String),
}

impl Fault {
    /// A PATCH does not say what is wrong.
    pub(super) fn reply(self, patch: bool) -> Reply {
        match self {
            Self::Refused(why) => Reply::error(500, why),
            Self::Unfit(_) if patch => Reply::error(400, "error parsing JSON"),
            Self::Unfit(why) => Reply::error(
                400,
                format!("error parsing JSON: failed to parse JSON input: {why}"),
            ),
        }
    }
}

/// The object in a body. None at all, and `null`, are as good as an empty one.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Fault> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| fault(&error))?;
    check(&value, 0)?;
    let kind = match value {
        Value::Object(fields) => return Ok(fields),
        Value::Null => return Ok(Map::new()),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    Err(Fault::Unfit(format!(
        "json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
    )))
}

fn fault(error: &serde_json::Error) -> Fault {
    let text = error.to_string();
    if error.classify() == Category::Eof {
        let what = if text.contains("string") {
            "string"
        } else {
            "containers"
        };
        Fault::Refused(format!("malformed JSON, unclosed {what}"))
    } else if text.contains("trailing characters") {
        Fault::Refused("invalid character after top-level value".to_owned())
    } else {
        Fault::Unfit(text)
    }
}

fn check(value: &Value, depth: usize) -> Result<(), Fault> {
    let refused = |why: &str| Err(Fault::Refused(why.to_owned()));
    if depth > DEEPEST {
        return refused("JSON input exceeds allowed nesting depth");
    }
    match value {
        Value::String(text) if text.len() > LONGEST_STRING => {
            refused("JSON string value exceeds allowed length")
        }
        Value::Array(list) if list.len() > MOST_ENTRIES => {
            refused("JSON array exceeds allowed element count")
        }
        Value::Object(map) if map.len() > MOST_ENTRIES => refused("JSON object exceeds allowed entry count"),
        Value::Array(list) => list.iter().try_for_each(|value| check(value, depth + 1)),
        Value::Object(map) => map.values().try_for_each(|value| check(value, depth + 1)),
        _ => Ok(()),
    }
}

/// Applies a merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// Numbers as Go has them after it read them without a type: all are floats.
pub(super) fn as_floats(value: &mut Value) {
    /// From here on Go prints an exponent.
    const EXPONENT: f64 = 1e21;
    match value {
        Value::Number(number) => {
            let Some(float) = number.as_f64() else { return };
            #[expect(clippy::cast_possible_truncation, reason = "it has no fraction, and fits")]
            let whole = if float.fract() == 0.0 && float.abs() < EXPONENT {
                serde_json::Number::from_i128(float as i128)
            } else {
                None
            };
            if let Some(exact) = whole.or_else(|| serde_json::Number::from_f64(float)) {
                *number = exact;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(as_floats),
        Value::Object(map) => map.values_mut().for_each(as_floats),
        _ => {}
    }
}
