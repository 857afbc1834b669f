//! Calls to an API server, generated from a seed.
//!
//! A text such as `@uid:secrets/a` in a call is what the server that is asked has said of that object: its uid, its
//! resourceVersion (`@now:`), or the one before (`@old:`).

use bytes::Bytes;
use http::Request;
use serde_json::{Map, Value, json};

/// One call, the same for both servers.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub query: String,
    pub content_type: &'static str,
    pub accept: &'static str,
    pub body: Option<Value>,
}

pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const WHOLE: &str = "application/json";

impl Call {
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: String::new(),
            content_type: WHOLE,
            accept: WHOLE,
            body: None,
        }
    }

    pub fn query(mut self, query: impl Into<String>) -> Self {
        self.query = query.into();
        self
    }

    pub fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    pub fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub fn merge(self, patch: Value) -> Self {
        self.patch(MERGE, patch)
    }

    fn patch(mut self, language: &'static str, body: Value) -> Self {
        self.content_type = language;
        self.body(body)
    }

    /// As a request, when all that begins with `@` is replaced.
    pub fn request(&self, replace: impl Fn(&str) -> String) -> Request<Bytes> {
        let address = match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{}", self.path, replace(query)),
        };
        let body = self.body.as_ref().map(|body| replace(&body.to_string()));
        Request::builder()
            .method(self.method)
            .uri(address)
            .header("content-type", self.content_type)
            .header("accept", self.accept)
            .body(Bytes::from(body.unwrap_or_default()))
            .unwrap()
    }
}

/// What decides by chance.
struct Dice(fastrand::Rng);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0.usize(..count)
    }

    /// Whether one of so many chances is met.
    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// What is asked for: the name in paths, and what comes before it.
pub const RESOURCES: [(&str, &str); 9] = [
    ("secrets", "/api/v1"),
    ("configmaps", "/api/v1"),
    ("events", "/api/v1"),
    ("deployments", "/apis/apps/v1"),
    ("statefulsets", "/apis/apps/v1"),
    ("daemonsets", "/apis/apps/v1"),
    ("cronjobs", "/apis/batch/v1"),
    ("leases", "/apis/coordination.k8s.io/v1"),
    ("events", NEW_EVENTS),
];

const NAMES: [&str; 3] = ["a", "b", "c"];
/// An Event is only changed through the group that made it: the other one would note itself in `managedFields`.
const NEW_EVENT_NAMES: [&str; 3] = ["new-a", "new-b", "new-c"];
pub const NEW_EVENTS: &str = "/apis/events.k8s.io/v1";
const FINALIZERS: [&str; 3] = ["x.io/f", "x.io/g", "y.io/f"];
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

/// Generates calls about objects of one namespace.
pub struct Calls {
    dice: Dice,
    namespace: String,
    /// Whether a name was generated: two of them would be listed in a different order by each server.
    has_generated: bool,
}

impl Calls {
    pub fn new(seed: u64, namespace: &str) -> Self {
        Self {
            dice: Dice(fastrand::Rng::with_seed(seed)),
            namespace: namespace.to_owned(),
            has_generated: false,
        }
    }

    /// Any call.
    pub fn next(&mut self) -> Call {
        // Most of the time about what the operator works with most.
        let at = if self.dice.one_in(2) {
            self.dice.below(2)
        } else {
            self.dice.below(RESOURCES.len())
        };
        let (resource, base) = RESOURCES[at];
        let name = if base == NEW_EVENTS {
            self.dice.pick(&NEW_EVENT_NAMES)
        } else {
            self.dice.pick(&NAMES)
        };
        let all = format!("{base}/namespaces/{}/{resource}", self.namespace);
        let one = format!("{all}/{name}");
        let partial = self.dice.one_in(4);
        let call = match self.dice.below(20) {
            0..=4 => Call::new("POST", all).body(self.object(base, resource, name)),
            5 | 6 => Call::new("GET", one),
            7..=10 => self.patch(resource, name, one),
            11 | 12 => self.put(base, resource, name, one),
            13..=15 => self.delete(resource, name, one),
            16 if self.dice.one_in(3) => {
                let selector = self.selector(resource);
                let unlimited = selector.split("limit=").next().unwrap_or_default();
                Call::new("DELETE", all).query(unlimited.trim_end_matches('&'))
            }
            _ => {
                let list = Call::new("GET", all).query(self.selector(resource));
                return if partial { list.accept(METADATA_LIST) } else { list };
            }
        };
        if partial && call.method != "DELETE" {
            return call.accept(METADATA);
        }
        call
    }

