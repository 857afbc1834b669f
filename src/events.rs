//! Kubernetes Events on sources: what users see in `kubectl describe`.
//!
//! [`Events`] accepts notes and never blocks; [`Writer`] writes them. Limits are per source, and never delay
//! its first note. Must not know the subject of a note, and a note must contain nothing secret.
//!
//! Does not use kube's `Recorder`: it joins notes with one reason into a series with the first note's text. A
//! new problem would then show the old problem's text.

mod limit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::kube::{Error, call_within};
use crate::machine::Clock;
use crate::metrics::Metrics;
use domain::problem::Reason;
use domain::source::{Kind, SourceKey};
use limit::Limits;
pub use limit::REFILL as ONE_MORE_AFTER;

const CONTROLLER: &str = "vault-sync-operator";
/// Most notes that wait to be written.
const MOST_WAITING: usize = 2048;
/// Concurrent writes.
const WRITES: usize = 8;
/// Most bytes of a note that the API allows.
/// <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>
const LONGEST_NOTE: usize = 1024;
/// Most bytes of a source's name in the names of its Events, which have room for 253.
const LONGEST_NAME: usize = 220;
/// Most bytes of `reportingInstance`.
const LONGEST_INSTANCE: usize = 128;
const WRITE_WITHIN: Duration = Duration::from_secs(5);
/// How many times writing an Event is attempted.
const TRIES: u32 = 6;

/// What to report about a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// The reason, which decides whether this is a Warning.
    pub reason: Reason,
    /// The text for users, without secrets. It is cut to 1024 bytes.
    pub text: String,
}

/// Accepts notes. Clones share their limits.
#[derive(Clone)]
pub struct Events {
    waiting: mpsc::Sender<Event>,
    limits: Arc<Mutex<Limits>>,
    instance: Arc<str>,
    clock: Clock,
    metrics: Metrics,
}

/// Writes the notes that [`Events`] accepts.
pub struct Writer {
    client: kube::Client,
    waiting: mpsc::Receiver<Event>,
    metrics: Metrics,
}

impl Events {
    /// `instance` is the pod's name. The caller must also run the writer.
    pub fn new(client: kube::Client, instance: &str, clock: Clock, metrics: Metrics) -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let events = Self {
            waiting: sender,
            limits: Arc::new(Mutex::new(Limits::new(Instant::now()))),
            instance: cut(instance, LONGEST_INSTANCE).into(),
            clock,
            metrics: metrics.clone(),
        };
        (
            events,
            Writer {
                client,
                waiting: receiver,
                metrics,
            },
        )
    }

    /// Publishes a note on a source, unless the limits refuse it; refused notes are counted. Never blocks.
    /// Returns whether the note was accepted. If not, there is room for another one after [`ONE_MORE_AFTER`].
    pub fn publish(&self, source: &SourceKey, uid: &str, note: &Note) -> bool {
        self.about(reference(source, uid), note)
    }

    /// Publishes a note on a pod, in the same way.
    pub fn publish_on_pod(&self, namespace: &str, name: &str, uid: &str, note: &Note) {
        self.about(
            ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            note,
        );
    }

    fn about(&self, regarding: ObjectReference, note: &Note) -> bool {
        let uid = regarding.uid.as_deref().unwrap_or_default();
        let allowed = self
            .limits
            .lock()
            .allow(uid, note.reason.is_told_once(), Instant::now());
        let now = self.clock.now();
        let taken = allowed
            && self
                .waiting
                .try_send(event(regarding, note, &self.instance, now))
                .is_ok();
        if !taken {
            self.metrics.event_dropped();
        }
        taken
    }
}

impl Writer {
    /// Writes until all clones of [`Events`] are dropped and no note waits.
    pub async fn run(self) {
        let Self {
            client,
            waiting,
            metrics,
        } = self;
        // Warns once per series of failures: the content of an Event is in the log anyway.
        let told = AtomicBool::new(false);
        stream::unfold(waiting, |mut waiting| async {
            Some((waiting.recv().await?, waiting))
        })
        .for_each_concurrent(WRITES, async |event| match write(&client, &event).await {
            Ok(()) => told.store(false, Ordering::Relaxed),
            Err(error) => {
                metrics.event_dropped();
                let namespace = event.metadata.namespace;
                if told.swap(true, Ordering::Relaxed) {
                    tracing::debug!(namespace, %error, "cannot write an Event");
                } else {
                    tracing::warn!(namespace, %error, "cannot write Events");
                }
            }
        })
        .await;
    }
}

