//! Sends requests and returns replies: URL, headers, limits, quick retries of reads. Does not know the login
//! or the meaning of replies.
//!
//! Requests are rustify [`Endpoint`]s, vaultrs' own where they contain no secret. They do not use
//! `Endpoint::exec`: it drops the body of an error reply, which holds the version of a deleted document, and
//! it logs each failure itself.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Url};
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Observer;
use super::error::{Call, Error, ErrorKind, Operation, one_line, quotes};
use super::pace::Pace;
use super::setup::{self, Access, SetupError};
use super::wire::{Broken, Wire};
use crate::backoff::fraction;
use crate::machine::TimeLeft;

/// Most bytes of a reply that are read. Vault's own limit is 32 MiB for a request, and 1 MiB for an entry on
/// integrated storage.
const REPLY_LIMIT: usize = 16 << 20;
/// Most bytes of a reply that is read in parallel with others. Only one longer reply is in memory at a time.
/// Of an error reply, no more than this is read.
const SMALL_REPLY: usize = 64 << 10;
/// After this time, a read without an answer is sent once more on a new connection. Its connection may be
/// dead: if the peer disappears silently, the connection looks slow.
const FIRST_TRY: Duration = Duration::from_secs(10);
/// If a caller gives up after this time, its connection may be dead.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// Longest wait that a reply may ask for, in seconds.
const RETRY_AFTER_LIMIT: u64 = 300;

pub(super) struct Transport {
    pub(super) settings: Access,
    pub(super) observer: Arc<dyn Observer>,
    base: Url,
    namespace: Option<HeaderValue>,
    pace: Pace,
    large: Arc<Semaphore>,
    wire: Arc<dyn Wire>,
    /// How much longer changes may be made. `None`: without end.
    left: OnceLock<TimeLeft>,
    /// The latest time that a reply contained, in seconds since 1970. 0: none did.
    clock: AtomicI64,
    /// Vault is known to be unavailable: nothing is retried.
    pub(super) away: Arc<AtomicBool>,
}

/// A request without an answer yet. A caller that stops waiting drops it.
struct InFlight<'a> {
    wire: &'a dyn Wire,
    number: u64,
    began: Instant,
    answered: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.answered && self.began.elapsed() >= SUSPECT_AFTER {
            self.wire.reconnect(self.number);
        }
    }
}

impl Transport {
    /// A transport over HTTP.
    #[cfg(test)]
    pub(super) fn new(settings: Access, observer: Arc<dyn Observer>) -> Result<Self, SetupError> {
        Self::over(super::http(&settings)?, settings, observer)
    }

