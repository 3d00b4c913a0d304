//! Remembers tokens that were verified, so that a caller's next call costs a look-up.
//!
//! The key is the whole token: a hash could be made to collide. At most 1024 tokens of at most 8 KiB
//! each; the least used go first. What expired is verified anew, and refused by that.

use std::sync::Arc;
use std::time::SystemTime;

use quick_cache::sync::Cache;

use crate::security::verifier::{Claims, TokenError, TokenVerifier};

const REMEMBERED: usize = 1024;

pub(super) struct Remembered {
    claims: Cache<Box<str>, Arc<Claims>>,
}

impl Remembered {
    pub(super) fn new() -> Self {
        Self {
            claims: Cache::new(REMEMBERED),
        }
    }

    /// As `verifier.verify_at`, which must be the same verifier at every call.
    pub(super) fn verify_at(
        &self,
        verifier: &TokenVerifier,
        token: &str,
        now: SystemTime,
    ) -> Result<Arc<Claims>, TokenError> {
        if let Some(claims) = self.claims.get(token)
            && verifier.is_current(claims.exp, now)
        {
            return Ok(claims);
        }
        let claims = Arc::new(verifier.verify_at(token, now)?);
        self.claims.insert(token.into(), Arc::clone(&claims));
        Ok(claims)
    }
}
