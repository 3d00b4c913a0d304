//! The JWS compact form (RFC 7515, 7.1): `base64url(header).base64url(payload).base64url(signature)`.
//!
//! Owns taking it apart and putting it together, nothing about keys or claims.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
// Without padding, and refusing bits that are set behind the last byte: one token, one spelling.
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Algorithm, MAX_TOKEN_BYTES, TokenError, json};
use crate::error::{IpcError, IpcResult};

/// The header fields that decide something; all others are ignored, keys inside the token included.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

// Also for `null`: whoever writes the field means something by it.
pub(super) fn is_present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

pub(in crate::security) struct Jws<'a> {
    pub(super) header: Header,
    pub(in crate::security) payload: Vec<u8>,
    /// What was signed: header and payload as they were sent.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Jws<'a> {
    pub(in crate::security) fn parse(token: &'a str) -> Result<Self, TokenError> {
        // Before anything else, so that a huge token costs nothing.
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        // A third dot would stand in the payload, where base64url refuses it.
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = Value::Object(json::object(&decode(header)?)?);
        let header = Header::deserialize(header).map_err(|_| TokenError::Malformed)?;
        if header.crit {
            return Err(TokenError::Critical);
        }
        Ok(Self {
            header,
            payload: decode(payload)?,
            signed: signed.as_bytes(),
            signature: decode(signature)?,
        })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)
}

/// The first part of a token, with its dot; the same for every token of a signer.
pub(crate) fn encode_header(algorithm: Algorithm) -> String {
    let json = format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#);
    URL_SAFE_NO_PAD.encode(json) + "."
}

/// The whole token. Refuses one that no verifier would read.
pub(crate) fn encode_claims(
    header: &str,
    claims: &impl Serialize,
    sign: impl FnOnce(&[u8]) -> IpcResult<Vec<u8>>,
) -> IpcResult<String> {
    let claims = serde_json::to_vec(claims)
        .map_err(|error| IpcError::Serialization(format!("token claims: {error}")))?;
    let mut token = header.to_owned();
    URL_SAFE_NO_PAD.encode_string(claims, &mut token);
    let signature = sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    if token.len() > MAX_TOKEN_BYTES {
        return Err(IpcError::InvalidArgument(format!(
            "subject and roles make a token of {} bytes: at most {MAX_TOKEN_BYTES} are accepted",
            token.len()
        )));
    }
    Ok(token)
}

/// Seconds since 1970, as tokens count them; a clock before that counts as 0.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
