//! The claims of a token: their types, and the checks that need no key (RFC 7519, 4.1).
//!
//! Limits: 256 roles of 256 bytes each.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ClaimPath, TokenError, TokenRules, json};

/// The most roles that a token may have.
pub const MAX_ROLES: usize = 256;

/// The longest role, in bytes.
pub const MAX_ROLE_BYTES: usize = 256;

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
pub(in crate::security) struct RawClaims(Map<String, Value>);

impl fmt::Debug for RawClaims {
    /// What else a token says is its bearer's business and stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawClaims").finish_non_exhaustive()
    }
}

impl RawClaims {
    pub(in crate::security) fn parse(payload: &[u8]) -> Result<Self, TokenError> {
        json::object(payload).map(Self)
    }

    /// The issuer that the token names. Before the signature is checked it may only choose whose
    /// keys are tried.
    pub(in crate::security) fn issuer(&self) -> Option<&str> {
        self.0.get("iss").and_then(Value::as_str)
    }

    /// The token's own name (`jti`), for revocation.
    pub(in crate::security) fn token_id(&self) -> Result<Option<&str>, TokenError> {
        self.text("jti")
    }

    /// A claim that is a text.
    pub(in crate::security) fn text_at(&self, claim: &ClaimPath) -> Option<&str> {
        claim.find(&self.0).and_then(Value::as_str)
    }

    /// Which issuer the gateway had the caller from, in a token of the gateway.
    pub(in crate::security) fn origin(&self) -> Result<Option<&str>, TokenError> {
        self.text(super::ORIGIN_CLAIM)
    }

    /// `now` in seconds since 1970.
    pub(in crate::security) fn check(
        &self,
        rules: &TokenRules,
        now: u64,
    ) -> Result<Claims, TokenError> {
        let exp = seconds(self.required("exp")?, f64::floor)?;
        if !rules.has_time_left(exp, now) {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = self.find("nbf")
            && now.saturating_add(rules.leeway.as_secs()) < seconds(nbf, f64::ceil)?
        {
            return Err(TokenError::NotYetValid);
        }
        let iss = string(self.required("iss")?)?;
        if iss != rules.issuer {
            return Err(TokenError::Issuer);
        }
        let aud = audience(self.required("aud")?, &rules.audiences)?;
        let sub = string(self.required("sub")?)?;
        if sub.is_empty() {
            return Err(TokenError::MissingClaim);
        }
        for (path, expected) in &rules.required_claims {
            if !path
                .find(&self.0)
                .is_some_and(|found| expected.is_met_by(found))
            {
                return Err(TokenError::RequiredClaim);
            }
        }
        Ok(Claims {
            sub: sub.to_owned(),
            iss: iss.to_owned(),
            aud: aud.to_owned(),
            exp,
            iat: self
                .find("iat")
                .map_or(Ok(0), |iat| seconds(iat, f64::floor))?,
            roles: rules
                .roles_claim
                .find(&self.0)
                .map_or(Ok(Vec::new()), |claim| roles(claim, rules))?,
        })
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|claim| !claim.is_null())
    }

    fn required(&self, name: &str) -> Result<&Value, TokenError> {
        self.find(name).ok_or(TokenError::MissingClaim)
    }

    fn text(&self, name: &str) -> Result<Option<&str>, TokenError> {
        self.find(name).map(string).transpose()
    }
}

fn string(claim: &Value) -> Result<&str, TokenError> {
    claim.as_str().ok_or(TokenError::InvalidClaim)
}

fn strings(claim: &Value) -> Result<Vec<&str>, TokenError> {
    match claim {
        Value::Array(items) => items.iter().map(string).collect(),
        _ => Err(TokenError::InvalidClaim),
    }
}

// A list, or one string with spaces in between, as `scope` has it (RFC 8693, 4.2). Anything else
// is refused: whoever wrote it means something by it, and "no roles" would be a guess.
fn roles(claim: &Value, rules: &TokenRules) -> Result<Vec<String>, TokenError> {
    let named: Vec<&str> = match claim {
        Value::String(text) => text.split(' ').filter(|role| !role.is_empty()).collect(),
        many => strings(many).map_err(|_| TokenError::Roles)?,
    };
    if named.len() > MAX_ROLES || named.iter().any(|role| role.len() > MAX_ROLE_BYTES) {
        return Err(TokenError::Roles);
    }
    let granted = named.into_iter().filter(|role| rules.may_grant(role));
    Ok(granted.map(str::to_owned).collect())
}

// RFC 7519, 4.1.3: one string, or an array of which one must be ours.
fn audience<'o>(claim: &Value, ours: &'o [String]) -> Result<&'o str, TokenError> {
    let named = match claim {
        Value::String(one) => vec![one.as_str()],
        many => strings(many)?,
    };
    let ours = ours.iter().find(|our| named.contains(&our.as_str()));
    ours.map(String::as_str).ok_or(TokenError::Audience)
}

// A NumericDate may have a fraction (RFC 7519, 2), and some issuers send one. It is rounded so that
// the token is never valid for longer than it says. "For ever" is capped at a time that can still be
// counted with.
fn seconds(claim: &Value, round: fn(f64) -> f64) -> Result<u64, TokenError> {
    // The largest whole number up to which a float is exact: 285 million years.
    const MAX: u64 = 1 << 53;
    let Value::Number(number) = claim else {
        return Err(TokenError::InvalidClaim);
    };
    match (number.as_u64(), number.as_f64()) {
        (Some(whole), _) => Ok(whole.min(MAX)),
        (None, Some(fraction)) if (0.0..=MAX as f64).contains(&fraction) => {
            Ok(round(fraction) as u64)
        }
        _ => Err(TokenError::InvalidClaim),
    }
}