    fn selector(&mut self, resource: &str) -> String {
        let own = match resource {
            "secrets" => "fieldSelector=type%3DOpaque",
            "events" => "fieldSelector=reason%3DTested",
            _ => "labelSelector=app%3Dweb%2Ctier",
        };
        self.dice
            .pick(&[
                "",
                "",
                "limit=1",
                "limit=2",
                "labelSelector=app%3Dweb",
                "labelSelector=app+in+%28web%2Cdb%29",
                "labelSelector=app%21%3Dweb&limit=1",
                "labelSelector=%21app",
                "fieldSelector=metadata.name%3Da",
                "fieldSelector=metadata.name%21%3Db",
                "fieldSelector=spec.nothing%3Da",
                own,
            ])
            .to_owned()
    }

    /// An object to send, sometimes with a mistake in it.
    fn object(&mut self, base: &str, resource: &str, name: &str) -> Value {
        let mut object = self.good_object(base, resource, name);
        if self.dice.one_in(6) {
            self.spoil(resource, &mut object);
        }
        object
    }

    fn good_object(&mut self, base: &str, resource: &str, name: &str) -> Value {
        let mut metadata = json!({"name": name});
        if self.dice.one_in(2) {
            metadata["labels"] = self.labels();
        }
        if self.dice.one_in(2) {
            metadata["annotations"] = self.annotations();
        }
        if self.dice.one_in(4) {
            metadata["finalizers"] = self.finalizers();
        }
        let mut object = self.content(base, resource);
        object["metadata"] = metadata;
        object
    }

    fn content(&mut self, base: &str, resource: &str) -> Value {
        match resource {
            "secrets" => self.secret(),
            "configmaps" => json!({"data": self.texts()}),
            "leases" => json!({"spec": {
                "holderIdentity": self.dice.pick(&["", "me", "you"]),
                "leaseDurationSeconds": self.dice.pick(&[1, 15]),
                "leaseTransitions": self.dice.below(3),
                "renewTime": "2026-01-01T00:00:00.123456Z",
            }}),
            "events" => self.event(base),
            "cronjobs" => json!({"spec": {
                "schedule": self.dice.pick(&["* * * * *", "1 * * * *"]),
                "jobTemplate": {"spec": {"template": self.template("Never")}},
            }}),
            "statefulsets" => {
                let mut workload = self.workload();
                workload["spec"]["serviceName"] = json!("web");
                workload
            }
            "deployments" => {
                let mut workload = self.workload();
                workload["spec"]["replicas"] = self.dice.below(3).into();
                workload
            }
            _ => self.workload(),
        }
    }

    fn secret(&mut self) -> Value {
        let mut secret = json!({});
        if self.dice.one_in(2) {
            secret["stringData"] = self.texts();
        }
        if self.dice.one_in(2) {
            secret["data"] = json!({self.dice.pick(&["k", "l"]): self.dice.pick(&["dg==", "dzI=", ""])});
        }
        if self.dice.one_in(6) {
            secret["immutable"] = json!(true);
        }
        if self.dice.one_in(6) {
            secret["type"] = json!("example.com/own");
        }
        secret
    }

    fn event(&mut self, base: &str) -> Value {
        let about = json!({"kind": "Secret", "namespace": self.namespace, "name": "a"});
        let text = self.dice.pick(&["one", "other"]);
        if base == "/api/v1" {
            return json!({
                "involvedObject": about, "reason": "Tested", "message": text, "type": "Normal",
                "firstTimestamp": "2026-01-01T00:00:00Z", "count": 1 + self.dice.below(2),
            });
        }
        json!({
            "regarding": about, "reason": "Tested", "note": text, "type": "Warning", "action": "Sync",
            "eventTime": "2026-01-01T00:00:00.123456Z",
            "reportingController": "example.com/tests", "reportingInstance": "tests-0",
        })
    }

