//! What operators read must be what callers got.

use futures_util::FutureExt as _;
use http::HeaderValue;
use prost_reflect::DescriptorPool;

use super::*;
use crate::body::{Body, Kind};
use crate::calls::OpenCalls;
use crate::reply::{Dialect, Reply};
use crate::routes::RouteTable;
use crate::test_util::{client, config, drain, status};

fn record(telemetry: &Arc<Telemetry>, protocol: Protocol) -> Box<CallRecord> {
    listed(telemetry, &OpenCalls::new(1), protocol)
}

fn listed(
    telemetry: &Arc<Telemetry>,
    calls: &Arc<OpenCalls>,
    protocol: Protocol,
) -> Box<CallRecord> {
    let route = RouteTable::new(&config(""), &DescriptorPool::new()).unknown;
    let path = http::uri::PathAndQuery::from_static("/a.S/M?secret=1");
    CallRecord::begin(
        telemetry,
        calls.open((0, 1), protocol, client(), path, route),
    )
}

/// The calls that the metrics count, as `code count`.
fn counted(telemetry: &Telemetry) -> Vec<String> {
    let text = telemetry.encode(0, None).unwrap();
    let calls = text
        .lines()
        .filter_map(|line| line.strip_prefix("intellirouter_calls_total{"));
    calls
        .map(|line| {
            let (labels, count) = line.split_once("} ").unwrap();
            assert!(labels.contains("route=\"unknown\""), "{labels}");
            let code = labels
                .split("code=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap();
            format!("{code} {count}")
        })
        .collect()
}

fn message(bytes: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes))
}

#[test]
fn a_record_that_is_dropped_before_an_end_counts_as_cancelled() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let mut record = record(&telemetry, Protocol::Grpc);
    record.see(&message(b"one"));
    drop(record);
    assert_eq!(counted(&telemetry), ["CANCELLED 1"]);
}

#[test]
fn a_call_that_is_dropped_after_its_headers_said_ok_still_counts_as_cancelled() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let mut record = record(&telemetry, Protocol::Http);
    record.http_status(http::StatusCode::OK);
    drop(record);
    assert_eq!(counted(&telemetry), ["CANCELLED 1"]);
}

#[test]
fn the_trailers_decide_and_what_comes_after_changes_nothing() {
    let telemetry = Telemetry::new(false, Tracing::off());
    for (code, name) in [
        ("0", "OK"),
        ("5", "NOT_FOUND"),
        ("16", "UNAUTHENTICATED"),
        ("99", "UNKNOWN"),
    ] {
        let mut record = record(&telemetry, Protocol::Grpc);
        record.see(&message(b"one"));
        record.see(&Frame::trailers(status(code)));
        record.broke();
        drop(record);
        assert!(counted(&telemetry).contains(&format!("{name} 1")), "{code}");
    }
    assert_eq!(counted(&telemetry).len(), 4, "each call counts once");
}

#[test]
fn a_trailers_only_answer_counts_by_its_header() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let mut record = record(&telemetry, Protocol::Grpc);
    record.see_headers(&status("7"));
    let body = Body::empty().recorded(record);
    assert_eq!(counted(&telemetry), ["PERMISSION_DENIED 1"]);
    drop(body);
    assert_eq!(counted(&telemetry), ["PERMISSION_DENIED 1"]);
}

#[test]
fn a_stream_that_ends_without_a_status_is_no_success() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let stream = http_body_util::Full::new(Bytes::from_static(b"one"));
    let body = Body::new(Kind::Local(tonic::body::Body::new(stream)));
    let mut body = body.recorded(record(&telemetry, Protocol::Grpc));
    drain(&mut body).now_or_never().unwrap();
    assert_eq!(counted(&telemetry), ["UNKNOWN 1"]);
}

#[test]
fn a_body_that_fails_counts_as_unavailable() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let broken = futures_util::stream::iter([Err::<Frame<Bytes>, _>(tonic::Status::internal("x"))]);
    let stream = tonic::body::Body::new(http_body_util::StreamBody::new(broken));
    let mut body = Body::new(Kind::Local(stream)).recorded(record(&telemetry, Protocol::Grpc));
    assert!(drain(&mut body).now_or_never().unwrap().2.is_some());
    assert_eq!(counted(&telemetry), ["UNAVAILABLE 1"]);
}

#[test]
fn a_refusal_counts_with_its_code_and_its_reason_in_each_dialect() {
    use crate::layers::grpc_web::Encoding;
    for dialect in [Dialect::Grpc, Dialect::Web(Encoding::Text), Dialect::Http] {
        let telemetry = Telemetry::new(false, Tracing::off());
        let mut record = record(&telemetry, Protocol::Grpc);
        let reply = Reply::denied("role_missing", "no");
        record.refused(&reply);
        let mut body = reply.render(dialect).into_body().recorded(record);
        drain(&mut body).now_or_never().unwrap();
        drop(body);
        assert_eq!(counted(&telemetry), ["PERMISSION_DENIED 1"], "{dialect:?}");
        let text = telemetry.encode(0, None).unwrap();
        assert!(
            text.contains(
                "refusals_total{route=\"unknown\",protocol=\"grpc\",reason=\"role_missing\"} 1"
            ),
            "{text}"
        );
    }
}

#[test]
fn open_calls_are_counted_to_their_last_byte() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let calls = OpenCalls::new(1);
    let mut first = listed(&telemetry, &calls, Protocol::Grpc);
    let second = Body::full("x").recorded(listed(&telemetry, &calls, Protocol::Http));
    assert_eq!(calls.count(), 2);
    let text = telemetry.encode(calls.count(), None).unwrap();
    assert!(text.contains("intellirouter_open_calls 2"));
    first.see(&Frame::trailers(status("0")));
    drop((first, second));
    assert_eq!(calls.count(), 0);
}

#[test]
fn no_label_of_a_metric_comes_from_the_caller() {
    let telemetry = Telemetry::new(false, Tracing::off());
    let mut record = record(&telemetry, Protocol::GrpcWeb);
    let hostile = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0\"} 1"),
    )]);
    record.see(&Frame::trailers(hostile));
    drop(record);
    let text = telemetry.encode(0, None).unwrap();
    assert!(
        !text.contains("a.S") && !text.contains("secret") && !text.contains("0\\\""),
        "{text}"
    );
    assert_eq!(counted(&telemetry), ["UNKNOWN 1"]);
}