    pub(super) fn over(
        wire: Arc<dyn Wire>,
        settings: Access,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            base: setup::base(&settings)?,
            namespace: setup::namespace(&settings)?,
            pace: Pace::new(settings.max_rps),
            large: Arc::new(Semaphore::new(1)),
            wire,
            left: OnceLock::new(),
            settings,
            observer,
            clock: AtomicI64::new(0),
            away: Arc::default(),
        })
    }

    /// See [`super::Vault::clock`].
    pub(super) fn clock(&self) -> Option<i64> {
        Some(self.clock.load(Ordering::Relaxed)).filter(|&seconds| seconds != 0)
    }

    /// See [`super::Vault::change_while`].
    pub(super) fn change_while(&self, left: TimeLeft) {
        // The leader sets it once.
        let _ = self.left.set(left);
    }

    /// Sends a request, and returns the reply whatever its status. Reads are retried a few times. Changes are
    /// never retried here: only the caller knows what may have happened since.
    pub(super) async fn send<E: Endpoint>(
        &self,
        call: &Call,
        endpoint: &E,
        token: Option<&HeaderValue>,
    ) -> Result<Reply, Error> {
        let retries = match call.operation {
            Operation::Read | Operation::Mount => self.settings.max_retries,
            _ => 0,
        };
        let mut tried = 0;
        loop {
            if call.operation.is_paced() {
                self.pace.turn().await;
            }
            let whole = self.settings.timeout;
            let patience = if tried < retries {
                whole.min(FIRST_TRY)
            } else {
                whole
            };
            let (outcome, timed_out) = self.once(call, endpoint, token, patience).await;
            let failed = match &outcome {
                Ok(reply) => matches!(reply.status, 500 | 502..),
                Err(error) => error.kind == ErrorKind::Unreachable,
            };
            // A sealed Vault stays sealed for a while, and a full timeout is long enough.
            let hopeless =
                timed_out && patience == whole || outcome.as_ref().is_ok_and(|reply| reply.status == 503);
            if !failed || hopeless || tried == retries {
                return outcome;
            }
            tried = if timed_out { retries } else { tried + 1 };
            tokio::time::sleep(Duration::from_millis(50) + Duration::from_millis(450).mul_f64(fraction()))
                .await;
            if self.away.load(Ordering::Relaxed) {
                return outcome;
            }
        }
    }

    /// One attempt. Also returns whether it timed out.
    async fn once<E: Endpoint>(
        &self,
        call: &Call,
        endpoint: &E,
        token: Option<&HeaderValue>,
        patience: Duration,
    ) -> (Result<Reply, Error>, bool) {
        let (request, body) = match self.request(call, endpoint, token) {
            Ok(request) => request,
            Err(error) => return (Err(error), false),
        };
        // Nothing is awaited between this check and the request.
        let patience = match self.left(call) {
            None => patience,
            Some(left) if left.is_zero() => {
                let why = "the lease has not been renewed in time";
                return (Err(Error::new(ErrorKind::NotLeading, call, why)), false);
            }
            Some(left) => patience.min(left),
        };
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let mut waiting = InFlight {
            wire: self.wire.as_ref(),
            number: self.wire.number(),
            began: Instant::now(),
            answered: false,
        };
        let outcome = self.exchange(call, request, patience).await;
        let timed_out = outcome.as_ref().is_err_and(|broken| broken.timed_out);
        waiting.answered = !timed_out;
        let ms = u64::try_from(waiting.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        drop(waiting);
        match outcome {
            Ok(reply) => {
                let status = reply
                    .as_ref()
                    .map_or_else(|error| error.status, |reply| Some(reply.status));
                tracing::debug!(%method, path, status, ms, "called Vault");
                let token = token.map(HeaderValue::as_bytes).unwrap_or_default();
                let reply = reply.map(|reply| reply.watched_for([token, confidential(call, &body)]));
                (reply, false)
            }
            Err(Broken {
                mut message, unsent, ..
            }) => {
                // A server that speaks TLS closes the connection, often before its error can be read.
                if self.base.scheme() == "http" && self.clock().is_none() && !timed_out && !unsent {
                    message += "; if the port speaks TLS, give https:// in --vault-addr (VAULT_ADDR)";
                }
                let lost = Error {
                    outcome_unknown: call.operation.writes() && !unsent,
                    ..Error::new(ErrorKind::Unreachable, call, one_line(&message))
                };
                tracing::debug!(%method, path, ms, error = lost.message, "called Vault without an answer");
                // Not only after a failed connect: TLS 1.3 rejects a client certificate after connecting.
                self.wire.refresh();
                (Err(lost), timed_out)
            }
        }
    }

    /// How much longer the call may take, if it changes something.
    fn left(&self, call: &Call) -> Option<Duration> {
        let left = self.left.get().filter(|_| call.operation.writes());
        left.and_then(|left| left())
    }

    async fn exchange(
        &self,
        call: &Call,
        mut request: reqwest::Request,
        patience: Duration,
    ) -> Result<Result<Reply, Error>, Broken> {
        *request.timeout_mut() = Some(patience);
        let response = self.wire.carry(request).await?;
        if let Some(date) = date(&response) {
            self.clock.store(date, Ordering::Relaxed);
        }
        Ok(self.read(call, response).await?)
    }

    fn request<E: Endpoint>(
        &self,
        call: &Call,
        endpoint: &E,
        token: Option<&HeaderValue>,
    ) -> Result<(reqwest::Request, Bytes), Error> {
        let method: Method = endpoint.method().into();
        let unfit = |why: &str| Error::new(ErrorKind::Invalid, call, why);
        let body = endpoint
            .body()
            .map_err(|_| unfit("its content cannot be written as JSON"))?;
        let url = self
            .url(&endpoint.path())
            .ok_or_else(|| unfit("its path has an empty or dotted segment"))?;
        let query = endpoint
            .query()
            .map_err(|_| unfit("its query cannot be written"))?;

        let content_type = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut request = reqwest::Request::new(method, with_query(url, query.as_deref()));
        let headers = request.headers_mut();
        headers.insert("X-Vault-Request", HeaderValue::from_static("true"));
        if let Some(token) = token {
            headers.insert("X-Vault-Token", token.clone());
        }
        // Vault reports health only in the root namespace.
        if let Some(namespace) = self
            .namespace
            .as_ref()
            .filter(|_| call.operation != Operation::Health)
        {
            headers.insert("X-Vault-Namespace", namespace.clone());
        }
        let Some(body) = body else {
            return Ok((request, Bytes::new()));
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        // Wiped when the last reader of the body is done.
        let body = Bytes::from_owner(Zeroizing::new(body));
        *request.body_mut() = Some(body.clone().into());
        Ok((request, body))
    }

    /// The URL of a path, with each segment encoded once. Refuses segments that a URL would normalize away:
    /// the request would reach another document.
    fn url(&self, path: &str) -> Option<Url> {
        // Some of vaultrs' paths begin with a slash, some with a tab.
        let path = path.trim_start_matches(['\t', '/']);
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return None;
        }
        let mut url = self.base.clone();
        url.path_segments_mut().ok()?.extend(path.split('/'));
        Some(url)
    }

    /// Reads a reply, within limits.
    async fn read(
        &self,
        call: &Call,
        mut response: reqwest::Response,
    ) -> Result<Result<Reply, Error>, reqwest::Error> {
        let status = response.status();
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = asked.map(|seconds: u64| Duration::from_secs(seconds.min(RETRY_AFTER_LIMIT)));
        let expected = response
            .content_length()
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(0);
        let mut body = Zeroizing::new(Vec::with_capacity(expected.min(SMALL_REPLY)));
        let mut alone = None;
        while let Some(chunk) = response.chunk().await? {
            let length = body.len() + chunk.len();
            if length > SMALL_REPLY && !status.is_success() {
                break;
            }
            if length > REPLY_LIMIT {
                let why = format!("it is longer than {} MiB", REPLY_LIMIT >> 20);
                return Ok(Err(Error {
                    status: Some(status.as_u16()),
                    outcome_unknown: call.operation.writes(),
                    ..Error::new(ErrorKind::Bug, call, why)
                }));
            }
            if length > SMALL_REPLY && alone.is_none() {
                alone = self.large.clone().acquire_owned().await.ok();
                // Reserved at once: growing would leave copies behind that are not wiped.
                let left = REPLY_LIMIT - body.len();
                body.reserve_exact(left);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Ok(Reply {
            status: status.as_u16(),
            retry_after,
            quotes: false,
            body,
            _alone: alone,
        }))
    }

    /// Starts to use new certificates, if there are any.
    pub(super) fn refresh(&self) {
        self.wire.refresh();
    }
}

fn with_query(mut url: Url, query: Option<&str>) -> Url {
    url.set_query(query.filter(|query| !query.is_empty()));
    url
}

/// The time of the answer by the server's clock, in whole seconds since 1970.
///  <https://www.rfc-editor.org/rfc/rfc9110#name-date>
fn date(response: &reqwest::Response) -> Option<i64> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_second())
}

