//! The watches: workloads by their slim type, Secrets by their metadata alone.
//!
//! What a watch brings is reduced to what deciding needs as it arrives; nothing else of it is kept.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _, pin_mut};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::{Resource, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::Controller;
use crate::backoff::Backoff;
use crate::kube::{LastHeard, WATCH_SECONDS, Workload, listening, resource, source};
use crate::readiness::Obstacle;
use crate::reconcile::fingerprint;
use domain::annotations;
use domain::source::{Kind, Source, SourceKey};

/// A watch that has ended, which none ever should.
#[derive(Debug, thiserror::Error)]
#[error("the watch of {0} has ended")]
pub struct WatchEnded(&'static str);

/// Told once by each watch, when everything that exists has been seen.
pub type Listed = mpsc::Sender<()>;

/// Objects of 1 MiB each come in pages of this many where the API server knows no streaming lists.
const PAGE: u32 = 20;

/// A watch of which nothing was heard for so long is behind. The server ends each one before that.
const BEHIND: Duration = Duration::from_secs(75);
/// How often it is looked whether anything was heard.
const LOOK: Duration = Duration::from_secs(1);
/// A streaming list that begins again after so long has been cut off by its server.
const TOO_LONG_A_LIST: Duration = Duration::from_secs(WATCH_SECONDS as u64 - 5);

/// Watches workloads of one kind.
pub(super) async fn workloads(
    controller: &Controller,
    kind: Kind,
    namespace: Option<String>,
    listed: Listed,
) -> WatchEnded {
    let life = LastHeard::default();
    let client = listening(controller.kube.client(), life.clone());
    let resource = resource(kind);
    let api: Api<Workload> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let discover = controller.kube.discover();
    let scope = Watch {
        controller,
        kind,
        namespace,
        life,
    };
    scope
        .follow(
            |config| watcher::watcher(api.clone(), config),
            |workload: &Workload| workload.source(kind, discover),
            |_| {},
            listed,
        )
        .await
}

/// Watches Secrets: as sources, and as what sources are made of.
pub(super) async fn secrets(
    controller: &Controller,
    namespace: Option<String>,
    listed: Listed,
) -> WatchEnded {
    let life = LastHeard::default();
    let client = listening(controller.kube.client(), life.clone());
    let resource = resource(Kind::Secret);
    let api: Api<PartialObjectMeta<Workload>> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let scope = Watch {
        controller,
        kind: Kind::Secret,
        namespace,
        life,
    };
    scope
        .follow(
            |config| watcher::watcher(api.clone(), config),
            |object: &PartialObjectMeta<Workload>| source(Kind::Secret, &object.metadata, Vec::new()),
            |seen| controller.secret_seen(seen),
            listed,
        )
        .await
}

/// What was seen of a Secret: its namespace and name, and its resourceVersion unless it is gone.
#[derive(Clone, Copy)]
struct SecretSeen<'a> {
    namespace: &'a str,
    name: &'a str,
    version: Option<&'a str>,
}

/// A watch that is behind, as it was told.
struct Behind {
    why: Trouble,
    _waits: Obstacle,
}

/// Why a watch is behind.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// It fails with errors of this variant.
    Failure(std::mem::Discriminant<crate::kube::Error>),
    /// Nothing is heard.
    Silence,
}

/// One watch: a kind, in a namespace or in all.
struct Watch<'a> {
    controller: &'a Controller,
    kind: Kind,
    namespace: Option<String>,
    /// What is heard of the API server on this watch.
    life: LastHeard,
}

