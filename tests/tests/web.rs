//! gRPC-Web: a real browser with two libraries, and the bytes of the protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't go on fails its test"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use intellirouter_tests::curl::request;
use intellirouter_tests::messages::{FailRequest, Header, Seen, SimpleResponse};
use intellirouter_tests::web::{
    ORIGIN, UNARY, WAYS, Web, config, frames, unary, web_frames, web_status, web_text, web_trailers,
};
use intellirouter_tests::{Site, grpc, scripts};
use prost::Message;

const FAIL: &str = "/interop.testing.Interop/Fail";

fn browser_cases_pass(protocol: &str) {
    let site = Site::new();
    let service = site.interop();
    let token = site.token(&["tester"]);
    scripts::browser(protocol, &service, &token, |origin| {
        site.gateway(&config(&service, origin))
    });
}

#[test]
fn every_browser_case_passes_over_http2() {
    browser_cases_pass("h2");
}

#[test]
fn every_browser_case_passes_over_http1() {
    browser_cases_pass("http/1.1");
}

#[test]
fn a_call_answers_with_its_message_and_then_its_trailers() {
    let web = Web::new();
    for way in WAYS {
        let more = [
            "-H",
            "x-echo-initial: hello",
            "-H",
            "x-echo-trailing-bin: AAECAw",
        ];
        let answer = web.call(way, UNARY, &unary(5), &more);
        assert_eq!(answer.header("x-echo-initial"), Some("hello"), "{way:?}");
        let got = frames(way, &answer);
        assert_eq!(got.len(), 2, "{way:?}: {got:?}");
        assert_eq!(got[0].0, 0);
        assert_eq!(
            SimpleResponse::decode(&got[0].1[..]).unwrap().payload,
            [0; 5]
        );
        let trailers = web_trailers(&got);
        assert!(
            trailers.contains(&("grpc-status".into(), "0".into())),
            "{trailers:?}"
        );
        let echoed = trailers
            .iter()
            .find(|(name, _)| name == "x-echo-trailing-bin")
            .unwrap();
        assert_eq!(echoed.1.trim_end_matches('='), "AAECAw", "{way:?}");
    }
}

#[test]
fn a_trailers_only_error_is_one_frame_that_holds_the_status() {
    let web = Web::new();
    let trailers = vec![Header {
        name: "x-reason".into(),
        value: b"gone".into(),
    }];
    let fail = FailRequest {
        code: 5,
        message: "not here: 100 % ☺".into(),
        trailers,
    };
    for way in WAYS {
        let body = grpc::frame(false, &fail.encode_to_vec());
        let got = web.frames(way, FAIL, &body, &[]);
        assert_eq!(got.len(), 1, "{way:?}: {got:?}");
        let status = web_status(&got);
        assert_eq!(
            (status.code, status.message.as_str()),
            (5, fail.message.as_str()),
            "{way:?}"
        );
        assert!(
            web_trailers(&got).contains(&("x-reason".into(), "gone".into())),
            "{way:?}"
        );
    }
}

#[test]
fn a_refusal_of_the_gateway_is_a_frame_with_details_that_pages_may_read() {
    let web = Web::new();
    for way in WAYS {
        let answer = web.stranger(way, UNARY, &unary(1), &[]);
        let status = web_status(&frames(way, &answer));
        assert_eq!(status.code, 16, "{way:?}: {status:?}");
        assert!(
            !status.message.is_empty() && status.details.error_info.is_some(),
            "{status:?}"
        );
        assert_eq!(
            answer.header("access-control-allow-origin"),
            Some(ORIGIN),
            "{way:?}"
        );
    }
}

#[test]
fn a_text_body_may_be_several_padded_pieces() {
    let web = Web::new();
    let message = unary(300);
    assert!(message.len() > 7);
    let kind = "content-type: application/grpc-web-text";
    let token = format!("authorization: Bearer {}", web.site.token(&["tester"]));
    for version in ["--http2", "--http1.1"] {
        // Cut inside the prefix and inside the message, each piece padded.
        let pieces = [&message[..2], &message[2..6], &message[6..]];
        let body: String = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
        let args = [version, "-H", kind, "-H", &token];
        let answer = request(&web.gateway, UNARY, &args, Some(body.as_bytes()));
        let got = web_frames(&web_text(&answer.body));
        assert_eq!(
            SimpleResponse::decode(&got[0].1[..]).unwrap().payload.len(),
            300
        );
        assert_eq!(web_status(&got).code, 0);
    }
}

