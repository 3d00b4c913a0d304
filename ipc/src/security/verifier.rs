//! Decides whether a token is valid, and who it speaks for.
//!
//! Owns the whole check of a JWT in JWS compact form (RFC 7515, 7519): shape, key, signature,
//! claims. It does not own how the token arrived, whether it was revoked, or what its roles allow.
//! `verify` has no state and no side effect, so a caller may remember its answer until the token
//! expires.
//!
//! A key is bound to exactly one algorithm, and a token's `alg` is only ever compared with it:
//! a public key can't be used as an HMAC secret, `none` has no key, and keys or key locations inside
//! the token (`jwk`, `jku`, `x5c`, `x5u`) are never looked at. The compact form is taken apart here
//! and not by a JWT library, because the order of the checks and the refusals below are the point;
//! all cryptography is aws-lc-rs, with keys parsed once, when they are loaded.
//!
//! Limits: token 8 KiB, 32 keys, or 64 in a JWK set, leeway 300 s, 256 roles of 256 bytes. Failure: a
//! [`TokenError`], whose text may be shown to the caller.

mod algorithm;
mod claims;
mod error;
mod json;
mod jwk;
mod jws;
mod key;
mod key_set;
mod rules;

use std::time::{Duration, SystemTime};

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub(in crate::security) use claims::RawClaims;
pub use claims::{Claims, MAX_ROLE_BYTES, MAX_ROLES};
pub use error::{KeyError, TokenError};
pub use jwk::{JwkSet, MAX_JWK_SET_BYTES, MAX_JWK_SET_KEYS, SkippedKey};
pub(in crate::security) use jws::Jws;
pub(crate) use jws::{encode_claims, encode_header, unix_seconds};
pub use key::VerificationKey;
pub(in crate::security) use key::{KeyId, hmac_key};
pub(in crate::security) use key_set::{KeySet, check_keys, signer};
pub use rules::{ClaimPath, Expected, MAX_AUDIENCES, MAX_REQUIRED_CLAIMS, TokenRules};

/// In an identity token of the gateway: where it had the caller from.
pub(in crate::security) const ORIGIN_CLAIM: &str = "origin";

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The most keys one verifier takes. A token without `kid` is tried against each key of its
/// algorithm, so this bounds the work that one bad token can cause.
pub const MAX_KEYS: usize = 32;

/// The most clock difference that may be tolerated.
pub const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// What every accepted token must say, whatever key signed it.
#[derive(Debug, Clone)]
pub struct VerifierSettings {
    /// The `iss` that a token must have, letter for letter.
    pub issuer: String,
    /// The audience that a token's `aud` must be or contain.
    pub audience: String,
    /// How far the issuer's clock and this one may differ, at `exp` and at `nbf`. At most 300 s.
    pub leeway: Duration,
}

/// Verifies tokens of one issuer for one audience.
#[derive(Debug)]
pub struct TokenVerifier {
    rules: TokenRules,
    keys: KeySet,
}

impl TokenVerifier {
    /// Fails on settings that could never accept a token or would accept too much: an empty issuer
    /// or audience, too much leeway, no key, too many keys, or two keys that nothing tells apart.
    pub fn new(settings: VerifierSettings, keys: Vec<VerificationKey>) -> Result<Self, KeyError> {
        let rules = TokenRules::from(settings);
        rules.check()?;
        check_keys(&keys)?;
        Ok(Self {
            rules,
            keys: KeySet::new(keys),
        })
    }

    /// Checks a token against the system clock.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Checks a token as of `now`.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        self.verify_raw(token, now).map(|(claims, _)| claims)
    }

    /// As [`Self::verify_at`], with all that the token says.
    pub(in crate::security) fn verify_raw(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(Claims, RawClaims), TokenError> {
        let jws = Jws::parse(token)?;
        signer(&[&self.keys], &jws)?;
        // Only now: claims of an unsigned token mean nothing, and must not choose the answer.
        let raw = RawClaims::parse(&jws.payload)?;
        let claims = raw.check(&self.rules, unix_seconds(now))?;
        Ok((claims, raw))
    }

    /// Whether a token with this `exp`, once verified, has not expired by `now`. For a caller that
    /// remembers claims, so that it counts time as `verify` does.
    pub fn is_current(&self, exp: u64, now: SystemTime) -> bool {
        self.rules.has_time_left(exp, unix_seconds(now))
    }
}

#[cfg(test)]
mod tests;
