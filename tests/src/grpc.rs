//! The gRPC wire format, by hand, so that tests see bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::HeaderMap;
use percent_encoding::percent_decode_str;
use prost::Message;
use tonic_types::pb;

/// One gRPC message with its prefix.
pub fn frame(compressed: bool, message: &[u8]) -> Bytes {
    let mut frame = vec![u8::from(compressed)];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame.into()
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Status {
    /// `grpc-status`.
    pub code: i32,
    /// `grpc-message`, decoded.
    pub message: String,
    /// `grpc-status-details-bin`, decoded; empty when there is none.
    pub details: Details,
}

/// The `google.rpc` details of a status.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Why, for programs.
    pub error_info: Option<pb::ErrorInfo>,
    /// When to come again.
    pub retry_info: Option<pb::RetryInfo>,
    /// Which limit had no room.
    pub quota_failure: Option<pb::QuotaFailure>,
    /// What was wrong with the request.
    pub bad_request: Option<pb::BadRequest>,
}

impl Status {
    /// From trailers, or from the headers of a trailers-only answer.
    pub fn read(trailers: &HeaderMap) -> Self {
        let text = |name: &str| {
            trailers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        Self::from_texts(text)
    }

    /// From trailers in any shape.
    pub fn from_texts(text: impl Fn(&str) -> Option<String>) -> Self {
        let code = text("grpc-status").unwrap_or_else(|| panic!("no grpc-status"));
        let message = text("grpc-message").unwrap_or_default();
        Self {
            code: code.parse().expect("grpc-status is a number"),
            message: percent_decode_str(&message)
                .decode_utf8()
                .expect("UTF-8")
                .into_owned(),
            details: text("grpc-status-details-bin")
                .map(|t| Details::read(&t))
                .unwrap_or_default(),
        }
    }
}

impl Details {
    fn read(text: &str) -> Self {
        let bytes = STANDARD_NO_PAD
            .decode(text.trim_end_matches('='))
            .expect("base64");
        let status = pb::Status::decode(&bytes[..]).expect("a google.rpc.Status");
        let mut details = Self::default();
        for any in status.details {
            let kind = any.type_url.rsplit('/').next().unwrap_or_default();
            let value = &any.value[..];
            match kind {
                "google.rpc.ErrorInfo" => details.error_info = pb::ErrorInfo::decode(value).ok(),
                "google.rpc.RetryInfo" => details.retry_info = pb::RetryInfo::decode(value).ok(),
                "google.rpc.QuotaFailure" => {
                    details.quota_failure = pb::QuotaFailure::decode(value).ok();
                }
                "google.rpc.BadRequest" => details.bad_request = pb::BadRequest::decode(value).ok(),
                other => panic!("a detail that no test knows: {other}"),
            }
        }
        details
    }
}
