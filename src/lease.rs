//! The Lease of the leader election: reads it, writes it, holds it. [`domain::election`] makes the decisions.
//!
//! Every write carries the resourceVersion that was read, so that one of two candidates wins. The hold ends
//! by our own clock, well before another candidate may take over the Lease. Candidates watch the Lease, so
//! that a released Lease finds its next holder immediately.
//!
//! From its acquisition on, a separate thread renews it. Work that keeps the other threads busy, or holds a
//! lock, therefore does not delay renewals.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::kube::{Connect, Error, call_within};
use crate::machine::{Aside, Clock};
pub use domain::election::Timing;
use domain::election::{self, Decision, Sighting, Term, View};

/// The Lease's name. The predecessor uses the same name, so that the two never write at the same time.
pub const NAME: &str = "vault-sync-operator.io";

/// Timeout of each call to the API server; a candidate then tries again.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// The API server ends a watch after this many seconds, so that a dead connection is noticed.
const WATCH_SECONDS: u32 = 60;

/// The leadership is lost: the holder must stop writing immediately.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The renew deadline passed.
    #[error("the lease could not be renewed within {}s: {reason}", after.as_secs())]
    Deadline {
        /// The renew deadline.
        after: Duration,
        /// The reason why the last attempt failed.
        reason: String,
    },
    /// Another process holds the Lease.
    #[error("the lease was taken by {0:?}")]
    Taken(String),
    /// The renewing thread has failed.
    #[error("the lease cannot be renewed: {0}")]
    Thread(String),
}

/// A unique name for this process: the pod's (or host's) name and random digits.
pub fn identity(instance: &str) -> String {
    // Uses the standard library's random keys: two empty hashes under different keys.
    let random = || RandomState::new().build_hasher().finish();
    format!("{instance}_{:016x}{:016x}", random(), random())
}

/// How long this process may write; every writer checks it before a write. It expires without any running
/// task, for example if the process was stopped and continued.
#[derive(Clone)]
pub struct Tenure(Option<Arc<Until>>);

struct Until {
    zero: Instant,
    /// Milliseconds since `zero`.
    until: AtomicU64,
}

impl Tenure {
    /// A tenure that never ends: there is no leader election.
    pub fn forever() -> Self {
        Self(None)
    }

    fn since(zero: Instant) -> Self {
        Self(Some(Arc::new(Until {
            zero,
            until: AtomicU64::new(0),
        })))
    }

    fn extend(&self, until: Duration) {
        if let Some(term) = &self.0 {
            let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
            term.until.store(until, Ordering::Relaxed);
        }
    }

    /// How much longer we may write. Zero: not now. `None`: without end.
    pub fn left(&self) -> Option<Duration> {
        let term = self.0.as_ref()?;
        let until = Duration::from_millis(term.until.load(Ordering::Relaxed));
        Some(until.saturating_sub(term.zero.elapsed()))
    }

    /// Whether we may write now.
    pub fn lasts(&self) -> bool {
        self.left().is_none_or(|left| !left.is_zero())
    }
}

/// Who takes a step of the election.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Candidate,
    Leader,
}

/// A candidate for the Lease.
pub struct Lease {
    api: Api<Object>,
    namespace: String,
    me: String,
    timing: Timing,
    clock: Clock,
    /// The reference point of the times that `election` gets.
    zero: Instant,
    /// The object as last read.
    object: Option<Object>,
    seen: Option<Sighting>,
    /// When the request of our last successful renewal was sent.
    renewed: Duration,
    tenure: Tenure,
}

