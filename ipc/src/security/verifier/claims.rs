//! The claims of a token: their types, and the checks that need no key (RFC 7519, 4.1).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{TokenError, VerifierSettings};

/// What an accepted token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who calls. Not empty.
    pub sub: String,
    /// Who issued the token.
    pub iss: String,
    /// The audience that was matched; a token may name more.
    pub aud: String,
    /// When the token ends, in seconds since 1970, at most 2^53. A leeway is not added.
    pub exp: u64,
    /// When it was issued, in seconds since 1970; 0 if the issuer did not say.
    #[serde(default)]
    pub iat: u64,
    /// What the caller may act as. Empty if the token has none.
    #[serde(default)]
    pub roles: Vec<String>,
}

impl Claims {
    /// Whether the caller has one of `wanted`, or the role `admin`, which may do everything.
    pub fn has_any_role<S: AsRef<str>>(&self, wanted: &[S]) -> bool {
        self.roles.iter().any(|role| {
            role == crate::security::ADMIN_ROLE || wanted.iter().any(|one| one.as_ref() == role)
        })
    }
}

/// The claims as sent: every one may be missing, so that a missing and a malformed claim are told
/// apart from broken JSON.
#[derive(Deserialize)]
pub(super) struct RawClaims {
    sub: Option<Value>,
    iss: Option<Value>,
    aud: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    roles: Option<Value>,
}

impl RawClaims {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, TokenError> {
        serde_json::from_slice(payload).map_err(|_| TokenError::Malformed)
    }

    /// `now` in seconds since 1970.
    pub(super) fn check(self, settings: &VerifierSettings, now: u64) -> Result<Claims, TokenError> {
        let leeway = settings.leeway.as_secs();
        let exp = seconds(required(self.exp)?, f64::floor)?;
        if !settings.has_time_left(exp, now) {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = self.nbf
            && now.saturating_add(leeway) < seconds(nbf, f64::ceil)?
        {
            return Err(TokenError::NotYetValid);
        }
        let iss = string(required(self.iss)?)?;
        if iss != settings.issuer {
            return Err(TokenError::Issuer);
        }
        check_audience(required(self.aud)?, &settings.audience)?;
        let sub = string(required(self.sub)?)?;
        if sub.is_empty() {
            return Err(TokenError::MissingClaim);
        }
        Ok(Claims {
            sub,
            iss,
            aud: settings.audience.clone(),
            exp,
            iat: self.iat.map_or(Ok(0), |iat| seconds(iat, f64::floor))?,
            roles: self.roles.map_or(Ok(Vec::new()), strings)?,
        })
    }
}

fn required(claim: Option<Value>) -> Result<Value, TokenError> {
    claim.ok_or(TokenError::MissingClaim)
}

fn string(claim: Value) -> Result<String, TokenError> {
    match claim {
        Value::String(text) => Ok(text),
        _ => Err(TokenError::InvalidClaim),
    }
}

fn strings(claim: Value) -> Result<Vec<String>, TokenError> {
    match claim {
        Value::Array(items) => items.into_iter().map(string).collect(),
        _ => Err(TokenError::InvalidClaim),
    }
}

// RFC 7519, 4.1.3: one string, or an array of which one must be ours.
fn check_audience(claim: Value, ours: &str) -> Result<(), TokenError> {
    let named = match claim {
        Value::String(one) => one == ours,
        many => strings(many)?.iter().any(|one| one == ours),
    };
    if named {
        Ok(())
    } else {
        Err(TokenError::Audience)
    }
}

// A NumericDate may have a fraction (RFC 7519, 2), and some issuers send one. It is rounded so that
// the token is never valid for longer than it says. "For ever" is capped at a time that can still be
// counted with.
fn seconds(claim: Value, round: fn(f64) -> f64) -> Result<u64, TokenError> {
    // The largest whole number up to which a float is exact: 285 million years.
    const MAX: u64 = 1 << 53;
    let number = match claim {
        Value::Number(number) => number,
        _ => return Err(TokenError::InvalidClaim),
    };
    match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => Ok(whole.min(MAX)),
        (None, Some(fraction)) if (0.0..=MAX as f64).contains(&fraction) => {
            Ok(round(fraction) as u64)
        }
        _ => Err(TokenError::InvalidClaim),
    }
}
