//! The server as a whole. What each part does is tested beside it; that all of it is as the real server does it, by
//! `tests/it/simulated_kubernetes.rs` of the operator.

use std::time::UNIX_EPOCH;

use super::*;

/// A server and the time.
struct World {
    server: ApiServer,
    now: SystemTime,
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

impl World {
    fn new() -> Self {
        Self {
            server: ApiServer::new(7),
            now: UNIX_EPOCH + Duration::from_secs(1_000_000),
        }
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/strategic-merge-patch+json")
            .header("x-sim-actor", "somebody");
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.server.handle(self.now, &request.body(body.into()).unwrap())
    }

    fn send(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        match self.answer(method, path, body) {
            Answer::Whole(reply) => {
                let body = serde_json::from_slice(reply.body()).unwrap();
                (reply.status().as_u16(), body)
            }
            Answer::Watch(_) => panic!("{method} {path} is a watch"),
        }
    }

    fn watch(&mut self, path: &str) -> Watching {
        match self.answer("GET", path, &Value::Null) {
            Answer::Watch(events) => Watching(events),
            Answer::Whole(reply) => panic!("{path} is no watch: {reply:?}"),
        }
    }

    fn secret(&mut self, name: &str) -> Value {
        let (code, secret) = self.send("POST", SECRETS, &json!({"metadata": {"name": name}}));
        assert_eq!(code, 201, "{secret}");
        secret
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.server.tick(self.now);
    }
}

struct Watching(UnboundedReceiver<Bytes>);

impl Watching {
    /// What has been heard: type and name.
    fn heard(&mut self) -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut heard = Vec::new();
        while let Ok(line) = self.0.try_recv() {
            let event: Value = serde_json::from_slice(&line).unwrap();
            let name = &event["object"]["metadata"]["name"];
            let reason = &event["object"]["reason"];
            heard.push((
                word(&event["type"]),
                word(if name.is_null() { reason } else { name }),
            ));
        }
        heard
    }

    fn is_over(&self) -> bool {
        self.0.is_closed()
    }
}

fn pairs(heard: &[(&str, &str)]) -> Vec<(String, String)> {
    heard
        .iter()
        .map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned()))
        .collect()
}

