//! Why a key was not loaded, and why a token was not accepted.

use std::time::Duration;

use super::Algorithm;

/// Why a verifier or one of its keys cannot be used. Never carries the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The issuer is the empty string.
    #[error("the issuer must not be empty")]
    EmptyIssuer,
    /// No audience, or one that is the empty string.
    #[error("the audience must not be empty")]
    EmptyAudience,
    /// More than 32 audiences.
    #[error("{0} audiences are more than the allowed 32")]
    TooManyAudiences(usize),
    /// More than 32 required claims.
    #[error("{0} required claims are more than the allowed 32")]
    TooManyRequiredClaims(usize),
    /// More than 256 allowed roles.
    #[error("{0} allowed roles are more than the allowed 256")]
    TooManyAllowedRoles(usize),
    /// Two issuers have the same name.
    #[error("two issuers are named {0:?}")]
    DuplicateIssuer(String),
    /// More than 32 issuers.
    #[error("{0} issuers are more than the allowed 32")]
    TooManyIssuers(usize),
    /// More leeway than can be a clock difference.
    #[error("leeway {0:?} is more than the allowed 300 s")]
    Leeway(Duration),
    /// Without a key nothing can be verified.
    #[error("at least one key is needed")]
    NoKeys,
    /// More than 32 keys.
    #[error("{0} keys are more than the allowed 32")]
    TooManyKeys(usize),
    /// Two keys of one algorithm have the same name.
    #[error("two {1} keys have the kid {0:?}")]
    DuplicateKid(String, Algorithm),
    /// A key name that a token could never sensibly carry.
    #[error("a kid must not be empty")]
    EmptyKid,
    /// A public key algorithm was asked of a shared secret.
    #[error("{0} takes {expected}, not a shared secret", expected = .0.expected_public_key())]
    NotASecretAlgorithm(Algorithm),
    /// A shared secret that is nothing but white space or zero bytes.
    #[error("the {0} secret is blank")]
    BlankSecret(Algorithm),
    /// A shared secret that is shorter than the hash (RFC 7518, 3.2).
    #[error("the {algorithm} secret has {found} bytes: at least {needed} are needed")]
    ShortSecret {
        /// The algorithm that the secret is for.
        algorithm: Algorithm,
        /// Its length in bytes.
        found: usize,
        /// The least length in bytes.
        needed: usize,
    },
    /// A shared secret algorithm was asked of a public key.
    #[error("{0} takes a shared secret, not a public key")]
    NotAPublicKeyAlgorithm(Algorithm),
    /// The text is not one PEM public key.
    #[error("expected one PEM block \"PUBLIC KEY\" with {expected}, found {found}", expected = .algorithm.expected_public_key())]
    NotAPublicKey {
        /// The algorithm that the key is for.
        algorithm: Algorithm,
        /// What stands there instead.
        found: &'static str,
    },
    /// The PEM is a public key, but not one that the algorithm can use.
    #[error("{0} takes {expected}; this key is another one", expected = .0.expected_public_key())]
    WrongPublicKey(Algorithm),
    /// The text is no JWK set (RFC 7517, 5).
    #[error("expected a JWK set: a JSON object with an array \"keys\"")]
    NotAKeySet,
    /// A JWK set of more than 1 MiB.
    #[error("a JWK set may have at most 1 MiB")]
    KeySetTooLarge,
    /// More than 64 keys in one JWK set.
    #[error("{0} keys in one JWK set are more than the allowed 64")]
    KeySetTooLong(usize),
}

/// Why a token was not accepted. The text is fixed and may be shown to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    /// Longer than 8 KiB; it was not looked at.
    #[error("the token is too large")]
    TooLarge,
    /// Not three base64url parts with a JSON header and JSON claims.
    #[error("the token is malformed")]
    Malformed,
    /// `alg` is `none`, unknown, or not the algorithm of the key that is meant.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The header has `crit`: it demands an extension (RFC 7515, 4.1.11), and none is understood.
    #[error("the token demands an unsupported extension")]
    Critical,
    /// No key has the token's `kid`.
    #[error("the token's key is unknown")]
    UnknownKey,
    /// The issuer's keys could not be fetched so far, or not for too long.
    #[error("the keys of the token's issuer are not available")]
    KeysUnavailable,
    /// The signature is not that of the key.
    #[error("the token's signature is not valid")]
    Signature,
    /// `exp`, `iss`, `aud` or `sub` is missing, or `sub` is empty.
    #[error("the token lacks a required claim")]
    MissingClaim,
    /// A claim has a type that it must not have.
    #[error("a claim of the token is malformed")]
    InvalidClaim,
    /// The roles are neither a list of strings nor one string, or too many, or too long.
    #[error("the token's roles are malformed, or too many")]
    Roles,
    /// A claim that the issuer's rules ask for is missing or has another value.
    #[error("the token lacks a claim that is asked for here")]
    RequiredClaim,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is another issuer.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// `aud` names others.
    #[error("the token is not meant for this audience")]
    Audience,
}

impl TokenError {
    /// A short fixed name for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Signature => "signature",
            Self::MissingClaim => "missing_claim",
            Self::InvalidClaim => "invalid_claim",
            Self::Roles => "roles",
            Self::RequiredClaim => "required_claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
        }
    }
}
