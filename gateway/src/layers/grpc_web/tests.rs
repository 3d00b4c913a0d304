//! Bodies are driven as a connection does it; chunks stand for DATA frames.

use std::collections::VecDeque;
use std::pin::Pin;

use http_body_util::StreamBody;
use proptest::prelude::*;
use tonic::Code;

use super::*;
use crate::test_util::{drain, now};

/// A body that brings these frames and nothing more.
fn body(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    let frames: VecDeque<Result<_, tonic::Status>> = frames.into_iter().map(Ok).collect();
    let stream = StreamBody::new(futures_util::stream::iter(frames));
    Body::new(Kind::Local(tonic::body::Body::new(stream)))
}

fn chunks(bytes: &[u8], cuts: &[usize]) -> Vec<Frame<Bytes>> {
    let mut frames = Vec::new();
    let mut rest = Bytes::copy_from_slice(bytes);
    for cut in cuts {
        frames.push(Frame::data(rest.split_to(cut % (rest.len() + 1))));
    }
    frames.push(Frame::data(rest));
    frames
}

/// A request body after translation: its bytes, or the refusal.
fn translate(encoding: Encoding, frames: Vec<Frame<Bytes>>) -> Result<Vec<u8>, Box<Reply>> {
    let mut request = to_grpc(Request::new(body(frames)), encoding);
    let done = Pin::new(&mut Box::pin(drain(request.body_mut())))
        .as_mut()
        .poll_now();
    match done {
        (bytes, _, None) => Ok(bytes),
        (_, _, Some(BodyError::Refused(reply))) => Err(reply),
        (_, _, Some(other)) => panic!("{other}"),
    }
}

trait PollNow: Future {
    fn poll_now(self) -> Self::Output;
}

impl<F: Future + Unpin> PollNow for F {
    fn poll_now(mut self) -> F::Output {
        match now(|cx| Pin::new(&mut self).poll(cx)) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("everything was there"),
        }
    }
}

fn refusal(encoding: Encoding, bytes: &[u8]) -> Reply {
    *translate(encoding, chunks(bytes, &[])).unwrap_err()
}

