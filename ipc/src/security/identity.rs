//! The identity that the gateway vouches for: a short-lived ES256 token about the caller, sent
//! upstream in a header of its own.
//!
//! Owns signing it (gateway) and checking it (backends). It does not own when it is sent or cached.
//! A backend needs only the public key, so that no backend can speak for a caller; the audience is
//! the backend's own name, so that a token for one is worth nothing at another.
//!
//! Limits: a token lives 60 s at most, and clocks may differ by 10 s.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::verifier::{
    Algorithm, Claims, KeyError, TokenError, TokenVerifier, VerificationKey, VerifierSettings,
    encode_claims, encode_header, unix_seconds,
};
use crate::error::{IpcError, IpcResult};

/// The header that carries the identity token. The gateway removes it from what callers send.
pub const IDENTITY_HEADER: &str = "x-intellirouter-identity";

/// The longest life of an identity token.
pub const MAX_IDENTITY_LIFETIME: Duration = Duration::from_secs(60);

// Between hosts of one installation; more would only lengthen the life of a stolen token.
const LEEWAY: Duration = Duration::from_secs(10);

/// Signs identity tokens. For the gateway alone.
pub struct IdentitySigner {
    key: EcdsaKeyPair,
    header: String,
    issuer: String,
    lifetime: u64,
}

impl IdentitySigner {
    /// `pem` is one P-256 key in PKCS#8; `lifetime` is 1 to 60 s.
    pub fn from_pkcs8_pem(pem: &[u8], issuer: &str, lifetime: Duration) -> IpcResult<Self> {
        let refuse = |what: &str| IpcError::Security(format!("the identity key: {what}"));
        if lifetime < Duration::from_secs(1) || lifetime > MAX_IDENTITY_LIFETIME {
            return Err(IpcError::InvalidArgument(format!(
                "an identity lifetime of {lifetime:?}: expected 1 to 60 s"
            )));
        }
        if issuer.is_empty() {
            return Err(IpcError::InvalidArgument(
                "the identity issuer must not be empty".into(),
            ));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem)
            .map_err(|_| refuse("expected one PEM block \"PRIVATE KEY\" (PKCS#8)"))?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
                .map_err(|_| refuse("expected an EC key on the curve P-256"))?;
        Ok(Self {
            key,
            header: encode_header(Algorithm::Es256),
            issuer: issuer.to_owned(),
            lifetime: lifetime.as_secs(),
        })
    }

    /// A token that says to `audience`: this caller is `subject` and has `roles`.
    pub fn sign(
        &self,
        subject: &str,
        roles: &[String],
        audience: &str,
        now: SystemTime,
    ) -> IpcResult<String> {
        self.sign_from(None, subject, roles, audience, now)
    }

    /// As [`Self::sign`], for callers of several issuers: it says too which of them named this one,
    /// so that a backend can tell two callers of the same name apart.
    pub fn sign_from(
        &self,
        origin: Option<&str>,
        subject: &str,
        roles: &[String],
        audience: &str,
        now: SystemTime,
    ) -> IpcResult<String> {
        if subject.is_empty() || audience.is_empty() {
            return Err(IpcError::InvalidArgument(
                "an identity needs a subject and an audience".into(),
            ));
        }
        let iat = unix_seconds(now);
        let claims = Claims {
            sub: subject.to_owned(),
            iss: self.issuer.clone(),
            aud: audience.to_owned(),
            exp: iat.saturating_add(self.lifetime),
            iat,
            roles: roles.to_vec(),
        };
        let claims = IdentityClaims { claims, origin };
        encode_claims(&self.header, &claims, |message| {
            let signature = self
                .key
                .sign(&SystemRandom::new(), message)
                .map_err(|_| IpcError::Internal("signing an identity failed".into()))?;
            Ok(signature.as_ref().to_vec())
        })
    }
}

#[derive(Serialize)]
struct IdentityClaims<'o> {
    #[serde(flatten)]
    claims: Claims,
    // Named as `ORIGIN_CLAIM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<&'o str>,
}

impl fmt::Debug for IdentitySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentitySigner")
            .field("issuer", &self.issuer)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// Checks identity tokens. For a backend, with the gateway's public key.
#[derive(Debug)]
pub struct IdentityVerifier {
    verifier: TokenVerifier,
}

impl IdentityVerifier {
    /// `pem` is one P-256 public key; `audience` is the name that the gateway's config gives to this
    /// backend.
    pub fn from_public_pem(pem: &[u8], issuer: &str, audience: &str) -> Result<Self, KeyError> {
        let key = VerificationKey::from_public_pem(None, Algorithm::Es256, pem)?;
        let settings = VerifierSettings {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            leeway: LEEWAY,
        };
        Ok(Self {
            verifier: TokenVerifier::new(settings, vec![key])?,
        })
    }

