//! The form in which objects are stored: known fields only, nothing empty, every value of its type.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::resource::{Endpoint, Resource};
use super::status::Failure;

/// Fields of an object's metadata. `managedFields` are left out on purpose.
const METADATA: [&str; 13] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// Reads an object that was sent to an endpoint.
pub(super) fn read(endpoint: Endpoint, body: &[u8]) -> Result<Value, Failure> {
    let object: Value = serde_json::from_slice(body).map_err(|_| {
        Failure::bad_request(format!(
            "the object provided is unrecognized (must be of type {})",
            endpoint.resource.kind()
        ))
    })?;
    let kind = endpoint.resource.kind();
    match object.get("kind").and_then(Value::as_str) {
        Some(other) if other != kind => Err(Failure::bad_request(format!(
            "{other} in version {} cannot be handled as a {kind}",
            object.get("apiVersion").unwrap_or(&json!("v1")),
        ))),
        _ => normal(endpoint, object),
    }
}

/// Brings an object into the form in which it is stored.
pub(super) fn normal(endpoint: Endpoint, object: Value) -> Result<Value, Failure> {
    let Value::Object(mut object) = object else {
        return Err(unreadable(endpoint, "json: cannot unmarshal it into an object"));
    };
    if endpoint.shows_new_events() {
        object = super::event::to_core(object);
    }
    let resource = endpoint.resource;
    object.retain(|key, value| !value.is_null() && is_known(resource, key));
    let metadata = object.remove("metadata").unwrap_or_default();
    object.insert("metadata".to_owned(), read_metadata(endpoint, metadata)?);
    match resource {
        Resource::Secrets => fill_secret(endpoint, &mut object)?,
        Resource::ConfigMaps => {
            texts(endpoint, &mut object, "data")?;
            bytes(endpoint, &mut object, "binaryData")?;
        }
        Resource::Events => fill_event(&mut object),
        Resource::Leases => {
            object.entry("spec").or_insert_with(|| json!({}));
            object.values_mut().for_each(prune);
        }
        _ => object.values_mut().for_each(prune),
    }
    object.retain(|key, value| !is_empty(value) || is_always_there(key));
    Ok(object.into())
}

fn is_known(resource: Resource, key: &str) -> bool {
    match resource {
        Resource::Secrets => matches!(key, "metadata" | "data" | "stringData" | "type" | "immutable"),
        Resource::ConfigMaps => matches!(key, "metadata" | "data" | "binaryData" | "immutable"),
        Resource::Events => super::event::is_core_field(key),
        Resource::Leases => matches!(key, "metadata" | "spec"),
        _ => matches!(key, "metadata" | "spec" | "status"),
    }
}

fn is_always_there(key: &str) -> bool {
    let of_events = [
        "source",
        "involvedObject",
        "reportingComponent",
        "reportingInstance",
    ];
    matches!(key, "metadata" | "spec" | "status") || of_events.contains(&key)
}

fn read_metadata(endpoint: Endpoint, metadata: Value) -> Result<Value, Failure> {
    let Value::Object(mut metadata) = metadata else {
        return Ok(json!({}));
    };
    metadata.retain(|key, value| !value.is_null() && METADATA.contains(&key.as_str()));
    for key in ["annotations", "labels"] {
        texts_of(
            endpoint,
            &mut metadata,
            key,
            &format!("ObjectMeta.metadata.{key}"),
        )?;
    }
    metadata.retain(|_, value| !is_empty(value));
    Ok(metadata.into())
}

