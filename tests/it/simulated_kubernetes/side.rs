//! The two servers, and what each of them has said of its objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use sim::kubernetes::{Answer, ApiServer};
use testkit::Testbed;
use tokio::sync::mpsc::UnboundedReceiver;

use super::calls::Call;

/// A server.
pub trait Server {
    /// Status and text of a reply.
    fn send(&mut self, request: &Request<Bytes>) -> (u16, String);
    /// The lines of a watch, up to the last one.
    fn watch(&mut self, request: &Request<Bytes>, is_last: &dyn Fn(&str) -> bool) -> Vec<String>;
}

/// The real one.
pub struct Real(pub Arc<Testbed>);

impl Server for Real {
    fn send(&mut self, request: &Request<Bytes>) -> (u16, String) {
        let reply = self.0.kube.relay(request);
        (reply.status, reply.text)
    }

    fn watch(&mut self, request: &Request<Bytes>, is_last: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.0.kube.lines(request, is_last)
    }
}

impl Server for ApiServer {
    fn send(&mut self, request: &Request<Bytes>) -> (u16, String) {
        match self.handle(SystemTime::now(), request) {
            Answer::Whole(reply) => {
                let text = String::from_utf8(reply.body().to_vec()).unwrap();
                (reply.status().as_u16(), text)
            }
            Answer::Watch(_) => panic!("{} is a watch", request.uri()),
        }
    }

    fn watch(&mut self, request: &Request<Bytes>, is_last: &dyn Fn(&str) -> bool) -> Vec<String> {
        let mut events = match self.handle(SystemTime::now(), request) {
            Answer::Watch(events) => events,
            Answer::Whole(reply) => return vec![String::from_utf8(reply.body().to_vec()).unwrap()],
        };
        let mut lines = Vec::new();
        while let Ok(line) = events.try_recv() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
            if is_last(&lines[lines.len() - 1]) {
                break;
            }
        }
        lines
    }
}

/// A watch of the simulated server that stays open.
pub struct Live {
    request: Request<Bytes>,
    events: UnboundedReceiver<Bytes>,
}

impl Live {
    pub fn open(server: &mut ApiServer, request: Request<Bytes>) -> Self {
        match server.handle(SystemTime::now(), &request) {
            Answer::Watch(events) => Self { request, events },
            Answer::Whole(reply) => panic!("{}: {reply:?}", request.uri()),
        }
    }

    /// Whether it has heard what a watch hears that is opened now.
    pub fn agrees(mut self, server: &mut ApiServer) -> Result<(), String> {
        let heard: Vec<Bytes> = std::iter::from_fn(|| self.events.try_recv().ok()).collect();
        let mut again = Self::open(server, self.request);
        let later: Vec<Bytes> = std::iter::from_fn(|| again.events.try_recv().ok()).collect();
        if heard == later {
            return Ok(());
        }
        Err(format!(
            "{} has heard:\n{heard:#?}\nand later:\n{later:#?}",
            again.request.uri()
        ))
    }
}

/// A server, and what it has said.
pub struct Side<S> {
    pub server: S,
    /// By resource and name: the uid, and each resourceVersion.
    objects: BTreeMap<String, (String, Vec<String>)>,
    /// Each uid and each resourceVersion in the order of their appearance.
    uids: Vec<String>,
    versions: Vec<String>,
    pub continue_token: Option<String>,
}

impl<S: Server> Side<S> {
    pub fn new(server: S) -> Self {
        Self {
            server,
            objects: BTreeMap::new(),
            uids: Vec::new(),
            versions: Vec::new(),
            continue_token: None,
        }
    }

    /// A call as this server gets it.
    pub fn request(&self, call: &Call) -> Request<Bytes> {
        call.request(|text| self.replace(text))
    }

    /// Sends a call; status and body of the reply, in words that both servers have in common.
    pub fn send(&mut self, call: &Call) -> (u16, Value) {
        let request = self.request(call);
        let (status, text) = self.server.send(&request);
        let mut body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        self.continue_token = body["metadata"]["continue"].as_str().map(str::to_owned);
        self.learn(call, &body);
        self.normalise(&mut body);
        (status, body)
    }

    /// The events of a watch up to the last one.
    pub fn watch(&mut self, call: &Call, is_last: &dyn Fn(&str) -> bool) -> Vec<Value> {
        let request = self.request(call);
        let lines = self.server.watch(&request, is_last);
        lines
            .iter()
            .map(|line| {
                let mut event = serde_json::from_str(line).unwrap_or(Value::String(line.clone()));
                self.normalise(&mut event);
                event
            })
            .collect()
    }

