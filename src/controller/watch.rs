//! The watches: workloads as their slim type, Secrets as metadata only; and what each event means for the
//! index.
//!
//! A watched object is reduced on arrival to what decisions need; nothing else of it is kept.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::Stream;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::{Resource, ResourceExt as _};
use tokio::sync::mpsc;

use super::Controller;
use super::resilient::{Resilient, Seen, WatchEnded};
use crate::kube::{LastHeard, Workload, listening, resource, source};
use crate::reconcile::fingerprint;
use domain::annotations;
use domain::source::{Kind, Source, SourceKey};

/// Each watch drops it when it has seen everything that exists.
pub type Listed = mpsc::Sender<Infallible>;

/// Watches workloads of one kind.
pub(super) async fn workloads(
    controller: &Controller,
    kind: Kind,
    namespace: Option<String>,
    listed: Listed,
) -> WatchEnded {
    let heard = LastHeard::default();
    let client = listening(controller.kube.client(), heard.clone());
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
    };
    scope
        .follow(
            heard,
            |config| watcher::watcher(api.clone(), config),
            |workload: &Workload| workload.source(kind, discover),
            |_| {},
            listed,
        )
        .await
}

/// Watches Secrets, as sources and as input of sources.
pub(super) async fn secrets(
    controller: &Controller,
    namespace: Option<String>,
    listed: Listed,
) -> WatchEnded {
    let heard = LastHeard::default();
    let client = listening(controller.kube.client(), heard.clone());
    let resource = resource(Kind::Secret);
    let api: Api<PartialObjectMeta<Workload>> = match &namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let scope = Watch {
        controller,
        kind: Kind::Secret,
        namespace,
    };
    scope
        .follow(
            heard,
            |config| watcher::watcher(api.clone(), config),
            |object: &PartialObjectMeta<Workload>| source(Kind::Secret, &object.metadata, Vec::new()),
            |seen| controller.secret_seen(seen),
            listed,
        )
        .await
}

/// A Secret in the watch: its namespace and name, and its resourceVersion unless it is gone.
#[derive(Clone, Copy)]
struct SecretSeen<'a> {
    namespace: &'a str,
    name: &'a str,
    version: Option<&'a str>,
}

/// One watch: a kind, in one namespace or in all.
struct Watch<'a> {
    controller: &'a Controller,
    kind: Kind,
    namespace: Option<String>,
}

impl Watch<'_> {
    /// Follows a watch forever, and updates the index with what it shows.
    async fn follow<K, S>(
        &self,
        heard: LastHeard,
        open: impl Fn(watcher::Config) -> S,
        reduce: impl Fn(&K) -> Option<Source>,
        noted: impl Fn(SecretSeen<'_>),
        listed: Listed,
    ) -> WatchEnded
    where
        K: Resource,
        S: Stream<Item = Result<Event<K>, watcher::Error>>,
    {
        let mut listed = Some(listed);
        // Known objects that the current list has not shown yet.
        let mut unseen = Unseen::default();
        let resilient = Resilient::new(self.controller, self.kind, self.namespace.clone(), heard);
        let each = |seen: Seen<K>| match seen {
            Seen::ListBegins => unseen = self.known(),
            Seen::Listed(object) => {
                unseen.strike(self.kind, &object);
                self.shown(&object, false, &reduce, &noted);
            }
            Seen::Changed(object) => self.shown(&object, false, &reduce, &noted),
            Seen::Deleted(object) => self.shown(&object, true, &reduce, &noted),
            Seen::ListIsWhole => {
                self.see(true);
                self.gone(&std::mem::take(&mut unseen), &noted);
                drop(listed.take());
            }
            // The other watches need not wait for a permission that may never be granted. Documents of
            // holders that cannot be seen here count as wanted.
            Seen::Denied => {
                if listed.take().is_some() {
                    self.see(false);
                }
            }
        };
        resilient.follow(open, each).await
    }

    /// Records whether this watch sees everything in its scope.
    fn see(&self, whole: bool) {
        self.controller
            .index()
            .see(self.kind, self.namespace.as_deref(), whole);
    }

    /// The watch shows an object: its current state, or its last state (`gone`).
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
        // It may have been changed and deleted almost at once: its last settings count.
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

    /// Handles known objects that a complete list has not shown: they are gone.
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

impl Controller {
    /// Logs once per namespace that more objects than are reported have annotations that are not understood.
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

    /// Handles an object that a watch shows. Objects that never were sources are not recorded, except a
    /// limited number whose annotations look like misspelled ones of ours.
    fn source_seen(&self, source: &Source) {
        let mut index = self.index();
        // Secrets are watched in any case, as input of sources.
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
        self.enqueue(&wake);
    }

    fn source_gone(&self, key: &SourceKey) {
        let mut index = self.index();
        if index.get(key).is_none() {
            return;
        }
        let wake = index.forget(key);
        drop(index);
        self.cut_off(key);
        self.enqueue(&wake);
    }

    fn secret_seen(&self, seen: SecretSeen<'_>) {
        let users = self
            .index()
            .observe_secret(seen.namespace, seen.name, seen.version);
        self.enqueue(&users);
    }
}
