//! Draws calls from a seed: what the operator asks, what people do by hand, and what nobody should.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A call, and who makes it.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) by: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) body: Value,
}

/// What decides by chance.
pub(super) struct Dice(fastrand::Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit)
    }

    /// True so often in a hundred.
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.usize(..from.len())]
    }
}

/// The documents of a mount, as they are in a URL.
pub(super) const DOCUMENTS: [&str; 7] = ["a", "b", "a/b", "a/b/c", "d/e", "x%20y", "%C3%A9"];

pub(super) struct Plan {
    dice: Dice,
    tag: String,
}

impl Plan {
    pub(super) fn new(dice: Dice, tag: &str) -> Self {
        Self {
            dice,
            tag: tag.to_owned(),
        }
    }

    pub(super) fn mounts(&self) -> [String; 3] {
        ["two", "one", "team/kv"].map(|name| format!("{}-{name}", self.tag))
    }

    /// The mounts and the policies that a sequence starts with.
    pub(super) fn foundations(&mut self) -> Vec<Call> {
        let [two, one, team] = self.mounts();
        vec![
            root(
                "POST",
                format!("sys/mounts/{two}"),
                json!({"type": "kv", "options": {"version": "2"}}),
            ),
            root(
                "POST",
                format!("sys/mounts/{one}"),
                json!({"type": "kv", "options": {"version": "1"}}),
            ),
            root(
                "POST",
                format!("sys/mounts/{team}"),
                json!({"type": "kv-v2", "description": "the team's"}),
            ),
            self.policy("writer"),
            self.policy("reader"),
        ]
    }

    /// The next call.
    pub(super) fn call(&mut self) -> Call {
        let by = *self.dice.pick(&[
            "root", "root", "root", "root", "root", "root", "writer", "writer", "writer", "reader", "reader",
            "both", "junk", "nobody",
        ]);
        let (method, path, body) = match self.dice.below(100) {
            0..=7 => self.mount_call(),
            8..=13 => self.token_call(),
            14..=15 => {
                let name = *self.dice.pick(&["writer", "reader"]);
                return self.policy(name);
            }
            16..=17 => return self.remake(),
            _ => self.document_call(),
        };
        Call {
            by: by.to_owned(),
            method,
            path,
            body,
        }
    }

    fn some_mount(&mut self) -> String {
        let mounts = self.mounts();
        let index = self.dice.below(8);
        match index {
            0..=4 => mounts[0].clone(),
            5 | 6 => mounts[1].clone(),
            _ => mounts[2].clone(),
        }
    }

