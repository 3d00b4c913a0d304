//! Who calls: verifies the bearer token (RFC 6750, header only) and remembers
//! the result.
//!
//! Owns the cache of verified tokens and, per caller, the identity tokens that
//! go upstream. Does not decide what a caller may do: that is
//! [`super::roles`]; nor how tokens are judged and keys fetched: that is
//! [`intellirouter::security::Issuers`]. A call with a known token costs one
//! look-up by the whole token; `exp` and the key are checked on every hit, so
//! a cached token dies in time and with its key. A caller holds its proof and
//! nothing that fetches keys, however long its calls last. Only a token that names an
//! unknown key may wait, for one fetch of its issuer's keys. Fails with
//! UNAUTHENTICATED and a reason that tells nothing of the keys.
//!
//! A caller is a subject *of an issuer*: two issuers may give the same name.
//! The identity token for upstreams has `sub` and `roles` as the issuer gave
//! them, and `origin`, the issuer, where callers can come from more than one
//! and for callers that came by certificate.
//!
//! Of other claims it keeps those that channel rules name, where their value can be part of a
//! channel's name: at most 16 of 64 bytes.
//!
//! Bounds: 65,536 tokens and 32 MiB of token bytes, 65,536 callers; the least
//! used go first. Refused tokens are not remembered.

mod build;
mod identity;
pub(crate) mod status;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use intellirouter::events::ChannelName;
use intellirouter::security::{
    ClaimPath, IdentitySigner, IssuerStatus, Issuers, Standing, TokenError, Verified,
};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::calls::OpenCalls;
use crate::reply::Reply;
use build::Blueprint;
pub(crate) use identity::{CERTIFICATE_ISSUER, Identity, VerifiedWord};
use identity::{Caller, Claimed, Proof};

const CACHED_TOKENS: usize = 65_536;
const CACHED_TOKEN_BYTES: u64 = 32 * 1024 * 1024;
const CACHED_CALLERS: usize = 65_536;

#[derive(Clone)]
struct TokenBytes;

impl Weighter<Box<str>, Arc<Identity>> for TokenBytes {
    fn weight(&self, token: &Box<str>, _: &Arc<Identity>) -> u64 {
        token.len() as u64
    }
}

/// Who signs for the callers, and for how long.
struct Signing {
    signer: IdentitySigner,
    lifetime: Duration,
    /// The `aud` of each upstream, by index.
    audiences: Vec<String>,
}

/// Issuer, subject and roles.
type CallerKey = (Arc<str>, String, Vec<String>);

/// See the module's comment.
pub(crate) struct Authenticate {
    issuers: Issuers,
    signing: Signing,
    tokens: Cache<Box<str>, Arc<Identity>, TokenBytes>,
    callers: Cache<CallerKey, Arc<Caller>>,
    /// The claims that channel rules name.
    claims: Arc<[ClaimPath]>,
    blueprint: Blueprint,
    /// What is counted per subject, whatever the configuration.
    open: Arc<OpenCalls>,
}

impl Authenticate {
    fn new(issuers: Issuers, signing: Signing, blueprint: Blueprint, open: Arc<OpenCalls>) -> Self {
        Self {
            issuers,
            signing,
            tokens: Cache::with_weighter(CACHED_TOKENS, CACHED_TOKEN_BYTES, TokenBytes),
            callers: Cache::new(CACHED_CALLERS),
            claims: blueprint.claims.as_slice().into(),
            blueprint,
            open,
        }
    }

