//! Each row of the failure table in each dialect.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::prost::Message as _;
use tonic_types::{ErrorDetails, pb};

use super::*;
use crate::test_util::drain;

/// Code, HTTP status, and the answer that has them.
fn rows() -> Vec<(Code, u16, Reply)> {
    let big = Reply::new(
        Code::ResourceExhausted,
        "too_large",
        "the payload is too large",
    )
    .status(StatusCode::PAYLOAD_TOO_LARGE);
    vec![
        (
            Code::Unauthenticated,
            401,
            Reply::unauthenticated("no_token", "a token is required"),
        ),
        (
            Code::PermissionDenied,
            403,
            Reply::denied("role_missing", "not allowed"),
        ),
        (
            Code::Unimplemented,
            404,
            Reply::new(Code::Unimplemented, "unknown_method", "no such"),
        ),
        (
            Code::ResourceExhausted,
            429,
            Reply::new(Code::ResourceExhausted, "limit", "too many")
                .retry_after(Duration::from_secs(3)),
        ),
        (
            Code::Unavailable,
            503,
            Reply::unavailable("no_endpoint", "no backend can be reached"),
        ),
        (Code::DeadlineExceeded, 504, Reply::deadline()),
        (
            Code::Unavailable,
            503,
            Reply::unavailable("upstream_cut", "the backend went away"),
        ),
        (Code::ResourceExhausted, 413, big),
        (
            Code::InvalidArgument,
            400,
            Reply::invalid("grpc-timeout", "expected digits"),
        ),
        (Code::Internal, 500, Reply::internal()),
    ]
}

fn body(response: Response<Body>) -> Vec<u8> {
    use futures_util::FutureExt as _;
    let mut body = response.into_body();
    drain(&mut body).now_or_never().unwrap().0
}

fn details(headers: &HeaderMap) -> ErrorDetails {
    let status = tonic::Status::from_header_map(headers).unwrap();
    status.get_error_details()
}

#[test]
fn every_refusal_is_trailers_only_in_grpc() {
    for (code, _, reply) in rows() {
        let response = reply.render(Dialect::Grpc);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], (code as i32).to_string());
        assert!(http_body::Body::is_end_stream(response.body()), "{code:?}");
    }
}

#[test]
fn every_refusal_is_one_trailer_frame_in_grpc_web() {
    for (_, _, reply) in rows() {
        for (encoding, content_type) in [
            (Encoding::Binary, "application/grpc-web+proto"),
            (Encoding::Text, "application/grpc-web-text+proto"),
        ] {
            let response = reply.render(Dialect::Web(encoding));
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], content_type);
            let frame = grpc_web::trailer_frame(&reply.trailers(), encoding);
            assert!(frame.len() > 5);
            assert_eq!(body(response), frame);
        }
    }
}

#[test]
fn every_refusal_is_a_json_problem_in_http() {
    for (_, status, reply) in rows() {
        let response = reply.render(Dialect::Http);
        assert_eq!(response.status(), status, "{}", reply.label);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let problem: serde_json::Value = serde_json::from_slice(&body(response)).unwrap();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["reason"], reply.label);
        assert_eq!(problem["detail"], reply.message.as_ref());
    }
}

#[test]
fn the_details_of_every_refusal_decode_back() {
    for (code, _, reply) in rows() {
        let trailers = reply.trailers();
        let status = tonic::Status::from_header_map(&trailers).unwrap();
        assert_eq!((status.code(), status.message()), (code, &*reply.message));
        let details = details(&trailers);
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, reply.label.to_ascii_uppercase());
        assert_eq!(info.domain, ERROR_DOMAIN);
        let wait = details.retry_info().map(|info| info.retry_delay);
        assert_eq!(wait, reply.retry_after.map(Some), "{}", reply.label);
    }
}

#[test]
fn the_details_are_a_google_rpc_status_of_the_same_code_and_message() {
    let reply = Reply::denied("role_missing", "not allowed");
    let trailers = reply.trailers();
    let value = trailers["grpc-status-details-bin"].to_str().unwrap();
    // Metadata may be padded or not.
    let bytes = STANDARD.decode(format!("{value}{}", "=".repeat((4 - value.len() % 4) % 4)));
    let status = pb::Status::decode(bytes.unwrap().as_slice()).unwrap();
    assert_eq!((status.code, status.message.as_str()), (7, "not allowed"));
}

#[test]
fn a_malformed_input_is_named_with_its_place_in_each_dialect() {
    let reply = Reply::invalid("grpc-timeout", "expected digits");
    let details = details(&reply.trailers());
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(
        (&*violation.field, &*violation.description),
        ("grpc-timeout", "expected digits")
    );
    let problem = body(reply.render(Dialect::Http));
    let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!(
        (&problem["place"], &problem["expected"]),
        (&"grpc-timeout".into(), &"expected digits".into())
    );
}