impl Lease {
    /// Creates a candidate named `identity` (see [`identity`]) for the Lease in `namespace`.
    pub fn new(client: kube::Client, namespace: &str, identity: String, clock: Clock) -> Self {
        let zero = Instant::now();
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            me: identity,
            timing: Timing::default(),
            clock,
            zero,
            object: None,
            seen: None,
            renewed: Duration::ZERO,
            tenure: Tenure::since(zero),
        }
    }

    /// Waits until the Lease is ours (returns true) or until `stop` (returns false). Errors are logged and
    /// retried. `trouble` gets what prevents an attempt, and `None` when that is over.
    pub async fn acquire(&mut self, stop: &CancellationToken, trouble: impl Fn(Option<String>)) -> bool {
        let mut rival = None;
        let mut news = pin!(self.news());
        loop {
            // A step is never cancelled: otherwise a Lease that was taken unnoticed would have no active
            // holder.
            let wait = match self.step(Role::Candidate).await {
                Ok(Decision::Wait(wait)) => {
                    trouble(None);
                    let holder = self.holder();
                    if rival != holder {
                        tracing::info!(holder, "waiting for the lease");
                        rival = holder;
                    }
                    wait
                }
                Ok(_) => {
                    trouble(None);
                    tracing::info!(identity = self.me, "acquired the lease");
                    return true;
                }
                // Another candidate was faster. The next look shows its write.
                Err(Error::Conflict(_)) => self.timing.retry,
                Err(error) => {
                    tracing::warn!(%error, hint = error.hint(), "cannot acquire the lease");
                    trouble(Some(error.to_string()));
                    self.timing.retry
                }
            };
            // A released Lease ends the wait early.
            tokio::select! {
                () = sleep(wait) => {}
                _ = news.next() => {}
                () = stop.cancelled() => return false,
            }
        }
    }

    /// Yields an item each time the Lease changes. If watching fails, candidates still look at regular
    /// intervals.
    fn news(&self) -> impl Stream<Item = ()> + use<> {
        let only = watcher::Config::default()
            .fields(&format!("metadata.name={NAME}"))
            .timeout(WATCH_SECONDS);
        let retry = self.timing.retry;
        watcher::watcher(self.api.clone(), only).filter_map(move |event| async move {
            if event.is_err() {
                sleep(retry).await;
            }
            event.is_ok().then_some(())
        })
    }

    /// Renews our Lease from now on, in `aside`, where no other work delays it. `connect` creates the client
    /// there.
    pub fn hold(mut self, connect: Connect, aside: &Aside) -> Held {
        let (ended, ends) = oneshot::channel();
        let (give_up, told) = oneshot::channel();
        let (tenure, term) = (self.tenure.clone(), self.term());
        let renew = async move {
            let lost = match crate::kube::client(connect) {
                Ok(client) => {
                    self.api = Api::namespaced(client, &self.namespace);
                    tokio::select! {
                        lost = self.renew() => Some(lost),
                        told = told => {
                            // If the process ends with work in flight, nothing requests the release: the
                            // Lease then expires.
                            if told.is_ok() {
                                self.release().await;
                            }
                            None
                        }
                    }
                }
                Err(error) => Some(Lost::Thread(error.to_string())),
            };
            if let Some(lost) = lost {
                // The receiver is gone when the process ends.
                let _ = ended.send(lost);
            }
        };
        aside.run("lease", Box::pin(renew));
        Held {
            tenure,
            term,
            ends,
            give_up,
        }
    }

    /// Our term, according to the Lease since we took it.
    fn term(&self) -> Option<Term> {
        let object = self.object.as_ref()?;
        Some(Term {
            lease: object.metadata.uid.clone()?,
            number: object.spec.as_ref()?.lease_transitions.unwrap_or(0),
        })
    }

    /// Renews until a renewal did not succeed in time.
    async fn renew(&mut self) -> Lost {
        let mut reason = "no try ended".to_owned();
        loop {
            let until = self.zero + election::may_act_until(self.renewed, &self.timing);
            let retry = self.timing.retry;
            let turn = async {
                sleep(retry).await;
                self.step(Role::Leader).await
            };
            match timeout_at(until, turn).await {
                Ok(Ok(Decision::Renew)) => {}
                // Even if the Lease is free again: another process may have acted while it was not ours.
                Ok(Ok(_)) => return Lost::Taken(self.holder().unwrap_or_default()),
                Ok(Err(error)) => {
                    reason = error.to_string();
                    tracing::warn!(error = reason, hint = error.hint(), "cannot renew the lease");
                }
                Err(_) => {
                    return Lost::Deadline {
                        after: self.timing.renew_deadline,
                        reason,
                    };
                }
            }
        }
    }

    async fn release(&self) {
        match self.give_up().await {
            Ok(true) => tracing::info!("gave the lease up"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot give the lease up; it lapses by itself"),
        }
    }

    /// Reads the Lease again first, because a renewal without an answer may have succeeded. Returns false if
    /// the Lease is not ours.
    async fn give_up(&self) -> Result<bool, Error> {
        let found = self.call("read", self.api.get_opt(NAME)).await?;
        let Some(mut object) = found.filter(|object| holder(object) == Some(&self.me)) else {
            return Ok(false);
        };
        let spec = object.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(self.now());
        let params = PostParams::default();
        self.call("release", self.api.replace(NAME, &params, &object))
            .await?;
        Ok(true)
    }

    /// Runs a call about the Lease with a timeout. `verb`: what the call does to the Lease.
    async fn call<T>(
        &self,
        verb: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let what = format!("{verb} the Lease {}/{NAME}", self.namespace);
        call_within(CALL_WITHIN, &what, call).await
    }

    fn holder(&self) -> Option<String> {
        self.object.as_ref().and_then(holder).map(ToOwned::to_owned)
    }

    /// For users and other programs; no decision here uses it.
    fn now(&self) -> MicroTime {
        MicroTime(self.clock.now())
    }

    fn elapsed(&self) -> Duration {
        self.zero.elapsed()
    }

    /// One look and its consequence: decides, and carries out the decision. A leader only renews.
    async fn step(&mut self, role: Role) -> Result<Decision, Error> {
        let found = self.call("read", self.api.get_opt(NAME)).await?;
        let now = self.elapsed();
        let seen = Sighting::renew(self.seen.as_ref(), found.as_ref().map(view), now);
        let decision = election::decide(now, &seen, &self.me, &self.timing);
        self.object = found;
        self.seen = Some(seen);
        if role == Role::Leader && decision != Decision::Renew {
            return Ok(decision);
        }
        let params = PostParams::default();
        let written = match decision {
            Decision::Wait(_) => return Ok(decision),
            Decision::Create => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                };
                let object = Object {
                    metadata,
                    spec: Some(self.spec(None, 0)),
                };
                self.call("create", self.api.create(&params, &object)).await?
            }
            Decision::Take { .. } | Decision::Renew => {
                let mut object = self.object.clone().unwrap_or_default();
                let before = object.spec.take().unwrap_or_default();
                object.spec = Some(match decision {
                    Decision::Take { transitions } => self.spec(None, transitions),
                    _ => self.spec(before.acquire_time, before.lease_transitions.unwrap_or(0)),
                });
                let verb = if decision == Decision::Renew {
                    "renew"
                } else {
                    "take"
                };
                self.call(verb, self.api.replace(NAME, &params, &object)).await?
            }
        };
        self.object = Some(written);
        self.renewed = now;
        self.tenure.extend(election::may_act_until(now, &self.timing));
        Ok(decision)
    }

    fn spec(&self, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            acquire_time: Some(acquired.unwrap_or_else(|| self.now())),
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX)),
            lease_transitions: Some(transitions),
            renew_time: Some(self.now()),
            ..LeaseSpec::default()
        }
    }
}

