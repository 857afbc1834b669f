//! The login: who holds a token, when it is renewed, and when it is replaced. Owns the token;
//! knows nothing of documents.
//!
//! There is at most one login in flight, however many calls find their token dead. A refusal
//! (403) means that the token is dead or that the path is denied; which of them, Vault says or
//! one lookup tells, so that a true denial never logs in.
//! <https://developer.hashicorp.com/vault/api-docs/auth/kubernetes#login>
//! <https://developer.hashicorp.com/vault/api-docs/auth/token>

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use rustify::endpoint::Endpoint;
use rustify::enums::RequestMethod;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest};
use zeroize::Zeroizing;

use super::error::{Call, Error, ErrorKind, Operation, says_dead_token};
use super::transport::{Plain, Reply, Transport};
use crate::backoff::{Backoff, fraction};

/// Least time between two lookups that settle refusals.
const LOOKUP_SPACING: Duration = Duration::from_millis(50);
/// Age under which a token is not held for dead only because it may not look itself up (a role
/// without the policy `default`): it would be replaced at every refusal.
const YOUNG: Duration = Duration::from_secs(10);
/// How long the end may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// A token in use.
pub(super) struct Token {
    /// Marked as sensitive: its `Debug` shows nothing.
    header: HeaderValue,
    /// Counts the logins.
    generation: u64,
    lease: Lease,
}

/// How long a token lives.
#[derive(Clone, Copy)]
struct Lease {
    since: Instant,
    /// Zero: for ever.
    ttl: Duration,
    renewable: bool,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// Why the last login failed, while there is no token or a dead one.
    failure: Option<Error>,
    /// No login any more.
    closed: bool,
}

/// When a login may be tried, after others have failed.
struct Patience {
    backoff: Backoff,
    until: Instant,
}

pub(super) struct Session {
    pub(super) transport: Transport,
    state: watch::Sender<State>,
    /// Held during a login: there is one at a time.
    login: Mutex<Patience>,
    /// Held during a lookup; when the last good one began, and of which generation.
    proof: Mutex<Option<(u64, Instant)>>,
}

