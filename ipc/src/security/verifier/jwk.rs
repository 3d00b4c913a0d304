//! A JWK set (RFC 7517; RFC 7518, 6 and RFC 8037, 2 for the kinds of keys) becomes verification
//! keys.
//!
//! Owns which keys of a set are used and for which algorithms: each JWK serves the one of its `alg`,
//! or without `alg` those that its kind and the issuer's list allow, each as a key of its own, so
//! that here too a key is bound to one algorithm. A key that can't be used (for encryption, of an
//! unknown kind, too short, with private members) is skipped with a reason; only what is no key set
//! at all fails.
//!
//! Limits: 64 keys, 1 MiB. A shared secret (`oct`) is used only where the list names its algorithm:
//! whoever can read the set can sign with it.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::jws::is_present;
use super::{Algorithm, KeyError, VerificationKey};

/// The largest JWK set that is read, in bytes.
pub const MAX_JWK_SET_BYTES: usize = 1024 * 1024;

/// The most keys of one JWK set.
pub const MAX_JWK_SET_KEYS: usize = 64;

/// What a JWK set gives.
#[derive(Debug)]
pub struct JwkSet {
    /// The keys that can be used, each for one algorithm. May be empty.
    pub keys: Vec<VerificationKey>,
    /// The other ones.
    pub skipped: Vec<SkippedKey>,
}

/// A key of a set that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its place in the set, from 0.
    pub index: usize,
    /// Its name, if it has a readable one.
    pub kid: Option<String>,
    /// Why. Never carries the key.
    pub reason: String,
}

#[derive(Deserialize)]
struct RawSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members that decide something; all others are ignored (RFC 7517, 4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    d: bool,
    #[serde(default, deserialize_with = "is_present")]
    p: bool,
    #[serde(default, deserialize_with = "is_present")]
    q: bool,
}

type Reason = String;

impl JwkSet {
    /// Reads a set. With `allowed`, keys serve these algorithms only.
    pub fn parse(json: &[u8], allowed: Option<&[Algorithm]>) -> Result<Self, KeyError> {
        if json.len() > MAX_JWK_SET_BYTES {
            return Err(KeyError::KeySetTooLarge);
        }
        let set: RawSet<'_> = serde_json::from_slice(json).map_err(|_| KeyError::NotAKeySet)?;
        if set.keys.len() > MAX_JWK_SET_KEYS {
            return Err(KeyError::KeySetTooLong(set.keys.len()));
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, text) in set.keys.into_iter().enumerate() {
            // Read one by one: a key of a form yet unknown must not spoil the others.
            let jwk: Option<Jwk> = serde_json::from_str(text.get()).ok();
            let kid = jwk.as_ref().and_then(|jwk| jwk.kid.clone());
            let read = jwk
                .ok_or_else(|| "it is no JWK".to_owned())
                .and_then(|jwk| jwk.keys(allowed));
            match read {
                Ok(read) => keys.extend(read),
                Err(reason) => skipped.push(SkippedKey { index, kid, reason }),
            }
        }
        Ok(Self { keys, skipped })
    }
}

impl Jwk {
    fn keys(&self, allowed: Option<&[Algorithm]>) -> Result<Vec<VerificationKey>, Reason> {
        let algorithms = self.algorithms(allowed)?;
        let bytes = self.bytes(algorithms[0])?;
        let mut keys = Vec::with_capacity(algorithms.len());
        let mut refused = None;
        for algorithm in algorithms {
            let kid = self.kid.clone();
            let key = match algorithm.is_hmac() {
                true => VerificationKey::hmac(kid, algorithm, &bytes),
                false => VerificationKey::from_public_bytes(kid, algorithm, &bytes),
            };
            match key {
                Ok(key) => keys.push(key),
                Err(error) => refused = Some(error.to_string()),
            }
        }
        // A secret may be long enough for HS256 and too short for HS512.
        match (keys.is_empty(), refused) {
            (true, Some(reason)) => Err(reason),
            _ => Ok(keys),
        }
    }

