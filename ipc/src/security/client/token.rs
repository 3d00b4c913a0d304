//! The token that a client shows: made when first needed, and again before it ends.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::HeaderValue;

use crate::error::{IpcError, IpcResult};
use crate::security::JwtAuthenticator;

pub(super) struct TokenSource {
    jwt: Arc<JwtAuthenticator>,
    service: String,
    roles: Vec<String>,
    // Held only while a token is made (microseconds), so that one caller makes it and not all.
    current: Mutex<Option<Current>>,
}

struct Current {
    header: HeaderValue,
    from: SystemTime,
    until: SystemTime,
}

impl TokenSource {
    pub(super) fn new(jwt: Arc<JwtAuthenticator>, service: String, roles: Vec<String>) -> Self {
        Self {
            jwt,
            service,
            roles,
            current: Mutex::new(None),
        }
    }

    /// The value of `authorization` for a call at `now`.
    pub(super) fn header(&self, now: SystemTime) -> IpcResult<HeaderValue> {
        // What is in there is whole even if a holder of the lock panicked.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = current.as_ref()
            // The lower bound: a clock that was set back would keep a token in use that others,
            // whose clocks are right, no longer take.
            && (current.from..current.until).contains(&now)
        {
            return Ok(current.header.clone());
        }
        let (token, lifetime) = self.jwt.generate_at(&self.service, &self.roles, now)?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| IpcError::Internal("the token is not a header value".into()))?;
        // Keeps it out of HPACK's table and of Debug output.
        header.set_sensitive(true);
        let until = now.checked_add(lifetime / 5 * 4).unwrap_or(now);
        *current = Some(Current {
            header: header.clone(),
            from: now,
            until,
        });
        Ok(header)
    }
}

// By hand, so that no token can appear.
impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("service", &self.service)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::security::JwtConfig;

    fn source(lifetime: u64) -> TokenSource {
        let jwt = JwtAuthenticator::new(JwtConfig {
            secret: "0123456789abcdef0123456789abcdef".to_owned(),
            issuer: "intellirouter".to_owned(),
            audience: "intellirouter-services".to_owned(),
            expiration_seconds: lifetime,
        });
        TokenSource::new(
            Arc::new(jwt),
            "memory".to_owned(),
            vec!["reader".to_owned()],
        )
    }

    #[test]
    fn a_token_is_used_until_a_fifth_of_its_life_is_left_and_then_renewed() {
        let source = source(100);
        let start = SystemTime::now();
        let at = |seconds| source.header(start + Duration::from_secs(seconds)).unwrap();

        let first = at(0);
        assert_eq!(at(79), first);
        let second = at(80);
        assert_ne!(second, first);
        assert_eq!(at(159), second);
        assert_ne!(at(160), second);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_a_new_token() {
        let source = source(100);
        let start = SystemTime::now();
        let first = source.header(start).unwrap();
        assert_ne!(
            source.header(start - Duration::from_secs(10)).unwrap(),
            first
        );
    }

    #[test]
    fn the_token_stays_out_of_debug_output() {
        let source = source(100);
        let header = source.header(SystemTime::now()).unwrap();
        assert!(header.is_sensitive());
        let shown = format!("{source:?} {header:?}");
        assert!(
            !shown.contains("Bearer") && !shown.contains("eyJ"),
            "{shown}"
        );
    }
}