#[test]
fn retry_after_is_whole_seconds_rounded_up_and_never_zero() {
    for (millis, header) in [
        (0, "1"),
        (1, "1"),
        (999, "1"),
        (1000, "1"),
        (1001, "2"),
        (30_000, "30"),
    ] {
        let reply = Reply::unavailable("x", "y").retry_after(Duration::from_millis(millis));
        assert_eq!(
            reply.render(Dialect::Http).headers()["retry-after"],
            header,
            "{millis} ms"
        );
    }
    assert!(
        !Reply::internal()
            .render(Dialect::Http)
            .headers()
            .contains_key("retry-after")
    );
}

#[test]
fn a_401_challenges_and_says_whether_a_token_was_there() {
    let challenge = |label| {
        let response = Reply::unauthenticated(label, "text").render(Dialect::Http);
        response.headers()["www-authenticate"].clone()
    };
    assert_eq!(challenge("no_token"), "Bearer");
    assert_eq!(challenge("expired"), "Bearer error=\"invalid_token\"");
}

#[test]
fn an_event_source_on_its_way_back_is_told_when_to_come_again_unless_it_never_may() {
    for (_, status, reply) in rows() {
        let response = reply.render(Dialect::EventSource);
        if !matches!(status, 429 | 503) {
            assert_eq!(response.status(), status, "{}", reply.label);
            continue;
        }
        assert_eq!(response.status(), 200, "{}", reply.label);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let text = String::from_utf8(body(response)).unwrap();
        // No blank line: that would take away the id with which it resumes.
        let wait = text.strip_prefix("retry: ").unwrap();
        let wait: u64 = wait.strip_suffix('\n').unwrap().parse().unwrap();
        let least = reply.retry_after.unwrap().as_millis() as u64;
        let least = least.max(2000);
        assert!((least..least + 2000).contains(&wait), "{wait} of {least}");
    }
}

#[test]
fn a_405_names_the_method_that_is_known() {
    let reply = Reply::new(Code::Unimplemented, "method_not_allowed", "no")
        .status(StatusCode::METHOD_NOT_ALLOWED)
        .allow("POST");
    assert_eq!(reply.render(Dialect::Http).headers()["allow"], "POST");
}

#[test]
fn a_message_is_percent_encoded_in_grpc_and_reads_back() {
    let text = "100 % of \"ü\"\r\nforged: header";
    let trailers = Reply::denied("x", text).trailers();
    let header = trailers["grpc-message"].to_str().unwrap();
    assert!(
        header.bytes().all(|byte| (0x20..0x7f).contains(&byte)),
        "{header}"
    );
    assert!(
        header.contains("100%20%25") || header.contains("100 %25"),
        "{header}"
    );
    let decoded = percent_encoding::percent_decode_str(header)
        .decode_utf8()
        .unwrap();
    assert_eq!(decoded, text);
}

/// A refusal by a limit of 5 per minute, asked for with `wait` to go.
fn over_limit(wait: Duration) -> Reply {
    let text = "[[limits.rates]]\nname = 'r'\nper = ['subject']\nrate = 5\nperiod = '1m'";
    let meter = &crate::test_util::config(text).limits.rates[0].meter;
    let limit = OverLimit {
        subject: "subject".into(),
        description: "limit \"r\"".into(),
        quota: Quota::new(meter, 0),
    };
    Reply::over_limit(limit, wait)
}

#[test]
fn a_refusal_by_a_limit_says_which_and_for_how_long_in_grpc() {
    for dialect in [Dialect::Grpc, Dialect::Web(Encoding::Binary)] {
        let reply = over_limit(Duration::from_millis(1234));
        let details = match dialect {
            Dialect::Grpc => details(reply.render(dialect).headers()),
            _ => details(&reply.trailers()),
        };
        assert_eq!(
            details.retry_info().unwrap().retry_delay,
            Some(Duration::from_millis(1234))
        );
        let violation = &details.quota_failure().unwrap().violations[0];
        assert_eq!(
            (&*violation.subject, &*violation.description),
            ("subject", "limit \"r\"")
        );
        assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED");
    }
}

#[test]
fn a_refusal_by_a_limit_says_when_to_come_again_in_http_headers() {
    let response = over_limit(Duration::from_millis(1234)).render(Dialect::Http);
    assert_eq!(response.status(), 429);
    for (name, value) in [
        ("retry-after", "2"),
        ("ratelimit-limit", "5"),
        ("ratelimit-remaining", "0"),
        ("ratelimit-reset", "60"),
        ("ratelimit-policy", "5;w=60;burst=5"),
    ] {
        assert_eq!(response.headers()[name], value, "{name}");
    }
}

#[test]
fn a_refusal_by_a_limit_never_says_to_come_again_at_once() {
    let reply = over_limit(Duration::ZERO);
    assert!(reply.retry_after.unwrap() > Duration::ZERO);
    assert_eq!(reply.render(Dialect::Http).headers()["retry-after"], "1");
}
