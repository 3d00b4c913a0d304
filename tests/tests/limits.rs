//! Limits of one gateway: who counts together, and what a refused caller is told
//! in each dialect.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use intellirouter_tests::client::{call, code_with};
use intellirouter_tests::curl::request;
use intellirouter_tests::events::{CHANNEL, PAYLOAD};
use intellirouter_tests::foreign::PATH;
use intellirouter_tests::limits::{EXHAUSTED, backend, bearer_of, config, passed, rate};
use intellirouter_tests::service::python;
use intellirouter_tests::web::{UNARY, WAYS, Web, frames, unary, web_status};
use intellirouter_tests::{Config, Site, Token, scripts, web};

#[test]
fn grpcio_reads_which_limit_refuses_and_a_call_passes_after_the_wait_and_not_before() {
    let site = Site::new();
    let service = site.interop();
    let limits = rate("per-user", "\"subject\"", "rate = 5\nperiod = \"5s\"");
    let gateway = site.gateway(&Config::interop(service.port).with_text(&limits));
    let mut client = python("limits_client.py");
    client.args(["--target", &gateway.target(), "--ca"]);
    client.arg(&gateway.ca);
    client.args(["--token", &site.token(&["tester"])]);
    client.args(["--limit", "per-user", "--subject", "subject"]);
    scripts::run_alone(&client);
}

#[tokio::test]
async fn a_limit_never_looks_like_an_outage_or_a_message_too_large() {
    let site = Site::new();
    let limits = rate("per-user", "\"subject\"", "rate = 1\nperiod = \"1h\"");
    let backend = backend(&site).await;
    let config = config(&backend, &limits).events("payload_bytes = 1000");
    let gateway = site.gateway(&config);
    let bearer = bearer_of(&site, "alice");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(call(&gateway, PATH, &headers).await.status().code, 0);
    let limited = call(&gateway, PATH, &headers).await.status();
    assert_eq!(limited.code, EXHAUSTED, "never UNAVAILABLE: {limited:?}");
    assert_eq!(limited.details.error_info.unwrap().reason, "RATE_LIMITED");
    let [violation] = &limited.details.quota_failure.unwrap().violations[..] else {
        panic!("one limit refuses");
    };
    assert_eq!(violation.subject, "subject");
    assert!(!limited.message.contains("alice"), "{}", limited.message);
    let wait = limited.details.retry_info.unwrap().retry_delay.unwrap();
    assert!((3590..=3600).contains(&wait.seconds), "{wait:?}");

    let args = [
        "-H",
        &format!("authorization: {}", bearer_of(&site, "bob")),
        "-H",
        "content-type: application/json",
    ];
    let path = format!("/events/{CHANNEL}");
    let large = request(&gateway, &path, &args, Some(&[b' '; 1001]));
    assert_eq!(large.status, 413, "{}", large.text());
    assert_eq!(large.header("retry-after"), None);
}

#[test]
fn over_http_every_answer_tells_the_quota_and_a_refusal_whole_seconds_to_wait() {
    let site = Site::new();
    let limits = [
        rate(
            "per-user",
            "\"subject\"",
            "rate = 2\nperiod = \"1m\"\nroutes = [\"/events\"]",
        ),
        rate("wide", "\"address\"", "rate = 1000"),
    ];
    let config = Config::default().events("").with_text(&limits.concat());
    let gateway = site.gateway(&config);
    let bearer = format!("authorization: {}", bearer_of(&site, "alice"));
    let args = ["-H", &bearer, "-H", "content-type: application/json"];
    for version in ["--http2", "--http1.1"] {
        let bearer = format!("authorization: {}", bearer_of(&site, version));
        let args = [
            version,
            "-H",
            &bearer,
            "-H",
            "content-type: application/json",
        ];
        let publish = || {
            let path = format!("/events/{CHANNEL}");
            request(&gateway, &path, &args, Some(PAYLOAD.as_bytes()))
        };
        for (remaining, reset) in [("1", "30"), ("0", "60")] {
            let answer = publish();
            assert_eq!(answer.status, 202, "{}", answer.text());
            assert_eq!(answer.header("ratelimit-limit"), Some("2"));
            assert_eq!(answer.header("ratelimit-remaining"), Some(remaining));
            assert_eq!(answer.header("ratelimit-reset"), Some(reset));
            assert_eq!(
                answer.header("ratelimit-policy"),
                Some("2;w=60;burst=2"),
                "the tightest"
            );
        }
        let answer = publish();
        assert_eq!(answer.status, 429, "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("30"));
        assert_eq!(answer.header("ratelimit-remaining"), Some("0"));
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["reason"], "rate_limited");
    }
    let answer = request(
        &gateway,
        "/events?channel=intellirouter:chain_engine:*&x=1",
        &args,
        None,
    );
    assert_eq!(answer.status, 400, "it had room: {}", answer.text());
}

