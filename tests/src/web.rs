//! gRPC-Web by hand: the frames of its bodies, and calls by curl in every
//! way in which it is spoken.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use crate::curl::{Answer, request};
use crate::grpc::Status;
use crate::messages::SimpleRequest;
use crate::service::Interop;
use crate::{Config, Gateway, Site, grpc};

/// A unary method, as [`unary`] calls it.
pub const UNARY: &str = "/interop.testing.Interop/UnaryCall";

/// The origin whose pages may call.
pub const ORIGIN: &str = "https://app.example";

/// The service behind a gateway that lets pages of `origin` in.
pub fn config(service: &Interop, origin: &str) -> Config {
    Config::interop(service.port).events("").with_text(&format!(
        "[cors]\norigins = [\"{origin}\"]\nmax_age = \"10m\"\n\
         expose_headers = [\"x-reason\", \"x-reason-bin\", \"x-echo-trailing-bin\"]\n",
    ))
}

/// A gateway in front of the foreign service, and calls to it by curl.
pub struct Web {
    /// Its files.
    pub site: Site,
    /// The foreign service.
    pub service: Interop,
    /// The gateway.
    pub gateway: Gateway,
}

/// One way of speaking gRPC-Web.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// curl's option for the version of HTTP.
    pub version: &'static str,
    /// In base64.
    pub text: bool,
}

/// All of them.
pub const WAYS: [Way; 4] = [
    Way {
        version: "--http2",
        text: false,
    },
    Way {
        version: "--http2",
        text: true,
    },
    Way {
        version: "--http1.1",
        text: false,
    },
    Way {
        version: "--http1.1",
        text: true,
    },
];

impl Web {
    #[expect(clippy::new_without_default, reason = "it starts processes")]
    /// Starts both.
    pub fn new() -> Self {
        let site = Site::new();
        let service = site.interop();
        let gateway = site.gateway(&config(&service, ORIGIN));
        Self {
            site,
            service,
            gateway,
        }
    }

    /// A call of a `tester`, by curl; `more` are further arguments for it.
    pub fn call(&self, way: Way, path: &str, body: &[u8], more: &[&str]) -> Answer {
        let token = format!("authorization: Bearer {}", self.site.token(&["tester"]));
        self.stranger(way, path, body, &[&["-H", &token], more].concat())
    }

    /// A call without a token.
    pub fn stranger(&self, way: Way, path: &str, body: &[u8], more: &[&str]) -> Answer {
        let kind = if way.text { "-text" } else { "" };
        let kind = format!("content-type: application/grpc-web{kind}+proto");
        let origin = format!("origin: {ORIGIN}");
        let mut args = vec![
            way.version,
            "-H",
            &kind,
            "-H",
            "x-grpc-web: 1",
            "-H",
            &origin,
        ];
        args.extend(more);
        let body = if way.text {
            STANDARD.encode(body).into_bytes()
        } else {
            body.to_vec()
        };
        request(&self.gateway, path, &args, Some(&body))
    }

    /// A call whose answer is HTTP 200 in the dialect of the request.
    pub fn frames(&self, way: Way, path: &str, body: &[u8], more: &[&str]) -> Vec<(u8, Vec<u8>)> {
        frames(way, &self.call(way, path, body, more))
    }
}

/// The frames of an answer, which must be HTTP 200 in the dialect asked for.
pub fn frames(way: Way, answer: &Answer) -> Vec<(u8, Vec<u8>)> {
    assert_eq!(answer.status, 200, "{way:?}: {}", answer.text());
    let expected = if way.text {
        "application/grpc-web-text"
    } else {
        "application/grpc-web"
    };
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(
        kind == expected || kind == format!("{expected}+proto"),
        "{way:?}: {kind}"
    );
    let body = if way.text {
        web_text(&answer.body)
    } else {
        answer.body.clone()
    };
    web_frames(&body)
}

/// The body of a call that asks for this many bytes.
pub fn unary(response_size: u32) -> Vec<u8> {
    grpc::frame(false, &SimpleRequest { response_size }.encode_to_vec()).to_vec()
}

/// The frames of a gRPC-Web body: flag byte and content.
pub fn web_frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        assert!(body.len() >= 5, "a frame is cut in its head: {body:?}");
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        assert!(body.len() >= 5 + length, "a frame is cut: {body:?}");
        frames.push((body[0], body[5..5 + length].to_vec()));
        body = &body[5 + length..];
    }
    frames
}

/// Decodes a gRPC-Web text body: base64 pieces, each of which may be padded.
pub fn web_text(body: &[u8]) -> Vec<u8> {
    let pieces = body
        .chunks(4)
        .map(|piece| STANDARD.decode(piece).expect("base64 in fours"));
    pieces.flatten().collect()
}

/// The status in the last frame of a gRPC-Web body.
pub fn web_status(frames: &[(u8, Vec<u8>)]) -> Status {
    let trailers = web_trailers(frames);
    Status::from_texts(|name| {
        let found = trailers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    })
}

/// The trailers in the last frame of a gRPC-Web body.
pub fn web_trailers(frames: &[(u8, Vec<u8>)]) -> Vec<(String, String)> {
    let (flag, block) = frames.last().expect("a body ends with trailers");
    assert_eq!(*flag, 0x80, "the last frame holds the trailers");
    let text = String::from_utf8(block.clone()).expect("trailers are text");
    assert!(
        text.ends_with("\r\n"),
        "each trailer ends its line: {text:?}"
    );
    text.trim_end()
        .split("\r\n")
        .map(|line| {
            line.split_once(':')
                .unwrap_or_else(|| panic!("no trailer: {line:?}"))
        })
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}
