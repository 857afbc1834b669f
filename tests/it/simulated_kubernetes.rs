//! The simulated API server of the crate `sim`, held against the real one: generated calls go to both, and their
//! replies and the events of their watches are compared.
//!
//! `SIMULATED_KUBERNETES_SEED` sets the first seed, `SIMULATED_KUBERNETES_ROUNDS` how many follow.
//!
//! What is different on purpose, and not compared:
//!
//! - `managedFields` are left out.
//! - Workloads get no defaults in their spec and have no status, and their spec is not validated.
//! - DaemonSets have no annotation that counts the versions of their template.
//! - Bookmarks show nothing of an object but its metadata.
//! - The version of a list and of a bookmark: other writers move the real one.
//! - The words of an error about a body that cannot be decoded: the real ones quote Go's types and whole objects.
//! - The order of faults in an object that has several: the real server's is random.
//! - `propagationPolicy` and graceful deletion: nothing collects garbage, and pods are gone at once.

mod calls;
mod side;

use std::env;
use std::fmt::Write as _;

use calls::{Call, Calls, Dice, LAST, METADATA, NEW_EVENTS, RESOURCES, last_object};
use serde_json::{Value, json};
use side::{Real, Side};
use sim::kubernetes::ApiServer;
use testkit::Testbed;

/// Calls of a round.
const CALLS: usize = 80;
/// Rounds, unless the environment says otherwise.
const ROUNDS: u64 = 3;
/// So many rounds that fail say enough.
const FAILURES: usize = 12;

#[test]
fn the_simulated_api_server_answers_as_the_real_one_does() {
    let seed = number("SIMULATED_KUBERNETES_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = number("SIMULATED_KUBERNETES_ROUNDS").unwrap_or(ROUNDS);
    let seeds = (seed..).take(usize::try_from(rounds).unwrap());
    let failures = seeds.filter_map(|seed| Round::new(seed).run().err());
    let failures: Vec<String> = failures.take(FAILURES).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    eprintln!("simulated Kubernetes: {rounds} rounds agree, the first with SIMULATED_KUBERNETES_SEED={seed}");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The same calls to both servers.
struct Round {
    seed: u64,
    namespace: String,
    real: Side<Real>,
    simulated: Side<ApiServer>,
    /// What was done, in words.
    story: String,
}

impl Round {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            namespace: format!("simulated-{seed}"),
            real: Side::new(Real(Testbed::shared())),
            simulated: Side::new(ApiServer::new(seed)),
            story: String::new(),
        }
    }

    fn run(mut self) -> Result<(), String> {
        let namespace = json!({"metadata": {"name": self.namespace}});
        self.both(&Call::new("POST", "/api/v1/namespaces").body(namespace))?;
        let mut calls = Calls {
            dice: Dice(self.seed),
            namespace: self.namespace.clone(),
        };
        for _ in 0..CALLS {
            let call = calls.next();
            self.both(&call)?;
            while self.real.continue_token.is_some() {
                let next = "limit=1&continue=@continue";
                self.both(
                    &Call::new("GET", call.path.clone())
                        .query(next)
                        .accept(call.accept),
                )?;
            }
        }
        self.watches()
    }

    /// Sends a call to both.
    fn both(&mut self, call: &Call) -> Result<(), String> {
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        let short: String = body.chars().take(300).collect();
        let _ = writeln!(
            self.story,
            "{} {}?{} {} {} {short}",
            call.method, call.path, call.query, call.content_type, call.accept
        );
        let (real, simulated) = (self.real.send(call), self.simulated.send(call));
        let _ = writeln!(self.story, "    -> {}", real.0);
        self.compare(
            &json!({"status": real.0, "body": real.1}),
            &json!({"status": simulated.0, "body": simulated.1}),
        )
    }

    /// Compares what both watches show of all that has happened.
    fn watches(&mut self) -> Result<(), String> {
        let from = format!(
            "watch=true&resourceVersion=@old:namespaces/{}&timeoutSeconds=5",
            self.namespace
        );
        let all = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0\
                   &allowWatchBookmarks=true&timeoutSeconds=5";
        for (resource, base) in RESOURCES {
            if base == NEW_EVENTS {
                continue;
            }
            let path = format!("{base}/namespaces/{}/{resource}", self.namespace);
            let last = last_object(base, resource, &self.namespace);
            self.both(&Call::new("POST", path.clone()).body(last))?;
            for selector in [
                "",
                "&labelSelector=app%3Dweb",
                "&labelSelector=app",
                "&fieldSelector=metadata.name%21%3Db",
            ] {
                let call = Call::new("GET", path.clone()).query(format!("{from}{selector}"));
                self.watch(&call, &|line| line.contains(LAST))?;
                self.watch(&call.accept(METADATA), &|line| line.contains(LAST))?;
            }
            let call = Call::new("GET", path).query(all);
            self.watch(&call, &|line| line.contains("BOOKMARK"))?;
            self.watch(&call.accept(METADATA), &|line| line.contains("BOOKMARK"))?;
        }
        Ok(())
    }

    fn watch(&mut self, call: &Call, is_last: &dyn Fn(&str) -> bool) -> Result<(), String> {
        let _ = writeln!(self.story, "WATCH {}?{} {}", call.path, call.query, call.accept);
        let (real, simulated) = (
            self.real.watch(call, is_last),
            self.simulated.watch(call, is_last),
        );
        self.compare(&real.into(), &simulated.into())
    }

    fn compare(&self, real: &Value, simulated: &Value) -> Result<(), String> {
        let (mut real, mut simulated) = (real.clone(), simulated.clone());
        strip(&mut real);
        strip(&mut simulated);
        keep_what_is_simulated(&mut real, &simulated);
        let Some(difference) = difference("", &real, &simulated) else {
            return Ok(());
        };
        let lines: Vec<&str> = self.story.lines().collect();
        let story = lines[lines.len().saturating_sub(6)..].join("\n");
        Err(format!(
            "the servers differ; SIMULATED_KUBERNETES_SEED={}\n{story}\n{difference}\nreal:      {real}\nsimulated: {simulated}",
            self.seed
        ))
    }
}

