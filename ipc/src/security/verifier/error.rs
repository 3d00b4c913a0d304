//! Why a key was not loaded, and why a token was not accepted.

use std::time::Duration;

use super::Algorithm;

/// Why a verifier or one of its keys cannot be used. Never carries the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The issuer is the empty string.
    #[error("the issuer must not be empty")]
    EmptyIssuer,
    /// The audience is the empty string.
    #[error("the audience must not be empty")]
    EmptyAudience,
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
    /// The signature is not that of the key.
    #[error("the token's signature is not valid")]
    Signature,
    /// `exp`, `iss`, `aud` or `sub` is missing, or `sub` is empty.
    #[error("the token lacks a required claim")]
    MissingClaim,
    /// A claim has a type that it must not have.
    #[error("a claim of the token is malformed")]
    InvalidClaim,
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
            Self::Signature => "signature",
            Self::MissingClaim => "missing_claim",
            Self::InvalidClaim => "invalid_claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
        }
    }
}
