//! The signature algorithms that a token may use, and what each asks of its key.
//!
//! Left out on purpose: `none`, and ES256K, which hardly any issuer uses.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{hmac, signature};

/// A JWS signature algorithm (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the registered ones and say all there is to say.
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// What sort of key an algorithm takes.
pub(super) enum KeyKind {
    Hmac(hmac::Algorithm),
    Rsa(&'static signature::RsaParameters),
    Curve(&'static dyn signature::VerificationAlgorithm),
}

impl Algorithm {
    /// All of them, in the order in which messages list them.
    pub const ALL: [Self; 13] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The registered name, as in a token's `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name. Letter case counts (RFC 7515, 4.1.1).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Whether the key is a shared secret, and not a public key.
    pub const fn is_hmac(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    pub(super) fn key_kind(self) -> KeyKind {
        match self {
            Self::Hs256 => KeyKind::Hmac(hmac::HMAC_SHA256),
            Self::Hs384 => KeyKind::Hmac(hmac::HMAC_SHA384),
            Self::Hs512 => KeyKind::Hmac(hmac::HMAC_SHA512),
            Self::Rs256 => KeyKind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => KeyKind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => KeyKind::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => KeyKind::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => KeyKind::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => KeyKind::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            Self::Es256 => KeyKind::Curve(&signature::ECDSA_P256_SHA256_FIXED),
            Self::Es384 => KeyKind::Curve(&signature::ECDSA_P384_SHA384_FIXED),
            Self::Es512 => KeyKind::Curve(&signature::ECDSA_P521_SHA512_FIXED),
            Self::EdDsa => KeyKind::Curve(&signature::ED25519),
        }
    }

    /// The public key that it takes, in words for an error.
    pub(super) const fn expected_public_key(self) -> &'static str {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => "a shared secret",
            Self::Es256 => "a P-256 public key",
            Self::Es384 => "a P-384 public key",
            Self::Es512 => "a P-521 public key",
            Self::EdDsa => "an Ed25519 public key",
            _ => "an RSA public key of 2048 to 8192 bits",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name is none of the supported ones.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown algorithm {0:?}: expected HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, \
     PS512, ES256, ES384, ES512 or EdDSA"
)]
pub struct UnknownAlgorithm(String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name).ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_found_by_its_name_and_listed_in_the_error() {
        let error = "none".parse::<Algorithm>().unwrap_err().to_string();
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert!(error.contains(algorithm.name()), "{algorithm}");
        }
    }

    #[test]
    fn names_are_compared_letter_for_letter() {
        for name in ["", "none", "None", "hs256", "HS256 ", "ES256K", "EDDSA"] {
            assert_eq!(Algorithm::from_name(name), None, "{name:?}");
        }
    }
}
