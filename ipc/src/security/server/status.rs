//! Keeps a status within what its caller can receive.
//!
//! A status travels in headers, which every client bounds: one that is too long does not arrive at
//! all, and one far too long ends the connection for all calls on it. So of an error that is too long
//! the code always arrives, and of its text and details what fits. What an answer of OK carries is
//! left alone.
//!
//! Limits, as encoded: 6 KiB for message and details together (many clients take 8 KiB of headers),
//! and 15 KiB for all headers of the status (16 KiB is what others take).

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Code;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

const MAX_TEXT: usize = 6 * 1024;
const MAX_HEADERS: usize = 15 * 1024;
// RFC 9113, 6.5.2: what each counts for beside its name and value.
const PER_HEADER: usize = 32;
// How the errors of prost and tonic begin.
const UNREADABLE: &str = "failed to decode Protobuf message: ";
const TOO_LARGE: &str = "Error, decoded message length too large";
// An ellipsis, percent-encoded.
const CUT: &[u8] = "%E2%80%A6".as_bytes();

/// The code, where the headers have one.
pub(super) fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers
        .get(STATUS)
        .map(|status| Code::from_bytes(status.as_bytes()))
}

/// Gives a request that could not be read the code that says whose fault it is. tonic says INTERNAL,
/// as the gRPC specification allows, and OUT_OF_RANGE for one that is too large: then garbage from a
/// caller would count as a failure of the service, and open breakers. It is known by tonic's and
/// prost's own words, as nothing else tells it from a handler's status.
pub(super) fn blame_caller(headers: &mut HeaderMap) {
    let Some(code) = code_in(headers) else { return };
    let message = headers.get(MESSAGE).map_or(&[][..], HeaderValue::as_bytes);
    let begins = |text: &str| {
        percent_encoding::percent_decode(message)
            .take(text.len())
            .eq(text.bytes())
    };
    let right = match code {
        Code::Internal if begins(UNREADABLE) => Code::InvalidArgument,
        Code::OutOfRange if begins(TOO_LARGE) => Code::ResourceExhausted,
        _ => return,
    };
    headers.insert(STATUS, HeaderValue::from(right as i32));
}

/// Shortens the status in these headers to what may be sent. Returns whether it was too long.
pub(super) fn shorten(headers: &mut HeaderMap) -> bool {
    if code_in(headers).is_none_or(|code| code == Code::Ok) {
        return false;
    }
    let too_long = length(headers, MESSAGE) + length(headers, DETAILS) > MAX_TEXT;
    if too_long {
        // Details make no sense in part.
        if length(headers, DETAILS) > MAX_TEXT / 2 {
            headers.remove(DETAILS);
        }
        shorten_message(headers, MAX_TEXT - length(headers, DETAILS));
    }
    let too_many = size(headers) > MAX_HEADERS;
    if too_many {
        *headers = status_alone(headers);
    }
    too_long || too_many
}

fn length(headers: &HeaderMap, name: HeaderName) -> usize {
    headers.get(name).map_or(0, HeaderValue::len)
}

fn size(headers: &HeaderMap) -> usize {
    let one =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + PER_HEADER;
    headers.iter().map(one).sum()
}

fn status_alone(headers: &HeaderMap) -> HeaderMap {
    let kept = [CONTENT_TYPE, STATUS, MESSAGE, DETAILS].into_iter();
    kept.filter_map(|name| headers.get(&name).map(|value| (name, value.clone())))
        .collect()
}

fn shorten_message(headers: &mut HeaderMap, room: usize) {
    let Some(message) = headers.get(MESSAGE) else {
        return;
    };
    if message.len() <= room {
        return;
    }
    let mut text = whole_characters(message.as_bytes(), room - CUT.len()).to_vec();
    text.extend_from_slice(CUT);
    // Can't fail: these are bytes of a header value.
    if let Ok(text) = HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
        headers.insert(MESSAGE, text);
    }
}

/// The beginning of a percent-encoded text: at most `room` bytes of it, and no part of a character.
fn whole_characters(text: &[u8], room: usize) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < text.len() && at <= room {
        let (byte, width) = encoded_byte(&text[at..]);
        // UTF-8: all bytes of a character but its first are 10xxxxxx.
        if byte & 0b1100_0000 != 0b1000_0000 {
            end = at;
        }
        at += width;
    }
    &text[..end]
}

/// The first byte that a text stands for, and how many bytes it is written in.
fn encoded_byte(text: &[u8]) -> (u8, usize) {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [b'%', high, low, ..] = text
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        // Both are under 16.
        return ((high * 16 + low) as u8, 3);
    }
    (text.first().copied().unwrap_or_default(), 1)
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;
    use tonic::{Code, Status};

    use super::*;

    /// What a client reads after `status` was shortened, and whether it was.
    fn shortened(status: &Status) -> (Status, bool) {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let cut = shorten(&mut headers);
        assert!(size(&headers) <= MAX_HEADERS);
        assert!(length(&headers, MESSAGE) + length(&headers, DETAILS) <= MAX_TEXT);
        (Status::from_header_map(&headers).unwrap(), cut)
    }

    #[test]
    fn a_status_that_fits_is_left_as_it_is() {
        let details = vec![1; 2048].into();
        let status = Status::with_details(Code::NotFound, "ж".repeat(500), details);
        let (read, cut) = shortened(&status);
        assert!(!cut);
        assert_eq!(read.message(), status.message());
        assert_eq!(read.details(), status.details());
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters_and_says_so() {
        for text in ["x", "ж", "€", "🦀", "a%ж"] {
            for shift in ["", "a", "ab"] {
                let long = shift.to_owned() + &text.repeat(8000);
                let (read, cut) = shortened(&Status::not_found(&long));
                assert!(cut);
                assert_eq!(read.code(), Code::NotFound);
                let kept = read.message().strip_suffix('…').unwrap();
                assert!(long.starts_with(kept), "{text:?}");
                assert!(kept.len() > 1800, "{text:?}: {}", kept.len());
            }
        }
    }

    #[test]
    fn small_details_stay_beside_a_long_message_and_large_ones_go() {
        for (size, kept) in [(2000, 2000), (2400, 0), (100_000, 0)] {
            let details = vec![1; size].into();
            let status = Status::with_details(Code::Aborted, "x".repeat(8000), details);
            let (read, cut) = shortened(&status);
            assert!(cut);
            assert_eq!(read.details().len(), kept);
            assert!(read.message().ends_with('…'));
        }
        let details = vec![1; 8000].into();
        let (read, _) = shortened(&Status::with_details(Code::Aborted, "short", details));
        assert_eq!((read.message(), read.details()), ("short", &[][..]));
    }

    #[test]
    fn metadata_that_would_keep_the_status_from_arriving_goes() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-note", "x".repeat(20_000).parse().unwrap());
        let (read, cut) = shortened(&Status::with_metadata(Code::Aborted, "why", metadata));
        assert!(cut);
        assert_eq!((read.code(), read.message()), (Code::Aborted, "why"));
        assert!(read.metadata().get("x-note").is_none());
    }

    #[test]
    fn what_comes_with_ok_or_is_no_status_is_left_alone() {
        let note = HeaderValue::from_str(&"x".repeat(20_000)).unwrap();
        let mut headers = HeaderMap::from_iter([(MESSAGE, note)]);
        assert!(!shorten(&mut headers));
        headers.insert(STATUS, HeaderValue::from_static("0"));
        assert!(!shorten(&mut headers));
        assert_eq!(length(&headers, MESSAGE), 20_000);
    }
}
