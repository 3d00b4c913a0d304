//! Tokens from a shared secret: what services of one installation use among themselves.
//!
//! Owns issuing HS256 tokens and checking them (with the same verifier as the gateway's). It does
//! not own the secret's origin. With a shared secret everyone who can check can also issue; where
//! that is too much trust, the gateway takes public keys instead.
//!
//! `new` can't fail, so an unusable config (a secret under 32 bytes, say) makes every operation fail
//! with [`IpcError::Security`]. No clock difference is tolerated: a token ends when it says so.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use serde::Deserialize;

use super::verifier::{
    Algorithm, Claims, TokenVerifier, VerificationKey, VerifierSettings, encode_claims,
    encode_header, hmac_key, unix_seconds,
};
use crate::error::{IpcError, IpcResult};

/// How tokens are issued and what they must say.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The shared HS256 secret: at least 32 bytes.
    pub secret: String,
    /// The `iss` of tokens.
    pub issuer: String,
    /// The `aud` of tokens.
    pub audience: String,
    /// How long a new token lives, in seconds. At least 1. Tokens end on whole seconds, so one may
    /// live up to a second less.
    pub expiration_seconds: u64,
}

/// By hand, so that the secret can't end up in a log.
impl fmt::Debug for JwtConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtConfig")
            .field("secret", &"[redacted]")
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .field("expiration_seconds", &self.expiration_seconds)
            .finish()
    }
}

/// Issues and checks tokens of one [`JwtConfig`].
#[derive(Debug)]
pub struct JwtAuthenticator {
    // The reason is kept for every later call, since `new` can't return it.
    usable: Result<Usable, String>,
}

/// A token, and its life in seconds since 1970.
pub(super) struct Issued {
    pub(super) token: String,
    pub(super) iat: u64,
    pub(super) exp: u64,
}

struct Usable {
    verifier: TokenVerifier,
    signing_key: hmac::Key,
    header: String,
    issuer: String,
    audience: String,
    lifetime: u64,
}

impl fmt::Debug for Usable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usable")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

impl JwtAuthenticator {
    /// Takes a config; faults in it are reported by every operation.
    pub fn new(config: JwtConfig) -> Self {
        Self {
            usable: Usable::new(config),
        }
    }

    /// A token for a service, valid from now for the configured time.
    ///
    /// Fails when the config is unusable, when `service` is empty, and when the roles make a token
    /// over 8 KiB, which no verifier would read.
    pub fn generate_token(&self, service: &str, roles: Vec<String>) -> IpcResult<String> {
        self.generate_at(service, &roles, SystemTime::now(), 0)
            .map(|issued| issued.token)
    }

    /// What a valid token says. Fails with [`IpcError::Security`] and the reason.
    pub fn validate_token(&self, token: &str) -> IpcResult<Claims> {
        let verifier = &self.usable()?.verifier;
        verifier
            .verify(token)
            .map_err(|error| IpcError::Security(error.to_string()))
    }

    /// A token as of `now`. It lives for the configured time, or `at_least` seconds if that is longer.
    pub(super) fn generate_at(
        &self,
        service: &str,
        roles: &[String],
        now: SystemTime,
        at_least: u64,
    ) -> IpcResult<Issued> {
        let usable = self.usable()?;
        if service.is_empty() {
            return Err(IpcError::InvalidArgument(
                "the service name must not be empty".into(),
            ));
        }
        let iat = unix_seconds(now);
        let exp = iat.saturating_add(usable.lifetime.max(at_least));
        let claims = Claims {
            sub: service.to_owned(),
            iss: usable.issuer.clone(),
            aud: usable.audience.clone(),
            exp,
            iat,
            roles: roles.to_vec(),
        };
        let token = encode_claims(&usable.header, &claims, |message| {
            Ok(hmac::sign(&usable.signing_key, message).as_ref().to_vec())
        })?;
        Ok(Issued { token, iat, exp })
    }

    /// The verifier, for a server that checks callers; fails when the config is unusable.
    pub(super) fn verifier(&self) -> IpcResult<&TokenVerifier> {
        self.usable().map(|usable| &usable.verifier)
    }

    fn usable(&self) -> IpcResult<&Usable> {
        self.usable
            .as_ref()
            .map_err(|reason| IpcError::Security(reason.clone()))
    }
}

