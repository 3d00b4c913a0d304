//! What pages of other origins may do and read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::Gateway;
use intellirouter_tests::curl::{Answer, request};
use intellirouter_tests::web::{ORIGIN, UNARY, WAYS, Web, unary};

#[test]
fn a_preflight_of_a_known_origin_allows_what_it_asks_for() {
    let web = Web::new();
    for path in [UNARY, "/events?channel=intellirouter:chain_engine:*"] {
        for version in ["--http2", "--http1.1"] {
            let answer = preflight(&web.gateway, version, path, ORIGIN);
            assert!(
                matches!(answer.status, 200 | 204),
                "{path}: {}",
                answer.status
            );
            assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN));
            let allowed = answer
                .header("access-control-allow-headers")
                .unwrap_or_default();
            for name in ["authorization", "x-grpc-web", "x-custom"] {
                assert!(allowed.contains(name), "{path}: {allowed}");
            }
            assert!(
                answer
                    .header("access-control-allow-methods")
                    .unwrap()
                    .contains("POST")
            );
            assert_eq!(answer.header("access-control-max-age"), Some("600"));
            assert!(
                answer
                    .header("vary")
                    .unwrap_or_default()
                    .to_lowercase()
                    .contains("origin")
            );
        }
    }
}

#[test]
fn a_preflight_of_an_unknown_origin_allows_nothing() {
    let web = Web::new();
    for origin in ["https://app.example.evil", "http://app.example", "null"] {
        let answer = preflight(&web.gateway, "--http2", UNARY, origin);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            None,
            "{origin}"
        );
    }
}

fn preflight(gateway: &Gateway, version: &str, path: &str, origin: &str) -> Answer {
    let origin = format!("origin: {origin}");
    let args = [
        version,
        "-X",
        "OPTIONS",
        "-H",
        &origin,
        "-H",
        "access-control-request-method: POST",
        "-H",
        "access-control-request-headers: authorization,content-type,x-custom,x-grpc-web",
    ];
    request(gateway, path, &args, None)
}

#[test]
fn pages_may_read_the_status_and_the_configured_trailers() {
    let web = Web::new();
    let answer = web.call(WAYS[0], UNARY, &unary(1), &[]);
    let exposed = answer
        .header("access-control-expose-headers")
        .unwrap_or_default();
    for name in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "x-reason",
    ] {
        assert!(
            exposed.split(", ").any(|n| n == name),
            "{name} is not in {exposed}"
        );
    }
}

#[test]
fn a_call_of_a_foreign_page_gets_no_cors_headers() {
    let web = Web::new();
    let kind = "content-type: application/grpc-web";
    let token = format!("authorization: Bearer {}", web.site.token(&["tester"]));
    let args = [
        "--http2",
        "-H",
        kind,
        "-H",
        &token,
        "-H",
        "origin: https://evil.example",
    ];
    let answer = request(&web.gateway, UNARY, &args, Some(&unary(1)));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}