/// A gRPC frame: flag, length, bytes.
fn message(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn answered(response: Response<Body>, encoding: Encoding) -> (HeaderMap, Vec<u8>) {
    let (head, mut body) = from_grpc(response, encoding).into_parts();
    let (bytes, trailers, error) = Box::pin(drain(&mut body)).poll_now();
    assert!(
        trailers.is_none() && error.is_none(),
        "a browser sees no trailers"
    );
    (head.headers, bytes)
}

#[test]
fn content_types_name_encoding_and_message_format() {
    use Encoding::{Binary, Text};
    for (value, expected) in [
        ("application/grpc-web", Some((Binary, "proto"))),
        ("application/grpc-web+proto", Some((Binary, "proto"))),
        (
            "application/grpc-web+json; charset=utf-8",
            Some((Binary, "json")),
        ),
        ("application/grpc-web-text", Some((Text, "proto"))),
        ("application/grpc-web-text+thrift", Some((Text, "thrift"))),
        ("application/grpc-web-text ;q=1", Some((Text, "proto"))),
        ("application/grpc-web+", None),
        ("application/grpc-web-texts", None),
        ("application/grpc-website", None),
        ("application/grpc+proto", None),
        ("text/plain", None),
        ("", None),
    ] {
        assert_eq!(parse_content_type(value), expected, "{value}");
    }
}

#[test]
fn the_backend_gets_a_grpc_request_in_the_same_message_format() {
    let mut request = Request::new(Body::empty());
    for (name, value) in [
        ("content-type", "application/grpc-web-text+json"),
        ("content-length", "7"),
        ("x-grpc-web", "1"),
        ("te", "gzip"),
        ("x-mine", "stays"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let headers = to_grpc(request, Encoding::Text).into_parts().0.headers;
    assert_eq!(headers["content-type"], "application/grpc+json");
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["x-mine"], "stays");
    assert!(!headers.contains_key("content-length") && !headers.contains_key("x-grpc-web"));
}

#[test]
fn bad_base64_is_an_invalid_argument_that_names_the_place() {
    for bad in [
        "AAA*",
        "AA=A",
        "====",
        "AAAAA",
        "AAAA\nAAA",
        "AAAA=",
        "AA-_",
    ] {
        let reply = refusal(Encoding::Text, bad.as_bytes());
        assert_eq!(reply.code, Code::InvalidArgument, "{bad}");
        assert_eq!(reply.label, "bad_grpc_web");
        assert!(
            reply.message.starts_with("request body") && reply.message.contains("base64"),
            "{bad}"
        );
    }
}

#[test]
fn an_unknown_frame_flag_is_an_invalid_argument_that_names_the_flag() {
    for flag in [2u8, 0x80, 0xff] {
        let mut bytes = message(b"first");
        bytes.extend_from_slice(&[flag, 0, 0, 0, 0]);
        let reply = refusal(Encoding::Binary, &bytes);
        assert_eq!(reply.code, Code::InvalidArgument);
        assert!(
            reply.message.starts_with("request frame flag"),
            "{}",
            reply.message
        );
    }
}

#[test]
fn a_frame_that_breaks_off_is_an_invalid_argument_wherever_it_does() {
    let whole = message(b"hello");
    for cut in 1..whole.len() {
        let reply = refusal(Encoding::Binary, &whole[..cut]);
        assert_eq!(reply.code, Code::InvalidArgument, "{cut}");
        assert!(reply.message.contains("whole frames"), "{}", reply.message);
    }
}

#[test]
fn trailers_of_a_request_are_dropped() {
    let mut frames = chunks(&message(b"hi"), &[]);
    frames.push(Frame::trailers(crate::test_util::status("0")));
    assert_eq!(translate(Encoding::Binary, frames).unwrap(), message(b"hi"));
}

#[test]
fn a_trailer_frame_is_flag_length_and_header_lines() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.append("x-twice", HeaderValue::from_static("a"));
    trailers.append("x-twice", HeaderValue::from_static("b"));
    let block = b"grpc-status: 0\r\nx-twice: a\r\nx-twice: b\r\n";
    let mut expected = vec![0x80, 0, 0, 0, block.len() as u8];
    expected.extend_from_slice(block);
    assert_eq!(trailer_frame(&trailers, Encoding::Binary), expected);
    assert_eq!(
        trailer_frame(&trailers, Encoding::Text),
        STANDARD.encode(expected)
    );
}

#[test]
fn custom_and_binary_trailers_reach_the_browser_behind_the_messages() {
    let mut trailers = crate::test_util::status("5");
    trailers.insert(
        "grpc-message",
        HeaderValue::from_static("no%20such%20thing"),
    );
    trailers.insert("x-cost", HeaderValue::from_static("12"));
    trailers.insert("trace-bin", HeaderValue::from_static("AP/+"));
    let frame = trailer_frame(&trailers, Encoding::Binary);
    let sent = message(b"one");
    let frames = vec![
        Frame::data(Bytes::from(sent.clone())),
        Frame::trailers(trailers),
    ];
    let (headers, bytes) = answered(Response::new(body(frames)), Encoding::Binary);
    assert_eq!(headers["content-type"], "application/grpc-web+proto");
    assert_eq!(bytes, [&sent[..], &frame[..]].concat());
    let text = String::from_utf8_lossy(&frame);
    assert!(
        text.contains("trace-bin: AP/+\r\n") && text.contains("x-cost: 12\r\n"),
        "{text}"
    );
}

#[test]
fn a_trailers_only_answer_is_exactly_one_trailer_frame() {
    for encoding in [Encoding::Binary, Encoding::Text] {
        let mut response = Response::new(Body::empty());
        for (name, value) in [
            ("content-type", "application/grpc+json"),
            ("content-length", "0"),
            ("grpc-status", "7"),
            ("x-custom", "kept"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let (headers, bytes) = answered(response, encoding);
        assert_eq!(
            headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(),
            ["content-type"]
        );
        let frame = match encoding {
            Encoding::Binary => bytes,
            Encoding::Text => STANDARD.decode(bytes).unwrap(),
        };
        assert_eq!(frame[0], 0x80);
        assert_eq!(&frame[5..], b"grpc-status: 7\r\nx-custom: kept\r\n");
        assert_eq!(frame[1..5], (frame.len() as u32 - 5).to_be_bytes());
    }
}

#[test]
fn an_answer_without_any_status_gets_no_made_up_one() {
    let (_, bytes) = answered(
        Response::new(body(chunks(&message(b"x"), &[]))),
        Encoding::Binary,
    );
    assert_eq!(bytes, message(b"x"));
}

proptest! {
    #[test]
    fn text_is_decoded_whatever_the_chunks_and_wherever_padding_stands(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..8),
        pieces in proptest::collection::vec(any::<usize>(), 0..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let plain: Vec<u8> = messages.iter().flat_map(|bytes| message(bytes)).collect();
        // Each piece is encoded alone, so padding may stand anywhere.
        let text: String = chunks(&plain, &pieces)
            .into_iter()
            .map(|piece| STANDARD.encode(piece.into_data().unwrap()))
            .collect();
        let decoded = translate(Encoding::Text, chunks(text.as_bytes(), &cuts));
        prop_assert_eq!(decoded.unwrap(), plain);
    }

    #[test]
    fn binary_passes_byte_for_byte_whatever_the_chunks(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70), 0..8),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let plain: Vec<u8> = messages.iter().flat_map(|bytes| message(bytes)).collect();
        let passed = translate(Encoding::Binary, chunks(&plain, &cuts));
        prop_assert_eq!(passed.unwrap(), plain);
    }

    #[test]
    fn any_bytes_are_passed_or_refused_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "[A-Za-z0-9+/=\\n]{0,80}",
        cuts in proptest::collection::vec(any::<usize>(), 0..10),
    ) {
        for (encoding, input) in [(Encoding::Binary, &bytes[..]), (Encoding::Text, &bytes[..]), (Encoding::Text, text.as_bytes())] {
            if let Err(reply) = translate(encoding, chunks(input, &cuts)) {
                prop_assert_eq!(reply.code, Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn a_text_answer_decodes_piece_by_piece_to_the_binary_one(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 1..6),
    ) {
        let frames = || {
            let data = messages.iter().map(|bytes| Frame::data(Bytes::from(message(bytes))));
            body(data.chain([Frame::trailers(crate::test_util::status("0"))]))
        };
        let (_, binary) = answered(Response::new(frames()), Encoding::Binary);
        let (_, text) = answered(Response::new(frames()), Encoding::Text);
        let mut decoded = Vec::new();
        prop_assert!(decode_groups(&text, &mut decoded).is_ok());
        prop_assert_eq!(decoded, binary);
    }
}
