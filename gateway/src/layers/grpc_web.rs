//! Translates gRPC-Web (PROTOCOL-WEB of the gRPC project) to gRPC and back,
//! binary and text, without decoding a message.
//!
//! Requests: base64 is undone, frames are checked (a browser can send
//! anything), `te: trailers` is added. Responses: HTTP trailers become a
//! trailer frame (flag 0x80) at the end of the body; the status of a
//! trailers-only answer becomes such a frame too, so that a browser reads it
//! whatever CORS exposes. Holds no more than the bytes of one frame in flight
//! and 3 undecoded base64 characters.
//!
//! A request with a bad frame fails with INVALID_ARGUMENT and the part that is
//! wrong.

mod ends;

use std::ops::Range;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;

use self::ends::Ends;
use crate::body::{Body, BodyError, Kind};
use crate::reply::Reply;

const TRAILER_FLAG: u8 = 0x80;

/// How gRPC-Web puts frames into a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// `application/grpc-web`
    Binary,
    /// `application/grpc-web-text`: base64
    Text,
}

impl Encoding {
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        })
    }

    fn encode(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Binary => bytes,
            Self::Text => STANDARD.encode(bytes).into(),
        }
    }
}

/// `application/grpc-web…` as encoding and message format (`proto` when none
/// is named).
pub(crate) fn parse_content_type(value: &str) -> Option<(Encoding, &str)> {
    let essence = value.split(';').next().unwrap_or(value).trim();
    let rest = essence.strip_prefix("application/grpc-web")?;
    let (encoding, rest) = match rest.strip_prefix("-text") {
        Some(rest) => (Encoding::Text, rest),
        None => (Encoding::Binary, rest),
    };
    match rest.strip_prefix('+') {
        Some(format) if !format.is_empty() => Some((encoding, format)),
        None if rest.is_empty() => Some((encoding, "proto")),
        _ => None,
    }
}

/// The request as the backend expects it.
pub(crate) fn to_grpc(mut request: Request<Body>, encoding: Encoding) -> Request<Body> {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(parse_content_type)
        .and_then(|(_, format)| HeaderValue::try_from(format!("application/grpc+{format}")).ok());
    let headers = request.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        content_type.unwrap_or(HeaderValue::from_static("application/grpc+proto")),
    );
    // gRPC over HTTP/2, "Call-Definition": servers may refuse calls without it.
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.remove(CONTENT_LENGTH);
    headers.remove("x-grpc-web");
    request.map(|inner| {
        Body::new(Kind::WebRequest(Box::new(WebRequest {
            inner,
            encoding,
            partial: [0; 4],
            partial_len: 0,
            frames: Frames::default(),
        })))
    })
}

/// The response as the browser expects it.
pub(crate) fn from_grpc(response: Response<Body>, encoding: Encoding) -> Response<Body> {
    let (mut head, inner) = response.into_parts();
    let format = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("application/grpc+"))
        .unwrap_or("proto");
    let prefix = match encoding {
        Encoding::Binary => "application/grpc-web+",
        Encoding::Text => "application/grpc-web-text+",
    };
    let content_type =
        HeaderValue::try_from(format!("{prefix}{format}")).unwrap_or(encoding.content_type());
    // A trailers-only answer: everything in its header block is trailing
    // metadata and moves to the frame.
    let trailers = head.headers.contains_key("grpc-status").then(|| {
        let mut trailers = std::mem::take(&mut head.headers);
        trailers.remove(CONTENT_TYPE);
        trailers.remove(CONTENT_LENGTH);
        trailers.remove(http::header::DATE);
        trailers
    });
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_TYPE, content_type);
    let body = WebResponse {
        inner,
        encoding,
        trailers,
        ends: Ends::default(),
        done: false,
    };
    Response::from_parts(head, Body::new(Kind::WebResponse(Box::new(body))))
}

/// `trailers` as a gRPC-Web trailer frame. Names are lower case already
/// (`HeaderName` is); values that hold a line break can't exist.
pub(crate) fn trailer_frame(trailers: &HeaderMap, encoding: Encoding) -> Bytes {
    let mut block = BytesMut::with_capacity(64);
    for (name, value) in trailers {
        block.put_slice(name.as_str().as_bytes());
        block.put_slice(b": ");
        block.put_slice(value.as_bytes());
        block.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + block.len());
    frame.put_u8(TRAILER_FLAG);
    // The header list of a response is bounded far below 4 GiB.
    frame.put_u32(u32::try_from(block.len()).unwrap_or(u32::MAX));
    frame.put_slice(&block);
    encoding.encode(frame.freeze())
}

