//! How long a call may take: the smaller of the caller's `grpc-timeout` and the method's own limit.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, sleep_until};

use super::refusal::Refusal;

const HEADER: &str = "grpc-timeout";

/// Reads a `grpc-timeout` (gRPC over HTTP/2, "Timeout": 1 to 8 digits and a unit). `None` where it is
/// malformed.
pub fn parse_grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// When a call that arrived then must have ended. A malformed header is refused: a deadline that is
/// silently dropped would be a call without end. So are two, of which one would be a guess. A call
/// that has no time at all is over before it begins.
pub(super) fn of(
    headers: &HeaderMap,
    limit: Option<Duration>,
    arrived: Instant,
) -> Result<Option<Instant>, Refusal> {
    let mut values = headers.get_all(HEADER).iter();
    let asked = match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(parse_grpc_timeout(value).ok_or(Refusal::BadTimeout)?),
        (Some(_), Some(_)) => return Err(Refusal::BadTimeout),
    };
    if asked == Some(Duration::ZERO) {
        return Err(Refusal::Deadline);
    }
    let timeout = match (asked, limit) {
        (Some(asked), Some(limit)) => Some(asked.min(limit)),
        (asked, limit) => asked.or(limit),
    };
    // Beyond what the clock can count is never.
    Ok(timeout.and_then(|timeout| arrived.checked_add(timeout)))
}

/// What `work` gives, or `None` if it is not done by then; it is dropped in both cases.
pub(super) async fn within<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    let Some(deadline) = deadline else {
        return Some(work.await);
    };
    let mut work = pin!(work);
    let mut alarm = pin!(sleep_until(deadline));
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // The clock decides as well as the alarm: tonic keeps an alarm of its own for the same
        // header, a moment later, and it must not be first, because it would answer CANCELLED.
        if alarm.as_mut().poll(cx).is_ready() || Instant::now() >= deadline {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str, limit: Option<u64>) -> Result<Option<Duration>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_str(value).unwrap());
        let now = Instant::now();
        let deadline = of(&headers, limit.map(Duration::from_secs), now)?;
        Ok(deadline.map(|deadline| deadline - now))
    }

    #[test]
    fn the_smaller_of_the_callers_time_and_the_methods_holds() {
        const SECOND: Duration = Duration::from_secs(1);
        assert_eq!(asked("1S", Some(30)), Ok(Some(SECOND)));
        assert_eq!(asked("1H", Some(1)), Ok(Some(SECOND)));
        assert_eq!(asked("1000m", None), Ok(Some(SECOND)));
        let now = Instant::now();
        let limited = of(&HeaderMap::new(), Some(SECOND), now);
        assert_eq!(limited, Ok(Some(now + SECOND)));
        assert_eq!(of(&HeaderMap::new(), None, now), Ok(None));
    }

    #[test]
    fn every_unit_of_the_specification_is_read() {
        for (value, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("2M", Duration::from_secs(120)),
            ("2S", Duration::from_secs(2)),
            ("2m", Duration::from_millis(2)),
            ("2u", Duration::from_micros(2)),
            ("2n", Duration::from_nanos(2)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            let read = parse_grpc_timeout(&HeaderValue::from_static(value));
            assert_eq!(read, Some(expected), "{value}");
        }
    }

    #[test]
    fn a_malformed_time_is_refused_and_not_taken_as_none() {
        for bad in ["", "5", "S", "123456789S", "-1S", "1.5S", "5s", "5 S"] {
            assert_eq!(asked(bad, Some(30)), Err(Refusal::BadTimeout), "{bad:?}");
        }
    }

    #[test]
    fn no_time_at_all_is_late_at_once() {
        for none in ["0n", "0S", "00000000H"] {
            assert_eq!(asked(none, Some(30)), Err(Refusal::Deadline), "{none:?}");
        }
    }

    #[test]
    fn two_times_are_refused_even_if_they_agree() {
        let mut headers = HeaderMap::new();
        for _ in 0..2 {
            headers.append(HEADER, HeaderValue::from_static("1S"));
        }
        let refused = of(&headers, None, Instant::now());
        assert_eq!(refused, Err(Refusal::BadTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_not_done_in_time_is_given_up() {
        let second = Some(Instant::now() + Duration::from_secs(1));
        assert_eq!(within(second, async { 5 }).await, Some(5));
        assert_eq!(within(second, std::future::pending::<()>()).await, None);
        assert_eq!(within(None, async { 5 }).await, Some(5));
    }
}