/// A Lease that is ours and is renewed. If this is dropped, the Lease expires.
pub struct Held {
    tenure: Tenure,
    term: Option<Term>,
    ends: oneshot::Receiver<Lost>,
    give_up: oneshot::Sender<()>,
}

impl Held {
    /// How long we may write, according to this lease.
    pub fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// The order of our leadership among all leaderships of this Lease.
    pub fn term(&self) -> Option<Term> {
        self.term.clone()
    }

    /// Waits until the Lease is lost.
    pub async fn lost(&mut self) -> Lost {
        let lost = (&mut self.ends).await;
        lost.unwrap_or_else(|_| Lost::Thread("its thread has ended".to_owned()))
    }

    /// Releases the Lease, so that another process need not wait until it expires. Call it after all work has
    /// ended: from then on, another process may write.
    pub async fn release(self) {
        if self.give_up.send(()).is_ok() {
            // The channel closes without a message when the release is done.
            let _ = self.ends.await;
        }
    }
}

fn holder(object: &Object) -> Option<&String> {
    object.spec.as_ref()?.holder_identity.as_ref()
}

fn view(object: &Object) -> View {
    let spec = object.spec.clone().unwrap_or_default();
    // A Lease without a duration was not written by an elector; the default duration then applies.
    let seconds = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    View {
        holder: spec.holder_identity.unwrap_or_default(),
        lease: seconds.map_or(Timing::default().lease, Duration::from_secs),
        version: object.metadata.resource_version.clone().unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenure_ends_by_itself() {
        let began = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        let tenure = Tenure::since(began);
        assert!(!tenure.lasts(), "it has not begun");
        tenure.extend(Duration::from_secs(160));
        let clone = tenure.clone();
        assert!(tenure.lasts() && clone.lasts());
        // The hundred seconds were over before the lease was renewed for the last time.
        tenure.extend(Duration::from_secs(99));
        assert!(!tenure.lasts() && !clone.lasts());
        assert!(Tenure::forever().lasts());
    }
}