    fn workload(&mut self) -> Value {
        json!({"spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": self.template("Always"),
        }})
    }

    fn template(&mut self, restart: &str) -> Value {
        let from = json!([{"secretRef": {"name": self.dice.pick(&NAMES)}}]);
        json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "restartPolicy": restart,
                "containers": [{"name": "main", "image": self.dice.pick(&["one", "two"]), "envFrom": from}],
            },
        })
    }

    fn labels(&mut self) -> Value {
        self.dice.pick(&[
            json!({"app": "web"}),
            json!({"app": "db"}),
            json!({"app": "web", "tier": "x"}),
            json!({}),
        ])
    }

    fn annotations(&mut self) -> Value {
        let path = self.dice.pick(&["secret/a", "secret/b"]);
        self.dice.pick(&[
            json!({"vault-sync.io/path": path}),
            json!({"note": "", "other": path}),
            json!({}),
        ])
    }

    fn finalizers(&mut self) -> Value {
        let count = 1 + self.dice.below(2);
        (0..count).map(|_| self.dice.pick(&FINALIZERS)).collect()
    }

    fn texts(&mut self) -> Value {
        let count = self.dice.below(3);
        let entry = |dice: &mut Dice| {
            (
                dice.pick(&["k", "l", "m.n"]).to_owned(),
                json!(dice.pick(&["", "v", "w"])),
            )
        };
        (0..count)
            .map(|_| entry(&mut self.dice))
            .collect::<Map<_, _>>()
            .into()
    }

    /// Puts one mistake into an object.
    fn spoil(&mut self, resource: &str, object: &mut Value) {
        let metadata = &mut object["metadata"];
        match self.dice.below(16) {
            0 => metadata["name"] = json!("Bad_Name"),
            1 if !is_workload(resource) => metadata["name"] = json!("n".repeat(260)),
            2 => metadata["name"] = Value::Null,
            3 => metadata["namespace"] = json!("elsewhere"),
            4 => metadata["labels"] = json!({"a b": "c"}),
            5 => metadata["labels"] = json!({"a": "b c"}),
            6 => metadata["annotations"] = json!({"x/y/z": "c"}),
            7 => metadata["annotations"] = json!({"big": "x".repeat(256 * 1024)}),
            8 => metadata["finalizers"] = json!(["unqualified"]),
            9 => metadata["finalizers"] = json!(["x.io/bad name"]),
            10 => metadata["resourceVersion"] = json!("1"),
            11 => metadata["uid"] = json!("made-up"),
            12 => metadata["annotations"] = json!({"number": 1}),
            13 if !self.has_generated => {
                self.has_generated = true;
                metadata["name"] = Value::Null;
                metadata["generateName"] = json!("generated-");
            }
            14 => metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            _ => match resource {
                "secrets" => {
                    object["data"] = self.dice.pick(&[
                        json!({"bad key": "dg=="}),
                        json!({"..": "dg=="}),
                        json!({"k": "not base64"}),
                        json!({"k": 1}),
                    ]);
                }
                "configmaps" => {
                    object["data"] = self.dice.pick(&[
                        json!({"bad/key": "v"}),
                        json!({"k": "x".repeat(1024 * 1024 + 1)}),
                        json!({"k": true}),
                        json!({"k": null}),
                    ]);
                }
                "leases" => object["spec"]["leaseDurationSeconds"] = json!(0),
                _ => object["metadata"]["labels"] = json!({"": "x"}),
            },
        }
    }

    fn put(&mut self, base: &str, resource: &str, name: &str, one: String) -> Call {
        let mut object = self.object(base, resource, name);
        let metadata = &mut object["metadata"];
        match self.dice.below(6) {
            0 => metadata["resourceVersion"] = json!(format!("@old:{resource}/{name}")),
            1 => metadata["uid"] = json!("made-up"),
            2 => metadata["uid"] = json!(format!("@uid:{resource}/{name}")),
            3 => {}
            _ => metadata["resourceVersion"] = json!(format!("@now:{resource}/{name}")),
        }
        Call::new("PUT", one).body(object)
    }

    fn delete(&mut self, resource: &str, name: &str, one: String) -> Call {
        let call = Call::new("DELETE", one);
        let precondition = match self.dice.below(8) {
            0 => json!({"uid": "made-up"}),
            1 => json!({"uid": format!("@uid:{resource}/{name}")}),
            2 => json!({"resourceVersion": format!("@old:{resource}/{name}")}),
            3 => json!({"resourceVersion": format!("@now:{resource}/{name}")}),
            _ => return call,
        };
        call.body(json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": precondition}))
    }

    fn patch(&mut self, resource: &str, name: &str, one: String) -> Call {
        let call = Call::new("PATCH", one);
        let language = self.dice.pick(&[MERGE, STRATEGIC]);
        let metadata = |metadata: Value| json!({"metadata": metadata});
        let body = match self.dice.below(16) {
            0 => metadata(json!({"labels": self.labels()})),
            1 => metadata(json!({"annotations": self.annotations()})),
            2 => metadata(json!({"annotations": {"vault-sync.io/path": null, "note": null}})),
            3 => metadata(json!({"annotations": null, "labels": null})),
            4 | 5 => metadata(json!({
                "uid": format!("@uid:{resource}/{name}"), "finalizers": self.finalizers(),
            })),
            6 | 7 => {
                let body = metadata(json!({"$deleteFromPrimitiveList/finalizers": self.finalizers()}));
                return call.patch(STRATEGIC, body);
            }
            8 => metadata(json!({"finalizers": null})),
            9 => metadata(json!({"uid": "made-up"})),
            10 => metadata(json!({
                "resourceVersion": format!("@old:{resource}/{name}"), "annotations": self.annotations(),
            })),
            11 => metadata(json!({
                "resourceVersion": format!("@now:{resource}/{name}"), "annotations": self.annotations(),
            })),
            12 => return call.patch(JSON_PATCH, self.operations()),
            13 => self.dice.pick(&[
                metadata(json!({"name": "d"})),
                metadata(json!({"namespace": "elsewhere"})),
                metadata(json!({"labels": {"n": 1}})),
                metadata(json!({"generation": 7, "creationTimestamp": null, "resourceVersion": null})),
                metadata(json!({"deletionTimestamp": null, "deletionGracePeriodSeconds": null})),
                metadata(json!({"finalizers": ["unqualified"]})),
                json!({}),
            ]),
            _ => self.patch_of_content(resource),
        };
        call.patch(language, body)
    }

    fn patch_of_content(&mut self, resource: &str) -> Value {
        let container =
            json!({"name": self.dice.pick(&["main", "side"]), "image": self.dice.pick(&["one", "three"])});
        match resource {
            "secrets" => self.dice.pick(&[
                json!({"stringData": {"k": "new"}}),
                json!({"data": {"k": "bmV3", "l": null}}),
                json!({"data": null}),
                json!({"immutable": true}),
                json!({"immutable": null}),
                json!({"type": "example.com/other"}),
                json!({"data": {"bad key": ""}}),
            ]),
            "configmaps" => self.dice.pick(&[
                json!({"data": {"k": "new", "m.n": null}}),
                json!({"data": null}),
                json!({"binaryData": {"b": "dg=="}}),
                json!({"immutable": true}),
                json!({"data": {"k": ""}}),
            ]),
            "leases" => json!({"spec": {"holderIdentity": self.dice.pick(&["me", "you"])}}),
            "cronjobs" => self.dice.pick(&[
                json!({"spec": {"suspend": true}}),
                json!({"spec": {"schedule": "2 * * * *"}}),
            ]),
            "events" => json!({"count": 3}),
            "deployments" if self.dice.one_in(2) => json!({"spec": {"replicas": self.dice.below(3)}}),
            _ => json!({"spec": {"template": {"spec": {"containers": [container]}}}}),
        }
    }

    fn operations(&mut self) -> Value {
        self.dice.pick(&[
            json!([]),
            json!([{"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}]),
            json!([{"op": "remove", "path": "/metadata/finalizers/0"}]),
            json!([{"op": "replace", "path": "/metadata/labels/app", "value": "web"}]),
            json!([{"op": "test", "path": "/metadata/name", "value": "a"},
                {"op": "add", "path": "/metadata/labels", "value": {"app": "a"}}]),
        ])
    }
}

fn is_workload(resource: &str) -> bool {
    matches!(
        resource,
        "deployments" | "statefulsets" | "daemonsets" | "cronjobs"
    )
}

/// Objects that come last: every watch sees them.
pub fn last_object(base: &str, resource: &str, namespace: &str) -> Value {
    let mut calls = Calls::new(0, namespace);
    let mut object = calls.content(base, resource);
    object["metadata"] = json!({"name": LAST, "labels": {"app": "web"}});
    object
}

/// The name of those.
pub const LAST: &str = "zz-last";
