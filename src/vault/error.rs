//! Everything that can go wrong with Vault, in one type: a closed [`ErrorKind`] for decisions and metrics,
//! and a line for users. Owns the classification of replies; knows neither the HTTP client nor the session.
//!
//! No secret enters an error. From a reply, only Vault's own error strings are kept, up to a limit. From a
//! request, only its operation and path are kept.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use domain::problem::Retry;

/// Longest text from Vault that an error repeats, in characters.
const DETAIL_LIMIT: usize = 300;

/// Every way in which a call can fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// No answer: no connection, a timeout, or a server error (500, 502, 504).
    Unreachable,
    /// Vault is sealed, not initialised, a standby that does not forward, or not ready yet.
    Sealed,
    /// A rate limit or lease quota.
    Throttled,
    /// The policy does not allow this. The token is valid: that was checked.
    Denied,
    /// The login was refused, or has not happened yet.
    Auth,
    /// Vault does not accept the request.
    Invalid,
    /// The document is larger than Vault accepts.
    TooLarge,
    /// The check-and-set did not match: another client wrote, so read again.
    Mismatch,
    /// Nothing is mounted there, or the mount does not have the expected version.
    NotFound,
    /// A reply that does not fit: not from Vault, or not for this request.
    Bug,
    /// Not sent: this process may not change anything now.
    NotLeading,
}

/// The consequences of an error kind.
#[derive(Clone, Copy, Debug)]
struct Consequence {
    kind: ErrorKind,
    /// Value of the metric label `kind`.
    label: &'static str,
    /// Value of the metric label `error_type`: the predecessor's five error types.
    error_type: &'static str,
    /// When the call is retried.
    retry: Retry,
    /// Whether Vault as a whole may be unavailable. Then its health is checked, and all sources wait if it is
    /// down.
    down: bool,
    /// How its Event and log line begin: with an answer from Vault, and without one.
    begins: [&'static str; 2],
    /// What a user can do about it; the end of the Event.
    hint: &'static str,
}

/// All consequences of errors from Vault, one entry per kind, in the order of [`ErrorKind`].
#[rustfmt::skip]
const CONSEQUENCES: [Consequence; 11] = [
    Consequence {
        kind: ErrorKind::Unreachable, label: "unreachable", error_type: "connection_failed", retry: Retry::Backoff, down: true,
        begins: ["Vault failed to ", "cannot reach Vault to "],
        hint: "check --vault-addr, network policies, proxy, CA and client certificate; it is tried again",
    },
    Consequence {
        kind: ErrorKind::Sealed, label: "sealed", error_type: "connection_failed", retry: Retry::Backoff, down: true,
        begins: ["Vault failed to ", "cannot "],
        hint: "unseal Vault, or wait for its active node; it is tried again",
    },
    Consequence {
        kind: ErrorKind::Throttled, label: "throttled", error_type: "unknown", retry: Retry::Backoff, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "raise Vault's quota, or wait; it is tried again when Vault says",
    },
    Consequence {
        kind: ErrorKind::Denied, label: "denied", error_type: "permission_denied", retry: Retry::Slowly, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "let the policies of the operator's role allow this path",
    },
    // The fix is made in Vault, without notice to us, and nothing works until then.
    Consequence {
        kind: ErrorKind::Auth, label: "auth", error_type: "auth_failed", retry: Retry::Backoff, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "check --vault-role, --vault-auth-path and the role's bound service account and audience",
    },
    Consequence {
        kind: ErrorKind::Invalid, label: "invalid", error_type: "unknown", retry: Retry::OnChange, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "correct what Vault complains about",
    },
    Consequence {
        kind: ErrorKind::TooLarge, label: "too_large", error_type: "unknown", retry: Retry::OnChange, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "split the document: list fewer Secrets or keys for this path",
    },
    Consequence {
        kind: ErrorKind::Mismatch, label: "mismatch", error_type: "unknown", retry: Retry::AtOnce, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "somebody else wrote at the same time; it is read again",
    },
    Consequence {
        kind: ErrorKind::NotFound, label: "not_found", error_type: "invalid_path", retry: Retry::Slowly, down: false,
        begins: ["Vault refused to ", "cannot "],
        hint: "check that a KV secrets engine is mounted at the beginning of the path",
    },
    // A gateway in between may have sent it.
    Consequence {
        kind: ErrorKind::Bug, label: "bug", error_type: "unknown", retry: Retry::Backoff, down: false,
        begins: ["Vault's reply does not fit when asked to ", "Vault's reply does not fit when asked to "],
        hint: "check that --vault-addr names Vault itself and not another server",
    },
    Consequence {
        kind: ErrorKind::NotLeading, label: "not_leading", error_type: "unknown", retry: Retry::Backoff, down: false,
        begins: ["cannot ", "cannot "],
        hint: "another replica takes over; see whether the API server answers",
    },
];

const _: () = {
    let mut at = 0;
    while at < CONSEQUENCES.len() {
        assert!(
            CONSEQUENCES[at].kind as usize == at,
            "a line stands in another's place"
        );
        at += 1;
    }
};

/// The values of the metric labels `kind` and `error_type`, for series that exist from the start.
pub const LABELS: [(&str, &str); CONSEQUENCES.len()] = {
    let mut labels = [("", ""); CONSEQUENCES.len()];
    let mut at = 0;
    while at < CONSEQUENCES.len() {
        labels[at] = (CONSEQUENCES[at].label, CONSEQUENCES[at].error_type);
        at += 1;
    }
    labels
};

impl ErrorKind {
    fn consequence(self) -> &'static Consequence {
        &CONSEQUENCES[self as usize]
    }

