//! What an object may be. The rules and the words are those of the real server, for what people get wrong.

mod event;

use serde_json::{Map, Value, json};

use super::resource::{Endpoint, Resource};
use super::status::Fault;

/// Bytes of all annotations of an object.
const ANNOTATIONS: usize = 256 * 1024;
/// Bytes of the data of a Secret or a ConfigMap.
const DATA: usize = 1024 * 1024;
/// Bytes of a name.
const NAME: usize = 253;
/// Bytes of a label's value, or of the part of its key behind the slash.
const LABEL: usize = 63;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                         '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used \
                         for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                         must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex \
                         used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                           '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                           'my_value',  or '12345', regex used for validation is \
                           '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                          'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                          '[-._a-zA-Z0-9]+')";
const IMMUTABLE: &str = "field is immutable";
const IS_IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// What is wrong with a new object.
pub(super) fn object(endpoint: Endpoint, object: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    metadata(endpoint, &object["metadata"], &mut faults);
    content(endpoint, object, &mut faults);
    if endpoint.shows_new_events() {
        event::strict(object, &mut faults);
    }
    faults
}

fn content(endpoint: Endpoint, object: &Value, faults: &mut Vec<Fault>) {
    match endpoint.resource {
        Resource::Secrets => data(object, &["data"], "data", faults),
        Resource::ConfigMaps => data(object, &["data", "binaryData"], "[]", faults),
        Resource::Leases => lease(object, faults),
        Resource::Events => event::legacy(endpoint, object, faults),
        _ => {}
    }
}

/// What is wrong with the change of an object.
pub(super) fn change(endpoint: Endpoint, new: &Value, old: &Value) -> Vec<Fault> {
    let resource = endpoint.resource;
    let mut faults = Vec::new();
    let (new_meta, old_meta) = (&new["metadata"], &old["metadata"]);
    if !old_meta["deletionTimestamp"].is_null() {
        no_new_finalizers(new_meta, old_meta, &mut faults);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if new_meta[field] != old_meta[field] {
            faults.push(Fault::invalid(
                format!("metadata.{field}"),
                &new_meta[field],
                IMMUTABLE,
            ));
        }
    }
    if resource == Resource::Secrets && new["type"] != old["type"] {
        faults.push(Fault::invalid("type", &new["type"], IMMUTABLE));
    }
    if matches!(resource, Resource::Secrets | Resource::ConfigMaps) && old["immutable"] == true {
        for field in ["immutable", "data", "binaryData"] {
            if new[field] != old[field] {
                faults.push(Fault::forbidden(field, IS_IMMUTABLE));
            }
        }
    }
    if endpoint.shows_new_events() {
        event::unchanged(new, old, &mut faults);
    }
    metadata(endpoint, new_meta, &mut faults);
    content(endpoint, new, &mut faults);
    faults
}

fn metadata(endpoint: Endpoint, metadata: &Value, faults: &mut Vec<Fault>) {
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        faults.push(Fault::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        let wrong = match endpoint.resource {
            Resource::Namespaces | Resource::StatefulSets => {
                name_faults(name, LABEL, "characters", is_dns_label, DNS_LABEL)
            }
            // Any name that fits into a path.
            Resource::Events if !endpoint.shows_new_events() => Vec::new(),
            _ => name_faults(name, NAME, "characters", is_subdomain, SUBDOMAIN),
        };
        faults.extend(
            wrong
                .into_iter()
                .map(|why| Fault::invalid("metadata.name", &json!(name), &why)),
        );
    }
    for (key, value) in entries(&metadata["labels"]) {
        faults.extend(
            qualified_name(key)
                .into_iter()
                .map(|why| Fault::invalid("metadata.labels", &json!(key), &why)),
        );
        faults.extend(label_value(value).map(|why| Fault::invalid("metadata.labels", value, &why)));
    }
    let mut size = 0;
    for (key, value) in entries(&metadata["annotations"]) {
        size += key.len() + value.as_str().map_or(0, str::len);
        faults.extend(
            qualified_name(&key.to_lowercase())
                .into_iter()
                .map(|why| Fault::invalid("metadata.annotations", &json!(key), &why)),
        );
    }
    if size > ANNOTATIONS {
        faults.push(Fault::too_long("metadata.annotations", ANNOTATIONS));
    }
    finalizers(endpoint, metadata, faults);
}

fn finalizers(endpoint: Endpoint, metadata: &Value, faults: &mut Vec<Fault>) {
    let is_core_rule = match endpoint.resource {
        Resource::Leases => false,
        Resource::Events => endpoint.shows_new_events(),
        _ => true,
    };
    for (number, finalizer) in texts(&metadata["finalizers"]).enumerate() {
        let wrong = qualified_name(finalizer);
        if is_core_rule && wrong.is_empty() && !finalizer.contains('/') && !is_standard_finalizer(finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            faults.push(Fault::invalid(
                format!("metadata.finalizers[{number}]"),
                &json!(finalizer),
                why,
            ));
        }
        faults.extend(
            wrong
                .into_iter()
                .map(|why| Fault::invalid("metadata.finalizers", &json!(finalizer), &why)),
        );
    }
}

fn is_standard_finalizer(finalizer: &str) -> bool {
    matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion")
}

