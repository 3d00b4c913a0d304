//! How long a call may take: the smaller of the caller's `grpc-timeout` and
//! the route's.
//!
//! Reads and writes the header (gRPC over HTTP/2, "Timeout": at most 8 digits
//! and a unit). The caller's own value passes untouched when it is the smaller
//! one. A malformed value is INVALID_ARGUMENT, as a silently dropped deadline
//! would be a call without end.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use intellirouter::security::parse_grpc_timeout;

use crate::reply::Reply;

const HEADER: &str = "grpc-timeout";

/// The time that is left for this call, and the header that says so upstream.
pub(crate) fn apply(
    headers: &mut HeaderMap,
    route: Option<Duration>,
) -> Result<Option<Duration>, Reply> {
    let asked = headers.get(HEADER).map(parse).transpose()?;
    match (asked, route) {
        (Some(asked), Some(route)) if route < asked => {
            headers.insert(HEADER, format(route));
            Ok(Some(route))
        }
        (None, Some(route)) => {
            headers.insert(HEADER, format(route));
            Ok(Some(route))
        }
        (asked, _) => Ok(asked),
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

    #[test]
    fn the_callers_smaller_deadline_passes_untouched() {
        let mut headers = with("1500m");
        let left = apply(&mut headers, Some(Duration::from_secs(30))).unwrap();
        assert_eq!(left, Some(Duration::from_millis(1500)));
        assert_eq!(headers[HEADER], "1500m");
    }

    #[test]
    fn the_routes_smaller_deadline_is_told_upstream() {
        let mut headers = with("1H");
        let left = apply(&mut headers, Some(Duration::from_secs(30))).unwrap();
        assert_eq!(left, Some(Duration::from_secs(30)));
        assert_eq!(headers[HEADER], "30000000u");
    }

    #[test]
    fn a_malformed_deadline_is_refused() {
        for bad in ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5 S"] {
            assert!(apply(&mut with(bad), None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_deadline_stays_none() {
        assert_eq!(apply(&mut HeaderMap::new(), None).unwrap(), None);
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