    /// When a call that failed like this is retried.
    pub fn retry(self) -> Retry {
        self.consequence().retry
    }

    /// Whether the error may pass without intervention.
    pub fn transient(self) -> bool {
        matches!(self.retry(), Retry::AtOnce | Retry::Backoff)
    }

    /// Whether it may mean that Vault as a whole is unavailable.
    pub fn is_down(self) -> bool {
        self.consequence().down
    }

    /// The values of the metric labels `kind` and `error_type`.
    pub fn labels(self) -> (&'static str, &'static str) {
        (self.consequence().label, self.consequence().error_type)
    }

    /// What a user can do about it.
    pub fn hint(self) -> &'static str {
        self.consequence().hint
    }
}

/// The operation that was requested from Vault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Log in.
    Login,
    /// Renew the token.
    Renew,
    /// Revoke the token.
    Revoke,
    /// Look the token up.
    Lookup,
    /// Ask for Vault's health.
    Health,
    /// Ask which mount a path belongs to.
    Mount,
    /// Read a document.
    Read,
    /// Write a document.
    Write,
    /// Change a document's custom metadata.
    Mark,
    /// Delete a version of a document.
    Delete,
    /// Delete a document with all versions and metadata.
    Purge,
}

impl Operation {
    /// Whether `--vault-max-rps` counts it. Calls that keep the session alive or check Vault's health are
    /// rare, and cannot wait.
    pub(super) fn is_paced(self) -> bool {
        !matches!(
            self,
            Self::Login | Self::Renew | Self::Revoke | Self::Lookup | Self::Health
        )
    }

    /// Whether its target is a document.
    pub(super) fn is_of_a_document(self) -> bool {
        self == Self::Read || self.writes()
    }

    /// Whether it changes a document.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Mark | Self::Delete | Self::Purge)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "log in at",
            Self::Renew => "renew the token",
            Self::Revoke => "revoke the token",
            Self::Lookup => "look the token up",
            Self::Health => "tell its health",
            Self::Mount => "name the mount of",
            Self::Read => "read",
            Self::Write => "write",
            Self::Mark => "mark",
            Self::Delete => "delete",
            Self::Purge => "purge",
        })
    }
}

