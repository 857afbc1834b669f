//! The wire to Kubernetes: every wait has a limit, and every call is logged at debug level.
//!
//! If a connection's peer disappears silently, the connection looks slow. A reply must therefore begin within
//! a time limit, and then continue within another. If it does not, the whole pool of connections is replaced.
//! The other connections use the same network path, and the next call would use one of them.
//!
//! Must not know what is requested. The log contains only a request's method and path.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::client::Body;
use kube::{Client, Config};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower::{BoxError, Service};

use crate::machine::TimeLeft;

/// The server ends a watch after this many seconds, and the watch is opened again. A silent watch is
/// therefore soon known to be dead.
pub const WATCH_SECONDS: u32 = 60;
/// Longest pause within a reply: a watch's server sends something at its end at the latest.
const SILENCE: Duration = Duration::from_secs(63);
/// A reply begins within this time. Shorter than any caller of [`super::call`] waits.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);
/// If a caller gives up after this time, its connection may be dead.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// Timeout of a connect, including TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Creates a client with its own connections, on the current runtime. A test's client may connect to its own
/// server.
pub type Connect = Arc<dyn Fn() -> Result<Client, kube::Error> + Send + Sync>;

/// Connects over HTTP to the cluster of this configuration.
pub fn http(mut config: Config) -> Connect {
    config.connect_timeout = Some(CONNECT_WITHIN);
    Arc::new(move || Client::try_from(config.clone()))
}

/// A client whose waits all have limits.
pub(super) fn client(connect: Connect) -> Result<Client, kube::Error> {
    let pool = connect()?;
    let namespace = pool.default_namespace().to_owned();
    let wire = Bounded(Arc::new(Pool {
        connect,
        now: Mutex::new((0, pool)),
    }));
    Ok(Client::new(wire, namespace))
}

/// The connections in use.
struct Pool {
    connect: Connect,
    /// The number of the current pool, so that many callers with a dead one replace it once.
    now: Mutex<(u64, Client)>,
}

impl Pool {
    fn now(&self) -> MutexGuard<'_, (u64, Client)> {
        self.now.lock()
    }

    /// Replaces the pool if it still has this number. Calls in flight stay on their connections.
    fn replace(&self, number: u64) {
        let mut now = self.now();
        if now.0 != number {
            return;
        }
        match (self.connect)() {
            Ok(client) => *now = (number + 1, client),
            Err(error) => {
                tracing::warn!(%error, "cannot build a new client for Kubernetes; the old one stays");
            }
        }
    }
}

/// The service below every client.
struct Bounded(Arc<Pool>);

impl Service<Request<Body>> for Bounded {
    type Response = Response<Going>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let pool = Arc::clone(&self.0);
        Box::pin(async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let watch = asks_for_a_watch(&request);
            let (number, client) = pool.now().clone();
            let began = Instant::now();
            let mut waiting = Unanswered {
                pool: &pool,
                number,
                began,
                answered: false,
            };
            let outcome = timeout(BEGINS_WITHIN, client.send(request)).await;
            waiting.answered = outcome.is_ok();
            drop(waiting);
            let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            match outcome {
                Ok(Ok(response)) => {
                    let status = response.status().as_u16();
                    tracing::debug!(%method, path, watch, status, ms, "called Kubernetes");
                    Ok(response.map(|body| Going::new(body, pool, number)))
                }
                Ok(Err(error)) => {
                    tracing::debug!(%method, path, watch, ms, "called Kubernetes without an answer");
                    Err(error.into())
                }
                Err(_) => {
                    tracing::debug!(%method, path, watch, ms, "called Kubernetes without an answer");
                    Err(format!("no answer within {}s", BEGINS_WITHIN.as_secs()).into())
                }
            }
        })
    }
}

fn asks_for_a_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair == "watch=true")
}

/// A call without an answer. Many callers stop waiting before the wire does, and drop it.
struct Unanswered<'a> {
    pool: &'a Pool,
    number: u64,
    began: Instant,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered && self.began.elapsed() >= SUSPECT_AFTER {
            self.pool.replace(self.number);
        }
    }
}

/// A reply's body, which continues within [`SILENCE`] or ends with an error.
struct Going {
    body: Body,
    silence: Pin<Box<Sleep>>,
    ended: bool,
    pool: Arc<Pool>,
    number: u64,
}

impl Going {
    fn new(body: Body, pool: Arc<Pool>, number: u64) -> Self {
        Self {
            body,
            silence: Box::pin(sleep(SILENCE)),
            ended: false,
            pool,
            number,
        }
    }
}

impl HttpBody for Going {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.silence.as_mut().reset(Instant::now() + SILENCE);
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        ready!(this.silence.as_mut().poll(context));
        this.ended = true;
        this.pool.replace(this.number);
        let why = format!("nothing was heard for {}s", SILENCE.as_secs());
        Poll::Ready(Some(Err(why.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// When a watch last received something: the start of a successful reply, or more of its body.
#[derive(Clone)]
pub struct LastHeard(Arc<Mutex<Instant>>);

impl Default for LastHeard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl LastHeard {
    /// When something was last received; initially, when this was created.
    pub fn last(&self) -> Instant {
        *self.0.lock()
    }

    fn is_heard(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// A client on the same wire that records when something is received.
pub fn listening(client: &Client, heard: LastHeard) -> Client {
    let namespace = client.default_namespace().to_owned();
    let tap = Tap {
        client: client.clone(),
        heard: Some(heard),
        left: None,
    };
    Client::new(tap, namespace)
}

/// A client on the same wire that sends changes only while `left` has time, and waits no longer for answers.
/// `left` is called immediately before the request is sent.
pub fn limited(client: &Client, left: TimeLeft) -> Client {
    let namespace = client.default_namespace().to_owned();
    let tap = Tap {
        client: client.clone(),
        heard: None,
        left: Some(left),
    };
    Client::new(tap, namespace)
}

/// What one part of the program needs from its calls.
struct Tap {
    client: Client,
    heard: Option<LastHeard>,
    left: Option<TimeLeft>,
}

impl Service<Request<Body>> for Tap {
    type Response = Response<Heard>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, heard, left) = (self.client.clone(), self.heard.clone(), self.left.clone());
        Box::pin(async move {
            let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
            let left = left.filter(|_| changes).and_then(|left| left());
            if left.is_some_and(|left| left.is_zero()) {
                return Err("the lease has not been renewed in time; nothing is changed".into());
            }
            let sending = client.send(request);
            let response = match left {
                None => sending.await?,
                Some(left) => timeout(left, sending)
                    .await
                    .map_err(|_| "no answer before the end of the lease")??,
            };
            if let Some(heard) = heard.as_ref().filter(|_| response.status().is_success()) {
                heard.is_heard();
            }
            Ok(response.map(|body| Heard { body, heard }))
        })
    }
}

/// A reply's body that records received data.
struct Heard {
    body: Body,
    heard: Option<LastHeard>,
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = kube::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, kube::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let (Some(Ok(_)), Some(heard)) = (&frame, &this.heard) {
            heard.is_heard();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
