//! What is compared of two replies. What is different on purpose is taken out before:
//!
//! - `managedFields` are left out.
//! - Workloads get no defaults in their spec and have no status, and their spec is not validated.
//! - DaemonSets have no annotation that counts the versions of their template.
//! - Bookmarks show nothing of an object but its metadata.
//! - The version of a list and of a bookmark: other writers move the real one.
//! - The words of an error about a body that cannot be decoded: the real ones quote Go's types and whole objects.
//! - The order of faults in an object that has several: the real server's is random.
//! - A namespace that ends has no conditions that say what it waits for, and so no versions for them.
//! - An Event that one API group made is not patched through the other: that alone would change `managedFields`.
//! - What a deletion of many objects does with a limit.
//! - Lists from the cache (`resourceVersion=0`): the real ones may be old, the simulated ones never are.
//! - A null in the data of a new Secret: the next write to the real one makes a version even if it changes nothing.
//! - `dryRun`, tables and subresources: they are not served.
//! - `propagationPolicy` and graceful deletion: nothing collects garbage, and pods are gone at once.

use serde_json::Value;

/// Where a reply of the real server and one of the simulated server differ; `None`: nowhere.
pub fn difference(mut real: Value, mut simulated: Value) -> Option<String> {
    strip(&mut real);
    strip(&mut simulated);
    keep_what_is_simulated(&mut real, &simulated);
    let place = first_difference("", &real, &simulated)?;
    Some(format!("{place}\nreal:      {real}\nsimulated: {simulated}"))
}

/// Takes out what is not compared.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_workload = map
                .get("spec")
                .is_some_and(|spec| !spec["template"].is_null() || !spec["jobTemplate"].is_null());
            if is_workload {
                map.remove("status");
            }
            if map.contains_key("phase") {
                map.remove("conditions");
            }
            if map.get("type").is_some_and(|kind| kind == "BOOKMARK")
                && let Some(Value::Object(object)) = map.get_mut("object")
            {
                object.retain(|key, _| matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
            }
            if map.get("field").is_some_and(|field| field == "patch") {
                map.remove("message");
            }
            if let Some(Value::Object(annotations)) = map.get_mut("annotations") {
                annotations.remove("deprecated.daemonset.template.generation");
                if annotations.is_empty() {
                    map.remove("annotations");
                }
            }
            if let Some(Value::String(message)) = map.get_mut("message") {
                strip_message(message);
            }
            let causes = map
                .get_mut("details")
                .and_then(|details| details["causes"].as_array_mut());
            if let Some(causes) = causes.filter(|causes| causes.len() > 1) {
                causes.sort_by_key(Value::to_string);
                map.remove("message");
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

fn strip_message(message: &mut String) {
    for words in [
        "is invalid: patch: ",
        "cannot be handled as a ",
        "the object provided is unrecognized",
    ] {
        if let Some(at) = message.find(words) {
            message.truncate(at + words.len());
        }
    }
}

/// Takes out the defaults that the real server gives to a workload.
fn keep_what_is_simulated(real: &mut Value, simulated: &Value) {
    match (real, simulated) {
        (Value::Object(real), Value::Object(simulated)) => {
            for (key, value) in real.iter_mut() {
                let Some(other) = simulated.get(key) else { continue };
                if matches!(key.as_str(), "template" | "jobTemplate") {
                    keep_shared(value, other);
                } else {
                    keep_what_is_simulated(value, other);
                }
            }
            if simulated.contains_key("template") || simulated.contains_key("jobTemplate") {
                real.retain(|key, _| simulated.contains_key(key));
            }
        }
        (Value::Array(real), Value::Array(simulated)) => {
            for (real, simulated) in real.iter_mut().zip(simulated) {
                keep_what_is_simulated(real, simulated);
            }
        }
        _ => {}
    }
}

fn keep_shared(real: &mut Value, simulated: &Value) {
    match (real, simulated) {
        (Value::Object(real), Value::Object(simulated)) => {
            real.retain(|key, _| simulated.contains_key(key));
            for (key, value) in real.iter_mut() {
                keep_shared(value, &simulated[key]);
            }
        }
        (Value::Array(real), Value::Array(simulated)) => {
            for (real, simulated) in real.iter_mut().zip(simulated) {
                keep_shared(real, simulated);
            }
        }
        _ => {}
    }
}

/// Where two values differ first.
fn first_difference(path: &str, real: &Value, simulated: &Value) -> Option<String> {
    match (real, simulated) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys = one.keys().chain(other.keys());
            let null = Value::Null;
            keys.find_map(|key| {
                let (one, other) = (one.get(key).unwrap_or(&null), other.get(key).unwrap_or(&null));
                first_difference(&format!("{path}.{key}"), one, other)
            })
        }
        (Value::Array(one), Value::Array(other)) => {
            let mut pairs = one.iter().zip(other).enumerate();
            let inner =
                pairs.find_map(|(at, (one, other))| first_difference(&format!("{path}[{at}]"), one, other));
            let lengths = || {
                (one.len() != other.len())
                    .then(|| format!("{path}: {} and {} elements", one.len(), other.len()))
            };
            inner.or_else(lengths)
        }
        _ => (real != simulated).then(|| format!("{path}:\n  real      {real}\n  simulated {simulated}")),
    }
}