/// Which call an error is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Call {
    pub(super) operation: Operation,
    /// The document in its logical form, or the path; empty if there is none.
    pub(super) target: String,
}

impl Call {
    pub(super) fn new(operation: Operation, target: impl Into<String>) -> Self {
        Self {
            operation,
            target: target.into(),
        }
    }
}

/// A call that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The operation that was requested.
    pub operation: Operation,
    /// The document (logical form) or path; empty if there is none.
    pub target: String,
    /// How long Vault asks to wait.
    pub retry_after: Option<Duration>,
    /// The change may have been made, or may still be made: after a timeout, a connection lost after sending,
    /// or a server error that does not say.
    pub outcome_unknown: bool,
    /// The reason: Vault's own words, on one line and limited in length, or ours.
    pub message: String,
}

impl Error {
    /// An error without an answer from Vault.
    pub(super) fn new(kind: ErrorKind, call: &Call, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: None,
            operation: call.operation,
            target: call.target.clone(),
            retry_after: None,
            outcome_unknown: false,
            message: message.into(),
        }
    }

    /// The error that a reply means. Text that quotes the request is classified, but not repeated.
    pub(super) fn answered(
        call: &Call,
        status: u16,
        retry_after: Option<Duration>,
        body: &[u8],
        quotes: bool,
    ) -> Self {
        let said = words(body).or_else(|| says_it_speaks_tls(status, body));
        let kind = match classify(call.operation, status, said.as_deref().unwrap_or_default()) {
            // Vault's own error replies have Vault's form. Another server sent this one, which may be
            // temporary.
            ErrorKind::NotFound | ErrorKind::Invalid if !is_vaults(body) => ErrorKind::Bug,
            kind => kind,
        };
        // No source can fix what prevents a login.
        let kind = match kind.retry() {
            Retry::Slowly | Retry::OnChange if call.operation == Operation::Login => ErrorKind::Auth,
            _ => kind,
        };
        // A sealed Vault says so before it does anything. Other server errors leave the outcome unknown. A
        // gateway may give up on a request that Vault still processes.
        let unknown = status >= 500
            && call.operation.writes()
            && matches!(kind, ErrorKind::Unreachable | ErrorKind::Sealed)
            && !(status == 503 && said.is_some());
        Self {
            status: Some(status),
            retry_after,
            outcome_unknown: unknown,
            ..Self::new(
                kind,
                call,
                said.filter(|_| !quotes)
                    .unwrap_or_else(|| in_our_words(kind, status).to_owned()),
            )
        }
    }
}

/// One line: the requested operation, and why it failed.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [answered, unanswered] = self.kind.consequence().begins;
        f.write_str(if self.status.is_some() {
            answered
        } else {
            unanswered
        })?;
        write!(f, "{}", self.operation)?;
        if !self.target.is_empty() {
            write!(f, " {}", self.target)?;
        }
        write!(f, ": {}", self.message)?;
        self.status.map_or(Ok(()), |status| write!(f, " ({status})"))
    }
}

impl std::error::Error for Error {}

/// What to do about a server that speaks TLS, but got a request without it. Go's servers, including Vault,
/// and nginx report that in text.
fn says_it_speaks_tls(status: u16, body: &[u8]) -> Option<String> {
    let said = std::str::from_utf8(body).ok().filter(|_| status == 400)?;
    let speaks_tls = said.contains("HTTP request to an HTTPS server")
        || said.contains("plain HTTP request was sent to HTTPS port");
    speaks_tls.then(|| "the port speaks TLS: give https:// in --vault-addr (VAULT_ADDR)".to_owned())
}

/// Whether the text of a refusal says that the token itself is dead. Older Vaults do not say so.
pub(super) fn says_dead_token(body: &[u8]) -> bool {
    words(body).is_some_and(|said| said.contains("invalid token") || said.contains("bad token"))
}