impl Session {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            transport,
            state: watch::Sender::default(),
            login: Mutex::new(Patience {
                backoff: impatient(),
                until: Instant::now(),
            }),
            proof: Mutex::new(None),
        }
    }

    /// Sends a request with the token, and once more with a new one if the token turns out dead.
    pub(super) async fn call<E: Endpoint>(&self, call: &Call, endpoint: &E) -> Result<Reply, Error> {
        let token = self.token(call).await?;
        let reply = self.transport.send(call, endpoint, Some(&token.header)).await?;
        if reply.status != 403 || self.lives(&token, &reply).await? {
            return Ok(reply);
        }
        let token = self.login_after(token.generation).await?;
        self.transport.send(call, endpoint, Some(&token.header)).await
    }

    /// Whether there is a token and Vault knows it.
    pub(super) async fn check(&self) -> Result<(), Error> {
        let call = lookup();
        if self.current().is_none() {
            return Err(self.absent(&call));
        }
        self.call(&call, &LookupTokenSelfRequest {})
            .await?
            .ok(&call)
            .map(drop)
    }

    /// Waits for the first login to succeed.
    pub(super) async fn ready(&self) {
        // It cannot be closed: `self` holds the sender.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.token.is_some())
            .await;
    }

    /// Keeps a good token until told to stop, then gives it back.
    pub(super) async fn maintain(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
        let farewell = Call::new(Operation::Revoke, "");
        let gone = Error::new(
            ErrorKind::Auth,
            &Call::new(Operation::Login, ""),
            "the session has ended",
        );
        let state = self.state.send_replace(State {
            token: None,
            failure: Some(gone),
            closed: true,
        });
        let Some(token) = state.token else { return };
        let revoked = self
            .transport
            .send(&farewell, &RevokeTokenSelfRequest {}, Some(&token.header));
        match timeout(FAREWELL, revoked)
            .await
            .map(|reply| reply.and_then(|reply| reply.ok(&farewell).map(drop)))
        {
            Ok(Ok(())) => tracing::info!("token revoked"),
            Ok(Err(error)) => tracing::warn!(%error, "token not revoked; it ends with its TTL"),
            Err(_) => tracing::warn!("token not revoked in time; it ends with its TTL"),
        }
    }

    /// Logs in, tends the token, logs in again; never returns.
    async fn keep(&self) {
        let mut generation = 0;
        loop {
            if let Ok(token) = self.login_after(generation).await {
                generation = token.generation;
                self.tend(&token).await;
            } else {
                let until = self.login.lock().await.until;
                sleep_until(until).await;
            }
        }
    }

    /// Renews a token until it has to be replaced, or has been.
    async fn tend(&self, token: &Token) {
        let mut lease = token.lease;
        let mut backoff = impatient();
        let mut next = next_renewal(lease.ttl, fraction()).map(|wait| lease.since + wait);
        loop {
            tokio::select! {
                () = self.replaced(token.generation) => return,
                () = at(next) => {}
            }
            if !lease.renewable {
                return;
            }
            match self.renew(token).await {
                // Nearer to its greatest TTL than to the one that was asked for.
                Ok(renewed) if renewed.ttl.is_zero() => return,
                Ok(renewed) => {
                    backoff.reset();
                    lease = Lease {
                        renewable: renewed.renewable && renewed.ttl >= token.lease.ttl,
                        ..renewed
                    };
                    next = next_renewal(lease.ttl, fraction()).map(|wait| lease.since + wait);
                    tracing::debug!(ttl_seconds = lease.ttl.as_secs(), "token renewed");
                }
                Err(error) => {
                    let again = Instant::now() + backoff.next();
                    if !error.kind.transient() || again >= lease.since + lease.ttl {
                        tracing::warn!(%error, "token not renewed; logging in again");
                        return;
                    }
                    next = Some(again);
                }
            }
        }
    }

    async fn renew(&self, token: &Token) -> Result<Lease, Error> {
        let call = Call::new(Operation::Renew, "");
        let since = Instant::now();
        let request = RenewTokenSelfRequest {
            increment: Some(format!("{}s", token.lease.ttl.as_secs())),
        };
        let reply = self.transport.send(&call, &request, Some(&token.header)).await?;
        let Granted { auth } = reply.ok(&call)?.parse(&call)?;
        Ok(auth.lease(since))
    }

    /// A token newer than the given generation: one that another has fetched meanwhile, or a
    /// login's. While logins fail, it gives the last failure's error until it is time for another.
    async fn login_after(&self, generation: u64) -> Result<Arc<Token>, Error> {
        let mut patience = self.login.lock().await;
        {
            let state = self.state.borrow();
            if let Some(token) = state.token.as_ref().filter(|token| token.generation > generation) {
                return Ok(token.clone());
            }
            if let Some(failure) = state
                .failure
                .as_ref()
                .filter(|_| state.closed || Instant::now() < patience.until)
            {
                return Err(failure.clone());
            }
        }
        let outcome = self.log_in(generation + 1).await;
        self.transport.observer.auth_attempt(outcome.is_ok());
        match outcome {
            Ok(token) => {
                patience.backoff.reset();
                let token = Arc::new(token);
                tracing::info!(ttl_seconds = token.lease.ttl.as_secs(), "logged in to Vault");
                self.state.send_modify(|state| {
                    if !state.closed {
                        state.token = Some(token.clone());
                        state.failure = None;
                    }
                });
                Ok(token)
            }
            Err(error) => {
                let wait = patience.backoff.next().max(error.retry_after.unwrap_or_default());
                patience.until = Instant::now() + wait;
                tracing::warn!(%error, hint = error.kind.hint(), "login to Vault failed");
                self.state.send_modify(|state| {
                    if !state.closed {
                        state.failure = Some(error.clone());
                    }
                });
                Err(error)
            }
        }
    }

    async fn log_in(&self, generation: u64) -> Result<Token, Error> {
        #[derive(Serialize)]
        struct Credentials<'a> {
            role: &'a str,
            jwt: &'a str,
        }
        let settings = &self.transport.settings;
        let path = format!("auth/{}/login", settings.auth_path);
        let call = Call::new(Operation::Login, path.clone());
        self.transport.refresh();
        let file = tokio::fs::read_to_string(&settings.token_file)
            .await
            .map(Zeroizing::new)
            .map_err(|error| {
                let why = format!(
                    "the service-account token {} cannot be read: {error}",
                    settings.token_file.display()
                );
                Error::new(ErrorKind::Auth, &call, why)
            })?;
        let jwt = file.trim();
        let since = Instant::now();
        let request = Plain::new(
            RequestMethod::POST,
            path,
            Credentials {
                role: &settings.role,
                jwt,
            },
        );
        let reply = self.transport.send(&call, &request, None).await?;
        let Granted { auth } = reply
            .ok(&call)
            .map_err(|error| without(error, jwt))?
            .parse(&call)?;
        let lease = auth.lease(since);
        let unfit = || Error::new(ErrorKind::Bug, &call, "there is no token in it");
        let token = Zeroizing::new(auth.client_token);
        let mut header = HeaderValue::from_str(&token).map_err(|_| unfit())?;
        if header.is_empty() {
            return Err(unfit());
        }
        header.set_sensitive(true);
        Ok(Token {
            header,
            generation,
            lease,
        })
    }

    /// Whether a refused token is good all the same. Proven by a lookup that began after the
    /// refusal; all refusals that wait share it.
    async fn lives(&self, token: &Token, refusal: &Reply) -> Result<bool, Error> {
        if says_dead_token(&refusal.body) {
            return Ok(false);
        }
        let refused = Instant::now();
        let mut proof = self.proof.lock().await;
        if self
            .current()
            .is_none_or(|current| current.generation != token.generation)
        {
            return Ok(false);
        }
        if let Some((_, began)) = proof.filter(|(generation, _)| *generation == token.generation) {
            if began >= refused {
                return Ok(true);
            }
            sleep_until(began + LOOKUP_SPACING).await;
        }
        let began = Instant::now();
        let call = lookup();
        let reply = self
            .transport
            .send(&call, &LookupTokenSelfRequest {}, Some(&token.header))
            .await?;
        let lives = match reply.status {
            403 => !says_dead_token(&reply.body) && token.lease.since.elapsed() < YOUNG,
            _ => reply.ok(&call).map(|_| true)?,
        };
        *proof = lives.then_some((token.generation, began));
        Ok(lives)
    }

    /// The token, once there is one; or why there is none.
    async fn token(&self, call: &Call) -> Result<Arc<Token>, Error> {
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| state.token.is_some() || state.failure.is_some());
        let _ = timeout(self.transport.settings.timeout, known).await;
        self.current().ok_or_else(|| self.absent(call))
    }

    fn current(&self) -> Option<Arc<Token>> {
        self.state.borrow().token.clone()
    }

    fn absent(&self, call: &Call) -> Error {
        let failure = self.state.borrow().failure.clone();
        failure.unwrap_or_else(|| Error::new(ErrorKind::Auth, call, "not logged in yet"))
    }

    async fn replaced(&self, generation: u64) {
        let newer = |state: &State| {
            state
                .token
                .as_ref()
                .is_some_and(|token| token.generation > generation)
        };
        let _ = self.state.subscribe().wait_for(newer).await;
    }
}

