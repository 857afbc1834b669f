//! Patches in their three languages.

use serde_json::{Map, Value, json};

use super::call::PatchKind;
use super::status::Failure;

/// Applies a patch to an object.
pub(super) fn apply(kind: PatchKind, object: &mut Value, patch: &Value) -> Result<(), Failure> {
    match kind {
        PatchKind::Merge => merge(object, patch),
        PatchKind::Strategic => merge_strategically(object, patch),
        PatchKind::Json => return change(object, patch),
    }
    Ok(())
}

/// RFC 7386: maps are merged, null removes, everything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    for (key, value) in patch {
        merge_key(target, key, value, merge);
    }
}

fn merge_key(target: &mut Value, key: &str, value: &Value, merge: fn(&mut Value, &Value)) {
    let target = map(target);
    if value.is_null() {
        target.remove(key);
    } else {
        merge(target.entry(key).or_insert(Value::Null), value);
    }
}

/// The map that a value is, or becomes.
fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made one"),
    }
}

const DIRECTIVE: &str = "$patch";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// Kubernetes' own language: as above, and some lists are merged by a key or as a set.
/// <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>
fn merge_strategically(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => *target = json!({}),
        Some("delete") => {
            *target = json!({});
            return;
        }
        _ => {}
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            remove_from_list(target, list, value);
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        match (value, list_type(key)) {
            (Value::Array(new), Some(list)) => match map(target).entry(key.as_str()).or_insert(Value::Null) {
                Value::Array(old) => list.merge(old, new),
                other => *other = without_directives(new),
            },
            _ => merge_key(target, key, value, merge_strategically),
        }
    }
}

fn remove_from_list(target: &mut Value, list: &str, unwanted: &Value) {
    let unwanted = unwanted.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(Value::Array(values)) = target.get_mut(list) {
        values.retain(|value| !unwanted.contains(value));
    }
}

/// How a list is merged.
enum ListType {
    /// Each value is in it once.
    Set,
    /// Its elements are told apart by this key.
    Map(&'static str),
}

/// The lists that are merged, by their names.
fn list_type(key: &str) -> Option<ListType> {
    Some(match key {
        "finalizers" => ListType::Set,
        "containers" | "initContainers" | "env" | "volumes" | "imagePullSecrets" => ListType::Map("name"),
        "volumeMounts" => ListType::Map("mountPath"),
        "ownerReferences" => ListType::Map("uid"),
        "ports" => ListType::Map("containerPort"),
        "conditions" => ListType::Map("type"),
        _ => return None,
    })
}

/// A list as it is in a patch, where there was none before.
fn without_directives(list: &[Value]) -> Value {
    let plain = list.iter().filter(|value| value[DIRECTIVE].is_null());
    plain.cloned().collect()
}

impl ListType {
    fn is_same(&self, one: &Value, other: &Value) -> bool {
        match self {
            Self::Set => one == other,
            Self::Map(key) => one[key] == other[key],
        }
    }

