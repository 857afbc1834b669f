//! Requests: what is asked, of which path, by whom.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use serde_json::{Map, Value};

use super::json;
use super::reply::Reply;

/// The longest body that Vault reads.
const LONGEST_BODY: usize = 32 << 20;

/// What is to be done with a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Read,
    List,
    /// A write of what is not there.
    Create,
    /// A write of what is there, or of a path that does not say.
    Update,
    Patch,
    Delete,
    /// What no path serves: HEAD and OPTIONS.
    Other,
}

impl Verb {
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Patch)
    }
}

/// A request, as far as HTTP goes.
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Without `/v1/` in front; that of a list ends with a slash.
    pub(super) path: String,
    /// The fields of the body, or of the query.
    pub(super) data: Map<String, Value>,
    pub(super) token: Option<String>,
    /// Who the simulation says it is.
    pub(super) actor: Option<String>,
}

impl Call {
    /// Reads a request; the reply says why it is none.
    pub(super) fn read(request: &Request<Bytes>, mut path: String) -> Result<Self, Reply> {
        let mut query = query(request.uri());
        let (verb, data) = match request.method().as_str() {
            "GET" => {
                let verb = match query.get("list").and_then(Value::as_str) {
                    None | Some("" | "0" | "f" | "F" | "false" | "False" | "FALSE") => Verb::Read,
                    Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Verb::List,
                    Some(_) => return Err(Reply::Errors(400, Vec::new())),
                };
                if verb == Verb::List {
                    query.remove("list");
                }
                (verb, query)
            }
            "LIST" => (Verb::List, query),
            "DELETE" => (Verb::Delete, query),
            "POST" | "PUT" => (Verb::Update, body(request)?),
            "PATCH" => {
                check_patch_type(request.headers())?;
                (Verb::Patch, body(request)?)
            }
            "HEAD" | "OPTIONS" => (Verb::Other, query),
            _ => return Err(Reply::Errors(405, Vec::new())),
        };
        if verb == Verb::List && !path.ends_with('/') {
            path.push('/');
        }
        Ok(Self {
            verb,
            path,
            data,
            token: token(request.headers()),
            actor: text(request.headers(), "x-sim-actor").map(ToOwned::to_owned),
        })
    }
}

/// The path without `/v1/`, decoded. One that is not in its shortest form is redirected.
pub(super) fn path(uri: &Uri) -> Result<String, Reply> {
    let path = decoded(uri.path());
    let clean = clean(&path);
    if clean != path {
        return Err(Reply::Redirect(clean));
    }
    path.strip_prefix("/v1/")
        .map(ToOwned::to_owned)
        .ok_or(Reply::Empty(404))
}

/// The fields of the query. One that is given twice is a list.
pub(super) fn query(uri: &Uri) -> Map<String, Value> {
    let mut fields = Map::new();
    let pairs = uri.query().unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (
            decoded(&name.replace('+', " ")),
            decoded(&value.replace('+', " ")),
        );
        match fields.get_mut(&name) {
            None => {
                fields.insert(name, value.into());
            }
            Some(Value::Array(list)) => list.push(value.into()),
            Some(first) => *first = Value::Array(vec![first.take(), value.into()]),
        }
    }
    fields
}

/// The fields of the body; none where there is none.
pub(super) fn body(request: &Request<Bytes>) -> Result<Map<String, Value>, Reply> {
    if request.body().len() > LONGEST_BODY {
        return Err(Reply::error(413, "http: request body too large"));
    }
    json::object(request.body()).map_err(|fault| fault.reply(request.method() == Method::PATCH))
}

fn check_patch_type(headers: &HeaderMap) -> Result<(), Reply> {
    const MERGE_PATCH: &str = "application/merge-patch+json";
    let given = text(headers, "content-type").unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim();
    match kind {
        MERGE_PATCH => Ok(()),
        "" => Err(Reply::error(400, "mime: no media type")),
        other => Err(Reply::error(
            415,
            format!("PATCH requires Content-Type of {MERGE_PATCH}, provided {other}"),
        )),
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let bearer = || text(headers, "authorization")?.strip_prefix("Bearer ");
    text(headers, "x-vault-token")
        .filter(|token| !token.is_empty())
        .or_else(bearer)
        .map(ToOwned::to_owned)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'%')
            .then(|| std::str::from_utf8(tail.get(..2)?).ok())
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The path without empty and dotted segments.
fn clean(path: &str) -> String {
    let dirty = path.contains("//") || path.split('/').any(|segment| matches!(segment, "." | ".."));
    if !dirty {
        return path.to_owned();
    }
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let slash = if path.ends_with('/') && !kept.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}", kept.join("/"))
}