#[test]
fn a_text_body_may_arrive_in_pieces_that_cut_base64_groups() {
    let web = Web::new();
    let token = web.site.token(&["tester"]);
    let encoded = STANDARD.encode(unary(300));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let ca = &web.gateway.ca;
        let mut client = intellirouter_tests::client::Connection::open(web.gateway.port, ca).await;
        let bearer = format!("Bearer {token}");
        let kind = ("content-type", "application/grpc-web-text");
        let mut call = client
            .call(UNARY, &[kind, ("authorization", &bearer)])
            .await;
        for byte in encoded.as_bytes() {
            let piece = bytes::Bytes::copy_from_slice(&[*byte]);
            call.send.send_data(piece, false).unwrap();
        }
        call.send.send_data(bytes::Bytes::new(), true).unwrap();
        let answer = call.answer().await;
        let got = web_frames(&web_text(&answer.body));
        assert_eq!(
            SimpleResponse::decode(&got[0].1[..]).unwrap().payload.len(),
            300
        );
    });
}

#[test]
fn a_bad_frame_is_an_invalid_argument_and_says_where() {
    let web = Web::new();
    let whole = unary(1);
    let cut = &whole[..whole.len() - 1];
    let half_head = &whole[..3];
    let mut unknown_flag = whole.clone();
    unknown_flag[0] = 0x40;
    for way in WAYS {
        for (what, body) in [
            ("cut", cut),
            ("cut in its head", half_head),
            ("of an unknown kind", &unknown_flag),
        ] {
            let status = web_status(&web.frames(way, UNARY, body, &[]));
            assert_eq!(status.code, 3, "a frame {what}, {way:?}: {status:?}");
            let violations = status
                .details
                .bad_request
                .expect("details say what is wrong");
            assert!(!violations.field_violations.is_empty());
        }
    }
}

#[test]
fn bad_base64_is_an_invalid_argument() {
    let web = Web::new();
    let kind = "content-type: application/grpc-web-text";
    let token = format!("authorization: Bearer {}", web.site.token(&["tester"]));
    for body in ["AAAAA*==", "AAAAA", "AA=A"] {
        let args = ["--http2", "-H", kind, "-H", &token];
        let answer = request(&web.gateway, UNARY, &args, Some(body.as_bytes()));
        assert_eq!(
            web_status(&web_frames(&web_text(&answer.body))).code,
            3,
            "{body}"
        );
    }
}

#[test]
fn the_service_sees_grpc_and_nothing_of_the_web() {
    let web = Web::new();
    let empty = grpc::frame(false, b"");
    for way in WAYS {
        let got = web.frames(way, "/interop.testing.Interop/Inspect", &empty, &[]);
        let seen = Seen::decode(&got[0].1[..]).unwrap();
        for name in ["x-grpc-web", "connection", "host", "transfer-encoding"] {
            assert!(seen.values(name).is_empty(), "{way:?}: {name}");
        }
        assert_eq!(seen.peer_name, "gateway");
    }
}

#[test]
fn an_abort_over_http1_reaches_the_service() {
    let web = Web::new();
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, grpc::frame(false, b"")).unwrap();
    let data = format!("@{}", body.display());
    let token = format!("authorization: Bearer {}", web.site.token(&["tester"]));
    let args = [
        "--http1.1",
        "-H",
        "content-type: application/grpc-web",
        "-H",
        &token,
        "-H",
        "x-call-id: aborted",
        "--data-binary",
        &data,
    ];
    let path = "/interop.testing.Interop/Sleep";
    let mut curl = intellirouter_tests::curl::stream(&web.gateway, path, &args);
    web.service.begun("aborted");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    curl.kill();
    let since = u64::try_from(now.as_millis()).unwrap();
    web.service
        .cancelled("aborted", since, std::time::Duration::from_secs(1));
}
