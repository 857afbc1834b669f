//! What a request asks for.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};

use super::resource::{Endpoint, Resource};
use super::status::Failure;

/// A request that is understood.
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    /// `None`: in all namespaces, or the resource has none.
    pub(super) namespace: Option<&'a str>,
    pub(super) verb: Verb,
    /// Empty: all objects.
    pub(super) name: &'a str,
    pub(super) options: Options,
    pub(super) wants: Wants,
    pub(super) body: &'a Bytes,
    /// Who asks.
    pub(super) actor: &'a str,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many objects.
    List,
    /// Follows many objects.
    Watch,
    /// Creates an object.
    Create,
    /// Replaces an object.
    Update,
    /// Changes parts of an object.
    Patch(PatchKind),
    /// Deletes an object.
    Delete,
    /// Deletes many objects.
    DeleteCollection,
}

/// The language of a patch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists.
    Strategic,
    /// RFC 6902.
    Json,
}

/// In which shape objects are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wants {
    Whole,
    /// `PartialObjectMetadata`.
    Metadata,
}

/// What stands in a query.
#[derive(Default)]
pub(super) struct Options {
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    pub(super) resource_version: String,
    pub(super) resource_version_match: String,
    pub(super) continue_token: String,
    limit: usize,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: Option<bool>,
    watch: bool,
}