impl Usable {
    fn new(config: JwtConfig) -> Result<Self, String> {
        let refuse = |error: &dyn fmt::Display| format!("the JWT config is unusable: {error}");
        if config.expiration_seconds == 0 {
            return Err(refuse(&"expiration_seconds must be at least 1"));
        }
        let secret = config.secret.as_bytes();
        let signing_key = hmac_key(Algorithm::Hs256, secret).map_err(|error| refuse(&error))?;
        let key = VerificationKey::hmac(None, Algorithm::Hs256, secret)
            .map_err(|error| refuse(&error))?;
        let settings = VerifierSettings {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway: Duration::ZERO,
        };
        Ok(Self {
            verifier: TokenVerifier::new(settings, vec![key]).map_err(|error| refuse(&error))?,
            signing_key,
            header: encode_header(Algorithm::Hs256),
            issuer: config.issuer,
            audience: config.audience,
            lifetime: config.expiration_seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> JwtConfig {
        JwtConfig {
            secret: "0123456789abcdef0123456789abcdef".to_owned(),
            issuer: "intellirouter".to_owned(),
            audience: "intellirouter-services".to_owned(),
            expiration_seconds: 3600,
        }
    }

    #[test]
    fn a_generated_token_says_who_what_and_how_long() {
        let jwt = JwtAuthenticator::new(config());
        let token = jwt
            .generate_token("chain_engine", vec!["reader".into()])
            .unwrap();

        let claims = jwt.validate_token(&token).unwrap();

        assert_eq!(claims.sub, "chain_engine");
        assert_eq!(claims.iss, "intellirouter");
        assert_eq!(claims.aud, "intellirouter-services");
        assert_eq!(claims.roles, ["reader"]);
        assert_eq!(claims.exp - claims.iat, 3600);
    }

    #[test]
    fn an_independent_library_accepts_a_generated_token() {
        let jwt = JwtAuthenticator::new(config());
        let token = jwt
            .generate_token("memory", vec!["a".into(), "b".into()])
            .unwrap();

        let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
        rules.set_issuer(&["intellirouter"]);
        rules.set_audience(&["intellirouter-services"]);
        let key = jsonwebtoken::DecodingKey::from_secret(config().secret.as_bytes());
        let data = jsonwebtoken::decode::<Claims>(&token, &key, &rules).unwrap();

        assert_eq!(data.claims.sub, "memory");
        assert_eq!(data.claims.roles, ["a", "b"]);
    }

    #[test]
    fn a_token_of_another_secret_issuer_or_audience_is_refused_as_a_security_error() {
        let jwt = JwtAuthenticator::new(config());
        for other in [
            JwtConfig {
                secret: "f".repeat(32),
                ..config()
            },
            JwtConfig {
                issuer: "other".into(),
                ..config()
            },
            JwtConfig {
                audience: "other".into(),
                ..config()
            },
        ] {
            let token = JwtAuthenticator::new(other)
                .generate_token("memory", vec![])
                .unwrap();
            let error = jwt.validate_token(&token).unwrap_err();
            assert!(matches!(error, IpcError::Security(_)), "{error}");
        }
    }

    #[test]
    fn a_token_ends_to_the_second_when_it_says_so() {
        let jwt = JwtAuthenticator::new(config());
        let issued = SystemTime::now();
        let Issued { token, iat, exp } = jwt.generate_at("memory", &[], issued, 0).unwrap();
        let verifier = jwt.verifier().unwrap();
        let lifetime = Duration::from_secs(3600);

        assert_eq!(exp - iat, 3600);
        assert!(
            verifier
                .verify_at(&token, issued + Duration::from_secs(3599))
                .is_ok()
        );
        assert_eq!(
            verifier.verify_at(&token, issued + lifetime),
            Err(crate::security::TokenError::Expired)
        );
    }

    #[test]
    fn an_unusable_config_makes_every_operation_fail_with_the_reason_but_not_the_secret() {
        let table = [
            (
                JwtConfig {
                    secret: "tooshortsecret".into(),
                    ..config()
                },
                "14 bytes",
            ),
            (
                JwtConfig {
                    secret: String::new(),
                    ..config()
                },
                "blank",
            ),
            (
                JwtConfig {
                    secret: " ".repeat(40),
                    ..config()
                },
                "blank",
            ),
            (
                JwtConfig {
                    issuer: String::new(),
                    ..config()
                },
                "issuer",
            ),
            (
                JwtConfig {
                    audience: String::new(),
                    ..config()
                },
                "audience",
            ),
            (
                JwtConfig {
                    expiration_seconds: 0,
                    ..config()
                },
                "expiration_seconds",
            ),
        ];
        for (config, reason) in table {
            let jwt = JwtAuthenticator::new(config);
            for error in [
                jwt.generate_token("memory", vec![]).unwrap_err(),
                jwt.validate_token("a.b.c").unwrap_err(),
            ] {
                let text = error.to_string();
                assert!(matches!(error, IpcError::Security(_)), "{text}");
                assert!(text.contains(reason), "{text}");
                assert!(!text.contains("tooshortsecret"), "{text}");
            }
        }
    }

    #[test]
    fn a_token_without_a_subject_or_too_large_to_be_read_is_not_issued() {
        let jwt = JwtAuthenticator::new(config());
        let many = vec!["role".repeat(100); 20];
        for (service, roles) in [("", vec![]), ("memory", many)] {
            let error = jwt.generate_token(service, roles).unwrap_err();
            assert!(matches!(error, IpcError::InvalidArgument(_)), "{error}");
        }
    }

    #[test]
    fn the_secret_never_shows_in_debug_output() {
        let shown = format!("{:?} {:?}", config(), JwtAuthenticator::new(config()));
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
    }
}
