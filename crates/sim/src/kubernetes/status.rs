//! Errors, in the words of the real server.

use serde_json::{Map, Value, json};

use super::resource::Endpoint;

/// Why a call failed: what its `Status` says.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    reason: Option<&'static str>,
    message: String,
    details: Option<Value>,
    /// With which the rest of a list can be read all the same.
    continue_token: Option<String>,
}

/// What is wrong with one field of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    reason: &'static str,
    field: String,
    message: String,
}

impl Fault {
    pub(super) fn invalid(field: impl Into<String>, value: &Value, why: &str) -> Self {
        Self::new(
            "FieldValueInvalid",
            field,
            format!("Invalid value: {value}: {why}"),
        )
    }

    pub(super) fn required(field: impl Into<String>, why: &str) -> Self {
        let colon = if why.is_empty() { "" } else { ": " };
        Self::new("FieldValueRequired", field, format!("Required value{colon}{why}"))
    }

    pub(super) fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self::new("FieldValueForbidden", field, format!("Forbidden: {why}"))
    }

    pub(super) fn too_long(field: impl Into<String>, bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {bytes} bytes");
        Self::new("FieldValueTooLong", field, message)
    }

    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Self {
            reason,
            field: field.into(),
            message,
        }
    }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self {
            code,
            reason: Some(reason),
            message,
            details: None,
            continue_token: None,
        }
    }

    fn about(mut self, endpoint: Endpoint, name: &str) -> Self {
        self.details = Some(details(name, endpoint.group, endpoint.resource.plural()));
        self
    }

    /// There is no such path. The real server says this in plain text.
    pub(super) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource".to_owned();
        let mut failure = Self::new(404, "NotFound", message);
        failure.details = Some(json!({}));
        failure
    }

    pub(super) fn not_found(endpoint: Endpoint, name: &str) -> Self {
        let message = format!("{} {name:?} not found", endpoint.qualified());
        Self::new(404, "NotFound", message).about(endpoint, name)
    }

    pub(super) fn already_exists(endpoint: Endpoint, name: &str, is_being_deleted: bool) -> Self {
        let before = if is_being_deleted {
            "object is being deleted: "
        } else {
            ""
        };
        let message = format!("{before}{} {name:?} already exists", endpoint.qualified());
        Self::new(409, "AlreadyExists", message).about(endpoint, name)
    }

    pub(super) fn conflict(endpoint: Endpoint, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            endpoint.qualified()
        );
        Self::new(409, "Conflict", message).about(endpoint, name)
    }

    /// The object was changed since the caller read it.
    pub(super) fn modified(endpoint: Endpoint, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(endpoint, name, why)
    }

    /// A precondition of a deletion does not hold. The real server names the kind here, not the resource.
    pub(super) fn precondition(endpoint: Endpoint, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            endpoint.qualified_kind()
        );
        let mut failure = Self::new(409, "Conflict", message);
        failure.details = Some(details(name, endpoint.kind_group(), endpoint.resource.kind()));
        failure
    }

    pub(super) fn forbidden(endpoint: Endpoint, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", endpoint.qualified());
        Self::new(403, "Forbidden", message).about(endpoint, name)
    }

    pub(super) fn terminating(endpoint: Endpoint, namespace: &str, name: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut failure = Self::forbidden(endpoint, name, &why);
        if let Some(details) = &mut failure.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            }]);
        }
        failure
    }

    pub(super) fn invalid(endpoint: Endpoint, name: &str, faults: &[Fault]) -> Self {
        Self::invalid_kind(endpoint.kind_group(), endpoint.resource.kind(), name, faults)
    }

    pub(super) fn invalid_kind(group: &str, kind: &str, name: &str, faults: &[Fault]) -> Self {
        let mut seen: Vec<&Fault> = Vec::new();
        for fault in faults {
            if !seen.contains(&fault) {
                seen.push(fault);
            }
        }
        let words: Vec<String> = seen
            .iter()
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect();
        let words = match words.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let dot = if group.is_empty() { "" } else { "." };
        let message = format!("{kind}{dot}{group} {name:?} is invalid: {words}");
        let mut failure = Self::new(422, "Invalid", message);
        let causes = seen
            .iter()
            .map(|fault| json!({"reason": fault.reason, "message": fault.message, "field": fault.field}));
        let mut details = details(name, group, kind);
        details["causes"] = causes.collect();
        failure.details = Some(details);
        failure
    }

    /// An update without a resourceVersion. The real server names the resource here, not the kind.
    pub(super) fn version_required(endpoint: Endpoint, name: &str) -> Self {
        let why = "must be specified for an update";
        let fault = Fault::invalid("metadata.resourceVersion", &json!(0), why);
        Self::invalid_kind(endpoint.group, endpoint.resource.plural(), name, &[fault])
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message.into())
    }

    /// A JSON patch that cannot be applied. The real server does not say why.
    pub(super) fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request".to_owned();
        let mut failure = Self::new(422, "Invalid", message);
        failure.details = Some(json!({}));
        failure
    }

    /// A patch that makes something of the object which is none. The real server quotes the whole object here.
    pub(super) fn unusable_patch(why: &str) -> Self {
        Self::invalid_kind("", "", "", &[Fault::invalid("patch", &json!("the patch"), why)])
    }

    pub(super) fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource".to_owned();
        let mut failure = Self::new(405, "MethodNotAllowed", message);
        failure.details = Some(json!({}));
        failure
    }

    pub(super) fn unsupported_patch() -> Self {
        let message = "415: Unsupported Media Type".to_owned();
        let mut failure = Self::new(415, "UnsupportedMediaType", message);
        failure.details = Some(json!({}));
        failure
    }

    /// An error that the real server's storage reports without a reason.
    pub(super) fn internal(message: &str) -> Self {
        Self {
            reason: None,
            ..Self::new(500, "", message.to_owned())
        }
    }

    /// The history from which a watch should go on is gone.
    pub(super) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// The version of which a list should be is gone.
    pub(super) fn list_too_old() -> Self {
        Self::new(
            410,
            "Expired",
            "The resourceVersion for the provided list is too old.".to_owned(),
        )
    }

    /// The version of which a page should be is gone. The rest can be read from a newer one by this token.
    pub(super) fn page_too_old(continue_token: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start \
                       a new list without the continue parameter, or use the continue token in this response to \
                       retrieve the remainder of the results. Continuing with the provided token results in an \
                       inconsistent list - objects that were created, modified, or deleted between the time the \
                       first chunk was returned and now may show up in the list.";
        let mut failure = Self::new(410, "Expired", message.to_owned());
        failure.continue_token = Some(continue_token);
        failure
    }

    /// The version that is asked for has not been yet.
    pub(super) fn too_new(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(504, "Timeout", message);
        failure.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        failure
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The object that the reply carries.
    pub(super) fn status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), json!(token));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if let Some(reason) = self.reason {
            status["reason"] = json!(reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// What a deletion answers that needed no waiting.
pub(super) fn deleted(endpoint: Endpoint, name: &str, uid: &Value) -> Value {
    let mut details = details(name, endpoint.group, endpoint.resource.plural());
    details["uid"] = uid.clone();
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

/// What a `Status` is about; empty words are left out.
fn details(name: &str, group: &str, kind: &str) -> Value {
    let words = [("name", name), ("group", group), ("kind", kind)];
    let words = words.into_iter().filter(|(_, word)| !word.is_empty());
    words
        .map(|(key, word)| (key.to_owned(), json!(word)))
        .collect::<Map<_, _>>()
        .into()
}
