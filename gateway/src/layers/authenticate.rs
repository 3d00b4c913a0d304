//! Who calls: verifies the bearer token (RFC 6750, header only) and remembers
//! the result.
//!
//! Owns the cache of verified tokens and, per caller, the identity tokens that
//! go upstream. Does not decide what a caller may do: that is
//! [`super::roles`]. A call with a known token costs one look-up by the whole
//! token; `exp` is checked on every hit, so a cached token dies in time. Fails
//! with UNAUTHENTICATED and a reason that tells nothing of the keys.
//!
//! Bounds: 65,536 tokens and 32 MiB of token bytes, 65,536 callers; the least
//! used go first. Refused tokens are not remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use intellirouter::security::{Claims, IdentitySigner, TokenError, TokenVerifier};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::reply::Reply;

const CACHED_TOKENS: usize = 65_536;
const CACHED_TOKEN_BYTES: u64 = 32 * 1024 * 1024;
const CACHED_CALLERS: usize = 65_536;

/// A caller whose token was verified.
#[derive(Debug)]
pub(crate) struct Identity {
    caller: Arc<Caller>,
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

/// A subject with its roles, whatever the token.
#[derive(Debug)]
pub(crate) struct Caller {
    subject: String,
    roles: Vec<String>,
    /// Per upstream: the identity token in use, and when to make the next.
    minted: Box<[Mutex<Option<Minted>>]>,
}

/// An identity token, and when to make the next.
type Minted = (HeaderValue, SystemTime);

impl Identity {
    pub(crate) fn subject(&self) -> &str {
        &self.caller.subject
    }

    pub(crate) fn roles(&self) -> &[String] {
        &self.caller.roles
    }
}

#[derive(Clone)]
struct TokenBytes;

impl Weighter<Box<str>, Arc<Identity>> for TokenBytes {
    fn weight(&self, token: &Box<str>, _: &Arc<Identity>) -> u64 {
        token.len() as u64
    }
}

/// Who signs for the callers, and for how long.
pub(crate) struct Signing {
    pub(crate) signer: IdentitySigner,
    pub(crate) lifetime: Duration,
    /// The `aud` of each upstream, by index.
    pub(crate) audiences: Vec<String>,
}

/// See the module's comment.
pub(crate) struct Authenticate {
    verifier: TokenVerifier,
    signing: Signing,
    tokens: Cache<Box<str>, Arc<Identity>, TokenBytes>,
    callers: Cache<(String, Vec<String>), Arc<Caller>>,
}

impl Authenticate {
    pub(crate) fn new(verifier: TokenVerifier, signing: Signing) -> Self {
        Self {
            verifier,
            signing,
            tokens: Cache::with_weighter(CACHED_TOKENS, CACHED_TOKEN_BYTES, TokenBytes),
            callers: Cache::new(CACHED_CALLERS),
        }
    }

    /// The caller behind the `authorization` header.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Arc<Identity>, Reply> {
        let token = bearer(headers)?;
        if let Some(identity) = self.tokens.get(token) {
            if self.verifier.is_current(identity.expires, now) {
                return Ok(identity);
            }
            self.tokens.remove(token);
        }
        let claims = self.verifier.verify_at(token, now).map_err(refuse)?;
        let identity = Arc::new(Identity {
            expires: claims.exp,
            caller: self.caller(claims),
        });
        self.tokens.insert(token.into(), identity.clone());
        Ok(identity)
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
        let token = self
            .signing
            .signer
            .sign(&caller.subject, &caller.roles, audience, now);
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

    fn caller(&self, claims: Claims) -> Arc<Caller> {
        let key = (claims.sub, claims.roles);
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
            subject: key.0.clone(),
            roles: key.1.clone(),
            minted,
        });
        self.callers.insert(key, caller.clone());
        caller
    }
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
        _ => "the token is not valid here",
    };
    Reply::unauthenticated(error.label(), message)
}

#[cfg(test)]
mod tests;
