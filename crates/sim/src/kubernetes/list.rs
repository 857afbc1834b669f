//! Lists, in pages if the caller wants them.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Answer;
use super::call::Call;
use super::selector::Selector;
use super::show;
use super::status::Failure;
use super::store::{Store, within};

/// Where a list goes on.
struct Continue {
    /// The version of which all its pages are; 0: the newest.
    revision: u64,
    /// The key from which on nothing has been shown yet.
    start: String,
}

impl Continue {
    fn encode(revision: i64, start: &str) -> String {
        let text = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        URL_SAFE_NO_PAD.encode(text.to_string())
    }

    fn decode(token: &str) -> Result<Self, Failure> {
        let failure = || Failure::bad_request("invalid continue token: continue key is not valid");
        let text = URL_SAFE_NO_PAD.decode(token).map_err(|_| failure())?;
        let value: Value = serde_json::from_slice(&text).map_err(|_| failure())?;
        Ok(Self {
            revision: value["rv"].as_u64().unwrap_or(0),
            start: value["start"].as_str().ok_or_else(failure)?.to_owned(),
        })
    }
}

/// Reads a resourceVersion; none is 0.
pub(super) fn revision(text: &str) -> Result<u64, Failure> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse()
        .map_err(|_| Failure::bad_request(format!("invalid resource version: {text:?}")))
}

/// Lists what is asked for.
pub(super) fn list(call: &Call, store: &Store) -> Result<Answer, Failure> {
    let options = &call.options;
    let selector = Selector::read(call.endpoint, options)?;
    let (at, start) = version(call, store)?;
    let resource = call.resource();
    let objects = if store.since(resource, at).next().is_none() {
        Cow::Borrowed(store.objects(resource))
    } else {
        Cow::Owned(store.snapshot(resource, at))
    };
    let fitting = within(&objects, call.namespace, &start).filter(|(_, object)| selector.fits(object));
    let page: Vec<_> = fitting.take(options.page()).collect();
    let mut metadata = json!({"resourceVersion": at.to_string()});
    if let Some((key, _)) = page.last().filter(|_| page.len() == options.page()) {
        // The next page begins behind the last key, even if it may turn out empty.
        let next = format!("{key}\0");
        let left = within(&objects, call.namespace, &next).count();
        if left > 0 {
            metadata["continue"] = Continue::encode(i64::try_from(at).unwrap_or(-1), &next).into();
            if selector.is_empty() {
                metadata["remainingItemCount"] = left.into();
            }
        }
    }
    let objects = page.iter().map(|(_, object)| &***object);
    let text = show::list(call.endpoint, call.wants, &metadata, objects);
    Ok(show::reply(200, text))
}

/// Of which version the list is, and from which key on.
fn version(call: &Call, store: &Store) -> Result<(u64, String), Failure> {
    let options = &call.options;
    if !options.continue_token.is_empty() {
        let token = Continue::decode(&options.continue_token)?;
        if token.revision == 0 {
            return Ok((store.revision(), token.start));
        }
        if token.revision < store.compacted() {
            return Err(Failure::page_too_old(Continue::encode(-1, &token.start)));
        }
        return Ok((token.revision, token.start));
    }
    let asked = revision(&options.resource_version)?;
    if asked > store.revision() {
        return Err(Failure::too_new(asked, store.revision()));
    }
    if options.resource_version_match == "Exact" && asked > 0 {
        if asked < store.compacted() {
            return Err(Failure::list_too_old());
        }
        return Ok((asked, String::new()));
    }
    Ok((store.revision(), String::new()))
}
