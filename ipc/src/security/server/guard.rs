//! The check in front of every method: who calls, and with which roles.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use super::refusal::Refusal;
use super::remember::Remembered;
use crate::security::policy::{Access, Denied};
use crate::security::verifier::{Claims, TokenError};
use crate::security::{IDENTITY_HEADER, IdentityVerifier, JwtAuthenticator};

/// Whom the server trusts, and what it asks of every caller.
pub(super) struct Guard {
    identity: Option<(Arc<IdentityVerifier>, Remembered)>,
    jwt: Option<(Arc<JwtAuthenticator>, Remembered)>,
    required: Access,
}

impl Guard {
    pub(super) fn new(
        identity: Option<Arc<IdentityVerifier>>,
        jwt: Option<Arc<JwtAuthenticator>>,
        required_roles: Vec<String>,
    ) -> Self {
        Self {
            identity: identity.map(|verifier| (verifier, Remembered::new())),
            jwt: jwt.map(|jwt| (jwt, Remembered::new())),
            required: Access::any_of(required_roles),
        }
    }

    /// The caller, or nobody where nobody is asked for: at a public method, and by a server that
    /// checks no callers. A method without a rule is closed to all, also there.
    pub(super) fn admit(
        &self,
        access: &Access,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Option<Arc<Claims>>, Refusal> {
        if *access == Access::Public {
            return Ok(None);
        }
        if self.identity.is_none() && self.jwt.is_none() {
            return match access {
                Access::NoRule => Err(Refusal::Denied(Denied::NoRule)),
                _ => Ok(None),
            };
        }
        let claims = self.caller(headers, now)?;
        for rule in [&self.required, access] {
            rule.judge(&claims.roles).map_err(Refusal::Denied)?;
        }
        Ok(Some(claims))
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

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("identity", &self.identity.is_some())
            .field("jwt", &self.jwt.is_some())
            .field("required", &self.required)
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

#[cfg(test)]
mod tests;
