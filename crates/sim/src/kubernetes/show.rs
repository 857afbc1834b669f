//! Objects, lists and watch events as text. Stored objects have no kind and apiVersion; here they get them.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::Answer;
use super::call::Wants;
use super::event;
use super::resource::Endpoint;
use super::status::Failure;

const PARTIAL: &str = "meta.k8s.io/v1";

/// A reply with this text.
pub(super) fn reply(code: u16, text: Vec<u8>) -> Answer {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Answer::Whole(response)
}

/// A reply that says why a call failed.
pub(super) fn failure(failure: &Failure) -> Answer {
    reply(failure.code, failure.status().to_string().into_bytes())
}

/// An object, as it is asked for.
pub(super) fn object(endpoint: Endpoint, wants: Wants, object: &Value) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    write_object(&mut text, endpoint, wants, object);
    text
}

/// A list of objects. Its items have no kind, but for those of a list of metadata.
pub(super) fn list<'a>(
    endpoint: Endpoint,
    wants: Wants,
    metadata: &Value,
    objects: impl Iterator<Item = &'a Value>,
) -> Vec<u8> {
    let (kind, api_version) = match wants {
        Wants::Whole => (endpoint.resource.kind(), endpoint.api_version),
        Wants::Metadata => ("PartialObjectMetadata", PARTIAL),
    };
    let head =
        format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
    let mut text = head.into_bytes();
    let opened = text.len();
    for object in objects {
        if text.len() > opened {
            text.push(b',');
        }
        match wants {
            Wants::Metadata => write_object(&mut text, endpoint, wants, object),
            Wants::Whole if endpoint.shows_new_events() => write(&mut text, &event::from_core(object)),
            Wants::Whole => write(&mut text, object),
        }
    }
    if wants == Wants::Metadata && text.len() == opened {
        // The real server says null for an empty list of metadata.
        text.truncate(opened - 1);
        text.extend_from_slice(b"null}");
    } else {
        text.extend_from_slice(b"]}");
    }
    text
}

/// A line of a watch about an object.
pub(super) fn line(kind: &str, endpoint: Endpoint, wants: Wants, object: &Value) -> Bytes {
    let mut text = format!(r#"{{"type":"{kind}","object":"#).into_bytes();
    write_object(&mut text, endpoint, wants, object);
    text.extend_from_slice(b"}\n");
    text.into()
}

/// A line of a watch that says up to where it has come; `is_initial`: all that existed was shown.
pub(super) fn bookmark(endpoint: Endpoint, wants: Wants, revision: u64, is_initial: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if is_initial {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    line("BOOKMARK", endpoint, wants, &json!({"metadata": metadata}))
}

/// A line of a watch that says why it cannot go on.
pub(super) fn error(failure: &Failure) -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": failure.status()})).into()
}

fn write_object(text: &mut Vec<u8>, endpoint: Endpoint, wants: Wants, object: &Value) {
    match wants {
        Wants::Metadata => {
            let head = format!(r#"{{"kind":"PartialObjectMetadata","apiVersion":"{PARTIAL}","metadata":"#);
            text.extend_from_slice(head.as_bytes());
            write(text, &object["metadata"]);
            text.push(b'}');
        }
        Wants::Whole if endpoint.shows_new_events() => {
            write_with_kind(text, endpoint, &event::from_core(object));
        }
        Wants::Whole => write_with_kind(text, endpoint, object),
    }
}

/// Writes the two fields, and the object's own ones behind them: its opening brace becomes a comma.
fn write_with_kind(text: &mut Vec<u8>, endpoint: Endpoint, object: &Value) {
    let (kind, api_version) = (endpoint.resource.kind(), endpoint.api_version);
    text.extend_from_slice(format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}""#).as_bytes());
    let brace = text.len();
    write(text, object);
    text[brace] = b',';
}

fn write(text: &mut Vec<u8>, value: &Value) {
    // A value in memory is always written to memory.
    let _ = serde_json::to_writer(text, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Value {
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn objects_get_their_kind_and_items_of_lists_do_not() {
        let secrets = Endpoint::find("v1", "secrets").unwrap();
        let stored = json!({"metadata": {"name": "a"}, "type": "Opaque"});
        assert_eq!(
            parse(&object(secrets, Wants::Whole, &stored)),
            json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}, "type": "Opaque"})
        );
        let listed = list(
            secrets,
            Wants::Whole,
            &json!({"resourceVersion": "7"}),
            [&stored].into_iter(),
        );
        assert_eq!(
            parse(&listed),
            json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": [stored]})
        );
    }

    #[test]
    fn metadata_alone_has_a_kind_of_its_own() {
        let secrets = Endpoint::find("v1", "secrets").unwrap();
        let stored = json!({"metadata": {"name": "a"}, "data": {"k": "dg=="}});
        assert_eq!(
            parse(&line("ADDED", secrets, Wants::Metadata, &stored)),
            json!({"type": "ADDED", "object": {
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"},
            }})
        );
    }
}
