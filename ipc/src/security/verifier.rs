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
//! Limits: token 8 KiB, 32 keys, leeway 300 s. Failure: a [`TokenError`], whose text may be shown to
//! the caller.

mod algorithm;
mod claims;
mod error;
mod jws;
mod key;

use std::time::{Duration, SystemTime};

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use claims::Claims;
pub use error::{KeyError, TokenError};
pub(crate) use jws::{encode_claims, encode_header, unix_seconds};
pub use key::VerificationKey;
pub(in crate::security) use key::hmac_key;

use claims::RawClaims;
use jws::Jws;

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

impl VerifierSettings {
    // RFC 7519, 4.1.4: not accepted on or after `exp`.
    fn has_time_left(&self, exp: u64, now: u64) -> bool {
        now < exp.saturating_add(self.leeway.as_secs())
    }
}

/// Verifies tokens of one issuer for one audience.
#[derive(Debug)]
pub struct TokenVerifier {
    settings: VerifierSettings,
    keys: Vec<VerificationKey>,
    // Whether `kid` chooses: only if somebody named the keys.
    any_kid: bool,
}

impl TokenVerifier {
    /// Fails on settings that could never accept a token or would accept too much: an empty issuer
    /// or audience, too much leeway, no key, too many keys, or two keys that nothing tells apart.
    pub fn new(settings: VerifierSettings, keys: Vec<VerificationKey>) -> Result<Self, KeyError> {
        if settings.issuer.is_empty() {
            return Err(KeyError::EmptyIssuer);
        }
        if settings.audience.is_empty() {
            return Err(KeyError::EmptyAudience);
        }
        if settings.leeway > MAX_LEEWAY {
            return Err(KeyError::Leeway(settings.leeway));
        }
        if keys.is_empty() {
            return Err(KeyError::NoKeys);
        }
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooManyKeys(keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            let same = |other: &VerificationKey| {
                other.kid() == key.kid() && other.algorithm() == key.algorithm()
            };
            if let Some(kid) = key.kid()
                && keys[..i].iter().any(same)
            {
                return Err(KeyError::DuplicateKid(kid.to_owned(), key.algorithm()));
            }
        }
        let any_kid = keys.iter().any(|key| key.kid().is_some());
        Ok(Self {
            settings,
            keys,
            any_kid,
        })
    }

    /// Checks a token against the system clock.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Checks a token as of `now`.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        // Before any parsing, so that a huge token costs nothing.
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let jws = Jws::parse(token)?;
        self.check_signature(&jws)?;
        // Only now: claims of an unsigned token mean nothing, and must not choose the answer.
        RawClaims::parse(&jws.payload)?.check(&self.settings, unix_seconds(now))
    }

    /// Whether a token with this `exp`, once verified, has not expired by `now`. For a caller that
    /// remembers claims, so that it counts time as `verify` does.
    pub fn is_current(&self, exp: u64, now: SystemTime) -> bool {
        self.settings.has_time_left(exp, unix_seconds(now))
    }

    fn check_signature(&self, jws: &Jws<'_>) -> Result<(), TokenError> {
        let algorithm = Algorithm::from_name(&jws.header.alg).ok_or(TokenError::Algorithm)?;
        let named = jws.header.kid.as_deref().filter(|_| self.any_kid);
        let is_meant = |key: &&VerificationKey| named.is_none_or(|kid| key.kid() == Some(kid));

        let mut candidates = self.keys.iter().filter(is_meant).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut candidates = candidates
            .filter(|key| key.algorithm() == algorithm)
            .peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        if candidates.any(|key| key.verifies(jws.signed, &jws.signature)) {
            Ok(())
        } else {
            Err(TokenError::Signature)
        }
    }
}

#[cfg(test)]
mod tests;
