//! Events in two groups: stored as the core ones, shown as either.

use serde_json::{Map, Value};

/// Fields of `events.k8s.io` that the core group calls otherwise: there, here.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// Fields that both groups call the same.
const SHARED: [&str; 8] = [
    "metadata",
    "eventTime",
    "series",
    "action",
    "reason",
    "related",
    "reportingInstance",
    "type",
];

/// Whether a core Event has such a field.
pub(super) fn is_core_field(key: &str) -> bool {
    SHARED.contains(&key) || RENAMED.iter().any(|(_, core)| *core == key)
}

/// An Event of `events.k8s.io` as a core one. What only the core group knows is dropped.
pub(super) fn to_core(event: Map<String, Value>) -> Map<String, Value> {
    let renamed = event.into_iter().filter_map(|(key, value)| {
        if SHARED.contains(&key.as_str()) {
            return Some((key, value));
        }
        let (_, core) = RENAMED.iter().find(|(new, _)| *new == key)?;
        Some(((*core).to_owned(), value))
    });
    renamed.collect()
}

/// A core Event as one of `events.k8s.io`.
pub(super) fn from_core(event: &Value) -> Value {
    let fields = event.as_object().into_iter().flatten();
    let fields = fields.filter(|(_, value)| value.as_str() != Some(""));
    let renamed = fields.map(|(key, value)| {
        let new = RENAMED.iter().find(|(_, core)| core == key);
        (new.map_or(key.as_str(), |(new, _)| new).to_owned(), value.clone())
    });
    renamed.collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_in_both_groups() {
        let new =
            json!({"metadata": {"name": "a"}, "note": "text", "regarding": {"kind": "Pod"}, "reason": "R"});
        let core = json!({
            "metadata": {"name": "a"}, "message": "text", "involvedObject": {"kind": "Pod"}, "reason": "R",
        });
        let Value::Object(map) = new.clone() else {
            panic!("a map")
        };
        assert_eq!(Value::from(to_core(map)), core);
        assert_eq!(from_core(&core), new);
    }
}
