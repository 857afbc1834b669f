//! Tokens: how to get, renew, look up and revoke one; and whether Vault is up at all. Owns those requests,
//! and reads the service-account token; keeps no state.
//! <https://developer.hashicorp.com/vault/api-docs/auth/kubernetes#login>
//! <https://developer.hashicorp.com/vault/api-docs/auth/token>

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::HeaderValue;
use rustify::enums::RequestMethod;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vaultrs::api::sys::requests::ReadHealthRequest;
use vaultrs::api::token::requests::{LookupTokenSelfRequest, RenewTokenSelfRequest, RevokeTokenSelfRequest};
use zeroize::Zeroizing;

use super::error::{Call, Error, ErrorKind, Operation};
use super::setup::Access;
use super::transport::{Plain, Reply, Transport};

/// A token in use.
pub(super) struct Token {
    /// Marked as sensitive: its `Debug` shows nothing.
    pub(super) header: HeaderValue,
    /// The number of the login that created it.
    pub(super) generation: u64,
    pub(super) lease: TokenLease,
    /// How many calls it is valid for. 0: no limit.
    pub(super) uses: u64,
    /// Whether a lookup of itself has succeeded. If a later lookup is refused, the token is dead.
    pub(super) seen_itself: AtomicBool,
}

impl Token {
    pub(super) fn has_seen_itself(&self) -> bool {
        self.seen_itself.load(Ordering::Relaxed)
    }

    /// What to check if Vault no longer knows the token, although it is new.
    pub(super) fn why_it_died(&self) -> String {
        match self.uses {
            0 => "the token of a new login is not valid any more; see what revokes tokens".to_owned(),
            uses => format!(
                "the token of a new login is not valid any more: tokens of this role end after {uses} call(s); set its \
                 token_num_uses to 0"
            ),
        }
    }
}

/// How long a token is valid.
#[derive(Clone, Copy)]
pub(super) struct TokenLease {
    pub(super) since: Instant,
    /// Zero: without end.
    pub(super) ttl: Duration,
    pub(super) renewable: bool,
}

/// The path of logins.
pub(super) fn login_path(settings: &Access) -> String {
    format!("auth/{}/login", settings.auth_path)
}

/// Logs in with the current content of the service-account token file.
pub(super) async fn log_in(transport: &Transport, generation: u64) -> Result<Token, Error> {
    #[derive(Serialize)]
    struct Credentials<'a> {
        role: &'a str,
        jwt: &'a str,
    }
    let settings = &transport.settings;
    let path = login_path(settings);
    let call = Call::new(Operation::Login, path.clone());
    transport.refresh();
    // The file is small and in memory: another thread would cost more than the read.
    let file = std::fs::read_to_string(&settings.token_file)
        .map(Zeroizing::new)
        .map_err(|error| {
            let why = format!(
                "the service-account token file {} cannot be read ({error}): mount a projected token into the pod, \
                 and give its file in --vault-token-file",
                settings.token_file.display()
            );
            Error::new(ErrorKind::Auth, &call, why)
        })?;
    let jwt = file.trim();
    if jwt.is_empty() {
        let why = format!(
            "the service-account token file {} is empty: give the file of a projected token in --vault-token-file",
            settings.token_file.display()
        );
        return Err(Error::new(ErrorKind::Auth, &call, why));
    }
    let since = Instant::now();
    let request = Plain::new(
        RequestMethod::POST,
        path,
        Credentials {
            role: &settings.role,
            jwt,
        },
    );
    let reply = transport.send(&call, &request, None).await?;
    let Granted { auth } = reply
        .ok(&call)
        .map_err(|error| without(error, jwt))?
        .parse(&call)?;
    let lease = auth.lease(since);
    let unfit = || Error::new(ErrorKind::Bug, &call, "there is no token in it");
    let uses = auth.num_uses;
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
        uses,
        seen_itself: AtomicBool::new(false),
    })
}

/// Renews the token by its original TTL.
pub(super) async fn renew(transport: &Transport, token: &Token) -> Result<TokenLease, Error> {
    let call = Call::new(Operation::Renew, "");
    let since = Instant::now();
    let request = RenewTokenSelfRequest {
        increment: Some(format!("{}s", token.lease.ttl.as_secs())),
    };
    let reply = transport.send(&call, &request, Some(&token.header)).await?;
    let Granted { auth } = reply.ok(&call)?.parse(&call)?;
    Ok(auth.lease(since))
}