    /// The caller behind the `authorization` header. Waits only where the token
    /// names a key that is unknown so far.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Arc<Identity>, Reply> {
        let token = bearer(headers)?;
        if let Some(identity) = self.tokens.get(token) {
            if self.standing(&identity, now) == Standing::Current {
                return Ok(identity);
            }
            self.tokens.remove(token);
        }
        let verified = match self.issuers.verify_at(token, now) {
            Err(TokenError::UnknownKey | TokenError::KeysUnavailable) => {
                // Boxed: calls with known keys must not carry its state.
                Box::pin(self.issuers.verify_with_new_keys(token, now)).await
            }
            known => known,
        };
        let identity = Arc::new(self.identity(verified.map_err(refuse)?));
        self.tokens.insert(token.into(), identity.clone());
        Ok(identity)
    }

    /// A caller that proved with a certificate who it is. `issued_at` and
    /// `expires` are in seconds since 1970.
    pub(crate) fn by_certificate(
        &self,
        subject: &str,
        roles: &[String],
        issued_at: u64,
        expires: u64,
    ) -> Arc<Identity> {
        let key = (
            CERTIFICATE_ISSUER.into(),
            subject.to_owned(),
            roles.to_vec(),
        );
        Arc::new(Identity {
            caller: self.caller(key),
            expires,
            issued_at: Some(issued_at),
            token_id: None,
            claims: Claimed::default(),
            proof: Proof::Certificate,
        })
    }

    /// A caller whose token this or another gateway has verified before, as `word` says it. Fails
    /// where the token would not be accepted here and now.
    pub(crate) async fn by_word(
        &self,
        word: VerifiedWord,
        now: SystemTime,
    ) -> Result<Arc<Identity>, Reply> {
        let proof = self.issuers.readmit(&word.issuer, &word.mark, word.expires);
        let claim = |path: &ClaimPath| {
            let mut said = word.claims.iter();
            let found = said.find(|(name, _)| *name == path.to_string());
            found.and_then(|(_, value)| as_segment(value))
        };
        let identity = Identity {
            expires: word.expires,
            issued_at: word.issued_at,
            token_id: word.token_id.clone().map(String::into_boxed_str),
            claims: Claimed {
                names: self.claims.clone(),
                values: self.claims.iter().map(claim).collect(),
            },
            proof: Proof::Token(proof.await.map_err(refuse)?),
            caller: self.caller((word.issuer.into(), word.subject, word.roles)),
        };
        match self.standing(&identity, now) {
            Standing::Current => Ok(Arc::new(identity)),
            Standing::Expired => Err(refuse(TokenError::Expired)),
            _ => Err(refuse(TokenError::UnknownKey)),
        }
    }

    /// How an identity stands now that was accepted once, maybe under a
    /// configuration before this one.
    pub(crate) fn standing(&self, identity: &Identity, now: SystemTime) -> Standing {
        match &identity.proof {
            Proof::Token(proof) => self.issuers.standing(proof, now),
            Proof::Certificate => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                match since.as_secs() < identity.expires {
                    true => Standing::Current,
                    false => Standing::Expired,
                }
            }
        }
    }

    /// How each issuer's keys are.
    pub(crate) fn statuses(&self) -> Vec<IssuerStatus> {
        self.issuers.statuses()
    }

    /// The header that tells upstream number `upstream` who calls. Made anew
    /// in the last third of its life.
    pub(crate) fn identity_header(
        &self,
        identity: &Identity,
        upstream: usize,
        now: SystemTime,
    ) -> Result<HeaderValue, Reply> {
        let caller = &identity.caller;
        let (Some(slot), Some(audience)) = (
            caller.minted.get(upstream),
            self.signing.audiences.get(upstream),
        ) else {
            return Err(Reply::internal());
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, renew_at)) = &*slot
            && now < *renew_at
        {
            return Ok(value.clone());
        }
        let origin = (self.issuers.iter().len() > 1 || *caller.issuer == *CERTIFICATE_ISSUER)
            .then_some(&*caller.issuer);
        let token =
            self.signing
                .signer
                .sign_from(origin, &caller.subject, &caller.roles, audience, now);
        let value = token
            .map_err(|error| error.to_string())
            .and_then(|token| HeaderValue::try_from(token).map_err(|error| error.to_string()));
        match value {
            Ok(value) => {
                *slot = Some((value.clone(), now + self.signing.lifetime * 2 / 3));
                Ok(value)
            }
            Err(error) => {
                tracing::error!(error, "no identity token could be signed");
                Err(Reply::internal())
            }
        }
    }

    fn identity(&self, verified: Verified) -> Identity {
        let values = self.claims.iter();
        let values = values.map(|path| verified.text(path).and_then(as_segment));
        let said = Claimed {
            names: self.claims.clone(),
            values: values.collect(),
        };
        let claims = verified.claims;
        Identity {
            expires: claims.exp,
            issued_at: (claims.iat > 0).then_some(claims.iat),
            token_id: verified.token_id.map(String::into_boxed_str),
            caller: self.caller((claims.iss.into(), claims.sub, claims.roles)),
            claims: said,
            proof: Proof::Token(verified.proof),
        }
    }

    fn caller(&self, key: CallerKey) -> Arc<Caller> {
        if let Some(caller) = self.callers.get(&key) {
            return caller;
        }
        let minted = self
            .signing
            .audiences
            .iter()
            .map(|_| Mutex::new(None))
            .collect();
        let caller = Arc::new(Caller {
            issuer: key.0.clone(),
            subject: key.1.clone(),
            roles: key.2.clone(),
            minted,
            conduct: self.open.subjects.of(&key.0, &key.1),
        });
        self.callers.insert(key, caller.clone());
        caller
    }
}

/// A value that can stand in the name of a channel; any other matches nothing, so it is not kept.
fn as_segment(value: &str) -> Option<Box<str>> {
    is_segment(value).then(|| value.into())
}

/// Whether a text is literally a segment of a channel's name: no wildcard, no separator.
pub(crate) fn is_segment(text: &str) -> bool {
    ChannelName::new(text, "x", "x").validate().is_ok()
}

/// The one bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Reply> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Reply::unauthenticated(
        "no_token",
        "a bearer token is required",
    ))?;
    if values.next().is_some() {
        return Err(Reply::unauthenticated(
            "bad_token",
            "expected one authorization header",
        ));
    }
    let value = value.to_str().unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Reply::unauthenticated(
            "bad_token",
            "expected authorization: Bearer TOKEN",
        )),
    }
}

fn refuse(error: TokenError) -> Reply {
    let message = match error {
        TokenError::Expired => "the token has expired",
        TokenError::KeysUnavailable => "the keys of the token's issuer are not available",
        _ => "the token is not valid here",
    };
    Reply::unauthenticated(error.label(), message)
}

#[cfg(test)]
mod tests;
