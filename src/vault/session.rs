//! The login: keeps a token, renews it, and replaces it. Owns the token; knows nothing about documents.
//!
//! Only the session's own task logs in: a caller whose token is dead asks for a newer one and waits. At most
//! one login is therefore in flight, and a caller that stops waiting does not cancel it. A refusal (403)
//! means that the token is dead or that the path is denied. Vault's reply or one lookup shows which, so that
//! a real denial causes no login.

use std::sync::Arc;
use std::time::Duration;

use rustify::endpoint::Endpoint;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::{Call, Error, ErrorKind, Operation, says_dead_token};
use super::mount;
use super::pulse::{Pulse, REST};
use super::token::{self, Token, TokenLease, next_renewal};
use super::transport::{Reply, Transport};
use crate::backoff::{Backoff, fraction, lengthened};

/// Least time between two lookups that examine refusals.
const LOOKUP_SPACING: Duration = Duration::from_millis(50);
/// Waits between two logins on mere suspicion: the first and the longest.
const SUSPICION: [Duration; 2] = [Duration::from_mins(1), Duration::from_hours(1)];
/// A token that is refused before this age counts as short-lived.
const YOUNG: Duration = Duration::from_mins(1);
/// How long each call to revoke a token may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long to wait at the end for a login in flight. Without the wait, its token would live until its TTL.
const LAST_LOGIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Sessions {
    token: Option<Arc<Token>>,
    /// A token newer than this generation is wanted.
    wanted: u64,
    /// Why the last login failed, while there is no token, or one that has to be replaced.
    failure: Option<Error>,
}

/// When a token may be replaced on suspicion. Vault refuses the token, the token may not look itself up, and
/// Vault does not say which of the two a refusal means. OpenBao never says it.
struct Suspicion {
    backoff: Backoff,
    until: Instant,
    /// The generation of the suspected token.
    of: Option<u64>,
}

pub(super) struct Session {
    pub(super) transport: Transport,
    state: watch::Sender<Sessions>,
    suspicion: Mutex<Suspicion>,
    /// Held during a lookup. Holds when the last successful one began, and the token's generation.
    proof: Mutex<Option<(u64, Instant)>>,
    /// Whether Vault is up, according to the last check.
    health: Pulse,
    /// Whether the token is valid, according to the last probe.
    token_health: Pulse,
}

impl Session {
    pub(super) fn new(transport: Transport) -> Self {
        Self {
            health: Pulse::told_by(Arc::clone(&transport.away)),
            transport,
            state: watch::Sender::default(),
            suspicion: Mutex::new(Suspicion {
                backoff: Backoff::new(SUSPICION[0], SUSPICION[1]),
                until: Instant::now(),
                of: None,
            }),
            proof: Mutex::new(None),
            token_health: Pulse::default(),
        }
    }

    /// Sends a request with the token, and once more with a new token if the token turns out to be dead. If
    /// Vault was unavailable, nothing is sent until a health check succeeds.
    pub(super) async fn call<E: Endpoint>(&self, call: &Call, endpoint: &E) -> Result<Reply, Error> {
        if self.health.is_bad() {
            let answer = Box::pin(self.health(Instant::now())).await;
            answer.map_err(|away| Error {
                operation: call.operation,
                target: call.target.clone(),
                ..away
            })?;
        }
        let token = self.token(call).await?;
        let reply = self.transport.send(call, endpoint, Some(&token.header)).await?;
        if reply.status != 403 {
            return Ok(reply);
        }
        // Boxed because it is rare: it then takes no space in each call.
        Box::pin(self.refused(call, endpoint, &token, reply)).await
    }

    /// Settles a refusal: returns it, or the reply to the same request with a newer token.
    async fn refused<E: Endpoint>(
        &self,
        call: &Call,
        endpoint: &E,
        token: &Token,
        refusal: Reply,
    ) -> Result<Reply, Error> {
        if self.lives(token, call, &refusal).await? {
            return Ok(refusal);
        }
        let newer = self.newer_than(token.generation).await?;
        let reply = self.transport.send(call, endpoint, Some(&newer.header)).await?;
        if reply.status != 403 {
            self.confirm_suspicion_of(token.generation).await;
            return Ok(reply);
        }
        if self.lives(&newer, call, &reply).await? {
            return Ok(reply);
        }
        // No third try: the cause that ended both tokens would end a third one too. The caller retries later.
        Err(Error::new(ErrorKind::Auth, call, newer.why_it_died()))
    }

    /// Whether there is a token that Vault knows. A token that may not look itself up counts as valid until a
    /// call proves the opposite.
    pub(super) async fn check(&self, since: Instant) -> Result<(), Error> {
        let call = token::lookup();
        if self.current().is_none() {
            return Err(self.absent(&call));
        }
        self.health(since).await?;
        let question = async {
            let token = self.token(&call).await?;
            let reply = token::look_up(&self.transport, &token).await?;
            if reply.status != 403 {
                return reply.ok(&call).map(drop);
            }
            if says_dead_token(&reply.body) || token.has_seen_itself() {
                self.want_newer_than(token.generation);
                self.newer_than(token.generation).await?;
            }
            Ok(())
        };
        self.token_health.feel(since, &call, question).await
    }