    /// Merges a list into another one. What the patch names is in the patch's order; what else there is stays around
    /// it, in the old order.
    fn merge(&self, old: &mut Vec<Value>, patch: &[Value]) {
        let directive = |value: &Value| value[DIRECTIVE].as_str().map(str::to_owned);
        for value in patch {
            match directive(value).as_deref() {
                Some("replace") => old.clear(),
                Some("delete") => old.retain(|old| !self.is_same(old, value)),
                _ => {}
            }
        }
        let places = old.clone();
        let place = |value: &Value| places.iter().position(|old| self.is_same(old, value));
        let mut named: Vec<Value> = Vec::new();
        for value in patch.iter().filter(|value| directive(value).is_none()) {
            if named.iter().any(|known| self.is_same(known, value)) {
                continue;
            }
            let mut merged = place(value).map_or(Value::Null, |at| places[at].clone());
            merge_strategically(&mut merged, value);
            named.push(merged);
        }
        old.retain(|old| !named.iter().any(|named| self.is_same(old, named)));
        let mut seen = Vec::new();
        old.retain(|value| {
            let is_new = !seen.contains(value);
            seen.push(value.clone());
            is_new
        });
        let mut others = std::mem::take(old).into_iter().peekable();
        for value in named {
            let at = place(&value);
            while let Some(other) = others.next_if(|other| at.is_some() && place(other) < at) {
                old.push(other);
            }
            old.push(value);
        }
        old.extend(others);
    }
}

/// RFC 6902: a list of operations.
fn change(object: &mut Value, patch: &Value) -> Result<(), Failure> {
    let Value::Array(operations) = patch else {
        return Err(Failure::bad_request("invalid JSON patch"));
    };
    let changed = operations
        .iter()
        .try_for_each(|operation| operate(object, operation));
    changed.ok_or_else(Failure::unprocessable)
}

fn operate(object: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let value = || operation["value"].clone();
    match operation["op"].as_str()? {
        "add" => add(object, path, value()),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            *object.pointer_mut(path)? = value();
            Some(())
        }
        "test" => (object.pointer(path)? == operation.get("value")?).then_some(()),
        "move" => {
            let value = remove(object, operation["from"].as_str()?)?;
            add(object, path, value)
        }
        "copy" => {
            let value = object.pointer(operation["from"].as_str()?)?.clone();
            add(object, path, value)
        }
        _ => None,
    }
}

/// The value that holds what a pointer names, and the last word of the pointer.
fn holder<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (holder, word) = path.rsplit_once('/')?;
    let word = word.replace("~1", "/").replace("~0", "~");
    Some((object.pointer_mut(holder)?, word))
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    match holder(object, path)? {
        (Value::Object(map), word) => {
            map.insert(word, value);
        }
        (Value::Array(list), word) => {
            let at = if word == "-" {
                list.len()
            } else {
                word.parse().ok()?
            };
            if at > list.len() {
                return None;
            }
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    match holder(object, path)? {
        (Value::Object(map), word) => map.remove(&word),
        (Value::Array(list), word) => {
            let at: usize = word.parse().ok()?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(kind: PatchKind, mut object: Value, patch: &Value) -> Value {
        apply(kind, &mut object, patch).unwrap();
        object
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_by_null() {
        let object = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        let patch = json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}});
        let expected = json!({"a": {"c": [3]}, "d": 1, "e": {"g": 1}});
        assert_eq!(patched(PatchKind::Merge, object, &patch), expected);
    }

    #[test]
    fn a_strategic_patch_adds_finalizers_and_takes_them_off() {
        let object = json!({"metadata": {"finalizers": ["x/a", "x/b"]}});
        let patch = json!({"metadata": {"finalizers": ["x/c", "x/a"]}});
        let more = patched(PatchKind::Strategic, object, &patch);
        assert_eq!(more, json!({"metadata": {"finalizers": ["x/c", "x/a", "x/b"]}}));
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a", "x/z"]}});
        let fewer = patched(PatchKind::Strategic, more, &patch);
        assert_eq!(fewer, json!({"metadata": {"finalizers": ["x/c", "x/b"]}}));
    }

    #[test]
    fn a_strategic_patch_merges_containers_by_name() {
        let object = json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]});
        let patch = json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "$patch": "delete"}]});
        let expected = json!({"containers": [{"name": "b", "image": "2"}]});
        assert_eq!(patched(PatchKind::Strategic, object, &patch), expected);
    }

    #[test]
    fn a_json_patch_is_a_list_of_operations() {
        let object = json!({"a": [1, 3], "b/c": 1});
        let patch = json!([
            {"op": "test", "path": "/a/0", "value": 1},
            {"op": "add", "path": "/a/1", "value": 2},
            {"op": "remove", "path": "/b~1c"},
            {"op": "copy", "from": "/a/2", "path": "/d"},
        ]);
        assert_eq!(
            patched(PatchKind::Json, object, &patch),
            json!({"a": [1, 2, 3], "d": 3})
        );
        let missing = json!([{"op": "remove", "path": "/z"}]);
        assert!(apply(PatchKind::Json, &mut json!({}), &missing).is_err());
    }
}