    /// One of them often, so that it gets a long history.
    fn document(&mut self) -> &'static str {
        let often = self.dice.chance(45);
        let among = if often { &DOCUMENTS[..1] } else { &DOCUMENTS[..] };
        self.dice.pick::<&str>(among)
    }

    /// A mount is taken away, made anew, or changed.
    fn remake(&mut self) -> Call {
        let mount = self.some_mount();
        let path = format!("sys/mounts/{mount}");
        match self.dice.below(6) {
            0 => root("DELETE", path, Value::Null),
            1 => root("POST", path, json!({"type": "kv", "options": {"version": "2"}})),
            2 => root("POST", path, json!({"type": "kv"})),
            3 => {
                let path = format!("sys/mounts/{}-other", self.tag);
                let kind = *self.dice.pick(&["transit", "nonsense", ""]);
                let method = *self.dice.pick(&["POST", "DELETE"]);
                root(
                    method,
                    path,
                    if method == "POST" {
                        json!({ "type": kind })
                    } else {
                        Value::Null
                    },
                )
            }
            4 => root(
                "POST",
                format!("{path}/tune"),
                json!({"options": {"version": "2"}}),
            ),
            _ => {
                let versions = ["1", "2", "3"];
                let version = *self.dice.pick(&versions);
                root(
                    "POST",
                    format!("{path}/tune"),
                    json!({"options": {"version": version}, "description": "new"}),
                )
            }
        }
    }

    fn mount_call(&mut self) -> (String, String, Value) {
        let mount = self.some_mount();
        let document = self.document();
        let path = match self.dice.below(9) {
            0 => format!("sys/internal/ui/mounts/{mount}"),
            1 => format!("sys/internal/ui/mounts/{mount}/"),
            2 => format!("sys/internal/ui/mounts/{mount}/data/{document}"),
            3 => format!("sys/internal/ui/mounts/{}-none/{document}", self.tag),
            4 => "sys/internal/ui/mounts/transit/keys/app".to_owned(),
            5 => format!("sys/mounts/{mount}"),
            6 => format!("sys/mounts/{mount}/tune"),
            7 if self.dice.chance(50) => format!("sys/internal/ui/mounts/{}-other", self.tag),
            7 => format!("{}-none/data/{document}", self.tag),
            _ => (*self.dice.pick(&[
                "sys/internal/ui/mounts/sys",
                "sys/nothing",
                "sys/internal/ui/mounts/cubbyhole",
            ]))
            .to_owned(),
        };
        let method = if self.dice.chance(92) { "GET" } else { "LIST" };
        (method.to_owned(), path, Value::Null)
    }

    fn token_call(&mut self) -> (String, String, Value) {
        let two = self.mounts()[0].clone();
        let (method, path, body) = match self.dice.below(7) {
            0 | 1 => ("GET", "auth/token/lookup-self", Value::Null),
            2 => ("POST", "auth/token/renew-self", json!({})),
            3 => ("POST", "auth/token/renew-self", json!({"increment": "10m"})),
            4 => ("PUT", "auth/token/renew-self", json!({"increment": 9_000_000})),
            5 => (
                "POST",
                "sys/capabilities-self",
                json!({"paths": [format!("{two}/data/a"), format!("{two}/metadata/a/b")]}),
            ),
            _ => (
                "POST",
                "sys/capabilities-self",
                json!({"path": format!("{two}/data/b")}),
            ),
        };
        (method.to_owned(), path.to_owned(), body)
    }

    fn document_call(&mut self) -> (String, String, Value) {
        let mount = self.some_mount();
        let document = self.document();
        let is_one = mount.ends_with("-one");
        if is_one && self.dice.chance(85) {
            return self.first_version_call(&mount, document);
        }
        let (method, below, body) = match self.dice.below(100) {
            0..=17 => ("GET", self.read(document), Value::Null),
            18..=45 => {
                let method = *self.dice.pick(&["POST", "PUT"]);
                (method, format!("data/{document}"), self.write())
            }
            46..=52 => ("PATCH", format!("data/{document}"), self.write()),
            53..=57 => ("DELETE", format!("data/{document}"), Value::Null),
            58..=68 => {
                let verb = *self.dice.pick(&["delete", "undelete", "destroy"]);
                (
                    *self.dice.pick(&["POST", "PUT"]),
                    format!("{verb}/{document}"),
                    self.versions(),
                )
            }
            69..=73 => ("GET", format!("metadata/{document}"), Value::Null),
            74..=79 => ("POST", format!("metadata/{document}"), self.metadata()),
            80..=86 => ("PATCH", format!("metadata/{document}"), self.metadata()),
            87..=88 => ("DELETE", format!("metadata/{document}"), Value::Null),
            89..=91 => {
                let folder = *self.dice.pick(&[
                    "metadata",
                    "metadata/",
                    "metadata/a",
                    "metadata/a/",
                    "metadata/a/b",
                    "metadata/d?exclude_deleted=true",
                ]);
                ("LIST", folder.to_owned(), Value::Null)
            }
            92..=93 => (
                *self.dice.pick(&["POST", "GET"]),
                "config".to_owned(),
                self.config(),
            ),
            _ => return self.odd(&mount, document),
        };
        (
            method.to_owned(),
            format!("{mount}/{below}"),
            if method == "GET" { Value::Null } else { body },
        )
    }

    fn first_version_call(&mut self, mount: &str, document: &str) -> (String, String, Value) {
        let path = format!("{mount}/{document}");
        let (method, path, body) = match self.dice.below(20) {
            0..=5 => ("GET", path, Value::Null),
            6..=12 => (*self.dice.pick(&["POST", "PUT"]), path, self.content()),
            13..=15 => ("DELETE", path, Value::Null),
            16 => ("LIST", mount.to_owned(), Value::Null),
            17 => ("LIST", path, Value::Null),
            18 => ("PATCH", path, self.content()),
            _ => (
                "POST",
                path,
                json!({"ttl": *self.dice.pick(&["1h", "30", "x"]), "k": "v"}),
            ),
        };
        (method.to_owned(), path, body)
    }

    /// What is not done, or not so.
    fn odd(&mut self, mount: &str, document: &str) -> (String, String, Value) {
        let methods = [
            "GET", "POST", "PUT", "PATCH", "DELETE", "LIST", "HEAD", "OPTIONS", "FOO",
        ];
        let paths = [
            String::new(),
            "/".to_owned(),
            "/data".to_owned(),
            "/data/".to_owned(),
            "/metadata".to_owned(),
            "/metadata/".to_owned(),
            "/config/".to_owned(),
            "/nothing".to_owned(),
            format!("/data/{document}/"),
            format!("/metadata/{document}/"),
            format!("/{document}"),
            format!("/data//{document}"),
            format!("/data/{document}?version=1&list=false"),
            format!("/metadata/{document}?list=true"),
            format!("/metadata/{document}?list=maybe"),
            format!("/delete/{document}"),
            "/undelete/".to_owned(),
            format!("/destroy/{document}?versions=1"),
        ];
        let (method, path) = (*self.dice.pick(&methods), self.dice.pick(&paths).clone());
        let body = match method {
            "POST" | "PUT" | "PATCH" => match self.dice.below(6) {
                0 => json!([1]),
                1 => json!("x"),
                2 => json!({"path": "other", "unknown": 1, "another": null}),
                3 => self.versions(),
                _ => self.write(),
            },
            _ => Value::Null,
        };
        (method.to_owned(), format!("{mount}{path}"), body)
    }

    fn read(&mut self, document: &str) -> String {
        match self.dice.below(10) {
            0..=5 => format!("data/{document}"),
            6 | 7 => format!("data/{document}?version={}", self.dice.below(6)),
            8 => format!(
                "data/{document}?version={}",
                self.dice
                    .pick(&["x", "-1", "", "99", "1&version=2", "2&foo=bar&a=b"])
            ),
            _ => format!("data/{document}?list=0"),
        }
    }

    fn content(&mut self) -> Value {
        let mut content = Map::new();
        for _ in 0..self.dice.below(4) {
            let key = *self.dice.pick(&["k", "user", "pass word", "é", ""]);
            content.insert(key.to_owned(), self.value());
        }
        content.into()
    }

    fn value(&mut self) -> Value {
        match self.dice.below(14) {
            0..=6 => json!(format!("v{}", self.dice.below(1000))),
            7 => json!(""),
            8 => Value::Null,
            9 => json!(self.dice.below(1 << 40)),
            10 => json!(*self.dice.pick(&[1.5, -0.25, 1e30, 100.0])),
            11 => json!({"a": {"b": [1, "x", null]}, "c": null}),
            12 => json!(self.dice.chance(50)),
            _ => json!("line\n\"quoted\" <&> \u{1f511}"),
        }
    }

    fn write(&mut self) -> Value {
        let mut body = json!({"data": self.content()});
        match self.dice.below(20) {
            0..=5 => body["options"] = json!({"cas": self.dice.below(4)}),
            6 => body["options"] = json!({"cas": *self.dice.pick(&["1", "x", "", "-1"])}),
            7 => body["options"] = json!({}),
            8 => body["options"] = Value::Null,
            9 => body["data"] = Value::Null,
            10 => body["data"] = json!("text"),
            11 => return json!({}),
            12 => return Value::Null,
            13 => body["unknown"] = json!("x"),
            14 => body["path"] = json!("x"),
            15 => body["options"] = json!("x"),
            _ => {}
        }
        body
    }

    fn versions(&mut self) -> Value {
        match self.dice.below(12) {
            0 => json!({}),
            1 => json!({"versions": "1,2"}),
            2 => json!({"versions": ["1", "2"]}),
            3 => json!({"versions": [0, 99]}),
            4 => json!({"versions": []}),
            5 => json!({"versions": ["x", 1]}),
            6 => json!({"versions": 1}),
            7 => json!({"versions": [1], "more": 1}),
            _ => {
                let count = 1 + self.dice.below(3);
                let list: Vec<u64> = (0..count).map(|_| 1 + self.dice.below(5)).collect();
                json!({ "versions": list })
            }
        }
    }

    fn metadata(&mut self) -> Value {
        let mut body = json!({});
        if self.dice.chance(75) {
            body["custom_metadata"] = match self.dice.below(12) {
                0 => Value::Null,
                1 => json!({}),
                2 => json!({"k": null, "n": "x"}),
                3 => (*self
                    .dice
                    .pick(&[json!({"k": 1}), json!({"b": true}), json!({"k": ["x"]})]))
                .clone(),
                4 => json!({"k": ""}),
                5 => json!({"k".repeat(129): "x", "v": "y".repeat(513)}),
                6 => json!({"k": "a\u{1}b"}),
                7 => json!("text"),
                8 => (0..65)
                    .map(|n| (format!("k{n}"), json!("x")))
                    .collect::<Map<_, _>>()
                    .into(),
                _ => json!({"owner": format!("o{}", self.dice.below(9)), "k": "v"}),
            };
        }
        if self.dice.chance(20) {
            body["max_versions"] =
                (*self
                    .dice
                    .pick(&[json!(0), json!(2), json!(5), json!("3"), json!("x"), json!(null)]))
                .clone();
        }
        if self.dice.chance(15) {
            body["cas_required"] =
                (*self
                    .dice
                    .pick(&[json!(true), json!(false), json!("true"), json!("x"), json!(0)]))
                .clone();
        }
        if self.dice.chance(15) {
            body["delete_version_after"] = (*self.dice.pick(&[
                json!("1h30m"),
                json!("0s"),
                json!(90),
                json!("x"),
                json!(-1),
                json!("2d"),
            ]))
            .clone();
        }
        if self.dice.chance(5) {
            body["unknown"] = json!(1);
        }
        body
    }

    fn config(&mut self) -> Value {
        let mut body = json!({});
        if self.dice.chance(70) {
            body["max_versions"] = json!(self.dice.below(5));
        }
        if self.dice.chance(40) {
            body["cas_required"] = json!(self.dice.chance(25));
        }
        if self.dice.chance(30) {
            body["delete_version_after"] =
                (*self.dice.pick(&[json!("2h"), json!("0s"), json!(-1), json!("x")])).clone();
        }
        body
    }

    /// Writes a policy of rules that are drawn.
    fn policy(&mut self, name: &str) -> Call {
        let all = ["create", "read", "update", "patch", "delete", "list"];
        let mut policy = format!("# {name}\n");
        if self.dice.chance(75) {
            let mount = self.some_mount();
            let _ = writeln!(policy, "path \"{mount}/*\" {{ capabilities = {all:?} }} // most");
        }
        for _ in 0..2 + self.dice.below(6) {
            let path = self.rule();
            let mut capabilities: Vec<&str> = all.iter().copied().filter(|_| self.dice.chance(55)).collect();
            if self.dice.chance(8) {
                capabilities.push("deny");
            }
            let _ = writeln!(policy, "path {path:?} {{\n  capabilities = {capabilities:?}\n}}");
        }
        let path = format!("sys/policies/acl/{}-{name}", self.tag);
        root("PUT", path, json!({ "policy": policy }))
    }

    fn rule(&mut self) -> String {
        let mount = self.some_mount();
        let below = *self
            .dice
            .pick(&["data", "metadata", "delete", "undelete", "destroy", "+"]);
        let document = *self.dice.pick(&[
            "a", "b", "a/b", "*", "a/*", "a/+", "+/b", "+/*", "+", "a/+/c", "d/e*",
        ]);
        match self.dice.below(12) {
            0 => format!("{mount}/*"),
            1 => format!("{mount}*"),
            2 => format!("+/{below}/{document}"),
            3 => format!("{mount}/{document}"),
            4 => mount,
            5 => format!("{mount}/metadata/"),
            _ => format!("{mount}/{below}/{document}"),
        }
    }
}

fn root(method: &str, path: String, body: Value) -> Call {
    Call {
        by: "root".to_owned(),
        method: method.to_owned(),
        path,
        body,
    }
}
