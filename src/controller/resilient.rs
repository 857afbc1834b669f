//! A watch that continues after errors, over new lists, and with API servers without streaming lists (before
//! 1.32, these are off by default). Each problem is reported once.
//!
//! Must not know the meaning of its objects.

use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _, pin_mut};
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use tokio::time::{Instant, sleep};

use super::Controller;
use crate::backoff::Backoff;
use crate::kube::{Error, LastHeard, WATCH_SECONDS};
use crate::readiness::Obstacle;
use domain::source::Kind;

/// A watch that has ended, which must never happen.
#[derive(Debug, thiserror::Error)]
#[error("the watch of {0} has ended")]
pub struct WatchEnded(&'static str);

/// Page size for an API server without streaming lists, for objects of up to 1 MiB each.
const PAGE: u32 = 20;

/// A watch that received nothing for this long is behind. The server ends each watch earlier.
const BEHIND: Duration = Duration::from_secs(75);
/// How often to check whether anything was received.
const LOOK: Duration = Duration::from_secs(1);
/// A streaming list that starts again after this long was cut off by its server.
const TOO_LONG_A_LIST: Duration = Duration::from_secs(WATCH_SECONDS as u64 - 5);

/// What a watch shows.
pub(super) enum Seen<K> {
    /// A list begins. Objects that it has not shown when it is complete do not exist.
    ListBegins,
    /// An object in a list.
    Listed(K),
    /// The list is complete.
    ListIsWhole,
    /// An object that was created or changed.
    Changed(K),
    /// A deleted object, in its last state.
    Deleted(K),
    /// We may not list or watch here.
    Denied,
}

/// A watch that was reported as behind.
struct Behind {
    why: Trouble,
    _waits: Obstacle,
}

/// Why a watch is behind.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// It fails with errors of this variant.
    Failure(std::mem::Discriminant<Error>),
    /// Nothing is received.
    Silence,
}

/// The watch of one kind, in one namespace or in all.
pub(super) struct Resilient<'a> {
    controller: &'a Controller,
    kind: Kind,
    namespace: Option<String>,
    /// When this watch last received something from the API server.
    heard: LastHeard,
    config: watcher::Config,
    backoff: Backoff,
    /// When the current, incomplete list began.
    listing: Option<Instant>,
    /// What was reported as holding it back.
    behind: Option<Behind>,
    /// When it last failed.
    failed: Instant,
}

impl<'a> Resilient<'a> {
    /// A watch that [`Resilient::follow`] opens.
    pub(super) fn new(
        controller: &'a Controller,
        kind: Kind,
        namespace: Option<String>,
        heard: LastHeard,
    ) -> Self {
        Self {
            controller,
            kind,
            namespace,
            heard,
            config: watcher::Config::default()
                .streaming_lists()
                .timeout(WATCH_SECONDS),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            listing: None,
            behind: None,
            failed: Instant::now(),
        }
    }

    /// Opens the watch again and again, forever; `each` gets what it shows, in order.
    pub(super) async fn follow<K, S>(
        mut self,
        open: impl Fn(watcher::Config) -> S,
        mut each: impl FnMut(Seen<K>),
    ) -> WatchEnded
    where
        S: Stream<Item = Result<Event<K>, watcher::Error>>,
    {
        loop {
            let stream = open(self.config.clone());
            pin_mut!(stream);
            self.listing = None;
            loop {
                let next = tokio::select! {
                    next = stream.try_next() => next,
                    () = sleep(LOOK) => {
                        self.listen();
                        continue;
                    }
                };
                match next {
                    Ok(None) => return WatchEnded(self.kind.as_str()),
                    Err(error) if self.streams_lists() && needs_pages(&error) => {
                        tracing::info!(kind = %self.kind, "the API server streams no lists; reading them in small pages");
                        self.config = pages();
                        break;
                    }
                    // The server ends a streaming list that takes too long; the list then starts again.
                    Ok(Some(Event::Init)) if self.streams_lists() && self.lists_too_long() => {
                        tracing::info!(kind = %self.kind, "a streaming list takes too long; reading it in small pages");
                        self.config = pages();
                        break;
                    }
                    Err(error) => {
                        if is_denied(&error) {
                            each(Seen::Denied);
                        }
                        self.tell_of(error);
                        sleep(self.backoff.next()).await;
                    }
                    Ok(Some(event)) => each(self.seen(event)),
                }
            }
        }
    }

    fn streams_lists(&self) -> bool {
        self.config.initial_list_strategy == InitialListStrategy::StreamingList
    }

    fn lists_too_long(&self) -> bool {
        self.listing
            .is_some_and(|since| since.elapsed() > TOO_LONG_A_LIST)
    }

    fn seen<K>(&mut self, event: Event<K>) -> Seen<K> {
        // A list that has begun may still fail.
        if !matches!(event, Event::Init) {
            self.backoff.reset();
            if self.behind.take().is_some() {
                self.works_again();
            }
        }
        match event {
            Event::Init => {
                self.listing = Some(Instant::now());
                Seen::ListBegins
            }
            Event::InitApply(object) => Seen::Listed(object),
            Event::InitDone => {
                self.listing = None;
                Seen::ListIsWhole
            }
            Event::Apply(object) => Seen::Changed(object),
            Event::Delete(object) => Seen::Deleted(object),
        }
    }

    /// Reports an error, unless it is of the same kind as the one before.
    fn tell_of(&mut self, error: watcher::Error) {
        if is_outdated(&error) {
            tracing::info!(kind = %self.kind, "the API server has forgotten where the watch was; listing again");
            return;
        }
        let error = Error::of(format!("watch {}s", self.kind), reason(error));
        let why = Trouble::Failure(std::mem::discriminant(&error));
        let behind = self.is_behind(why, &error);
        let before = self.behind.replace(behind);
        self.failed = Instant::now();
        if before.is_none_or(|before| before.why != why) {
            tracing::warn!(kind = %self.kind, namespace = self.namespace, %error, "a watch has failed; trying again");
        }
    }

    /// Checks whether anything was received. A reopened watch yields nothing before its next event, and a
    /// hung watch yields nothing at all.
    fn listen(&mut self) {
        let last = self.heard.last();
        if self.behind.is_some() && last > self.failed {
            self.behind = None;
            self.works_again();
        } else if self.behind.is_none() && last.elapsed() > BEHIND {
            let why = format!("nothing was heard for {}s", BEHIND.as_secs());
            self.failed = Instant::now();
            self.behind = Some(self.is_behind(Trouble::Silence, &why));
        }
    }

    fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("watching {}s in {namespace}", self.kind),
            None => format!("watching {}s", self.kind),
        }
    }

    /// Records that this watch may show outdated objects.
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
}

/// Whether the API server refuses streaming lists.
fn needs_pages(error: &watcher::Error) -> bool {
    let code = match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) | watcher::Error::WatchError(status) => {
            status.code
        }
        _ => return false,
    };
    matches!(code, 400 | 422)
}

/// Whether the history that the watch would continue from is gone: etcd keeps only some minutes of it.
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
