//! The health endpoints, in the format of Kubernetes' own.
//! <https://kubernetes.io/docs/reference/using-api/health-checks/>

use std::fmt::{Display, Write as _};
use std::future::Future;
use std::time::Duration;

use http::{StatusCode, Uri};
use tokio::time::timeout;

use super::{Answer, plain};

/// A check that takes longer has failed. If the probe itself timed out, it would not show which check failed.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// Why a check failed. It must contain nothing secret, because anyone may read it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unhealthy(String);

impl Unhealthy {
    /// Creates the failure with this reason, in words for users.
    pub fn new(reason: impl Display) -> Self {
        Self(reason.to_string())
    }
}

/// What the endpoints check in the rest of the process.
pub trait Checks: Send + Sync + 'static {
    /// Whether Vault answers `sys/health`.
    fn vault(&self) -> impl Future<Output = Result<(), Unhealthy>> + Send;
    /// Whether our token is valid (`auth/token/lookup-self`).
    fn token(&self) -> impl Future<Output = Result<(), Unhealthy>> + Send;
    /// Whether Kubernetes provides what the operator needs.
    fn kubernetes(&self) -> Result<(), Unhealthy>;
    /// Called with the result of each readiness check: ready, or the reason why not.
    fn told(&self, _ready: Result<(), Unhealthy>) {}
}

/// Answers for `/livez`, `/healthz` or `/readyz`.
pub async fn answer(uri: &Uri, checks: &impl Checks) -> Answer {
    let verbose = uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split_once('=').map_or(pair, |(name, _)| name) == "verbose")
    });
    match uri.path() {
        "/livez" => report("livez", verbose, &[("process", Ok(()))]),
        "/healthz" => report(
            "healthz",
            verbose,
            &[("vault", within_time(checks.vault()).await)],
        ),
        "/readyz" => {
            let (vault, token) = tokio::join!(within_time(checks.vault()), within_time(checks.token()));
            let checked = [
                ("vault", vault),
                ("token", token),
                ("kubernetes", checks.kubernetes()),
            ];
            // Without Vault there is no token, so the first reason is enough.
            let ready = checked.iter().try_for_each(|(name, result)| {
                let failed = |reason| Unhealthy::new(format_args!("{name}: {reason}"));
                result.as_ref().map_err(failed).copied()
            });
            checks.told(ready);
            report("readyz", verbose, &checked)
        }
        _ => plain(StatusCode::NOT_FOUND, "not found\n"),
    }
}

async fn within_time(check: impl Future<Output = Result<(), Unhealthy>>) -> Result<(), Unhealthy> {
    timeout(CHECK_WITHIN, check)
        .await
        .unwrap_or_else(|_| Err(Unhealthy::new("no answer within 5s")))
}

/// A failure always lists the checks, a success only with `verbose`.
fn report(endpoint: &str, verbose: bool, checks: &[(&str, Result<(), Unhealthy>)]) -> Answer {
    let good = checks.iter().all(|(_, result)| result.is_ok());
    if good && !verbose {
        return plain(StatusCode::OK, "ok");
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, result) in checks {
        let _ = match result {
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(reason) => writeln!(text, "[-]{name} failed: {}", reason.0.replace(['\n', '\r'], " ")),
        };
    }
    if good {
        let _ = writeln!(text, "{endpoint} check passed");
        return plain(StatusCode::OK, text);
    }
    let _ = writeln!(text, "{endpoint} check failed");
    plain(StatusCode::INTERNAL_SERVER_ERROR, text)
}
