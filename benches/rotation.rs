//! How long a change to a Secret takes to reach Vault, beside a bare watch that reads and writes.
//!
//! Vault's own stamp of the new version says when it arrived, so that nobody asks Vault meanwhile. All clocks are this
//! machine's.

use std::sync::mpsc;
use std::thread::{scope, sleep};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use testkit::Scene;

use super::cost::json_ms;
use super::floor::{clients, document};
use super::table::{percentile, row};

const ROTATIONS: usize = 200;

/// By when a change has long reached Vault.
const LONG: Duration = Duration::from_millis(50);

/// The value that ends the bare watch.
const END: &str = "the end";

/// Changes Secrets one after the other, and prints how long each took.
pub fn measure(scene: &Scene, sources: usize) -> Value {
    let operator: Vec<Duration> = (0..ROTATIONS)
        .map(|round| {
            let number = round % sources;
            change(scene, &format!("secret-{number}"), &document(number), round)
        })
        .collect();
    let bare = bare_watch(&Scene::on(scene.bed.clone()));
    let [mut operator, mut bare] = [operator, bare];
    let mut figures = serde_json::Map::new();
    for (name, key, percent) in [
        ("rotation, median", "median", 50),
        ("rotation, 99th of 100", "p99", 99),
    ] {
        let (ours, floor) = (percentile(&mut operator, percent), percentile(&mut bare, percent));
        row(name, ours, floor);
        figures.insert(
            key.to_owned(),
            json!({"operatorMs": json_ms(ours), "bareWatchMs": json_ms(floor)}),
        );
    }
    figures.into()
}

/// From the API server's reply until Vault holds the value.
fn change(scene: &Scene, secret: &str, path: &str, round: usize) -> Duration {
    let value = format!("round-{round}");
    scene.set_key(secret, "password", &value);
    let changed = SystemTime::now();
    loop {
        sleep(LONG);
        let found = scene
            .bed
            .vault
            .get(&format!("/v1/secret/data/{}/{path}", scene.ns))
            .json();
        if found["data"]["data"]["password"] == *value {
            let arrived = found["data"]["metadata"]["created_time"]
                .as_str()
                .expect("a time");
            let arrived: Timestamp = arrived.parse().expect("RFC 3339");
            return SystemTime::from(arrived)
                .duration_since(changed)
                .unwrap_or_default();
        }
    }
}

/// The same, by a watch of the Secrets that reads what has changed, and writes it.
fn bare_watch(scene: &Scene) -> Vec<Duration> {
    let (kube, vault) = clients(scene);
    let secrets = format!("/api/v1/namespaces/{}/secrets", scene.ns);
    scene.secret("bare", &[("password", "first")]);
    let listed = kube.get(&secrets).ok();
    let version = listed["metadata"]["resourceVersion"].as_str().expect("a version");
    let watch = http::Request::get(format!("{secrets}?watch=true&resourceVersion={version}"))
        .body(Bytes::new())
        .expect("it is well-formed");
    let (event, events) = mpsc::channel();
    let path = format!("/v1/secret/data/{}/bare", scene.ns);
    scope(|threads| {
        let follow = kube.clone();
        threads.spawn(move || {
            follow.lines(&watch, |line| {
                // Another thread does the rest: this one is in the runtime.
                let _ = event.send(());
                line.contains(END)
            })
        });
        threads.spawn(move || {
            while events.recv().is_ok() {
                let secret = kube.get(&format!("{secrets}/bare")).ok();
                let encoded = secret["data"]["password"].as_str().unwrap_or_default();
                let body = json!({"data": {"password": decoded(encoded)}});
                vault.post(&path, &body).ok();
            }
        });
        let times = (0..ROTATIONS)
            .map(|round| change(scene, "bare", "bare", round))
            .collect();
        let end = json!({"metadata": {"annotations": {"bench.example/end": END}}});
        scene.patch("Secret", "bare", end);
        times
    })
}

fn decoded(text: &str) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .expect("base64");
    String::from_utf8(bytes).expect("text")
}
