//! The typed fields of a request: how Vault reads them, and what it says of those that do not fit.

use serde_json::{Map, Value};

use super::time;

/// The types that the paths of KV know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    Flag,
    Object,
    /// Seconds, none below zero.
    Duration,
    /// Seconds.
    SignedDuration,
    /// Numbers of versions.
    Numbers,
}

/// The fields that a path takes.
pub(super) type Schema = &'static [(&'static str, Kind)];

/// Checks that each field fits its type.
pub(super) fn check(data: &Map<String, Value>, schema: Schema) -> Result<(), String> {
    for (name, kind) in schema {
        if let Some(value) = data.get(*name) {
            fits(value, *kind).map_err(|why| format!("error converting input for field {name:?}: {why}"))?;
        }
    }
    Ok(())
}

/// The fields that the path does not take, in order.
pub(super) fn unknown(data: &Map<String, Value>, schema: Schema) -> Vec<&str> {
    let known = |name: &str| schema.iter().any(|(field, _)| *field == name);
    let mut names: Vec<&str> = data
        .keys()
        .map(String::as_str)
        .filter(|name| !known(name))
        .collect();
    names.sort_unstable();
    names
}

fn fits(value: &Value, kind: Kind) -> Result<(), String> {
    match kind {
        Kind::Text => text(value).map(drop),
        Kind::Whole => whole(value).map(drop),
        Kind::Flag => flag(value).map(drop),
        Kind::Object if value.is_object() || value.is_null() => Ok(()),
        Kind::Object => Err(format!("'' expected a map, got '{}'", reflected(value))),
        Kind::Duration => match time::parse_duration(value)? {
            seconds if seconds < 0 => Err(format!("cannot provide negative value '{seconds}'")),
            _ => Ok(()),
        },
        Kind::SignedDuration => time::parse_duration(value).map(drop),
        Kind::Numbers => numbers(value).map(drop),
    }
}

/// How Go calls the value's type.
fn reflected(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        // Vault keeps numbers as their text.
        Value::Number(_) | Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

fn unconvertible(value: &Value, wanted: &str) -> String {
    let kind = match value {
        // A number is given as a list of texts only in a query, twice.
        Value::Array(list) if wanted == "int" && list.iter().all(Value::is_string) => "[]string",
        Value::Array(_) => "[]interface {}",
        _ => "map[string]interface {}",
    };
    let shown = shown(value);
    format!("'' expected type '{wanted}', got unconvertible type '{kind}', value: '{shown}'")
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(shown).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Object(map) => {
            let map: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name}:{}", shown(value)))
                .collect();
            format!("map[{}]", map.join(" "))
        }
        other => other.to_string(),
    }
}

/// A text; numbers and flags are made one.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::Bool(flag) => Ok(u8::from(*flag).to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => Ok(text.clone()),
        other => Err(unconvertible(other, "string")),
    }
}

/// A whole number; texts and flags are made one.
pub(super) fn whole(value: &Value) -> Result<i64, String> {
    match value {
        Value::Null => Ok(0),
        Value::Bool(flag) => Ok(i64::from(*flag)),
        Value::Number(number) => number.as_i64().ok_or_else(|| not_an_int(&number.to_string(), "")),
        Value::String(text) if text.is_empty() => Ok(0),
        Value::String(text) => text.parse().map_err(|_| not_an_int(text, "")),
        other => Err(unconvertible(other, "int")),
    }
}

fn not_an_int(text: &str, name: &str) -> String {
    format!("cannot parse '{name}' as int: strconv.ParseInt: parsing {text:?}: invalid syntax")
}

/// A flag; numbers and texts are made one.
pub(super) fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(*flag),
        Value::Number(number) => Ok(number.as_f64() != Some(0.0)),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" | "" => Ok(false),
            other => Err(format!(
                "cannot parse '' as bool: strconv.ParseBool: parsing {other:?}: invalid syntax"
            )),
        },
        other => Err(unconvertible(other, "bool")),
    }
}

/// Whole numbers, from a list or from a text such as `1,2`.
pub(super) fn numbers(value: &Value) -> Result<Vec<i64>, String> {
    let list: Vec<Value> = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list.clone(),
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        Value::String(text) => text.split(',').map(|part| part.trim().into()).collect(),
        other => vec![other.clone()],
    };
    let mut faults = Vec::new();
    let mut found = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        match (whole(value), value) {
            (Ok(number), _) => found.push(number),
            (Err(_), Value::String(text)) => faults.push(not_an_int(text, &format!("[{at}]"))),
            (Err(why), _) => faults.push(why),
        }
    }
    if faults.is_empty() {
        return Ok(found);
    }
    Err(format!(
        "{} error(s) decoding:\n\n* {}",
        faults.len(),
        faults.join("\n* ")
    ))
}
