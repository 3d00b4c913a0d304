//! Tokens, good ones and every kind of bad one.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};

/// The claims of a token to be signed; by default what the gateway accepts.
#[derive(Clone, Debug)]
pub struct Token {
    claims: Value,
    kid: Option<String>,
}

/// A key pair that signs tokens, in PEM.
pub struct SigningPair {
    /// How it signs.
    pub algorithm: Algorithm,
    /// PKCS#8.
    pub private: String,
    /// SubjectPublicKeyInfo.
    pub public: String,
}

impl SigningPair {
    /// A new one for RS256, ES256 or EdDSA.
    pub fn new(algorithm: Algorithm) -> Self {
        let kind: &SignatureAlgorithm = match algorithm {
            Algorithm::RS256 => &rcgen::PKCS_RSA_SHA256,
            Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            other => panic!("no key pair for {other:?}"),
        };
        let key = KeyPair::generate_for(kind).unwrap();
        Self {
            algorithm,
            private: key.serialize_pem(),
            public: key.public_key_pem(),
        }
    }
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

impl Token {
    /// A token for one hour.
    pub fn new(subject: &str, roles: &[&str]) -> Self {
        let claims = json!({
            "sub": subject,
            "roles": roles,
            "iss": "intellirouter",
            "aud": "intellirouter-services",
            "iat": now(),
            "exp": now() + 3600,
        });
        Self { claims, kid: None }
    }

    /// With another value for a claim; without the claim for `null`.
    pub fn with(mut self, claim: &str, value: impl Into<Value>) -> Self {
        let claims = self.claims.as_object_mut().expect("claims are an object");
        match value.into() {
            Value::Null => drop(claims.remove(claim)),
            value => drop(claims.insert(claim.into(), value)),
        }
        self
    }

    /// With a key id in its header.
    pub fn kid(mut self, kid: &str) -> Self {
        self.kid = Some(kid.into());
        self
    }

    /// Signed with HS256.
    pub fn hs256(&self, secret: &[u8]) -> String {
        self.sign(Algorithm::HS256, &EncodingKey::from_secret(secret))
    }

    /// Signed with a key pair.
    pub fn signed(&self, pair: &SigningPair) -> String {
        let pem = pair.private.as_bytes();
        let key = match pair.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem),
            _ => EncodingKey::from_ed_pem(pem),
        };
        self.sign(pair.algorithm, &key.unwrap())
    }

    /// With `"alg": "none"` as written and an empty signature.
    pub fn unsigned(&self, none: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!(
            "{}.{}.",
            part(&json!({"alg": none, "typ": "JWT"})),
            part(&self.claims)
        )
    }

    fn sign(&self, algorithm: Algorithm, key: &EncodingKey) -> String {
        let mut header = Header::new(algorithm);
        header.kid = self.kid.clone();
        encode(&header, &self.claims, key).unwrap()
    }
}
