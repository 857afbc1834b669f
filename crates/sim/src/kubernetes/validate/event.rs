//! What an Event may be: little in the core group, more in `events.k8s.io`.

use serde_json::{Value, json};

use super::{Endpoint, Fault, qualified_name};

/// Bytes of a note.
const NOTE: usize = 1024;
/// Bytes of the other texts.
const WORDS: usize = 128;

/// The rules of both groups. Those with an `eventTime` must be whole.
pub(super) fn legacy(endpoint: Endpoint, event: &Value, faults: &mut Vec<Fault>) {
    let about = word(&event["involvedObject"]["namespace"]);
    let own = word(&event["metadata"]["namespace"]);
    let is_whole = !event["eventTime"].is_null();
    let fits = match about {
        "" => own == "default" || is_whole && own == "kube-system",
        about => is_whole || about == own,
    };
    if !fits {
        let why = "does not match event.namespace";
        faults.push(Fault::invalid("involvedObject.namespace", &json!(about), why));
    }
    if is_whole {
        whole(endpoint, event, faults);
    }
}

fn whole(endpoint: Endpoint, event: &Value, faults: &mut Vec<Fault>) {
    let controller = word(&event["reportingComponent"]);
    let field = if endpoint.shows_new_events() {
        "reportingController"
    } else {
        "reportingComponent"
    };
    if controller.is_empty() {
        faults.push(Fault::required(field, ""));
    }
    let wrong = qualified_name(controller);
    faults.extend(
        wrong
            .into_iter()
            .map(|why| Fault::invalid(field, &json!(controller), &why)),
    );
    for (field, most) in [
        ("reportingInstance", WORDS),
        ("action", WORDS),
        ("reason", WORDS),
        ("message", NOTE),
    ] {
        let text = word(&event[field]);
        if text.is_empty() && field != "message" {
            faults.push(Fault::required(field, ""));
        }
        if text.len() > most {
            let why = format!("can have at most {most} characters");
            faults.push(Fault::invalid(field, &json!(""), &why));
        }
    }
}

/// The rules of `events.k8s.io` for a new Event.
pub(super) fn strict(event: &Value, faults: &mut Vec<Fault>) {
    if event["eventTime"].is_null() {
        faults.push(Fault::required("eventTime", ""));
    }
    let kind = word(&event["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        let why = format!("has invalid value: {kind}");
        faults.push(Fault::invalid("type", &json!(""), &why));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count"] {
        if !event[field].is_null() && event[field] != 0 {
            faults.push(Fault::invalid(field, &json!(""), "needs to be unset"));
        }
    }
}

/// What `events.k8s.io` lets nobody change.
pub(super) fn unchanged(new: &Value, old: &Value, faults: &mut Vec<Fault>) {
    for (field, name) in [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        if new[field] != old[field] {
            let shown = match (&new[field], field) {
                (Value::Null, "count") => json!(0),
                (Value::Null, "action" | "message" | "reason" | "type") => json!(""),
                (value, _) => value.clone(),
            };
            faults.push(Fault::invalid(name, &shown, "field is immutable"));
        }
    }
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
