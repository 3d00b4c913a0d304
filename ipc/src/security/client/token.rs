//! The token that a client shows: made when first needed, and again before it ends.
//!
//! Tokens begin and end on whole seconds, so one of 1 s may have no time left at all when it is made.
//! Therefore a token lives at least 2 s here, whatever is configured, and is replaced while at least a
//! second is left, so that it is not over when it arrives.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

use crate::error::{IpcError, IpcResult};
use crate::security::JwtAuthenticator;
use crate::security::jwt::Issued;

const SHORTEST_LIFE: u64 = 2;
const ALWAYS_LEFT: Duration = Duration::from_secs(1);

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
        let issued = self
            .jwt
            .generate_at(&self.service, &self.roles, now, SHORTEST_LIFE)?;
        let mut header = HeaderValue::try_from(format!("Bearer {}", issued.token))
            .map_err(|_| IpcError::Internal("the token is not a header value".into()))?;
        // Keeps it out of HPACK's table and of Debug output.
        header.set_sensitive(true);
        *current = Some(Current {
            header: header.clone(),
            from: now,
            // Beyond what the clock can count: a new one for each call.
            until: renewal(&issued).unwrap_or(now),
        });
        Ok(header)
    }
}

fn renewal(issued: &Issued) -> Option<SystemTime> {
    let life = Duration::from_secs(issued.exp - issued.iat);
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(issued.exp))?;
    end.checked_sub((life / 5).max(ALWAYS_LEFT))
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
    use super::*;
    use crate::security::JwtConfig;

    fn jwt(lifetime: u64) -> JwtAuthenticator {
        JwtAuthenticator::new(JwtConfig {
            secret: "0123456789abcdef0123456789abcdef".to_owned(),
            issuer: "intellirouter".to_owned(),
            audience: "intellirouter-services".to_owned(),
            expiration_seconds: lifetime,
        })
    }

    fn source(lifetime: u64) -> TokenSource {
        TokenSource::new(
            Arc::new(jwt(lifetime)),
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
    fn every_token_that_is_shown_has_a_second_left_however_short_its_life() {
        for lifetime in [1, 2, 3, 4, 5, 9, 10] {
            let (source, jwt) = (source(lifetime), jwt(lifetime));
            let verifier = jwt.verifier().unwrap();
            // Late in a second, where its whole part is furthest from the truth.
            let start = UNIX_EPOCH + Duration::from_millis(1_800_000_000_990);
            for step in 0..1500 {
                let now = start + Duration::from_millis(20 * step);
                let header = source.header(now).unwrap();
                let token = header.to_str().unwrap().strip_prefix("Bearer ").unwrap();
                let arrives = now + Duration::from_millis(999);
                let read = verifier.verify_at(token, arrives);
                assert!(read.is_ok(), "{lifetime} s, step {step}: {read:?}");
            }
        }
    }

    #[test]
    fn a_life_beyond_all_clocks_is_no_error() {
        let source = source(u64::MAX);
        assert!(source.header(SystemTime::now()).is_ok());
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