/// Writes an Event. Retries temporary errors, such as an API server that restarts or elects a leader.
async fn write(client: &kube::Client, event: &Event) -> Result<(), Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    let params = PostParams::default();
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut tried = 0;
    loop {
        tried += 1;
        match call_within(WRITE_WITHIN, "write an Event", api.create(&params, event)).await {
            Ok(_) => return Ok(()),
            // An earlier attempt without an answer has succeeded.
            Err(Error::Conflict(_)) if tried > 1 => return Ok(()),
            Err(Error::Unavailable { .. }) if tried < TRIES => sleep(backoff.next()).await,
            Err(error) => return Err(error),
        }
    }
}

/// <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>
fn event(regarding: ObjectReference, note: &Note, instance: &str, now: jiff::Timestamp) -> Event {
    // The cut may leave a character at the end that is not allowed before the dot.
    let base = cut(regarding.name.as_deref().unwrap_or_default(), LONGEST_NAME).trim_end_matches(['-', '.']);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{base}.{:x}", now.as_nanosecond())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Sync".to_owned()),
        reason: Some(note.reason.as_str().to_owned()),
        note: Some(cut_note(&note.text)),
        type_: Some(
            if note.reason.is_warning() {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

fn reference(source: &SourceKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version(source.kind).to_owned()),
        kind: Some(source.kind.to_string()),
        namespace: Some(source.namespace.to_string()),
        name: Some(source.name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Secret => "v1",
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet => "apps/v1",
        Kind::CronJob => "batch/v1",
    }
}

/// The beginning of a text, up to this many bytes, without splitting a character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn cut_note(text: &str) -> String {
    const MORE: &str = "…";
    if text.len() <= LONGEST_NOTE {
        return text.to_owned();
    }
    format!("{}{MORE}", cut(text, LONGEST_NOTE - MORE.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: Kind, name: &str) -> SourceKey {
        SourceKey {
            kind,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn an_event_is_what_the_api_takes() {
        let note = Note {
            reason: Reason::SyncFailed,
            text: "failed to get secret".into(),
        };
        let now = jiff::Timestamp::from_second(1).unwrap();
        let event = event(
            reference(&source(Kind::Deployment, "web"), "u-1"),
            &note,
            "op-0",
            now,
        );
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            serde_json::json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": "web.3b9aca00", "namespace": "shop"},
                "action": "Sync",
                "reason": "SyncFailed",
                "note": "failed to get secret",
                "type": "Warning",
                "eventTime": "1970-01-01T00:00:01.000000Z",
                "regarding": {
                    "apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "web", "uid": "u-1"
                },
                "reportingController": "vault-sync-operator",
                "reportingInstance": "op-0",
            })
        );
    }

    #[test]
    fn names_and_notes_are_cut_between_characters() {
        let long = Note {
            reason: Reason::Synced,
            text: "ä".repeat(600),
        };
        let name = format!("{}-{}", "a".repeat(219), "b".repeat(33));
        let event = event(
            reference(&source(Kind::Secret, &name), "u-1"),
            &long,
            "op-0",
            jiff::Timestamp::from_second(1).unwrap(),
        );
        assert_eq!(
            event.metadata.name.unwrap(),
            format!("{}.3b9aca00", "a".repeat(219))
        );
        assert_eq!(event.type_.unwrap(), "Normal");
        let note = event.note.unwrap();
        assert_eq!(note, format!("{}…", "ä".repeat(510)));
        assert!(note.len() <= 1024);
        assert_eq!(event.regarding.unwrap().api_version.unwrap(), "v1");
        assert_eq!(cut_note(&"x".repeat(1024)), "x".repeat(1024));
    }

    /// Ten thousand failures in one moment, while the API server takes none of their Events.
    #[tokio::test]
    async fn a_flood_is_counted_and_not_kept() {
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = kube::Client::try_from(nowhere).unwrap();
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::register(&mut registry);
        let (events, mut writer) = Events::new(client, "op-0", Clock::system(), metrics);
        let note = |round: usize| Note {
            reason: Reason::SyncFailed,
            text: format!("failure {round}"),
        };
        for round in 0..50 {
            for number in 0..200 {
                let name = format!("web{number}");
                events.publish(
                    &source(Kind::Deployment, &name),
                    &format!("u{number}"),
                    &note(round),
                );
            }
        }
        let mut waiting = Vec::new();
        while let Ok(event) = writer.waiting.try_recv() {
            waiting.push(event);
        }
        // The first of each came before any second one; of those, as many as all may have at once, and
        // what has come since.
        let firsts = waiting
            .iter()
            .filter(|event| event.note.as_deref() == Some("failure 0"));
        assert_eq!(firsts.count(), 200);
        assert!(
            waiting.len() >= 200 && waiting.len() <= MOST_WAITING,
            "{}",
            waiting.len()
        );
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let dropped = format!("events_dropped_total {}", 10_000 - waiting.len());
        assert!(text.contains(&dropped), "{dropped} is not in {text}");
    }
}