#[test]
fn over_grpc_web_a_refusal_is_a_trailer_frame_that_pages_can_read() {
    let site = Site::new();
    let service = site.interop();
    let limits = rate("per-user", "\"subject\"", "rate = 1\nperiod = \"1h\"");
    let gateway = site.gateway(&web::config(&service, web::ORIGIN).with_text(&limits));
    let web = Web {
        site,
        service,
        gateway,
    };
    for (n, way) in WAYS.into_iter().enumerate() {
        let answer = web.call(way, UNARY, &unary(1), &[]);
        let frames = frames(way, &answer);
        let status = web_status(&frames);
        assert_eq!(status.code, if n == 0 { 0 } else { EXHAUSTED }, "{way:?}");
        if n > 0 {
            assert!(status.details.retry_info.is_some() && status.details.quota_failure.is_some());
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some(web::ORIGIN)
            );
        }
    }
}

#[tokio::test]
async fn one_caller_over_its_limit_costs_another_nothing() {
    let site = Site::new();
    let limits = rate("per-user", "\"subject\"", "rate = 5\nperiod = \"1h\"");
    let backend = backend(&site).await;
    let gateway = site.gateway(&config(&backend, &limits));
    assert_eq!(passed(&gateway, &bearer_of(&site, "alice"), 50).await, 5);
    assert_eq!(passed(&gateway, &bearer_of(&site, "bob"), 5).await, 5);
}

#[tokio::test]
async fn tokens_that_are_tried_out_and_calls_to_nowhere_count_for_their_address() {
    let site = Site::new();
    let limits = rate("per-address", "\"address\"", "rate = 6\nperiod = \"1h\"");
    let backend = backend(&site).await;
    let gateway = site.gateway(&config(&backend, &limits));
    for (path, token, code) in [
        (PATH, "guess", 16),
        (PATH, "guess again", 16),
        ("/no.Such/Method", "guess", 16),
    ] {
        assert_eq!(code_with(&gateway, path, token).await, code);
    }
    for path in ["/nothing/here/at/all", "/admin", "/"] {
        assert_eq!(request(&gateway, path, &[], None).status, 404, "{path}");
    }
    assert_eq!(code_with(&gateway, PATH, "guess").await, EXHAUSTED);
    assert_eq!(request(&gateway, "/admin", &[], None).status, 429);
}

#[tokio::test]
async fn a_limit_on_one_method_of_a_wider_route_covers_that_method_alone() {
    let site = Site::new();
    let more = "rate = 1\nperiod = \"1h\"\nroutes = [\"/foreign.Service/Method\"]";
    let backend = backend(&site).await;
    let gateway = site.gateway(&config(&backend, &rate("one-method", "\"subject\"", more)));
    let token = site.token(&["tester"]);
    assert_eq!(code_with(&gateway, PATH, &token).await, 0);
    assert_eq!(code_with(&gateway, PATH, &token).await, EXHAUSTED);
    for _ in 0..3 {
        assert_eq!(
            code_with(&gateway, "/foreign.Service/Other", &token).await,
            0
        );
    }
    let stranger = Token::new("bob", &["visitor"]).hs256(site.secret().as_bytes());
    assert_eq!(
        code_with(&gateway, PATH, &stranger).await,
        7,
        "its roles hold"
    );
}