/// Merges `stringData` into `data`, and gives a type to a Secret without one.
fn fill_secret(endpoint: Endpoint, object: &mut Map<String, Value>) -> Result<(), Failure> {
    bytes(endpoint, object, "data")?;
    texts(endpoint, object, "stringData")?;
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let data = object.entry("data").or_insert_with(|| json!({}));
        for (key, text) in texts {
            data[key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
    }
    if object.get("type").is_none_or(is_empty) {
        object.insert("type".to_owned(), json!("Opaque"));
    }
    Ok(())
}

/// Core Events always show these.
fn fill_event(object: &mut Map<String, Value>) {
    object.values_mut().for_each(prune);
    for key in ["source", "involvedObject"] {
        object.entry(key).or_insert_with(|| json!({}));
    }
    for key in ["reportingComponent", "reportingInstance"] {
        object.entry(key).or_insert_with(|| json!(""));
    }
}

/// Checks that a field is a map of texts.
fn texts(endpoint: Endpoint, object: &mut Map<String, Value>, key: &str) -> Result<(), Failure> {
    texts_of(
        endpoint,
        object,
        key,
        &format!("{}.{key}", endpoint.resource.kind()),
    )
}

fn texts_of(
    endpoint: Endpoint,
    object: &mut Map<String, Value>,
    key: &str,
    field: &str,
) -> Result<(), Failure> {
    let Some(value) = object.get_mut(key) else {
        return Ok(());
    };
    let Value::Object(map) = value else {
        return Err(wrong_type(endpoint, value, field, "map[string]string"));
    };
    for value in map.values_mut() {
        match value {
            Value::String(_) => {}
            Value::Null => *value = json!(""),
            other => return Err(wrong_type(endpoint, other, field, "string")),
        }
    }
    Ok(())
}

/// Checks that a field is a map of bytes, in base64.
fn bytes(endpoint: Endpoint, object: &mut Map<String, Value>, key: &str) -> Result<(), Failure> {
    texts_of(
        endpoint,
        object,
        key,
        &format!("{}.{key}", endpoint.resource.kind()),
    )?;
    let Some(Value::Object(map)) = object.get_mut(key) else {
        return Ok(());
    };
    for value in map.values_mut() {
        let text = value.as_str().unwrap_or_default();
        if let Some(at) = not_base64(text) {
            return Err(unreadable(
                endpoint,
                &format!("illegal base64 data at input byte {at}"),
            ));
        }
        // Line breaks inside are allowed, and not kept.
        if text.contains(['\r', '\n']) {
            *value = text.replace(['\r', '\n'], "").into();
        }
    }
    Ok(())
}

/// Where a text stops being base64, as Go's decoder sees it.
fn not_base64(text: &str) -> Option<usize> {
    let is_sign =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n');
    if let Some(at) = text.bytes().position(|byte| !is_sign(byte)) {
        return Some(at);
    }
    let plain = if text.contains(['\r', '\n']) {
        text.replace(['\r', '\n'], "")
    } else {
        return STANDARD.decode(text).err().map(|_| text.len() / 4 * 4);
    };
    STANDARD.decode(&plain).err().map(|_| plain.len() / 4 * 4)
}

fn wrong_type(endpoint: Endpoint, value: &Value, field: &str, wanted: &str) -> Failure {
    let found = match value {
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        _ => "string",
    };
    let why = format!("json: cannot unmarshal {found} into Go struct field {field} of type {wanted}");
    unreadable(endpoint, &why)
}

fn unreadable(endpoint: Endpoint, why: &str) -> Failure {
    let kind = endpoint.resource.kind();
    let version = endpoint.api_version.rsplit('/').next().unwrap_or_default();
    Failure::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
    ))
}

/// Removes the nulls in a value.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(object: Value) -> Result<Value, u16> {
        let endpoint = Endpoint::find("v1", "secrets").unwrap();
        normal(endpoint, object).map_err(|failure| failure.code)
    }

    #[test]
    fn texts_of_a_secret_become_its_data() {
        let sent = json!({
            "metadata": {"name": "a", "labels": {}}, "data": {"k": "eA==", "l": null}, "stringData": {"k": "v"},
        });
        let expected = json!({"metadata": {"name": "a"}, "type": "Opaque", "data": {"k": "dg==", "l": ""}});
        assert_eq!(secret(sent), Ok(expected));
    }

    #[test]
    fn what_is_not_base64_or_not_a_text_is_refused() {
        assert_eq!(secret(json!({"data": {"k": "x"}})), Err(400));
        assert_eq!(secret(json!({"data": {"k": "$"}})), Err(400));
        assert_eq!(secret(json!({"data": {"k": 1}})), Err(400));
        assert_eq!(
            secret(json!({"metadata": {"annotations": {"k": true}}})),
            Err(400)
        );
    }
}