/// The reply to a login or a renewal. Its token is why there is no `Debug`.
#[derive(Deserialize)]
struct Granted {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    lease_duration: u64,
    renewable: bool,
}

impl Auth {
    /// Counted from before the request: it never ends later than Vault's.
    fn lease(&self, since: Instant) -> Lease {
        Lease {
            since,
            ttl: Duration::from_secs(self.lease_duration),
            renewable: self.renewable,
        }
    }
}

/// The error, unless it repeats a secret.
fn without(error: Error, secret: &str) -> Error {
    let leaks = !secret.is_empty() && error.message.contains(secret);
    if leaks {
        Error {
            message: "the reason repeats the credentials".to_owned(),
            ..error
        }
    } else {
        error
    }
}

fn lookup() -> Call {
    Call::new(Operation::Lookup, "")
}

/// The waits between attempts to log in, or to renew.
fn impatient() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(15))
}

/// How long after it was granted a token is renewed: two thirds of its TTL, up to a tenth earlier
/// by `jitter` (0 to 1), so that the operators of a fleet do not do it together. `None`: it never
/// ends.
fn next_renewal(ttl: Duration, jitter: f64) -> Option<Duration> {
    (!ttl.is_zero()).then(|| ttl.mul_f64(2.0 / 3.0 * (1.0 - 0.1 * jitter)))
}

/// Waits for a moment; for ever, if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_two_thirds_or_a_little_earlier() {
        for (ttl, jitter, seconds) in [
            (0, 0.0, None),
            (0, 1.0, None),
            (3600, 0.0, Some(2400.0)),
            (3600, 1.0, Some(2160.0)),
            (3600, 0.5, Some(2280.0)),
            (3, 0.0, Some(2.0)),
        ] {
            let found = next_renewal(Duration::from_secs(ttl), jitter).map(|wait| wait.as_secs_f64());
            match (found, seconds) {
                (Some(found), Some(seconds)) => {
                    assert!((found - seconds).abs() < 1e-6, "{ttl} {jitter}: {found}")
                }
                _ => assert_eq!(found, seconds),
            }
        }
    }
}