    /// Remembers what a reply says of an object.
    fn learn(&mut self, call: &Call, body: &Value) {
        let metadata = &body["metadata"];
        let (Some(uid), Some(name), Some(version)) = (
            metadata["uid"].as_str(),
            metadata["name"].as_str(),
            metadata["resourceVersion"].as_str(),
        ) else {
            return;
        };
        if is_of_one_that_ends(&body["status"]) {
            return;
        }
        let mut words = call
            .path
            .split("/namespaces/")
            .nth(1)
            .unwrap_or_default()
            .split('/');
        let resource = words.nth(1).unwrap_or("namespaces");
        let known = self.objects.entry(format!("{resource}/{name}")).or_default();
        uid.clone_into(&mut known.0);
        if known.1.last().is_none_or(|last| last != version) {
            known.1.push(version.to_owned());
        }
    }

    /// Puts in what this server has said, for each `@uid:resource/name` and so on.
    fn replace(&self, text: &str) -> String {
        let mut replaced = text.to_owned();
        if let Some(token) = &self.continue_token {
            replaced = replaced.replace("@continue", token);
        }
        for (key, (uid, versions)) in &self.objects {
            let last = versions.len() - 1;
            for (word, value) in [
                ("uid", uid),
                ("now", &versions[last]),
                ("old", &versions[last.saturating_sub(1)]),
            ] {
                replaced = replaced.replace(&format!("@{word}:{key}"), value);
            }
        }
        // Nothing is known of it yet.
        for (word, value) in [("@uid:", "no-uid:"), ("@now:", "1"), ("@old:", "1")] {
            while let Some(at) = replaced.find(word) {
                let end = replaced[at..]
                    .find(['"', '&'])
                    .map_or(replaced.len(), |end| at + end);
                replaced.replace_range(at..end, value);
            }
        }
        replaced
    }

    /// Replaces uids and resourceVersions by the order in which they appeared, and times by a word.
    fn normalise(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                let is_list = map.contains_key("items");
                let is_bookmark = map.get("type").is_some_and(|kind| kind == "BOOKMARK");
                let ends = map.get("status").is_some_and(is_of_one_that_ends);
                for (key, value) in map.iter_mut() {
                    if (is_list || ends) && key == "metadata" || is_bookmark && key == "object" {
                        strip_version(value);
                    }
                    match (key.as_str(), value) {
                        ("resourceVersion", Value::String(version)) => {
                            *version = format!("version {}", place(&mut self.versions, version));
                        }
                        ("uid", Value::String(uid)) if uid.len() == 36 => {
                            *uid = format!("uid {}", place(&mut self.uids, uid));
                        }
                        ("creationTimestamp" | "deletionTimestamp", time @ Value::String(_)) => {
                            *time = "a time".into();
                        }
                        ("continue", token) => *token = "a token".into(),
                        ("name", Value::String(name)) => hide_generated_end(name),
                        ("message", Value::String(message)) => self.normalise_message(message),
                        (_, value) => self.normalise(value),
                    }
                }
                map.remove("managedFields");
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.normalise(value)),
            _ => {}
        }
    }

    fn normalise_message(&mut self, message: &mut String) {
        for (place, uid) in self.uids.iter().enumerate() {
            *message = message.replace(uid, &format!("uid {place}"));
        }
        if let Some(words) = message.strip_suffix("). The object might have been modified")
            && let Some((before, version)) = words.rsplit_once(" in record (")
        {
            let version = place(&mut self.versions, version);
            let (before, _) = before.split_once("precondition (").unwrap_or((before, ""));
            *message = format!("{before}, in record (version {version})");
        }
    }
}

/// Whether a status is that of a namespace that ends. Its controller writes there how far it is, when it can.
fn is_of_one_that_ends(status: &Value) -> bool {
    status["phase"] == "Terminating"
}

/// The version of a list, and of a bookmark, depends on what else happens on the server; that of a namespace that
/// ends, on how far its controller is.
fn strip_version(value: &mut Value) {
    if let Value::Object(map) = value {
        map.remove("resourceVersion");
        map.values_mut().for_each(strip_version);
    }
}

fn place(known: &mut Vec<String>, text: &str) -> usize {
    known.iter().position(|one| one == text).unwrap_or_else(|| {
        known.push(text.to_owned());
        known.len() - 1
    })
}

fn hide_generated_end(name: &mut String) {
    const PREFIX: &str = "generated-";
    if name.starts_with(PREFIX) {
        name.truncate(PREFIX.len());
    }
}