/// Looks the token up.
pub(super) async fn look_up(transport: &Transport, token: &Token) -> Result<Reply, Error> {
    let reply = transport
        .send(&lookup(), &LookupTokenSelfRequest {}, Some(&token.header))
        .await?;
    if reply.ok(&lookup()).is_ok() {
        token.seen_itself.store(true, Ordering::Relaxed);
    }
    Ok(reply)
}

/// Checks whether Vault is up. A standby that forwards is up if its cluster has an active node.
pub(super) async fn ask_health(transport: &Transport) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Health {
        #[serde(rename = "sealed")]
        _sealed: bool,
        #[serde(default)]
        standby: bool,
    }
    let request = ReadHealthRequest {
        standbyok: Some(true),
        perfstandbyok: Some(true),
        ..ReadHealthRequest::default()
    };
    let call = health();
    let reply = transport.send(&call, &request, None).await?;
    // A gateway's page with status 200 does not count.
    let Health { standby, .. } = reply.ok(&call)?.parse(&call)?;
    if standby {
        ask_for_the_active_node(transport).await
    } else {
        Ok(())
    }
}

/// Asks a standby for its cluster's active node. A standby reports itself healthy even without one, but then
/// nothing can be processed. If this request is denied, the standby's own report counts.
/// <https://developer.hashicorp.com/vault/api-docs/system/leader>
async fn ask_for_the_active_node(transport: &Transport) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Leader {
        leader_address: String,
    }
    let call = health();
    let request = Plain::get("sys/leader".to_owned());
    let reply = transport.send(&call, &request, None).await?;
    match reply.status {
        200 => match reply.parse::<Leader>(&call) {
            Ok(Leader { leader_address }) if leader_address.is_empty() => Err(Error {
                status: Some(reply.status),
                ..Error::new(
                    ErrorKind::Sealed,
                    &call,
                    "a standby, and its cluster has no active node",
                )
            }),
            _ => Ok(()),
        },
        500.. => Err(reply.error(&call)),
        _ => Ok(()),
    }
}

/// The call that errors of [`ask_health`] are about.
pub(super) fn health() -> Call {
    Call::new(Operation::Health, "")
}

/// The call that errors of [`look_up`] are about.
pub(super) fn lookup() -> Call {
    Call::new(Operation::Lookup, "")
}

/// Revokes the token.
pub(super) async fn revoke(transport: &Transport, token: &Token) -> Result<(), Error> {
    let call = Call::new(Operation::Revoke, "");
    transport
        .send(&call, &RevokeTokenSelfRequest {}, Some(&token.header))
        .await?
        .ok(&call)
        .map(drop)
}

/// How long after its grant to renew a token: two thirds of its TTL, up to a tenth earlier by `jitter` (0 to
/// 1). The jitter spreads the renewals of many operators. `None`: the token never expires.
pub(super) fn next_renewal(ttl: Duration, jitter: f64) -> Option<Duration> {
    (!ttl.is_zero()).then(|| ttl.mul_f64(2.0 / 3.0 * (1.0 - 0.1 * jitter)))
}

/// The reply to a login or a renewal. It has no `Debug` because it contains a token.
#[derive(Deserialize)]
struct Granted {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    lease_duration: u64,
    renewable: bool,
    #[serde(default)]
    num_uses: u64,
}

/// The longest lease that is used, so that adding it to a moment does not overflow.
const LONGEST_LEASE: Duration = Duration::from_hours(24 * 365 * 100);

impl Auth {
    /// The lease counts from before the request, so it never ends later than Vault's.
    fn lease(&self, since: Instant) -> TokenLease {
        TokenLease {
            since,
            ttl: Duration::from_secs(self.lease_duration).min(LONGEST_LEASE),
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
                    assert!((found - seconds).abs() < 1e-6, "{ttl} {jitter}: {found}");
                }
                _ => assert_eq!(found, seconds),
            }
        }
    }

    #[test]
    fn a_reason_that_repeats_the_credentials_is_withheld() {
        let call = Call::new(Operation::Login, "auth/kubernetes/login");
        let error = Error::new(ErrorKind::Auth, &call, "cannot parse eyJh.eyJz.c2ln as a token");
        let safe = without(error.clone(), "eyJh.eyJz.c2ln");
        assert!(!format!("{safe} {safe:?}").contains("eyJ"), "{safe}");
        assert_eq!(without(error.clone(), "another"), error);
    }

    #[test]
    fn a_token_is_not_printed() {
        let mut header = HeaderValue::from_static("hvs.abc");
        header.set_sensitive(true);
        assert!(!format!("{header:?}").contains("hvs"));
    }
}