impl Watch<'_> {
    /// Follows a watch for ever, through its errors, and across API servers that know no streaming
    /// lists (before 1.32 they are off by default).
    async fn follow<K, S>(
        &self,
        open: impl Fn(watcher::Config) -> S,
        reduce: impl Fn(&K) -> Option<Source>,
        noted: impl Fn(SecretSeen<'_>),
        listed: Listed,
    ) -> WatchEnded
    where
        K: Resource,
        S: Stream<Item = Result<Event<K>, watcher::Error>>,
    {
        let mut config = watcher::Config::default()
            .streaming_lists()
            .timeout(WATCH_SECONDS);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        // How it fails, since that was told, and since when.
        let mut told = None;
        let mut failed = Instant::now();
        let mut listed = Some(listed);
        loop {
            let stream = open(config.clone());
            pin_mut!(stream);
            // What was known and has not been seen (again) in the list that is being read.
            let mut unseen = Unseen::default();
            // Since when a list has been read that is not whole yet.
            let mut listing: Option<Instant> = None;
            loop {
                let next = tokio::select! {
                    next = stream.try_next() => next,
                    () = sleep(LOOK) => {
                        self.listen(&mut told, &mut failed);
                        continue;
                    }
                };
                match next {
                    Ok(None) => return WatchEnded(self.kind.as_str()),
                    Err(error)
                        if needs_pages(&error)
                            && config.initial_list_strategy == InitialListStrategy::StreamingList =>
                    {
                        tracing::info!(kind = %self.kind, "the API server streams no lists; reading them in small pages");
                        config = pages();
                        break;
                    }
                    Err(error) if is_outdated(&error) => {
                        tracing::info!(kind = %self.kind, "the API server has forgotten where the watch was; listing again");
                        sleep(backoff.next()).await;
                    }
                    Err(error) => {
                        let denied = is_denied(&error);
                        let error = crate::kube::Error::of(format!("watch {}s", self.kind), reason(error));
                        failed = Instant::now();
                        let why = Trouble::Failure(std::mem::discriminant(&error));
                        let before = told.replace(self.is_behind(why, &error));
                        if before.is_none_or(|before| before.why != why) {
                            tracing::warn!(kind = %self.kind, namespace = self.namespace, %error, "a watch has failed; trying again");
                        }
                        if denied && let Some(listed) = listed.take() {
                            // The rest need not wait for a right that may never come; what we cannot see
                            // here counts as wanted by whoever holds it.
                            self.controller
                                .index()
                                .see(self.kind, self.namespace.as_deref(), false);
                            let _ = listed.send(()).await;
                        }
                        sleep(backoff.next()).await;
                    }
                    Ok(Some(event)) => {
                        // A list that begins may still fail.
                        if !matches!(event, Event::Init) {
                            backoff.reset();
                            if told.take().is_some() {
                                self.works_again();
                            }
                        }
                        match event {
                            // The server ends a streaming list that takes too long, and it begins again.
                            Event::Init
                                if listing.is_some_and(|since| since.elapsed() > TOO_LONG_A_LIST)
                                    && config.initial_list_strategy == InitialListStrategy::StreamingList =>
                            {
                                tracing::info!(kind = %self.kind, "a streaming list takes too long; reading it in small pages");
                                config = pages();
                                break;
                            }
                            Event::Init => {
                                listing = Some(Instant::now());
                                unseen = self.known();
                            }
                            Event::InitApply(object) => {
                                unseen.strike(self.kind, &object);
                                self.shown(&object, false, &reduce, &noted);
                            }
                            Event::Apply(object) => self.shown(&object, false, &reduce, &noted),
                            Event::Delete(object) => self.shown(&object, true, &reduce, &noted),
                            Event::InitDone => {
                                listing = None;
                                self.controller
                                    .index()
                                    .see(self.kind, self.namespace.as_deref(), true);
                                self.gone(&std::mem::take(&mut unseen), &noted);
                                if let Some(listed) = listed.take() {
                                    // Nobody listens any more when the process ends.
                                    let _ = listed.send(()).await;
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("watching {}s in {namespace}", self.kind),
            None => format!("watching {}s", self.kind),
        }
    }

    /// Looks whether anything was heard: of a watch that is opened again, its stream says nothing before the
    /// next event, and of one that hangs, nothing at all.
    fn listen(&self, told: &mut Option<Behind>, failed: &mut Instant) {
        let last = self.life.last();
        if told.is_some() && last > *failed {
            *told = None;
            self.works_again();
        } else if told.is_none() && last.elapsed() > BEHIND {
            let why = format!("nothing was heard for {}s", BEHIND.as_secs());
            *failed = Instant::now();
            *told = Some(self.is_behind(Trouble::Silence, &why));
        }
    }

    /// What this watch shows may be old.
    fn is_behind(&self, why: Trouble, words: &impl std::fmt::Display) -> Behind {
        let name = self.name();
        let waits = self.controller.readiness.waits(name.clone(), words);
        self.controller.watch_is_behind(name, true);
        Behind { why, _waits: waits }
    }

    fn works_again(&self) {
        self.controller.watch_is_behind(self.name(), false);
        tracing::info!(kind = %self.kind, namespace = self.namespace, "the watch works again");
    }

    /// The watch shows an object: as it is, or as it was last (`gone`).
    fn shown<K: Resource>(
        &self,
        object: &K,
        gone: bool,
        reduce: impl Fn(&K) -> Option<Source>,
        noted: impl Fn(SecretSeen<'_>),
    ) {
        let meta = object.meta();
        if let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) {
            let version = meta.resource_version.as_deref().filter(|_| !gone);
            noted(SecretSeen {
                namespace,
                name,
                version,
            });
        }
        let Some(source) = reduce(object) else { return };
        // It may have been changed and deleted within one breath: its last word counts.
        self.controller.source_seen(&source);
        if gone {
            self.controller.source_gone(&source.key);
        }
    }

    /// What the index knows in this watch's scope.
    fn known(&self) -> Unseen {
        let within = |namespace: &str| self.namespace.as_deref().is_none_or(|own| own == namespace);
        let index = self.controller.index();
        let sources = index
            .keys()
            .filter(|key| key.kind == self.kind && within(&key.namespace))
            .cloned()
            .collect();
        let secrets = index
            .known_secrets()
            .filter(|(namespace, _)| self.kind == Kind::Secret && within(namespace))
            .map(|(namespace, name)| (namespace.clone(), name.clone()))
            .collect();
        Unseen { sources, secrets }
    }

    /// What a whole list has not shown is gone.
    fn gone(&self, unseen: &Unseen, noted: impl Fn(SecretSeen<'_>)) {
        for (namespace, name) in &unseen.secrets {
            noted(SecretSeen {
                namespace,
                name,
                version: None,
            });
        }
        for key in &unseen.sources {
            self.controller.source_gone(key);
        }
    }
}

#[derive(Default)]
struct Unseen {
    sources: HashSet<SourceKey>,
    secrets: HashSet<(Arc<str>, Arc<str>)>,
}

impl Unseen {
    fn strike<K: Resource>(&mut self, kind: Kind, object: &K) {
        if self.sources.is_empty() && self.secrets.is_empty() {
            return;
        }
        let (Some(namespace), name) = (object.namespace(), object.name_any()) else {
            return;
        };
        let key = SourceKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        };
        self.sources.remove(&key);
        self.secrets.remove(&(key.namespace, key.name));
    }
}

/// A list in small pages, and the watch that follows.
fn pages() -> watcher::Config {
    watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS)
}

impl Controller {
    fn watch_is_behind(&self, name: String, behind: bool) {
        let mut watches = self.behind.lock();
        if behind {
            watches.insert(name);
        } else {
            watches.remove(&name);
        }
        self.metrics.watches_behind(watches.len());
    }

    /// Logs once for each namespace that more objects than are kept have annotations which are not understood.
    fn tell_of_unreported(&self, key: &SourceKey) {
        const MOST: usize = 1000;
        let mut told = self.unreported.lock();
        if told.len() < MOST && told.insert(key.namespace.clone()) {
            tracing::warn!(
                namespace = &*key.namespace, object = %key,
                "more objects of this namespace than are reported in Events have annotations of ours that are not \
                 understood, or have no effect without a path"
            );
        }
    }

    /// A watch shows an object. Those that never were sources are not even noted, but for a bounded number
    /// whose annotations look as if they were meant to be.
    fn source_seen(&self, source: &Source) {
        let mut index = self.index();
        // Secrets are watched in any case, for what sources are made of.
        if !index.is_in_scope(&source.key) {
            return;
        }
        let concerns = source.finalizer
            || source.annotations.contains_key(annotations::PATH)
            || index.get(&source.key).is_some()
            || (annotations::are_meant_for_us(&source.annotations)
                && index.has_room_for_misspelt(&source.key.namespace));
        if !concerns {
            drop(index);
            if annotations::are_meant_for_us(&source.annotations) {
                self.tell_of_unreported(&source.key);
            }
            return;
        }
        let ask = annotations::parse(&source.annotations);
        let wake = index.observe(source, &ask, fingerprint(source, &self.digester));
        drop(index);
        if source.deleting.is_some() && !wake.is_empty() {
            self.cut_off(&source.key);
        }
        self.enqueue(wake);
    }

    fn source_gone(&self, key: &SourceKey) {
        let mut index = self.index();
        if index.get(key).is_none() {
            return;
        }
        let wake = index.forget(key);
        drop(index);
        self.cut_off(key);
        self.enqueue(wake);
    }

    fn secret_seen(&self, seen: SecretSeen<'_>) {
        let users = self
            .index()
            .observe_secret(seen.namespace, seen.name, seen.version);
        self.enqueue(users);
    }
}

/// Whether the API server has refused a streaming list as such.
fn needs_pages(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
            status.code
        }
        _ => return false,
    };
    matches!(code, 400 | 422)
}

/// Whether the history from which a watch would go on is no more: etcd keeps some minutes of it.
fn is_outdated(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
            status.code == 410
        }
        _ => false,
    }
}

/// Whether we may not list or watch here.
fn is_denied(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

fn reason(error: watcher::Error) -> kube::Error {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(status) => kube::Error::Api(status),
        watcher::Error::NoResourceVersion => kube::Error::Service("the reply has no resourceVersion".into()),
    }
}
