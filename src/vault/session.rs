//! The login: who holds a token, when it is renewed, and when it is replaced. Owns the token;
//! knows nothing of documents.
//!
//! There is at most one login in flight, however many calls find their token dead. A refusal
//! (403) means that the token is dead or that the path is denied; which of them, Vault says or
//! one lookup tells, so that a true denial never logs in.

use std::sync::Arc;
use std::time::Duration;

use rustify::endpoint::Endpoint;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use vaultrs::api::token::requests::LookupTokenSelfRequest;

use super::error::{Call, Error, ErrorKind, Operation, says_dead_token};
use super::pulse::{Pulse, REST};
use super::token::{self, Lease, Token, next_renewal};
use super::transport::{Reply, Transport};
use crate::backoff::{Backoff, fraction, lengthened};

/// Least time between two lookups that settle refusals.
const LOOKUP_SPACING: Duration = Duration::from_millis(50);
/// Age under which a token is not held for dead only because it may not look itself up (a role
/// without the policy `default`): it would be replaced at every refusal.
const YOUNG: Duration = Duration::from_secs(10);
/// How long the end may take.
const FAREWELL: Duration = Duration::from_secs(2);

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
    /// Whether Vault is up, as far as anybody has asked.
    health: Pulse,
    /// Whether the token is good, as probes have asked.
    token_health: Pulse,
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
            health: Pulse::default(),
            token_health: Pulse::default(),
        }
    }

    /// Sends a request with the token, and once more with a new one if the token turns out dead. To a
    /// Vault that was away it sends nothing before that has said that it is back.
    pub(super) async fn call<E: Endpoint>(&self, call: &Call, endpoint: &E) -> Result<Reply, Error> {
        if self.health.is_bad() {
            let answer = self.health(Instant::now()).await;
            answer.map_err(|away| Error {
                operation: call.operation,
                target: call.target.clone(),
                ..away
            })?;
        }
        let token = self.token(call).await?;
        let reply = self.transport.send(call, endpoint, Some(&token.header)).await?;
        if reply.status != 403 || self.lives(&token, &reply).await? {
            return Ok(reply);
        }
        let token = self.login_after(token.generation).await?;
        self.transport.send(call, endpoint, Some(&token.header)).await
    }

    /// Whether there is a token and Vault knows it.
    pub(super) async fn check(&self, since: Instant) -> Result<(), Error> {
        let call = token::lookup();
        if self.current().is_none() {
            return Err(self.absent(&call));
        }
        self.health(since).await?;
        let question = async {
            let reply = self.call(&call, &LookupTokenSelfRequest {}).await?;
            reply.ok(&call).map(drop)
        };
        self.token_health.feel(since, &call, question).await
    }

    /// Whether Vault is up.
    pub(super) async fn health(&self, since: Instant) -> Result<(), Error> {
        let call = token::health();
        let question = async {
            let answer = token::ask_health(&self.transport).await;
            self.transport.observer.up(answer.is_ok());
            answer
        };
        self.health.feel(since, &call, question).await
    }

    /// Waits, while Vault is known to be away: logins and renewals are no probes.
    async fn not_away(&self) {
        if self.health.is_bad() {
            self.up().await;
        }
    }

    /// Waits until Vault is up.
    pub(super) async fn up(&self) {
        while self.health(Instant::now()).await.is_err() {
            sleep_until(self.health.rested().await + REST.mul_f64(fraction() / 10.0)).await;
        }
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
        let login = Call::new(Operation::Login, token::login_path(&self.transport.settings));
        let gone = Error::new(ErrorKind::Auth, &login, "the session has ended");
        let state = self.state.send_replace(State {
            token: None,
            failure: Some(gone),
            closed: true,
        });
        let Some(token) = state.token else { return };
        match timeout(FAREWELL, token::revoke(&self.transport, &token)).await {
            Ok(Ok(())) => tracing::info!("token revoked"),
            // Batch tokens cannot be revoked, and a role can be without the right.
            Ok(Err(error)) => tracing::info!(%error, "token not revoked; it ends with its TTL"),
            Err(_) => tracing::info!("token not revoked in time; it ends with its TTL"),
        }
    }

    /// Logs in, tends the token, logs in again; never returns.
    async fn keep(&self) {
        let mut generation = 0;
        loop {
            self.not_away().await;
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
            let end = lease.since + lease.ttl;
            if timeout_at(end, self.not_away()).await.is_err() {
                return;
            }
            match token::renew(&self.transport, token).await {
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
                    if error.kind.is_down() {
                        // Perhaps nobody else asks for Vault now.
                        let _ = self.health(Instant::now()).await;
                    }
                    let again = Instant::now() + backoff.next();
                    if !error.kind.transient() || again >= end {
                        tracing::warn!(%error, "token not renewed; logging in again");
                        return;
                    }
                    next = Some(again);
                }
            }
        }
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
        let outcome = token::log_in(&self.transport, generation + 1).await;
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
                let asked = lengthened(error.retry_after.unwrap_or_default());
                let wait = patience.backoff.next().max(asked);
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
        let reply = token::look_up(&self.transport, token).await?;
        let lives = match reply.status {
            403 => !says_dead_token(&reply.body) && token.lease.since.elapsed() < YOUNG,
            _ => reply.ok(&token::lookup()).map(|_| true)?,
        };
        *proof = lives.then_some((token.generation, began));
        Ok(lives)
    }

    /// The token, once there is one; or why there is none.
    pub(super) async fn token(&self, call: &Call) -> Result<Arc<Token>, Error> {
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

/// The waits between attempts to log in, or to renew.
fn impatient() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(15))
}

/// Waits for a moment; for ever, if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