pub(crate) struct WebRequest {
    pub(crate) inner: Body,
    encoding: Encoding,
    partial: [u8; 4],
    partial_len: usize,
    frames: Frames,
}

impl WebRequest {
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let bytes = match ready!(self.inner.poll_next(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => bytes,
                    // gRPC-Web has no request trailers.
                    Err(_) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let end = if self.partial_len > 0 {
                        Err(bad(
                            "request body",
                            "complete base64 groups of 4 characters",
                        ))
                    } else {
                        self.frames.end()
                    };
                    return Poll::Ready(end.err().map(Err));
                }
            };
            let decoded = match self.encoding {
                Encoding::Binary => bytes,
                Encoding::Text => match self.decode(&bytes) {
                    Ok(decoded) => decoded,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
            };
            if let Err(error) = self.frames.check(&decoded) {
                return Poll::Ready(Some(Err(error)));
            }
            if !decoded.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(decoded))));
            }
        }
    }

    /// Base64 in groups of four; padding may stand at the end of any group,
    /// because clients encode message by message.
    fn decode(&mut self, input: &[u8]) -> Result<Bytes, BodyError> {
        let mut out = Vec::with_capacity(input.len() / 4 * 3 + 3);
        let mut rest = input;
        while self.partial_len > 0 && self.partial_len < 4 && !rest.is_empty() {
            self.partial[self.partial_len] = rest[0];
            self.partial_len += 1;
            rest = &rest[1..];
        }
        if self.partial_len == 4 {
            decode_groups(&self.partial, &mut out)?;
            self.partial_len = 0;
        }
        if self.partial_len == 0 {
            let whole = rest.len() / 4 * 4;
            decode_groups(&rest[..whole], &mut out)?;
            let tail = &rest[whole..];
            self.partial[..tail.len()].copy_from_slice(tail);
            self.partial_len = tail.len();
        }
        Ok(out.into())
    }
}

fn decode_groups(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), BodyError> {
    while !input.is_empty() {
        let cut = match input.iter().position(|byte| *byte == b'=') {
            Some(pad) => (pad / 4 + 1) * 4,
            None => input.len(),
        };
        STANDARD
            .decode_vec(&input[..cut], out)
            .map_err(|_| bad("request body", "standard base64, as gRPC-Web text has it"))?;
        input = &input[cut..];
    }
    Ok(())
}

/// Follows the frames of a request: a 1-byte flag, 4 bytes of length, bytes.
#[derive(Default)]
struct Frames {
    header: [u8; 5],
    header_len: usize,
    left: u64,
}

impl Frames {
    fn check(&mut self, mut bytes: &[u8]) -> Result<(), BodyError> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let step = self.left.min(bytes.len() as u64);
                self.left -= step;
                bytes = &bytes[step as usize..];
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if self.header[0] > 1 {
                return Err(bad("request frame flag", "0 (plain) or 1 (compressed)"));
            }
            if self.header_len == 5 {
                let [_, a, b, c, d] = self.header;
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.header_len = 0;
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<(), BodyError> {
        if self.header_len > 0 || self.left > 0 {
            return Err(bad(
                "request body",
                "whole frames: flag, length, that many bytes",
            ));
        }
        Ok(())
    }
}

fn bad(place: &'static str, expected: &'static str) -> BodyError {
    let mut reply = Reply::invalid(place, format!("expected {expected}"));
    reply.label = "bad_grpc_web";
    BodyError::Refused(Box::new(reply))
}

pub(crate) struct WebResponse {
    pub(crate) inner: Body,
    encoding: Encoding,
    trailers: Option<HeaderMap>,
    ends: Ends,
    done: bool,
}

impl WebResponse {
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        let frame = match ready!(self.inner.poll_next(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => self.ends.messages(bytes, self.encoding),
                Err(frame) => self.finish(frame.into_trailers().unwrap_or_default()),
            },
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => match self.trailers.take() {
                Some(trailers) => self.finish(trailers),
                None => return Poll::Ready(None),
            },
        };
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn finish(&mut self, trailers: HeaderMap) -> Bytes {
        self.done = true;
        let frame = trailer_frame(&trailers, self.encoding);
        self.ends.status(&frame);
        frame
    }

    /// So many bytes of what was handed out were sent.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.ends.sent(bytes);
        self.inner.release(bytes);
    }

    /// What need not be sent before the status of a call that was cut, counted
    /// from the first byte that is not sent.
    pub(crate) fn spare(&self) -> Option<Range<usize>> {
        self.ends.spare()
    }
}

#[cfg(test)]
mod tests;
