//! Replies: the shapes in which Vault answers, and how they become HTTP.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::time;

/// What a request is answered.
pub(super) enum Reply {
    /// A status and no body.
    Empty(u16),
    /// Vault's usual envelope.
    Envelope(Box<Envelope>),
    /// Other JSON, as `sys/health` answers it.
    Json(u16, Value),
    /// Why not; nothing at all for what is not there.
    Errors(u16, Vec<String>),
    /// The request's path is not in its shortest form.
    Redirect(String),
}

/// What the usual envelope holds.
pub(super) struct Envelope {
    pub(super) status: u16,
    pub(super) data: Value,
    pub(super) auth: Value,
    pub(super) warnings: Vec<String>,
    pub(super) lease_duration: u64,
    /// The type of the mount that answers.
    pub(super) mount_type: String,
    /// Whether the data are on the top level too, as below `sys/`.
    pub(super) spread: bool,
}

impl Default for Envelope {
    fn default() -> Self {
        Self {
            status: 200,
            data: Value::Null,
            auth: Value::Null,
            warnings: Vec::new(),
            lease_duration: 0,
            mount_type: String::new(),
            spread: false,
        }
    }
}

impl From<Envelope> for Reply {
    fn from(envelope: Envelope) -> Self {
        Self::Envelope(Box::new(envelope))
    }
}

impl Reply {
    /// Done, and there is nothing to say.
    pub(super) fn done() -> Self {
        Self::Empty(204)
    }

    /// There is nothing there.
    pub(super) fn nothing_here() -> Self {
        Self::Errors(404, Vec::new())
    }

    /// One reason, as it is.
    pub(super) fn error(status: u16, why: impl Into<String>) -> Self {
        Self::Errors(status, vec![why.into()])
    }

    /// Reasons that Vault has collected: it joins them to one text.
    pub(super) fn collected(status: u16, reasons: &[&str]) -> Self {
        Self::error(status, collected(reasons))
    }

    /// A token that Vault does not know.
    pub(super) fn invalid_token() -> Self {
        Self::collected(403, &["permission denied", "invalid token"])
    }

    /// A policy does not allow it.
    pub(super) fn denied() -> Self {
        Self::collected(403, &["permission denied"])
    }

    pub(super) fn unsupported_operation() -> Self {
        Self::collected(405, &["unsupported operation"])
    }

    pub(super) fn unsupported_path() -> Self {
        Self::collected(404, &["unsupported path"])
    }

    /// The data of a secrets engine of type `kv`.
    pub(super) fn kv(data: Value) -> Self {
        Envelope {
            data,
            mount_type: "kv".to_owned(),
            ..Envelope::default()
        }
        .into()
    }

    /// Not there, but there is something to tell about it.
    pub(super) fn absent(data: Value) -> Self {
        Envelope {
            status: 404,
            data,
            ..Envelope::default()
        }
        .into()
    }

    /// There is no such path, and why.
    pub(super) fn no_path(why: String) -> Self {
        Envelope {
            status: 404,
            warnings: vec![why],
            ..Envelope::default()
        }
        .into()
    }

    /// The names below a path; none is as good as no path.
    pub(super) fn list(mount_type: &str, keys: &[String]) -> Self {
        Self::names(mount_type, keys).unless_empty()
    }

    /// The names below a path, also where there are none.
    pub(super) fn names(mount_type: &str, keys: &[String]) -> Self {
        let data = if keys.is_empty() {
            json!({})
        } else {
            json!({ "keys": keys })
        };
        Envelope {
            data,
            mount_type: mount_type.to_owned(),
            ..Envelope::default()
        }
        .into()
    }

    /// Without names and without warnings there is nothing there.
    pub(super) fn unless_empty(self) -> Self {
        match self {
            Self::Envelope(list) if list.data == json!({}) && list.warnings.is_empty() => {
                Self::nothing_here()
            }
            other => other,
        }
    }

    /// The same with warnings, which successes alone have, and among them those with content.
    pub(super) fn warned(self, warnings: impl IntoIterator<Item = String>) -> Self {
        match self {
            Self::Envelope(mut envelope) if envelope.status == 200 => {
                envelope.warnings.extend(warnings);
                Self::Envelope(envelope)
            }
            other => other,
        }
    }

    /// The reply as HTTP. `head`: without its body.
    pub(super) fn into_http(self, now: SystemTime, request_id: String, head: bool) -> Response<Bytes> {
        let (status, body) = match self {
            Self::Redirect(location) => return redirect(now, &location),
            Self::Empty(status) => (status, None),
            Self::Json(status, body) => (status, Some(body)),
            Self::Errors(status, errors) => (status, Some(json!({ "errors": errors }))),
            Self::Envelope(envelope) => (envelope.status, Some(envelope.into_json(request_id))),
        };
        let body = body.filter(|_| !head).map(|body| format!("{body}\n"));
        let mut response = Response::new(Bytes::from(body.unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(DATE, date(now));
        response
    }
}

impl Envelope {
    fn into_json(self, request_id: String) -> Value {
        let mut body = match &self.data {
            Value::Object(data) if self.spread => data.clone(),
            _ => Map::new(),
        };
        let warnings = if self.warnings.is_empty() {
            Value::Null
        } else {
            self.warnings.into()
        };
        for (name, value) in [
            ("request_id", request_id.into()),
            ("lease_id", "".into()),
            ("renewable", false.into()),
            ("lease_duration", self.lease_duration.into()),
            ("data", self.data),
            ("wrap_info", Value::Null),
            ("warnings", warnings),
            ("auth", self.auth),
            ("mount_type", self.mount_type.into()),
        ] {
            body.insert(name.to_owned(), value);
        }
        body.into()
    }
}

/// Reasons as Vault joins them: `1 error occurred:\n\t* permission denied\n\n`.
pub(super) fn collected(reasons: &[impl AsRef<str>]) -> String {
    let count = match reasons.len() {
        1 => "1 error".to_owned(),
        more => format!("{more} errors"),
    };
    let mut text = format!("{count} occurred:\n");
    for reason in reasons {
        text.push_str("\t* ");
        text.push_str(reason.as_ref());
        text.push('\n');
    }
    text.push('\n');
    text
}

fn redirect(now: SystemTime, location: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response.headers_mut().insert(DATE, date(now));
    response
}

fn date(now: SystemTime) -> HeaderValue {
    HeaderValue::from_str(&time::http_date(now)).unwrap_or_else(|_| HeaderValue::from_static(""))
}
