//! A key that verifies signatures of one algorithm.
//!
//! Owns loading: what can't be a good key is refused here, with what was expected, and not at the
//! first token. Keys are parsed once.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::ParsedPublicKey;
use aws_lc_rs::{digest, hmac};
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::algorithm::KeyKind;
use super::{Algorithm, KeyError};

/// A key, the one algorithm that it is for, and its name in a key set, if it has one.
pub struct VerificationKey {
    kid: Option<String>,
    algorithm: Algorithm,
    material: Material,
    id: KeyId,
}

/// Tells one key from another: a hash of its algorithm and the key itself.
///
/// Neither the key's name nor the form in which it was given is part of it: a key that gets a name, or
/// moves from a PEM file to a key set, is the same key, and what it has signed holds. Has no `Debug`: of a weak secret it would tell too much.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::security) struct KeyId([u8; 32]);

impl KeyId {
    /// To be hashed further, never to be shown.
    pub(in crate::security) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn of(algorithm: Algorithm, key: &[u8]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(algorithm.name().as_bytes());
        // Keeps the name and the key after it apart.
        hash.update(&[0]);
        hash.update(key);
        let mut id = [0; 32];
        id.copy_from_slice(hash.finish().as_ref());
        Self(id)
    }
}

enum Material {
    // Boxed: over 1 KiB, against 56 bytes.
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl VerificationKey {
    /// A shared secret for HS256, HS384 or HS512: at least 32, 48 or 64 bytes, and not blank.
    pub fn hmac(
        kid: Option<String>,
        algorithm: Algorithm,
        secret: &[u8],
    ) -> Result<Self, KeyError> {
        let material = Material::Secret(Box::new(hmac_key(algorithm, secret)?));
        Self::new(kid, algorithm, material, secret)
    }

    /// A public key from one PEM block `PUBLIC KEY` (SubjectPublicKeyInfo).
    ///
    /// Certificates, private keys and PKCS#1 are refused and named in the error.
    pub fn from_public_pem(
        kid: Option<String>,
        algorithm: Algorithm,
        pem: &[u8],
    ) -> Result<Self, KeyError> {
        if algorithm.is_hmac() {
            return Err(KeyError::NotAPublicKeyAlgorithm(algorithm));
        }
        Self::from_public_bytes(kid, algorithm, &read_spki(algorithm, pem)?)
    }

    /// A public key as a SubjectPublicKeyInfo, or for the curves as a bare point.
    pub(super) fn from_public_bytes(
        kid: Option<String>,
        algorithm: Algorithm,
        bytes: &[u8],
    ) -> Result<Self, KeyError> {
        let params: &'static dyn aws_lc_rs::signature::VerificationAlgorithm =
            match algorithm.key_kind() {
                KeyKind::Hmac(_) => return Err(KeyError::NotAPublicKeyAlgorithm(algorithm)),
                KeyKind::Rsa(params) => {
                    // aws-lc-rs looks at the size of the key only when it verifies.
                    PublicEncryptingKey::from_der(bytes)
                        .map_err(|_| KeyError::WrongPublicKey(algorithm))?;
                    params
                }
                KeyKind::Curve(params) => params,
            };
        let key =
            ParsedPublicKey::new(params, bytes).map_err(|_| KeyError::WrongPublicKey(algorithm))?;
        // The same for a SubjectPublicKeyInfo and a bare point.
        let canonical = key
            .as_der()
            .map_err(|_| KeyError::WrongPublicKey(algorithm))?;
        Self::new(kid, algorithm, Material::Public(key), canonical.as_ref())
    }

    fn new(
        kid: Option<String>,
        algorithm: Algorithm,
        material: Material,
        canonical: &[u8],
    ) -> Result<Self, KeyError> {
        if kid.as_deref() == Some("") {
            return Err(KeyError::EmptyKid);
        }
        Ok(Self {
            id: KeyId::of(algorithm, canonical),
            kid,
            algorithm,
            material,
        })
    }

    /// The key's name, if it has one.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm that the key is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            // Compares in constant time.
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

// By hand, so that key material can't appear.
impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// A checked secret, for whoever signs with it too.
pub(in crate::security) fn hmac_key(
    algorithm: Algorithm,
    secret: &[u8],
) -> Result<hmac::Key, KeyError> {
    let KeyKind::Hmac(params) = algorithm.key_kind() else {
        return Err(KeyError::NotASecretAlgorithm(algorithm));
    };
    if secret
        .iter()
        .all(|byte| byte.is_ascii_whitespace() || *byte == 0)
    {
        return Err(KeyError::BlankSecret(algorithm));
    }
    let needed = params.digest_algorithm().output_len();
    if secret.len() < needed {
        return Err(KeyError::ShortSecret {
            algorithm,
            found: secret.len(),
            needed,
        });
    }
    Ok(hmac::Key::new(params, secret))
}

fn read_spki(algorithm: Algorithm, pem: &[u8]) -> Result<Vec<u8>, KeyError> {
    let refuse = |found| KeyError::NotAPublicKey { algorithm, found };
    let mut blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem);
    let (kind, der) = match blocks.next() {
        Some(Ok(block)) => block,
        Some(Err(_)) => return Err(refuse("a damaged PEM block")),
        // Other labels, "RSA PUBLIC KEY" among them, are skipped by the reader.
        None => return Err(refuse("no such block")),
    };
    match kind {
        SectionKind::PublicKey => {}
        SectionKind::Certificate => return Err(refuse("a certificate")),
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            return Err(refuse("a private key, which does not belong here"));
        }
        _ => return Err(refuse("another kind of block")),
    }
    match blocks.next() {
        None => Ok(der),
        // Silently using the first of several would surprise whoever appended a second.
        Some(_) => Err(refuse("more than one block")),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod vectors;