    /// What the key may verify. Not empty.
    fn algorithms(&self, allowed: Option<&[Algorithm]>) -> Result<Vec<Algorithm>, Reason> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("it is not for signatures".into());
        }
        if let Some(operations) = &self.key_ops
            && !operations.iter().any(|one| one == "verify")
        {
            return Err("it is not for verifying".into());
        }
        let kind = self.kind()?;
        let fitting = match &self.alg {
            None => kind.to_vec(),
            Some(name) => {
                let named = Algorithm::from_name(name)
                    .ok_or_else(|| format!("its algorithm {name:?} is not supported"))?;
                if !kind.contains(&named) {
                    return Err(format!("{named} does not fit a key of its kind"));
                }
                vec![named]
            }
        };
        let Some(allowed) = allowed else {
            return match self.kty.as_str() {
                "oct" => Err(
                    "a shared secret in a key set is used only where the allowed \
                              algorithms name its own"
                        .into(),
                ),
                _ => Ok(fitting),
            };
        };
        let usable: Vec<_> = fitting
            .into_iter()
            .filter(|one| allowed.contains(one))
            .collect();
        match usable.is_empty() {
            true => Err("none of the allowed algorithms fits it".into()),
            false => Ok(usable),
        }
    }

    fn kind(&self) -> Result<&'static [Algorithm], Reason> {
        use Algorithm::*;
        Ok(match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => &[Rs256, Rs384, Rs512, Ps256, Ps384, Ps512],
            ("EC", Some("P-256")) => &[Es256],
            ("EC", Some("P-384")) => &[Es384],
            ("EC", Some("P-521")) => &[Es512],
            ("OKP", Some("Ed25519")) => &[EdDsa],
            ("oct", _) => &[Hs256, Hs384, Hs512],
            ("EC" | "OKP", curve) => {
                let curve = curve.unwrap_or_default();
                return Err(format!("its curve {curve:?} is not supported"));
            }
            (other, _) => return Err(format!("its kind {other:?} is not supported")),
        })
    }

    /// The key, as [`VerificationKey`] takes it.
    fn bytes(&self, algorithm: Algorithm) -> Result<Vec<u8>, Reason> {
        if self.kty != "oct" && (self.d || self.p || self.q) {
            return Err("it has private members, which do not belong in a key set".into());
        }
        let wrong = || KeyError::WrongPublicKey(algorithm).to_string();
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => member("k", self.k.as_deref()),
            ("RSA", _) => {
                let components = RsaPublicKeyComponents {
                    n: number("n", self.n.as_deref())?,
                    e: number("e", self.e.as_deref())?,
                };
                let der = components.as_der().map_err(|_| wrong())?;
                Ok(der.as_ref().to_vec())
            }
            ("OKP", _) => exactly(32, member("x", self.x.as_deref())?).ok_or_else(wrong),
            (_, curve) => {
                // RFC 7518, 6.2.1.2: always the full size of a coordinate.
                let size = match curve {
                    Some("P-256") => 32,
                    Some("P-384") => 48,
                    _ => 66,
                };
                let x = exactly(size, member("x", self.x.as_deref())?).ok_or_else(wrong)?;
                let y = exactly(size, member("y", self.y.as_deref())?).ok_or_else(wrong)?;
                // SEC 1, 2.3.3: an uncompressed point.
                Ok([&[4], x.as_slice(), y.as_slice()].concat())
            }
        }
    }
}

fn member(name: &str, text: Option<&str>) -> Result<Vec<u8>, Reason> {
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .ok_or_else(|| format!("{name:?} is missing or no base64url"))
}

/// RFC 7518, 2: without leading zeros. Some issuers write them nevertheless, and they change
/// nothing.
fn number(name: &str, text: Option<&str>) -> Result<Vec<u8>, Reason> {
    let bytes = member(name, text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Ok(bytes[zeros..].to_vec())
}

fn exactly(size: usize, bytes: Vec<u8>) -> Option<Vec<u8>> {
    (bytes.len() == size).then_some(bytes)
}

#[cfg(test)]
mod tests;