fn no_new_finalizers(new: &Value, old: &Value, faults: &mut Vec<Fault>) {
    let old: Vec<&str> = texts(&old["finalizers"]).collect();
    let mut added: Vec<&str> = texts(&new["finalizers"])
        .filter(|one| !old.contains(one))
        .collect();
    added.sort_unstable();
    added.dedup();
    if !added.is_empty() {
        let words: Vec<String> = added.iter().map(|one| json!(one).to_string()).collect();
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            words.join(", ")
        );
        faults.push(Fault::forbidden("metadata.finalizers", &why));
    }
}

/// The keys and the size of what a Secret or a ConfigMap holds.
fn data(object: &Value, fields: &[&str], size_field: &str, faults: &mut Vec<Fault>) {
    let mut size = 0;
    for field in fields {
        for (key, value) in entries(&object[*field]) {
            let is_text = *field == "data" && object.get("type").is_none();
            size += size_of(value.as_str().unwrap_or_default(), is_text);
            faults.extend(
                config_key(key)
                    .into_iter()
                    .map(|why| Fault::invalid(format!("{field}[{key}]"), &json!(key), &why)),
            );
        }
    }
    if size > DATA {
        faults.push(Fault::too_long(size_field, DATA));
    }
}

/// The bytes of a value: of a text, or of what is in base64.
fn size_of(value: &str, is_text: bool) -> usize {
    if is_text {
        return value.len();
    }
    let padding = value.bytes().rev().take_while(|byte| *byte == b'=').count();
    (value.len() / 4 * 3).saturating_sub(padding)
}

fn lease(object: &Value, faults: &mut Vec<Fault>) {
    let spec = &object["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"]
        .as_i64()
        .filter(|seconds| *seconds <= 0)
    {
        faults.push(Fault::invalid(
            "spec.leaseDurationSeconds",
            &json!(seconds),
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec["leaseTransitions"].as_i64().filter(|count| *count < 0) {
        faults.push(Fault::invalid(
            "spec.leaseTransitions",
            &json!(count),
            "must be greater than or equal to 0",
        ));
    }
}

fn entries(map: &Value) -> impl Iterator<Item = (&String, &Value)> {
    map.as_object().into_iter().flat_map(Map::iter)
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn too_long(most: usize, unit: &str) -> String {
    format!("must be no more than {most} {unit}")
}

fn name_faults(name: &str, most: usize, unit: &str, is_good: fn(&str) -> bool, words: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if name.len() > most {
        faults.push(too_long(most, unit));
    }
    if !is_good(name) {
        faults.push(words.to_owned());
    }
    faults
}

/// What is wrong with `prefix/name`.
fn qualified_name(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if name.contains('/') {
        let why = "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                   with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                   validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix \
                   and '/' (e.g. 'example.com/MyName')";
        return vec![why.to_owned()];
    }
    let mut faults = Vec::new();
    match prefix {
        Some("") => faults.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            let wrong = name_faults(prefix, NAME, "bytes", is_subdomain, SUBDOMAIN);
            faults.extend(wrong.into_iter().map(|why| format!("prefix part {why}")));
        }
        None => {}
    }
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL {
        faults.push(format!("name part {}", too_long(LABEL, "bytes")));
    }
    if !is_qualified(name) {
        faults.push(format!("name part {QUALIFIED}"));
    }
    faults
}

fn label_value(value: &Value) -> Option<String> {
    let text = value.as_str().unwrap_or_default();
    if text.len() > LABEL {
        return Some(too_long(LABEL, "bytes"));
    }
    (!text.is_empty() && !is_qualified(text)).then(|| LABEL_VALUE.to_owned())
}

fn config_key(key: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if key.len() > NAME {
        faults.push(too_long(NAME, "characters"));
    }
    let is_good = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !is_good {
        faults.push(CONFIG_KEY.to_owned());
    }
    match key {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if key.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

fn is_dns_label(text: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    begins_and_ends(text, is_sign) && text.bytes().all(|byte| is_sign(byte) || byte == b'-')
}

fn is_qualified(text: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric();
    begins_and_ends(text, is_sign) && text.bytes().all(|byte| is_sign(byte) || b"-_.".contains(&byte))
}

fn begins_and_ends(text: &str, is_sign: fn(u8) -> bool) -> bool {
    let (first, last) = (text.bytes().next(), text.bytes().last());
    first.is_some_and(is_sign) && last.is_some_and(is_sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(plural: &str) -> Endpoint {
        Endpoint::find("v1", plural).unwrap()
    }

    #[test]
    fn names_are_those_of_domains() {
        for (name, good) in [
            ("a", true),
            ("a.b-c", true),
            ("A", false),
            ("-a", false),
            ("a..b", false),
            ("a_b", false),
            (&"a".repeat(253), true),
            (&"a".repeat(254), false),
        ] {
            let secret = json!({"metadata": {"name": name}});
            assert_eq!(object(endpoint("secrets"), &secret).is_empty(), good, "{name}");
        }
    }

    #[test]
    fn data_are_bounded() {
        let full = |bytes: usize| json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(bytes)}});
        assert!(object(endpoint("configmaps"), &full(DATA)).is_empty());
        assert!(!object(endpoint("configmaps"), &full(DATA + 1)).is_empty());
    }

    #[test]
    fn an_immutable_secret_keeps_its_data() {
        let old = json!({"metadata": {"name": "a"}, "immutable": true, "data": {"k": "dg=="}});
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(change(endpoint("secrets"), &new, &old).is_empty());
        new["data"]["k"] = json!("eA==");
        assert_eq!(change(endpoint("secrets"), &new, &old).len(), 1);
    }
}
