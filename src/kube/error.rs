//! Errors of calls to Kubernetes, in our words.

use std::time::Duration;

use domain::problem::Retry;

/// Longer than any call should take, and shorter than any caller waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A failed call to Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object has changed since it was read.
    #[error("{0}: the object has changed meanwhile")]
    Conflict(String),
    /// The object does not exist, or its namespace does not exist.
    #[error("{what}: it does not exist: {message}")]
    NotFound {
        /// What was attempted.
        what: String,
        /// The API server's message, which names what is missing.
        message: String,
    },
    /// We are not allowed to do that.
    #[error("{what}: Kubernetes denied it: {message}")]
    Denied {
        /// What was attempted.
        what: String,
        /// The API server's message.
        message: String,
    },
    /// The API server refused it, or its answer does not fit.
    #[error("{what}: Kubernetes refused it: {message}")]
    Refused {
        /// What was attempted.
        what: String,
        /// The API server's message.
        message: String,
    },
    /// No answer, or an answer that asks to retry later.
    #[error("{what}: Kubernetes does not answer: {message}")]
    Unavailable {
        /// What was attempted.
        what: String,
        /// What happened instead.
        message: String,
    },
}

impl Error {
    /// Names what was attempted, and classifies whether a retry may help.
    pub fn of(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => {
                let message = status.message.clone();
                match status.code {
                    404 => Self::NotFound { what, message },
                    409 => Self::Conflict(what),
                    401 | 403 => Self::Denied { what, message },
                    429 | 500..=599 => Self::Unavailable { what, message },
                    _ => Self::Refused { what, message },
                }
            }
            // A parser's error may quote the content that it could not read.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Refused {
                what,
                message: "the reply could not be read".into(),
            },
            other => Self::Unavailable {
                what,
                message: in_words(&other),
            },
        }
    }

    /// When the call is retried. A missing permission counts as temporary: we get no notice when it is
    /// granted, and an API server that has just started denies everything.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Conflict(_) | Self::NotFound { .. } | Self::Unavailable { .. } | Self::Denied { .. } => {
                Retry::Backoff
            }
            Self::Refused { .. } => Retry::Slowly,
        }
    }

    /// What a user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Conflict(_) | Self::Unavailable { .. } => "it is tried again",
            Self::NotFound { .. } => "create what is missing, or correct the name; it is tried again",
            Self::Denied { .. } => "check the operator's Roles in this namespace; it is tried again",
            Self::Refused { .. } => "see the message of the API server",
        }
    }
}

/// Runs a call with the default timeout.
pub async fn call<T>(what: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    call_within(CALL_TIMEOUT, what, call).await
}

/// Runs a call with this timeout.
pub async fn call_within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|error| Error::of(what, error)),
        Err(_) => Err(Error::Unavailable {
            what: what.to_owned(),
            message: format!("no answer in {limit:?}"),
        }),
    }
}

/// The last of an error's causes, which is the most specific one. An unclear TLS error is explained.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    if text.contains("InvalidContentType") {
        return format!("{text}; its port does not speak TLS: check the server's address in the kubeconfig");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_that_is_missing_may_come_and_a_refusal_stays() {
        let error = |code: u16| {
            let status =
                serde_json::json!({"status": "Failure", "code": code, "message": "m", "reason": "r"});
            Error::of(
                "read it",
                kube::Error::Api(serde_json::from_value(status).unwrap()),
            )
        };
        for (code, retry) in [
            (401, Retry::Backoff),
            (403, Retry::Backoff),
            (404, Retry::Backoff),
            (409, Retry::Backoff),
            (429, Retry::Backoff),
            (500, Retry::Backoff),
            (422, Retry::Slowly),
        ] {
            assert_eq!(error(code).retry(), retry, "{code}");
        }
    }
}
