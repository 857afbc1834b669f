//! The simulated API server of the crate `sim`, held against the real one: generated calls go to both, and their
//! replies and the events of their watches are compared. What is different on purpose is listed in `compare.rs`.
//!
//! `SIMULATED_KUBERNETES_SEED` sets the first seed, `SIMULATED_KUBERNETES_ROUNDS` how many follow.

mod calls;
mod compare;
mod side;

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use calls::{Call, Calls, LAST, METADATA, NEW_EVENTS, RESOURCES, last_object};
use serde_json::{Value, json};
use side::{Live, Real, Side};
use sim::kubernetes::ApiServer;
use testkit::{Testbed, check, eventually, number};

/// Calls of a round.
const CALLS: usize = 80;
/// Rounds, unless the environment says otherwise.
const ROUNDS: u64 = 2;
/// So many rounds that fail say enough.
const FAILURES: usize = 3;
/// So much of what was done before is shown of one that fails.
const LINES: usize = 40;

#[test]
fn the_simulated_api_server_answers_as_the_real_one_does() {
    let seed = number("SIMULATED_KUBERNETES_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = number("SIMULATED_KUBERNETES_ROUNDS").unwrap_or(ROUNDS);
    eprintln!("simulated Kubernetes: {rounds} rounds from SIMULATED_KUBERNETES_SEED={seed}");
    let seeds = (seed..).take(usize::try_from(rounds).unwrap());
    let failures = seeds.filter_map(|seed| {
        let why = Pair::new(format!("simulated-{seed}"), seed).round().err()?;
        Some(format!("SIMULATED_KUBERNETES_SEED={seed}: {why}"))
    });
    let failures: Vec<String> = failures.take(FAILURES).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_simulated_namespace_ends_as_a_real_one_does() {
    let mut pair = Pair::new("simulated-end".to_owned(), 1);
    pair.end_of_a_namespace().unwrap_or_else(|why| panic!("{why}"));
}

/// Both servers, which get the same calls.
struct Pair {
    namespace: String,
    seed: u64,
    real: Side<Real>,
    simulated: Side<ApiServer>,
    /// What was done, in words.
    story: String,
}

impl Pair {
    fn new(namespace: String, seed: u64) -> Self {
        Self {
            namespace,
            seed,
            real: Side::new(Real(Testbed::shared())),
            simulated: Side::new(ApiServer::new(seed)),
            story: String::new(),
        }
    }

    /// Generated calls, and watches that show what has happened.
    fn round(mut self) -> Result<(), String> {
        self.create_namespace()?;
        let live = self.live();
        let mut calls = Calls::new(self.seed, &self.namespace);
        for _ in 0..CALLS {
            let call = calls.next();
            self.both(&call)?;
            while self.real.continue_token.is_some() {
                let next = Call::new("GET", call.path.clone()).accept(call.accept);
                self.both(&next.query("limit=1&continue=@continue"))?;
            }
        }
        for (path, last) in self.paths() {
            self.both(&Call::new("POST", path.clone()).body(last))?;
            self.watches(&path)?;
        }
        // What they have heard is what is told later too.
        live.into_iter()
            .try_for_each(|live| live.agrees(&mut self.simulated.server))
    }

    fn create_namespace(&mut self) -> Result<(), String> {
        let namespace = json!({"metadata": {"name": self.namespace}});
        self.both(&Call::new("POST", "/api/v1/namespaces").body(namespace))
    }

    /// Where objects are, and for each place one that comes last.
    fn paths(&self) -> Vec<(String, Value)> {
        let served = RESOURCES.iter().filter(|(_, base)| *base != NEW_EVENTS);
        let paths = served.map(|(resource, base)| {
            let path = format!("{base}/namespaces/{}/{resource}", self.namespace);
            (path, last_object(base, resource, &self.namespace))
        });
        paths.collect()
    }

    /// Watches of the simulated server that are open all the time.
    fn live(&mut self) -> Vec<Live> {
        let mut live = Vec::new();
        for (path, _) in self.paths() {
            for selector in SELECTORS {
                let request = self.simulated.request(&self.watch_call(&path, selector));
                live.push(Live::open(&mut self.simulated.server, request));
            }
        }
        live
    }

    /// A watch of what has happened since the beginning.
    fn watch_call(&self, path: &str, selector: &str) -> Call {
        let from = format!("watch=true&resourceVersion=@old:namespaces/{}", self.namespace);
        Call::new("GET", path).query(format!("{from}&timeoutSeconds=5{selector}"))
    }

    /// Compares what watches show.
    fn watches(&mut self, path: &str) -> Result<(), String> {
        // Those of Events are slow: the real server does not cache them.
        let selectors = if path.ends_with("/events") {
            &SELECTORS[..1]
        } else {
            &SELECTORS
        };
        for selector in selectors {
            let call = self.watch_call(path, selector);
            self.watch(&call, &|line| line.contains(LAST))?;
            self.watch(&call.accept(METADATA), &|line| line.contains(LAST))?;
        }
        let call = Call::new("GET", path).query(
            "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0\
             &allowWatchBookmarks=true&timeoutSeconds=5",
        );
        self.watch(&call, &|line| line.contains("BOOKMARK"))?;
        self.watch(&call.accept(METADATA), &|line| line.contains("BOOKMARK"))
    }

    /// A namespace is deleted, in which one Secret has a finalizer, and another one has none.
    fn end_of_a_namespace(&mut self) -> Result<(), String> {
        self.create_namespace()?;
        let namespace = format!("/api/v1/namespaces/{}", self.namespace);
        let secrets = format!("{namespace}/secrets");
        let held = json!({"metadata": {"name": "a", "finalizers": ["x.io/f"]}});
        self.both(&Call::new("POST", secrets.clone()).body(held))?;
        self.both(&Call::new("POST", secrets.clone()).body(json!({"metadata": {"name": "b"}})))?;
        self.both(&Call::new("DELETE", namespace.clone()))?;
        self.both(&Call::new("DELETE", namespace.clone()))?;
        self.both(&Call::new("POST", secrets.clone()).body(json!({"metadata": {"name": "c"}})))?;
        let late = json!({"metadata": {"labels": {"late": "true"}}});
        self.both(&Call::new("PATCH", format!("{secrets}/a")).merge(late))?;
        eventually("the Secret without a finalizer is gone", || {
            let status = self.real.server.0.kube.get(&format!("{secrets}/b")).status;
            check(status == 404, status)
        });
        let later = SystemTime::now() + Duration::from_secs(10);
        self.simulated.server.tick(later);
        for path in [
            format!("{secrets}/a"),
            format!("{secrets}/b"),
            secrets.clone(),
            namespace,
        ] {
            self.both(&Call::new("GET", path))?;
        }
        let off = json!({"metadata": {"finalizers": null}});
        self.both(&Call::new("PATCH", format!("{secrets}/a")).merge(off))?;
        let call = self.watch_call(&secrets, "");
        self.watch(&call, &|line| {
            line.contains("DELETED") && line.contains(r#""name":"a""#)
        })
    }

    /// Sends a call to both.
    fn both(&mut self, call: &Call) -> Result<(), String> {
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        let short: String = body.chars().take(300).collect();
        self.tell(call, &short);
        let (real, simulated) = (self.real.send(call), self.simulated.send(call));
        let _ = writeln!(self.story, "    -> {}", real.0);
        self.compare(
            json!({"status": real.0, "body": real.1}),
            json!({"status": simulated.0, "body": simulated.1}),
        )
    }

    /// Opens a watch on both, and reads it up to the last event.
    fn watch(&mut self, call: &Call, is_last: &dyn Fn(&str) -> bool) -> Result<(), String> {
        self.tell(call, "");
        let (real, simulated) = (
            self.real.watch(call, is_last),
            self.simulated.watch(call, is_last),
        );
        self.compare(real.into(), simulated.into())
    }

    fn tell(&mut self, call: &Call, body: &str) {
        let Call {
            method,
            path,
            query,
            content_type,
            accept,
            ..
        } = call;
        let _ = writeln!(
            self.story,
            "{method} {path}?{query} {content_type} {accept} {body}"
        );
    }

    fn compare(&self, real: Value, simulated: Value) -> Result<(), String> {
        let Some(difference) = compare::difference(real, simulated) else {
            return Ok(());
        };
        let lines: Vec<&str> = self.story.lines().collect();
        let story = lines[lines.len().saturating_sub(LINES)..].join("\n");
        Err(format!("the servers differ:\n{story}\n{difference}"))
    }
}

/// What watches are narrowed to.
const SELECTORS: [&str; 4] = [
    "",
    "&labelSelector=app%3Dweb",
    "&labelSelector=app",
    "&fieldSelector=metadata.name%21%3Db",
];