    /// Whether Vault is up.
    pub(super) async fn health(&self, since: Instant) -> Result<(), Error> {
        let call = token::health();
        let question = token::ask_health(&self.transport);
        let answer = self.health.feel(since, &call, question).await;
        // Reports the latest answer, even if it belongs to another check. No answer in time counts as bad.
        self.transport.observer.up(!self.health.is_bad());
        answer
    }

    /// Waits while Vault is known to be unavailable: logins and renewals are no health checks.
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

    /// Keeps a valid token until `stop`, then revokes it.
    pub(super) async fn maintain(&self, stop: CancellationToken) {
        self.keep(&stop).await;
        let login = Call::new(Operation::Login, token::login_path(&self.transport.settings));
        let gone = Error::new(ErrorKind::Auth, &login, "the session has ended");
        let state = self.state.send_replace(Sessions {
            failure: Some(gone),
            ..Sessions::default()
        });
        let Some(token) = state.token else { return };
        match timeout(FAREWELL, token::revoke(&self.transport, &token)).await {
            Ok(Ok(())) => tracing::info!("token revoked"),
            // Batch tokens cannot be revoked, and a role can be without the right.
            Ok(Err(error)) => tracing::info!(%error, "token not revoked; it ends with its TTL"),
            Err(_) => tracing::info!("token not revoked in time; it ends with its TTL"),
        }
    }

