//! The login: who holds a token, when it is renewed, and when it is replaced. Owns the token;
//! knows nothing of documents.
//!
//! Only the session's own task logs in: a caller that finds its token dead asks for a newer one and waits.
//! So there is at most one login in flight, and a caller that gives up waiting cuts off none. A refusal (403)
//! means that the token is dead or that the path is denied; which of them, Vault says or one lookup
//! tells, so that a true denial does not log in.

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

/// Least time between two lookups that settle refusals.
const LOOKUP_SPACING: Duration = Duration::from_millis(50);
/// Waits between two logins on a mere suspicion, from the first to the longest.
const SUSPICION: [Duration; 2] = [Duration::from_mins(1), Duration::from_hours(1)];
/// A token that is refused before it is so old has died young.
const YOUNG: Duration = Duration::from_mins(1);
/// How long the end may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a login that is under way at the end is waited for. Its token would live on until its TTL.
const LAST_LOGIN: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Sessions {
    token: Option<Arc<Token>>,
    /// A token newer than this generation is wanted.
    wanted: u64,
    /// Why the last login failed, while there is no token or one that is to be replaced.
    failure: Option<Error>,
}

/// When a token may be replaced on suspicion: it is refused, it may not look itself up, and Vault
/// does not say which of both a refusal means (OpenBao never does).
struct Suspicion {
    backoff: Backoff,
    until: Instant,
    /// The generation of the token that is suspected.
    of: Option<u64>,
}

pub(super) struct Session {
    pub(super) transport: Transport,
    state: watch::Sender<Sessions>,
    suspicion: Mutex<Suspicion>,
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

    /// Sends a request with the token, and once more with a new one if the token turns out dead. To a
    /// Vault that was away it sends nothing before that has said that it is back.
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
        // Rare, so that it takes no room in each call.
        Box::pin(self.refused(call, endpoint, &token, reply)).await
    }

    /// Settles a refusal: the reply stays, or there is another one to a newer token.
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
        // Not a third time: whatever ends them would end that one too. The caller comes again.
        Err(Error::new(ErrorKind::Auth, call, newer.why_it_died()))
    }

    /// Whether there is a token and Vault knows it. A token that may not look itself up is a good one
    /// until a call proves the opposite.
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
        // The latest answer, whichever this is. It is bad also when there was none in time.
        self.transport.observer.up(!self.health.is_bad());
        answer
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

    /// Logs in, tends the token, logs in again, until `stop`.
    async fn keep(&self, stop: &CancellationToken) {
        let mut backoff = impatient();
        // So many tokens in a row died young.
        let mut mayflies = 0;
        loop {
            if stop.run_until_cancelled(self.not_away()).await.is_none() {
                return;
            }
            // Not cut off by `stop`: Vault may have made the token already, and it has to be revoked.
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
                        // One is replaced at once. Where each dies, logins would follow upon each other.
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

    /// Renews a token until it has to be replaced, or has been.
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
                // Nearer to its greatest TTL than to the one that was asked for.
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
                    // It may be good all the same, and nobody needs it any more.
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

    /// Whether somebody has asked for a token newer than the given generation.
    fn wants_newer_than(&self, generation: u64) -> bool {
        self.state.borrow().wanted >= generation
    }

    /// Asks the session's task for a token newer than the given generation.
    fn want_newer_than(&self, generation: u64) {
        self.state
            .send_modify(|state| state.wanted = state.wanted.max(generation));
    }

    /// Waits for a token newer than the given generation, which was asked for; or gives the error of a
    /// login that failed since then.
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

    /// Whether a refused token is good all the same; one that is not is to be replaced from now on. Proven by
    /// a lookup that began after the refusal; all refusals that wait share it.
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
        // It is dead, or may not look itself up. A token that has any right in a mount may ask for the mount.
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
        // Only a new token can tell now. It is had at once, but not again and again where paths are denied.
        let mut suspicion = self.suspicion.lock().await;
        if Instant::now() < suspicion.until {
            return Ok(true);
        }
        suspicion.until = Instant::now() + suspicion.backoff.next();
        suspicion.of = Some(token.generation);
        Ok(false)
    }

    /// A call that a token was refused has succeeded with its successor.
    async fn confirm_suspicion_of(&self, generation: u64) {
        let mut suspicion = self.suspicion.lock().await;
        if suspicion.of == Some(generation) {
            suspicion.backoff.reset();
            suspicion.until = Instant::now();
        }
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

    async fn is_to_be_replaced(&self, generation: u64) {
        // It cannot be closed: `self` holds the sender.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.wanted >= generation)
            .await;
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
mod tests;