impl<'a> Call<'a> {
    /// Reads a request.
    pub(super) fn read(request: &'a Request<Bytes>) -> Result<Self, Failure> {
        let path = request.uri().path().trim_matches('/');
        let (api_version, rest) = match path.strip_prefix("api/") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => path
                .strip_prefix("apis/")
                .and_then(group_and_version)
                .ok_or_else(Failure::no_such_path)?,
        };
        let (namespace, rest) = in_namespace(rest);
        let mut words = rest.split('/');
        let plural = words.next().unwrap_or_default();
        let name = words.next().unwrap_or_default();
        let endpoint = Endpoint::find(api_version, plural).ok_or_else(Failure::no_such_path)?;
        let is_there = endpoint.resource.is_namespaced() || namespace.is_none();
        if !is_there || words.next().is_some() {
            return Err(Failure::no_such_path());
        }
        let options = Options::read(request.uri().query().unwrap_or_default());
        let verb = verb(request, name, options.watch)?;
        if endpoint.resource.is_namespaced() && namespace.is_none() {
            if !name.is_empty() {
                return Err(Failure::no_such_path());
            }
            if verb == Verb::Create {
                return Err(Failure::not_allowed());
            }
        }
        Ok(Self {
            endpoint,
            namespace,
            verb,
            name,
            options,
            wants: Wants::read(request.headers()),
            body: request.body(),
            actor: actor(request.headers()),
        })
    }

    /// What is stored.
    pub(super) fn resource(&self) -> Resource {
        self.endpoint.resource
    }

    /// The key of this object, or of one with this name beside it.
    pub(super) fn key(&self, name: &str) -> String {
        match self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

/// Splits `apps/v1/…` after the version.
fn group_and_version(path: &str) -> Option<(&str, &str)> {
    let slash = path.match_indices('/').nth(1)?.0;
    Some((&path[..slash], &path[slash + 1..]))
}

/// Splits `namespaces/x/secrets/…` after the namespace. A path that ends there is about the namespace itself.
fn in_namespace(path: &str) -> (Option<&str>, &str) {
    let inner = path
        .strip_prefix("namespaces/")
        .and_then(|rest| rest.split_once('/'));
    match inner {
        Some((namespace, rest)) => (Some(namespace), rest),
        None => (None, path),
    }
}

fn verb(request: &Request<Bytes>, name: &str, watch: bool) -> Result<Verb, Failure> {
    let one = !name.is_empty();
    Ok(match *request.method() {
        Method::GET if watch => Verb::Watch,
        Method::GET if one => Verb::Get,
        Method::GET => Verb::List,
        Method::POST if !one => Verb::Create,
        Method::PUT if one => Verb::Update,
        Method::PATCH if one => Verb::Patch(patch_kind(request.headers())?),
        Method::DELETE if one => Verb::Delete,
        Method::DELETE => Verb::DeleteCollection,
        _ => return Err(Failure::not_allowed()),
    })
}

fn patch_kind(headers: &HeaderMap) -> Result<PatchKind, Failure> {
    let content_type = word(headers, header::CONTENT_TYPE.as_str());
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    match content_type {
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/json-patch+json" => Ok(PatchKind::Json),
        _ => Err(Failure::unsupported_patch()),
    }
}

/// Who asks, by a header of the simulation or by the client's own name.
fn actor(headers: &HeaderMap) -> &str {
    match word(headers, "x-sim-actor") {
        "" => word(headers, header::USER_AGENT.as_str()),
        actor => actor,
    }
}

fn word<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

impl Wants {
    fn read(headers: &HeaderMap) -> Self {
        if word(headers, header::ACCEPT.as_str()).contains("as=PartialObjectMetadata") {
            Self::Metadata
        } else {
            Self::Whole
        }
    }
}

impl Options {
    fn read(query: &str) -> Self {
        let mut options = Self::default();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            match key {
                "labelSelector" => options.label_selector = value,
                "fieldSelector" => options.field_selector = value,
                "resourceVersion" => options.resource_version = value,
                "resourceVersionMatch" => options.resource_version_match = value,
                "continue" => options.continue_token = value,
                "limit" => options.limit = value.parse().unwrap_or(0),
                "timeoutSeconds" => options.timeout_seconds = value.parse().ok(),
                "allowWatchBookmarks" => options.bookmarks = is_true(&value),
                "sendInitialEvents" => options.send_initial_events = Some(is_true(&value)),
                "watch" => options.watch = is_true(&value),
                _ => {}
            }
        }
        options
    }

    /// How many objects a page may have.
    pub(super) fn page(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1")
}

/// Undoes the escapes of a query.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(16 * hex(*high) + hex(*low));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str) -> Request<Bytes> {
        let request = Request::builder().method(method).uri(uri);
        request.body(Bytes::new()).unwrap()
    }

    #[test]
    fn a_path_names_a_resource_a_namespace_and_an_object() {
        for (method, uri, verb, resource, namespace, name) in [
            (
                "GET",
                "/api/v1/namespaces/shop",
                Verb::Get,
                Resource::Namespaces,
                None,
                "shop",
            ),
            (
                "GET",
                "/api/v1/namespaces",
                Verb::List,
                Resource::Namespaces,
                None,
                "",
            ),
            (
                "GET",
                "/api/v1/secrets?limit=2",
                Verb::List,
                Resource::Secrets,
                None,
                "",
            ),
            (
                "PUT",
                "/apis/apps/v1/namespaces/shop/deployments/web",
                Verb::Update,
                Resource::Deployments,
                Some("shop"),
                "web",
            ),
            (
                "GET",
                "/api/v1/namespaces/shop/secrets?watch=true",
                Verb::Watch,
                Resource::Secrets,
                Some("shop"),
                "",
            ),
        ] {
            let request = request(method, uri);
            let call = Call::read(&request).unwrap_or_else(|failure| panic!("{uri}: {failure:?}"));
            assert_eq!(
                (call.verb, call.resource(), call.namespace, call.name),
                (verb, resource, namespace, name),
                "{uri}"
            );
        }
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        for uri in [
            "/",
            "/api/v1/nothings",
            "/apis/apps/v1/namespaces/shop/secrets",
            "/api/v1/namespaces/shop/secrets/db/status",
        ] {
            let request = request("GET", uri);
            let failure = Call::read(&request).err().map(|failure| failure.code);
            assert_eq!(failure, Some(404), "{uri}");
        }
    }

    #[test]
    fn escapes_of_a_query_are_undone() {
        let options = Options::read("labelSelector=a%3Db%2Cc+in+%28d%29&watch=1");
        assert_eq!(options.label_selector, "a=b,c in (d)");
        assert!(options.watch);
    }
}
