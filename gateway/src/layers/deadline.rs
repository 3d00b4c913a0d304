//! How long a call may take: the smaller of the caller's `grpc-timeout` and
//! the route's, counted from the call's arrival.
//!
//! Reads and writes the header (gRPC over HTTP/2, "Timeout": at most 8 digits
//! and a unit). A backend is told what is left when its try begins; a value that
//! is right to [`EXACT`] passes untouched. A malformed value is INVALID_ARGUMENT,
//! as a silently dropped deadline would be a call without end.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use intellirouter::security::parse_grpc_timeout;
use tokio::time::Instant;

use crate::reply::Reply;

const HEADER: &str = "grpc-timeout";

/// Less than this is not worth a header of its own: the way to the backend
/// takes as long.
const EXACT: Duration = Duration::from_millis(1);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// From its arrival on.
    pub(crate) whole: Duration,
    pub(crate) ends: Instant,
    /// Whether it is the route's: an operator chose it, no caller.
    pub(crate) of_route: bool,
}

/// The limit of a call that arrived then, if it has one. A call whose time is
/// over goes no further.
pub(crate) fn apply(
    headers: &mut HeaderMap,
    route: Option<Duration>,
    arrived: Instant,
) -> Result<Option<Limit>, Reply> {
    let asked = headers.get(HEADER).map(parse).transpose()?;
    let (whole, of_route) = match (asked, route) {
        (Some(asked), Some(route)) if asked <= route => (asked, false),
        (Some(asked), None) => (asked, false),
        (_, Some(route)) => {
            headers.insert(HEADER, format(route));
            (route, true)
        }
        (None, None) => return Ok(None),
    };
    // Beyond what a clock can tell there is no limit.
    let Some(ends) = arrived.checked_add(whole) else {
        return Ok(None);
    };
    if ends <= Instant::now() {
        return Err(Reply::deadline());
    }
    Ok(Some(Limit {
        whole,
        ends,
        of_route,
    }))
}

impl Limit {
    pub(crate) fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Tells a backend what is left, in headers that say the whole.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let left = self.left();
        if self.whole.saturating_sub(left) >= EXACT {
            headers.insert(HEADER, format(left));
        }
    }
}

fn parse(value: &HeaderValue) -> Result<Duration, Reply> {
    parse_grpc_timeout(value).ok_or_else(bad)
}

fn bad() -> Reply {
    Reply::invalid(
        "grpc-timeout",
        "expected 1 to 8 digits and one of H, M, S, m, u, n",
    )
}

/// The exact value in the finest unit that fits 8 digits, rounded down.
fn format(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
    ];
    let (number, unit) = units
        .into_iter()
        .find(|(number, _)| *number <= MOST)
        .unwrap_or((MOST, 'S'));
    // Digits and a letter are always a header value.
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::try_from(value).unwrap());
        headers
    }

    fn limit(headers: &mut HeaderMap, route: Option<Duration>) -> Option<Limit> {
        apply(headers, route, Instant::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_callers_smaller_deadline_passes_untouched() {
        let mut headers = with("1500m");
        let limit = limit(&mut headers, Some(Duration::from_secs(30))).unwrap();
        assert_eq!(limit.left(), Duration::from_millis(1500));
        assert!(!limit.of_route);
        limit.tell(&mut headers);
        assert_eq!(headers[HEADER], "1500m");
    }

    #[tokio::test(start_paused = true)]
    async fn the_routes_smaller_deadline_is_told_upstream() {
        let mut headers = with("1H");
        let limit = limit(&mut headers, Some(Duration::from_secs(30))).unwrap();
        assert_eq!(limit.whole, Duration::from_secs(30));
        assert!(limit.of_route);
        assert_eq!(headers[HEADER], "30000000u");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_told_what_is_left_when_its_try_begins() {
        let mut headers = with("10S");
        let limit = limit(&mut headers, None).unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        limit.tell(&mut headers);
        assert_eq!(headers[HEADER], "6000000u");
        tokio::time::advance(Duration::from_secs(60)).await;
        limit.tell(&mut headers);
        assert_eq!(headers[HEADER], "0n");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_arrival_of_the_call() {
        let arrived = Instant::now();
        tokio::time::advance(Duration::from_secs(2)).await;
        let limit = apply(&mut with("3S"), None, arrived).unwrap().unwrap();
        assert_eq!(limit.left(), Duration::from_secs(1));
        let late = apply(&mut with("2S"), None, arrived).unwrap_err();
        assert_eq!(late.label, "deadline");
    }

    #[tokio::test]
    async fn a_malformed_deadline_is_refused() {
        for bad in ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5 S"] {
            let refused = apply(&mut with(bad), None, Instant::now());
            assert!(refused.is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn no_deadline_stays_none() {
        assert_eq!(limit(&mut HeaderMap::new(), None), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back_no_longer_than_it_was(nanos in 1u64..u64::MAX / 4) {
            let timeout = Duration::from_nanos(nanos);
            let read = parse(&format(timeout)).unwrap();
            proptest::prop_assert!(read <= timeout);
        }
    }
}