/// Whether a reply is Vault's "not found" for a path inside a mount. A missing mount, or a server that is not
/// Vault, answers 404 with other text.
pub(super) fn says_nothing_here(status: u16, body: &[u8]) -> bool {
    status == 404 && serde_json::from_slice::<Said>(body).is_ok_and(|said| said.errors == Some(vec![]))
}

fn classify(operation: Operation, status: u16, said: &str) -> ErrorKind {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    match status {
        400 if says(&["check-and-set parameter did not match"]) => ErrorKind::Mismatch,
        // A KV mount immediately after its creation, or during its upgrade from v1 to v2.
        400 if says(&["Upgrading from non-versioned"]) => ErrorKind::Sealed,
        413 => ErrorKind::TooLarge,
        400 | 500 if says(&["too large", "exceeds"]) => ErrorKind::TooLarge,
        400..=404 if operation == Operation::Login => ErrorKind::Auth,
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        429 if operation != Operation::Health => ErrorKind::Throttled,
        // 412: a standby that has not caught up. 429, 472, 473, 501: codes of the health check for a standby,
        // recovery mode, a performance standby, and a Vault that is not initialized.
        412 | 429 | 472 | 473 | 503 => ErrorKind::Sealed,
        501 if operation == Operation::Health => ErrorKind::Sealed,
        408 | 500 | 502.. => ErrorKind::Unreachable,
        _ => ErrorKind::Invalid,
    }
}

fn in_our_words(kind: ErrorKind, status: u16) -> &'static str {
    match (kind, status) {
        (ErrorKind::Sealed, 501) => "not initialised",
        (ErrorKind::Sealed, 503) => "sealed or unavailable",
        (ErrorKind::Sealed, _) => "a standby",
        (ErrorKind::Denied, _) => "permission denied",
        (ErrorKind::TooLarge, _) => "too large",
        (ErrorKind::NotFound, _) => "nothing there",
        (ErrorKind::Throttled, _) => "too many requests",
        (ErrorKind::Invalid, 400..) => "what it says is left out: it is nothing, or quotes the request",
        (_, 300..=399) => "a redirect that is not followed; give the address that it leads to",
        _ => "no reason given",
    }
}

/// The shape of Vault's error replies.
/// <https://developer.hashicorp.com/vault/api-docs#error-response>
#[derive(Deserialize)]
struct Said {
    errors: Option<Vec<String>>,
    warnings: Option<Vec<String>>,
}

/// Whether the body has the form of Vault's error replies; any other JSON may come from a gateway.
fn is_vaults(body: &[u8]) -> bool {
    serde_json::from_slice::<Said>(body).is_ok_and(|said| said.errors.is_some() || said.warnings.is_some())
}

/// Vault's reasons, on one line and limited in length. A body in another form is not repeated: it may come
/// from a gateway, and contain the request.
fn words(body: &[u8]) -> Option<String> {
    let said: Said = serde_json::from_slice(body).ok()?;
    let all = said
        .errors
        .filter(|errors| !errors.is_empty())
        .or(said.warnings)?
        .join("; ");
    let line = one_line(&all);
    (!line.is_empty()).then_some(line)
}

/// Whether the text that an error would repeat contains a piece of `confidential` that is long enough to
/// reveal something.
pub(super) fn quotes(body: &[u8], confidential: &[u8]) -> bool {
    const PIECE: usize = 8;
    let Some(said) = words(body) else { return false };
    let said: HashSet<&[u8]> = said.as_bytes().windows(PIECE).collect();
    confidential.windows(PIECE).any(|piece| said.contains(piece))
}

/// One line without control characters, limited in length. Example: `1 error occurred:\n\t* permission
/// denied\n\n` becomes `permission denied`.
pub(super) fn one_line(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = match line.split_once(" occurred: * ") {
        Some((count, reasons)) if count.len() < 12 => reasons.replace(" * ", ", "),
        _ => line,
    };
    line.chars().take(DETAIL_LIMIT).collect()
}

#[cfg(test)]
mod tests;
