//! The operator's HTTP endpoints: `/metrics` on one address; `/healthz`, `/readyz` and `/livez` on another.
//!
//! Owns the HTTP servers and their limits. It must not know how Vault is checked ([`Checks`]) or what is
//! counted.

mod gate;
mod health;
mod review;
mod server;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use gate::{Admission, Gate};

pub use gate::{Reviewer, Verdict};
pub use health::{Checks, Unhealthy, answer as probe};
pub use review::{KubernetesReviewer, ReviewError};

/// The address is in use, or is not a local one.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: cannot listen at {address}: {source}")]
pub struct BindError {
    flag: &'static str,
    address: String,
    source: std::io::Error,
}

/// Opens a listener at `:8080`, `host:8080` or `[::1]:8080`. Only the error uses `flag`, which includes its
/// dashes.
pub async fn bind(flag: &'static str, address: &str) -> Result<TcpListener, BindError> {
    let bound = if address.starts_with(':') {
        // IPv6 and IPv4 if the kernel supports both; otherwise IPv4.
        match TcpListener::bind(format!("[::]{address}")).await {
            Ok(listener) => Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
            Err(_) => TcpListener::bind(format!("0.0.0.0{address}")).await,
        }
    } else {
        TcpListener::bind(address).await
    };
    bound.map_err(|source| BindError {
        flag,
        address: address.to_owned(),
        source,
    })
}

/// Serves `GET /metrics` until `stop`; with a reviewer, only to clients that it allows.
pub async fn serve_metrics<R: Reviewer>(
    listener: TcpListener,
    registry: Arc<Registry>,
    reviewer: Option<R>,
    stop: CancellationToken,
) {
    let gate = reviewer.map(|reviewer| Arc::new(Gate::new(reviewer)));
    let answer = move |request: Request<()>| {
        let (registry, gate) = (registry.clone(), gate.clone());
        async move {
            if request.uri().path() != "/metrics" {
                return plain(StatusCode::NOT_FOUND, "not found\n");
            }
            if let Some(gate) = gate {
                match gate.enter(request.headers()).await {
                    Admission::Open => {}
                    Admission::Unauthenticated => {
                        let mut response =
                            plain(StatusCode::UNAUTHORIZED, "a valid bearer token is needed\n");
                        response
                            .headers_mut()
                            .insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
                        return response;
                    }
                    Admission::Forbidden => {
                        return plain(StatusCode::FORBIDDEN, "the token's owner may not get /metrics\n");
                    }
                    Admission::Unknown => {
                        return plain(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "the token could not be reviewed\n",
                        );
                    }
                }
            }
            respond(StatusCode::OK, metrics::CONTENT_TYPE, metrics::encode(&registry))
        }
    };
    server::serve(listener, answer, stop).await;
}

/// Serves `GET /healthz`, `/readyz` and `/livez` until `stop`.
pub async fn serve_health<C: Checks>(listener: TcpListener, checks: Arc<C>, stop: CancellationToken) {
    let answer = move |request: Request<()>| {
        let checks = checks.clone();
        async move { health::answer(request.uri(), &*checks).await }
    };
    server::serve(listener, answer, stop).await;
}

/// The response to an HTTP request.
pub type Answer = Response<Full<Bytes>>;

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    respond(status, "text/plain; charset=utf-8", text)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        http::HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests;