/// A reply. It may hold secrets: it has no `Debug`, and its memory is wiped.
pub(super) struct Reply {
    pub(super) status: u16,
    retry_after: Option<Duration>,
    /// Whether the reply repeats something confidential from the request.
    quotes: bool,
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Held while a long body is in memory.
    _alone: Option<OwnedSemaphorePermit>,
}

/// The confidential part of a request's body: all of a write, and the service-account token of a login.
fn confidential<'b>(call: &Call, body: &'b [u8]) -> &'b [u8] {
    match call.operation {
        Operation::Write => body,
        Operation::Login => {
            let token = body.windows(6).position(|word| word == br#""jwt":"#);
            &body[token.unwrap_or(0)..]
        }
        _ => &[],
    }
}

impl Reply {
    /// Records whether the reply is an error that repeats one of these texts, as a proxy or a plugin might.
    fn watched_for(mut self, confidential: [&[u8]; 2]) -> Self {
        self.quotes = !(200..300).contains(&self.status)
            && confidential.into_iter().any(|text| quotes(&self.body, text));
        self
    }

    /// Returns itself if Vault did what was asked.
    pub(super) fn ok(&self, call: &Call) -> Result<&Self, Error> {
        if (200..300).contains(&self.status) {
            Ok(self)
        } else {
            Err(self.error(call))
        }
    }

    /// The error that the reply means.
    pub(super) fn error(&self, call: &Call) -> Error {
        Error::answered(call, self.status, self.retry_after, &self.body, self.quotes)
    }

    /// Parses the content. An error contains only the position, because serde's own text quotes the content.
    pub(super) fn parse<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|misfit| {
            let why = format!(
                "not what was expected at line {} column {}",
                misfit.line(),
                misfit.column()
            );
            Error {
                status: Some(self.status),
                ..Error::new(ErrorKind::Bug, call, why)
            }
        })
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status,
            retry_after: None,
            quotes: false,
            body: Zeroizing::new(body.as_ref().to_vec()),
            _alone: None,
        }
    }
}

/// A request of our own, where no vaultrs request keeps secrets out of `Debug`.
pub(super) struct Plain<B> {
    method: RequestMethod,
    path: String,
    body: B,
}

impl<B> Plain<B> {
    pub(super) fn new(method: RequestMethod, path: String, body: B) -> Self {
        Self { method, path, body }
    }
}

impl Plain<()> {
    pub(super) fn get(path: String) -> Self {
        Self::new(RequestMethod::GET, path, ())
    }
}

impl<B: Serialize + Send + Sync> Endpoint for Plain<B> {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        self.method.clone()
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        if matches!(self.method, RequestMethod::GET) {
            return Ok(None);
        }
        // Allocated at its final size: growing would take more memory, and leave copies behind that are not
        // wiped.
        let encode = || {
            let mut body = Vec::with_capacity(json_len(&self.body)?);
            serde_json::to_writer(&mut body, &self.body).map(|()| body)
        };
        let body = encode().map(Some);
        body.map_err(|error| ClientError::DataParseError { source: error.into() })
    }
}

/// How many bytes a value takes as JSON.
pub(super) fn json_len(value: &impl Serialize) -> serde_json::Result<usize> {
    struct Length(usize);
    impl std::io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map(|()| length.0)
}

#[cfg(test)]
mod tests;