/// Takes out what is not compared, see above.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_workload = map
                .get("spec")
                .is_some_and(|spec| !spec["template"].is_null() || !spec["jobTemplate"].is_null());
            if is_workload {
                map.remove("status");
            }
            if map.get("type").is_some_and(|kind| kind == "BOOKMARK")
                && let Some(Value::Object(object)) = map.get_mut("object")
            {
                object.retain(|key, _| matches!(key.as_str(), "kind" | "apiVersion" | "metadata"));
            }
            if map.get("field").is_some_and(|field| field == "patch") {
                map.remove("message");
            }
            if let Some(Value::Object(annotations)) = map.get_mut("annotations") {
                annotations.remove("deprecated.daemonset.template.generation");
                if annotations.is_empty() {
                    map.remove("annotations");
                }
            }
            if let Some(Value::String(message)) = map.get_mut("message") {
                strip_message(message);
            }
            if let Some(Value::Array(causes)) = map.get_mut("causes") {
                causes.sort_by_key(Value::to_string);
            }
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

fn strip_message(message: &mut String) {
    for words in [
        "is invalid: patch: ",
        "cannot be handled as a ",
        "the object provided is unrecognized",
    ] {
        if let Some(at) = message.find(words) {
            message.truncate(at + words.len());
        }
    }
}

/// Takes out the defaults that the real server gives to a workload.
fn keep_what_is_simulated(real: &mut Value, simulated: &Value) {
    match (real, simulated) {
        (Value::Object(real), Value::Object(simulated)) => {
            for (key, value) in real.iter_mut() {
                let Some(other) = simulated.get(key) else { continue };
                if matches!(key.as_str(), "template" | "jobTemplate") {
                    keep_shared(value, other);
                } else {
                    keep_what_is_simulated(value, other);
                }
            }
            if simulated.contains_key("template") || simulated.contains_key("jobTemplate") {
                real.retain(|key, _| simulated.contains_key(key));
            }
        }
        (Value::Array(real), Value::Array(simulated)) => {
            for (real, simulated) in real.iter_mut().zip(simulated) {
                keep_what_is_simulated(real, simulated);
            }
        }
        _ => {}
    }
}

fn keep_shared(real: &mut Value, simulated: &Value) {
    match (real, simulated) {
        (Value::Object(real), Value::Object(simulated)) => {
            real.retain(|key, _| simulated.contains_key(key));
            for (key, value) in real.iter_mut() {
                keep_shared(value, &simulated[key]);
            }
        }
        (Value::Array(real), Value::Array(simulated)) => {
            for (real, simulated) in real.iter_mut().zip(simulated) {
                keep_shared(real, simulated);
            }
        }
        _ => {}
    }
}

/// Where two values differ first.
fn difference(path: &str, real: &Value, simulated: &Value) -> Option<String> {
    match (real, simulated) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys());
            let null = Value::Null;
            keys.filter_map(|key| {
                let (one, other) = (one.get(key).unwrap_or(&null), other.get(key).unwrap_or(&null));
                difference(&format!("{path}.{key}"), one, other)
            })
            .next()
        }
        (Value::Array(one), Value::Array(other)) => {
            let pairs = one.iter().zip(other).enumerate();
            let inner = pairs
                .filter_map(|(at, (one, other))| difference(&format!("{path}[{at}]"), one, other))
                .next();
            let lengths = || {
                (one.len() != other.len())
                    .then(|| format!("{path}: {} and {} elements", one.len(), other.len()))
            };
            inner.or_else(lengths)
        }
        _ => (real != simulated).then(|| format!("{path}:\n  real      {real}\n  simulated {simulated}")),
    }
}