    /// Logs in, maintains the token, and logs in again, until `stop`.
    async fn keep(&self, stop: &CancellationToken) {
        let mut backoff = impatient();
        // How many tokens in a row were short-lived.
        let mut mayflies = 0;
        loop {
            if stop.run_until_cancelled(self.not_away()).await.is_none() {
                return;
            }
            // `stop` does not cancel it: Vault may have created the token already, and the token has to be
            // revoked.
            let too_late = async {
                stop.cancelled().await;
                sleep(LAST_LOGIN).await;
            };
            let outcome = tokio::select! {
                outcome = self.log_in() => outcome,
                () = too_late => {
                    tracing::info!("a login is still under way at the end; its token ends with its TTL");
                    return;
                }
            };
            let next = async {
                match &outcome {
                    Ok(token) => {
                        self.tend(token).await;
                        if token.lease.since.elapsed() < YOUNG && self.wants_newer_than(token.generation) {
                            mayflies += 1;
                        } else {
                            mayflies = 0;
                            backoff.reset();
                        }
                        // One short-lived token is replaced immediately. If each one dies, a delay keeps
                        // logins apart.
                        if mayflies > 1 {
                            sleep(backoff.next()).await;
                        }
                    }
                    Err(error) => {
                        let asked = lengthened(error.retry_after.unwrap_or_default());
                        sleep(backoff.next().max(asked)).await;
                    }
                }
            };
            if stop.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    /// Renews a token until it has to be replaced, or was replaced.
    async fn tend(&self, token: &Token) {
        let mut lease = token.lease;
        let mut backoff = impatient();
        let mut next = next_renewal(lease.ttl, fraction()).map(|wait| lease.since + wait);
        loop {
            tokio::select! {
                () = self.is_to_be_replaced(token.generation) => return,
                () = at(next) => {}
            }
            if !lease.renewable {
                return;
            }
            let end = lease.since + lease.ttl;
            if timeout_at(end, self.not_away()).await.is_err() {
                return;
            }
            let renewal = tokio::select! {
                () = self.is_to_be_replaced(token.generation) => return,
                renewal = token::renew(&self.transport, token) => renewal,
            };
            match renewal {
                // The token is near its maximum TTL, so Vault granted no further time.
                Ok(renewed) if renewed.ttl.is_zero() => return,
                Ok(renewed) => {
                    backoff.reset();
                    lease = TokenLease {
                        renewable: renewed.renewable && renewed.ttl >= token.lease.ttl,
                        ..renewed
                    };
                    next = next_renewal(lease.ttl, fraction()).map(|wait| lease.since + wait);
                    tracing::debug!(ttl_seconds = lease.ttl.as_secs(), "token renewed");
                }
                Err(error) => {
                    if error.kind.is_down() {
                        // Possibly no other task checks Vault's health now.
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

    /// One login, by the session's task. The token is in use when this returns.
    async fn log_in(&self) -> Result<Arc<Token>, Error> {
        let before = self.current();
        let generation = before.as_ref().map_or(0, |token| token.generation);
        let outcome = token::log_in(&self.transport, generation + 1).await;
        self.transport.observer.auth_attempt(outcome.is_ok());
        match outcome {
            Ok(token) => {
                let token = Arc::new(token);
                tracing::info!(ttl_seconds = token.lease.ttl.as_secs(), "logged in to Vault");
                if token.uses > 0 && generation == 0 {
                    tracing::warn!(
                        uses = token.uses,
                        "tokens of this role end after a number of calls, and each needs a new login; set the role's \
                         token_num_uses to 0"
                    );
                }
                self.state.send_modify(|state| {
                    state.token = Some(token.clone());
                    state.failure = None;
                });
                let suspected = self.suspicion.lock().await.of;
                if let Some(old) = before.filter(|old| suspected == Some(old.generation)) {
                    // The old token may still be valid, but is no longer needed.
                    let _ = timeout(FAREWELL, token::revoke(&self.transport, &old)).await;
                }
                Ok(token)
            }
            Err(error) => {
                tracing::warn!(%error, hint = error.kind.hint(), "login to Vault failed");
                self.state
                    .send_modify(|state| state.failure = Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Whether a token newer than the given generation was asked for.
    fn wants_newer_than(&self, generation: u64) -> bool {
        self.state.borrow().wanted >= generation
    }

    /// Asks the session's task for a token newer than the given generation.
    fn want_newer_than(&self, generation: u64) {
        self.state
            .send_modify(|state| state.wanted = state.wanted.max(generation));
    }

    /// Waits for the requested token, newer than the given generation. Returns the error if a login failed
    /// since then.
    async fn newer_than(&self, generation: u64) -> Result<Arc<Token>, Error> {
        let newer = |state: &Sessions| {
            let token = state.token.as_ref();
            token.filter(|token| token.generation > generation).cloned()
        };
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| newer(state).is_some() || state.failure.is_some());
        let _ = timeout(self.transport.settings.timeout, known).await;
        let state = self.state.borrow();
        newer(&state).ok_or_else(|| {
            let login = Call::new(Operation::Login, token::login_path(&self.transport.settings));
            let slow = || Error::new(ErrorKind::Auth, &login, "a login is still under way");
            state.failure.clone().unwrap_or_else(slow)
        })
    }

    /// Whether a refused token is still valid; requests a replacement if it is not. A lookup that began after
    /// the refusal is the proof; all waiting refusals share it.
    async fn lives(&self, token: &Token, call: &Call, refusal: &Reply) -> Result<bool, Error> {
        let refused = Instant::now();
        let mut proof = self.proof.lock().await;
        {
            let state = self.state.borrow();
            let current = state.token.as_ref().map(|token| token.generation);
            if current != Some(token.generation) || state.wanted >= token.generation {
                return Ok(false);
            }
        }
        if let Some((_, began)) = proof.filter(|(generation, _)| *generation == token.generation) {
            if began >= refused {
                return Ok(true);
            }
            if !says_dead_token(&refusal.body) {
                sleep_until(began + LOOKUP_SPACING).await;
            }
        }
        let began = Instant::now();
        let lives = !says_dead_token(&refusal.body) && self.is_known(token, call).await?;
        if !lives {
            self.want_newer_than(token.generation);
        }
        *proof = lives.then_some((token.generation, began));
        Ok(lives)
    }

    /// Whether Vault knows a token that it has refused for this call.
    async fn is_known(&self, token: &Token, call: &Call) -> Result<bool, Error> {
        let reply = token::look_up(&self.transport, token).await?;
        if reply.status != 403 {
            return reply.ok(&token::lookup()).map(|_| true);
        }
        if says_dead_token(&reply.body) || token.has_seen_itself() {
            return Ok(false);
        }
        // It is dead, or may not look itself up. A token with any permission in a mount may read the mount's
        // details.
        if call.operation.is_of_a_document() {
            let question = mount::question(&call.target);
            let mount = Call::new(Operation::Mount, call.target.clone());
            let reply = self
                .transport
                .send(&mount, &question, Some(&token.header))
                .await?;
            if reply.ok(&mount).is_ok() {
                return Ok(true);
            }
        }
        // Only a new token can tell now. It is requested at once, but with growing delays, because paths may
        // stay denied.
        let mut suspicion = self.suspicion.lock().await;
        if Instant::now() < suspicion.until {
            return Ok(true);
        }
        suspicion.until = Instant::now() + suspicion.backoff.next();
        suspicion.of = Some(token.generation);
        Ok(false)
    }

    /// Called when the newer token succeeded with a call that the old token was refused.
    async fn confirm_suspicion_of(&self, generation: u64) {
        let mut suspicion = self.suspicion.lock().await;
        if suspicion.of == Some(generation) {
            suspicion.backoff.reset();
            suspicion.until = Instant::now();
        }
    }

    /// The token as soon as there is one, or why there is none.
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

    async fn is_to_be_replaced(&self, generation: u64) {
        // It cannot be closed: `self` holds the sender.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.wanted >= generation)
            .await;
    }
}

/// The delays between attempts to log in, or to renew.
fn impatient() -> Backoff {
    Backoff::new(Duration::from_millis(250), Duration::from_secs(15))
}

/// Waits until a moment, or forever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
