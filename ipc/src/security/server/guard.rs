//! The check in front of every method: who calls, and with which roles.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::{self, Either};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::Service;

use super::remember::Remembered;
use crate::security::verifier::{Claims, TokenError};
use crate::security::{IDENTITY_HEADER, IdentityVerifier, JwtAuthenticator};

/// Names this check in `google.rpc.ErrorInfo`.
const ERROR_DOMAIN: &str = "intellirouter";

/// Who may call.
pub(super) struct Policy {
    identity: Option<(Arc<IdentityVerifier>, Remembered)>,
    jwt: Option<(Arc<JwtAuthenticator>, Remembered)>,
    required_roles: Vec<String>,
}

/// Why a call is refused.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    NoToken,
    // Which of two would count is a guess, and guessing is how checks are passed by.
    TwoTokens,
    Token(TokenError),
    Role,
    // The JWT config was checked when the server was built.
    Unusable,
}

impl Policy {
    pub(super) fn new(
        identity: Option<Arc<IdentityVerifier>>,
        jwt: Option<Arc<JwtAuthenticator>>,
        required_roles: Vec<String>,
    ) -> Self {
        Self {
            identity: identity.map(|verifier| (verifier, Remembered::new())),
            jwt: jwt.map(|jwt| (jwt, Remembered::new())),
            required_roles,
        }
    }

    /// The caller, or nobody where nobody is asked for.
    fn admit(&self, headers: &HeaderMap, now: SystemTime) -> Result<Option<Arc<Claims>>, Refusal> {
        if self.identity.is_none() && self.jwt.is_none() {
            return Ok(None);
        }
        let claims = self.caller(headers, now)?;
        if self.required_roles.is_empty() || claims.has_any_role(&self.required_roles) {
            Ok(Some(claims))
        } else {
            Err(Refusal::Role)
        }
    }

    fn caller(&self, headers: &HeaderMap, now: SystemTime) -> Result<Arc<Claims>, Refusal> {
        if let Some((identity, remembered)) = &self.identity
            && let Some(token) = only(headers, &HeaderName::from_static(IDENTITY_HEADER))?
        {
            let verifier = identity.verifier();
            return remembered
                .verify_at(verifier, token, now)
                .map_err(Refusal::Token);
        }
        let Some((jwt, remembered)) = &self.jwt else {
            return Err(Refusal::NoToken);
        };
        let token = only(headers, &AUTHORIZATION)?
            .and_then(bearer)
            .ok_or(Refusal::NoToken)?;
        let verifier = jwt.verifier().map_err(|_| Refusal::Unusable)?;
        remembered
            .verify_at(verifier, token, now)
            .map_err(Refusal::Token)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("identity", &self.identity.is_some())
            .field("jwt", &self.jwt.is_some())
            .field("required_roles", &self.required_roles)
            .finish()
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::Token(TokenError::Malformed)),
        (Some(_), Some(_)) => Err(Refusal::TwoTokens),
    }
}

// RFC 9110, 11.1: the scheme is compared without regard to case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

impl Refusal {
    fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::TwoTokens => "two_tokens",
            Self::Token(error) => error.label(),
            Self::Role => "role",
            Self::Unusable => "unusable",
        }
    }

    fn into_status(self) -> Status {
        let (code, text) = match &self {
            Self::NoToken => (Code::Unauthenticated, "a token is needed".to_owned()),
            Self::TwoTokens => (
                Code::Unauthenticated,
                "more than one token was sent".to_owned(),
            ),
            Self::Token(error) => (Code::Unauthenticated, error.to_string()),
            Self::Role => (
                Code::PermissionDenied,
                "the caller lacks the role".to_owned(),
            ),
            Self::Unusable => (Code::Internal, "tokens cannot be checked".to_owned()),
        };
        let reason = self.label().to_ascii_uppercase();
        let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, []);
        Status::with_error_details(code, text, details)
    }
}

/// All services behind the check.
#[derive(Clone)]
pub(super) struct Guard<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> Guard<S> {
    pub(super) fn new(inner: S, policy: Arc<Policy>) -> Self {
        Self { inner, policy }
    }
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, future::Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.policy.admit(request.headers(), SystemTime::now()) {
            Ok(claims) => {
                if let Some(claims) = claims {
                    request.extensions_mut().insert(Claims::clone(&claims));
                }
                Either::Left(self.inner.call(request))
            }
            Err(refusal) => {
                tracing::debug!(
                    reason = refusal.label(),
                    method = request.uri().path(),
                    "a call was refused"
                );
                Either::Right(future::ok(refusal.into_status().into_http()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
