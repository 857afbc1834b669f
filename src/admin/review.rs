//! Asks Kubernetes who owns a token, and what they may do.
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication>

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};

use super::gate::{Reviewer, Verdict};

/// A [`Reviewer`] that uses TokenReview, then SubjectAccessReview.
pub struct KubernetesReviewer(kube::Client);

impl KubernetesReviewer {
    /// Uses this client for reviews.
    pub fn new(client: kube::Client) -> Self {
        Self(client)
    }
}

/// A failed review.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The review of the token's owner failed.
    #[error("TokenReview: {0}")]
    Token(kube::Error),
    /// The review of the owner's permissions failed.
    #[error("SubjectAccessReview: {0}")]
    Access(kube::Error),
}

impl Reviewer for KubernetesReviewer {
    type Error = ReviewError;

    async fn review(&self, token: &str) -> Result<Verdict, ReviewError> {
        let question = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let answer = Api::all(self.0.clone())
            .create(&PostParams::default(), &question)
            .await
            .map_err(ReviewError::Token)?;
        let status = answer.status.unwrap_or_default();
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true)) else {
            return Ok(Verdict::Unauthenticated);
        };
        let question = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username,
                uid: user.uid,
                groups: user.groups,
                extra: user.extra,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some("/metrics".to_owned()),
                    verb: Some("get".to_owned()),
                }),
                resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::all(self.0.clone())
            .create(&PostParams::default(), &question)
            .await
            .map_err(ReviewError::Access)?;
        let allowed = answer
            .status
            .is_some_and(|status| status.allowed && status.denied != Some(true));
        Ok(if allowed {
            Verdict::Allowed
        } else {
            Verdict::Forbidden
        })
    }
}
