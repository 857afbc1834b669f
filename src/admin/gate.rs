//! Who may read `/metrics`.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use domain::value::{Digest, Digester};

/// How long an allowed token stays allowed without another review.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Most tokens that are remembered.
const MOST_REMEMBERED: usize = 256;
/// Concurrent reviews: clients with bad tokens must not load the API server through us.
const MOST_REVIEWS: usize = 4;

/// The cluster's verdict on a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its owner may read `/metrics`.
    Allowed,
    /// It is not a valid token.
    Unauthenticated,
    /// Its owner may not read `/metrics`.
    Forbidden,
}

/// Asks the cluster about a token. The error must not hold the token.
pub trait Reviewer: Send + Sync + 'static {
    /// Why the review failed.
    type Error: Display;

    /// Who owns the token, and whether they may read `/metrics`.
    fn review(&self, token: &str) -> impl Future<Output = Result<Verdict, Self::Error>> + Send;
}

/// The result for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Open,
    Unauthenticated,
    Forbidden,
    Unknown,
}

pub(super) struct Gate<R> {
    reviewer: R,
    /// Stores only keyed hashes of the tokens.
    digester: Digester,
    allowed: Mutex<Allowed>,
    reviews: Semaphore,
}

impl<R: Reviewer> Gate<R> {
    pub(super) fn new(reviewer: R) -> Self {
        Self {
            reviewer,
            digester: Digester::default(),
            allowed: Mutex::default(),
            reviews: Semaphore::new(MOST_REVIEWS),
        }
    }

    pub(super) async fn enter(&self, headers: &HeaderMap) -> Admission {
        let Some(token) = bearer(headers) else {
            return Admission::Unauthenticated;
        };
        let digest = self.digester.fields(std::iter::once(token.as_bytes()));
        if self.allowed(|allowed| allowed.has(digest, Instant::now())) {
            return Admission::Open;
        }
        let Ok(_place) = self.reviews.acquire().await else {
            return Admission::Unknown;
        };
        let asked = Instant::now();
        match self.reviewer.review(token).await {
            Ok(Verdict::Allowed) => {
                // Counted from the request, not from the answer: the verdict may have changed in between.
                self.allowed(|allowed| allowed.remember(digest, asked));
                Admission::Open
            }
            Ok(Verdict::Unauthenticated) => Admission::Unauthenticated,
            Ok(Verdict::Forbidden) => Admission::Forbidden,
            Err(error) => {
                tracing::warn!(%error, "cannot review a token for /metrics");
                Admission::Unknown
            }
        }
    }

    fn allowed<T>(&self, with: impl FnOnce(&mut Allowed) -> T) -> T {
        with(&mut self.allowed.lock())
    }
}

/// The token of `Authorization: Bearer …`. <https://www.rfc-editor.org/rfc/rfc6750#section-2.1>
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// The allowed tokens, and when they were allowed. Time is an argument.
#[derive(Default)]
struct Allowed(HashMap<Digest, Instant>);

impl Allowed {
    fn has(&self, token: Digest, now: Instant) -> bool {
        self.0
            .get(&token)
            .is_some_and(|&since| now.saturating_duration_since(since) < REMEMBERED)
    }

    fn remember(&mut self, token: Digest, now: Instant) {
        if self.0.len() >= MOST_REMEMBERED {
            self.0
                .retain(|_, &mut since| now.saturating_duration_since(since) < REMEMBERED);
        }
        if self.0.len() >= MOST_REMEMBERED {
            let oldest = self
                .0
                .iter()
                .min_by_key(|&(_, since)| since)
                .map(|(&token, _)| token);
            oldest.map(|token| self.0.remove(&token));
        }
        self.0.insert(token, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found() {
        for (header, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            assert_eq!(bearer(&headers), token, "{header:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let digester = Digester::default();
        let token = |i: usize| digester.fields([i.to_le_bytes().as_slice()].into_iter());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut allowed = Allowed::default();
        allowed.remember(token(0), at(0));
        assert!(allowed.has(token(0), at(9_999)));
        assert!(!allowed.has(token(0), at(10_000)));
        assert!(!allowed.has(token(1), at(0)));
        for i in 0..1000 {
            allowed.remember(token(i), at(i as u64));
        }
        assert_eq!(allowed.0.len(), 256);
        assert!(allowed.has(token(999), at(1000)) && allowed.has(token(744), at(1000)));
        assert!(!allowed.has(token(743), at(1000)));
    }
}