    /// Whom the gateway vouches for.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verifier.verify(token)
    }

    /// As [`Self::verify`], with the issuer that the gateway had the caller from. The gateway says it
    /// where callers come from more than one; `sub` alone then names nobody.
    pub fn verify_with_origin(&self, token: &str) -> Result<(Claims, Option<String>), TokenError> {
        let (claims, raw) = self.verifier.verify_raw(token, SystemTime::now())?;
        let origin = raw.origin()?.map(str::to_owned);
        Ok((claims, origin))
    }

    pub(super) fn verifier(&self) -> &TokenVerifier {
        &self.verifier
    }

    #[cfg(test)]
    fn verify_at(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        self.verifier.verify_at(token, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::test_keys::{ed25519_pair, p256_pair, p384_pair};

    const MINUTE: Duration = Duration::from_secs(60);

    fn signer(private_pem: &str) -> IdentitySigner {
        IdentitySigner::from_pkcs8_pem(private_pem.as_bytes(), "gw", MINUTE).unwrap()
    }

    #[test]
    fn a_backend_learns_who_calls_and_with_which_roles() {
        let pair = p256_pair();
        let verifier =
            IdentityVerifier::from_public_pem(pair.public.as_bytes(), "gw", "memory").unwrap();
        let token = signer(&pair.private)
            .sign("alice", &["reader".to_owned()], "memory", SystemTime::now())
            .unwrap();

        let claims = verifier.verify(&token).unwrap();

        assert_eq!(
            (claims.sub.as_str(), claims.roles.as_slice()),
            ("alice", &["reader".into()][..])
        );
        assert_eq!(claims.exp - claims.iat, 60);
    }

    #[test]
    fn a_token_for_one_backend_is_worth_nothing_at_another_or_a_minute_later() {
        let pair = p256_pair();
        let now = SystemTime::now();
        let token = signer(&pair.private)
            .sign("alice", &[], "memory", now)
            .unwrap();
        let public = pair.public.as_bytes();
        let memory = IdentityVerifier::from_public_pem(public, "gw", "memory").unwrap();
        let other = IdentityVerifier::from_public_pem(public, "gw", "rag").unwrap();
        let stranger = p256_pair();
        let other_key =
            IdentityVerifier::from_public_pem(stranger.public.as_bytes(), "gw", "memory").unwrap();

        assert_eq!(other.verify(&token), Err(TokenError::Audience));
        assert_eq!(other_key.verify(&token), Err(TokenError::Signature));
        assert!(
            memory
                .verify_at(&token, now + Duration::from_secs(69))
                .is_ok(),
            "within the leeway"
        );
        assert_eq!(
            memory.verify_at(&token, now + Duration::from_secs(70)),
            Err(TokenError::Expired)
        );
    }

    #[test]
    fn where_callers_come_from_several_issuers_a_backend_learns_from_which() {
        let pair = p256_pair();
        let signer = signer(&pair.private);
        let public = pair.public.as_bytes();
        let verifier = IdentityVerifier::from_public_pem(public, "gw", "memory").unwrap();
        for origin in [None, Some("https://issuer.example")] {
            let now = SystemTime::now();
            let token = signer
                .sign_from(origin, "alice", &[], "memory", now)
                .unwrap();
            let (claims, found) = verifier.verify_with_origin(&token).unwrap();
            assert_eq!((claims.sub.as_str(), found.as_deref()), ("alice", origin));
            assert_eq!(
                verifier.verify(&token),
                Ok(claims),
                "who does not ask is not disturbed"
            );
        }
    }

    #[test]
    fn only_a_p256_key_in_pkcs8_signs_and_the_error_says_so() {
        for (pem, expected) in [
            (p384_pair().private, "P-256"),
            (ed25519_pair().private, "P-256"),
            (p256_pair().public, "PKCS#8"),
            ("rubbish".to_owned(), "PKCS#8"),
        ] {
            let error = IdentitySigner::from_pkcs8_pem(pem.as_bytes(), "gw", MINUTE).unwrap_err();
            assert!(matches!(error, IpcError::Security(_)));
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_lifetime_over_a_minute_or_under_a_second_is_refused() {
        let pair = p256_pair();
        for lifetime in [
            Duration::ZERO,
            Duration::from_millis(999),
            MINUTE + Duration::from_secs(1),
        ] {
            let signer = IdentitySigner::from_pkcs8_pem(pair.private.as_bytes(), "gw", lifetime);
            assert!(
                matches!(signer, Err(IpcError::InvalidArgument(_))),
                "{lifetime:?}"
            );
        }
    }

    #[test]
    fn nobody_is_vouched_for_without_a_name() {
        let signer = signer(&p256_pair().private);
        for (subject, audience) in [("", "memory"), ("alice", "")] {
            let result = signer.sign(subject, &[], audience, SystemTime::now());
            assert!(matches!(result, Err(IpcError::InvalidArgument(_))));
        }
    }
}