#[test]
fn finalizers_hold_an_object_until_they_are_gone() {
    let mut world = World::new();
    world.secret("a");
    let at = format!("{SECRETS}/a");
    let (code, _) = world.send("PATCH", &at, &json!({"metadata": {"finalizers": ["x.io/f"]}}));
    assert_eq!(code, 200);
    let mut watch = world.watch(&format!("{SECRETS}?watch=true"));
    let (_, marked) = world.send("DELETE", &at, &Value::Null);
    assert!(marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    let (code, _) = world.send("PATCH", &at, &json!({"metadata": {"finalizers": ["x.io/g"]}}));
    assert_eq!(code, 422);
    let off = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/f"]}});
    let (code, _) = world.send("PATCH", &at, &off);
    assert_eq!(code, 200);
    assert_eq!(world.send("GET", &at, &Value::Null).0, 404);
    assert_eq!(
        watch.heard(),
        pairs(&[("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")])
    );
}

#[test]
fn a_write_that_changes_nothing_makes_no_version() {
    let mut world = World::new();
    let secret = world.secret("a");
    let (_, same) = world.send("PATCH", &format!("{SECRETS}/a"), &json!({"type": "Opaque"}));
    assert_eq!(secret, same);
}

#[test]
fn a_watch_goes_on_from_a_version_until_history_is_gone() {
    let mut world = World::new();
    let version = world.secret("a")["metadata"]["resourceVersion"].clone();
    world.secret("b");
    let path = format!(
        "{SECRETS}?watch=true&resourceVersion={}",
        version.as_str().unwrap()
    );
    assert_eq!(world.watch(&path).heard(), pairs(&[("ADDED", "b")]));
    world.server.compact();
    let mut watch = world.watch(&path);
    assert_eq!(watch.heard(), pairs(&[("ERROR", "Expired")]));
    assert!(watch.is_over());
}

#[test]
fn watches_end_by_the_clock_and_by_force() {
    let mut world = World::new();
    let mut watch = world.watch(&format!(
        "{SECRETS}?watch=true&timeoutSeconds=10&allowWatchBookmarks=true"
    ));
    assert_eq!(world.server.open_watches(), 1);
    world.pass(9);
    assert_eq!(watch.heard(), pairs(&[("BOOKMARK", "")]));
    world.pass(1);
    assert!(watch.is_over());
    let watch = world.watch(&format!("{SECRETS}?watch=true"));
    world.server.cut_watches();
    assert!(watch.is_over());
    assert_eq!(world.server.open_watches(), 0);
}

#[test]
fn objects_enter_and_leave_a_selector() {
    let mut world = World::new();
    let mut watch = world.watch(&format!("{SECRETS}?watch=true&labelSelector=app%3Dweb"));
    world.secret("a");
    let at = format!("{SECRETS}/a");
    for labels in [
        json!({"app": "web"}),
        json!({"tier": "front"}),
        json!({"app": "db"}),
    ] {
        world.send("PATCH", &at, &json!({"metadata": {"labels": labels}}));
    }
    assert_eq!(
        watch.heard(),
        pairs(&[("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")])
    );
}

#[test]
fn pages_show_one_version_until_history_is_gone() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.secret(name);
    }
    let (_, first) = world.send("GET", &format!("{SECRETS}?limit=1"), &Value::Null);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"].as_str().unwrap();
    world.send("DELETE", &format!("{SECRETS}/c"), &Value::Null);
    let next = format!("{SECRETS}?continue={token}");
    let (_, second) = world.send("GET", &next, &Value::Null);
    assert_eq!(second["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    world.server.compact();
    let (code, expired) = world.send("GET", &next, &Value::Null);
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let rest = expired["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = world.send("GET", &format!("{SECRETS}?continue={rest}"), &Value::Null);
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_namespace_ends_when_it_is_empty() {
    let mut world = World::new();
    world.send(
        "POST",
        "/api/v1/namespaces",
        &json!({"metadata": {"name": "shop"}}),
    );
    let secrets = "/api/v1/namespaces/shop/secrets";
    let held = json!({"metadata": {"name": "a", "finalizers": ["x.io/f"]}});
    world.send("POST", secrets, &held);
    world.send("POST", secrets, &json!({"metadata": {"name": "b"}}));
    let (_, namespace) = world.send("DELETE", "/api/v1/namespaces/shop", &Value::Null);
    assert_eq!(namespace["status"]["phase"], "Terminating");
    assert_eq!(
        world.send("POST", secrets, &json!({"metadata": {"name": "c"}})).0,
        403
    );
    world.pass(1);
    assert_eq!(world.send("GET", &format!("{secrets}/b"), &Value::Null).0, 404);
    assert_eq!(world.send("GET", "/api/v1/namespaces/shop", &Value::Null).0, 200);
    world.send(
        "PATCH",
        &format!("{secrets}/a"),
        &json!({"metadata": {"finalizers": null}}),
    );
    world.pass(1);
    assert_eq!(world.send("GET", "/api/v1/namespaces/shop", &Value::Null).0, 404);
}

#[test]
fn old_events_are_dropped() {
    let mut world = World::new();
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "a"}, "note": "n", "reason": "R", "type": "Normal", "action": "A",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.io/c", "reportingInstance": "c-0",
    });
    let (code, reply) = world.send("POST", events, &event);
    assert_eq!(code, 201, "{reply}");
    let in_core = "/api/v1/namespaces/default/events/a";
    assert_eq!(world.send("GET", in_core, &Value::Null).1["message"], "n");
    world.pass(3601);
    assert_eq!(world.send("GET", in_core, &Value::Null).0, 404);
}

#[test]
fn the_journal_says_who_changed_what() {
    let mut world = World::new();
    let before = world.server.journal().len();
    let uid = world.secret("a")["metadata"]["uid"].clone();
    world.send("DELETE", &format!("{SECRETS}/a"), &Value::Null);
    let changes = &world.server.journal()[before..];
    let told: Vec<_> = changes
        .iter()
        .map(|change| {
            (
                change.verb,
                &*change.actor,
                change.namespace(),
                change.name(),
                change.uid(),
            )
        })
        .collect();
    let uid = uid.as_str().unwrap();
    assert_eq!(
        told,
        [
            (Verb::Create, "somebody", "default", "a", uid),
            (Verb::Delete, "somebody", "default", "a", uid),
        ]
    );
}

#[test]
fn one_seed_tells_one_story() {
    let story = || {
        let mut world = World::new();
        let names = json!({"metadata": {"generateName": "a-"}});
        [(); 3].map(|()| world.send("POST", SECRETS, &names).1)
    };
    assert_eq!(story(), story());
}
