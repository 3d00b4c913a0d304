//! Subscribers of an event stream, and its publisher, for `bench-subscribers`.
//!
//! Owns: the events (their number and the time of their publishing stand in the
//! payload), TLS over plain sockets, as much of HTTP/1.1, HTTP/2 and server-sent
//! events as a subscriber needs, and the count of what was delivered, lost,
//! announced as lost, and repeated. Does not own the order of a run.
//! Fails with a boxed error that says what came instead.

mod follower;
mod http1;
mod http2;
mod link;
mod publisher;
mod tally;

pub use self::http1::Http1;
pub use self::http2::Http2;
pub use self::link::{Link, Tls};
pub use self::publisher::Publisher;
pub use self::tally::Tally;

/// Bytes of an event's payload.
pub const PAYLOAD: usize = 256;

/// What the payload begins with; twelve digits of its number come next.
const NUMBER: &[u8] = b"{\"seq\":1";
/// Follows the number; eighteen digits of its time come next.
const TIME: &[u8] = b",\"at\":1";
const NUMBER_DIGITS: usize = 12;
const TIME_DIGITS: usize = 18;

/// A JSON object of [`PAYLOAD`] bytes. A 1 before the digits keeps numbers valid
/// with leading zeros.
#[must_use]
pub fn payload(number: u64, nanoseconds: u64) -> String {
    let mut text = format!("{{\"seq\":1{number:012},\"at\":1{nanoseconds:018},\"pad\":\"");
    while text.len() < PAYLOAD - 2 {
        text.push('x');
    }
    text.push_str("\"}");
    text
}

/// The number and the time of a payload.
fn parse(payload: &[u8]) -> Option<(u64, u64)> {
    let rest = payload.strip_prefix(NUMBER)?;
    let number = digits(rest.get(..NUMBER_DIGITS)?)?;
    let rest = rest[NUMBER_DIGITS..].strip_prefix(TIME)?;
    Some((number, digits(rest.get(..TIME_DIGITS)?)?))
}

fn digits(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'9' => Some(sum * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_of_the_right_size_and_tells_its_number_and_time() {
        let text = payload(42, 7_000_000_001);
        assert_eq!(text.len(), PAYLOAD);
        assert_eq!(parse(text.as_bytes()), Some((42, 7_000_000_001)));
        assert_eq!(parse(b"{\"seq\":1x"), None);
    }
}
