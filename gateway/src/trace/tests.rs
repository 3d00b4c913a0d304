//! What is traced, what a span says, and what it costs when nothing is.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanExporter;

use super::*;
use crate::test_util::allocations;

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector that keeps what it gets.
#[derive(Clone, Debug, Default)]
struct Keeps(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Keeps {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

fn config(sample: f64) -> TraceConfig {
    TraceConfig {
        endpoint: "http://127.0.0.1:4317".into(),
        ca_file: None,
        sample,
        follow_caller: false,
        service_name: "test".into(),
        include_subject: false,
    }
}

fn tracing(config: &TraceConfig) -> (Tracing, Keeps) {
    let keeps = Keeps::default();
    (Tracing::with(config, Export::through(keeps.clone())), keeps)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = http::HeaderName::from_static(name);
        (name, value.parse().unwrap())
    });
    pairs.collect()
}

fn ended(code: Code, reason: &'static str) -> Ended<'static> {
    Ended {
        method: Some("/a.b.Service/Method"),
        route: "/a.b.Service/*",
        protocol: "grpc",
        peer: (Ipv4Addr::LOCALHOST, 4711).into(),
        subject: Some("alice"),
        endpoint: Some("https://10.0.0.1:50051"),
        code,
        reason,
    }
}

/// The only span of a call that ended so.
async fn span(config: &TraceConfig, ended: Ended<'_>) -> SpanData {
    let (tracing, keeps) = tracing(config);
    let mut trace = tracing.begin(&HeaderMap::new());
    tracing.end(&mut trace, || ended);
    tracing.shutdown(Duration::from_secs(1)).await;
    let mut spans = keeps.0.lock().unwrap();
    assert_eq!(spans.len(), 1);
    spans.remove(0)
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == key);
    found.map(|pair| pair.value.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_span_says_what_was_called_and_how_it_ended() {
    let span = span(&config(1.0), ended(Code::NotFound, "")).await;
    assert_eq!(span.name, "a.b.Service/Method");
    assert_eq!(span.span_kind, SpanKind::Server);
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "a.b.Service"),
        ("rpc.method", "Method"),
        ("rpc.grpc.status_code", "5"),
        ("network.protocol.name", "grpc"),
        ("client.address", "127.0.0.1"),
        ("client.port", "4711"),
        ("intellirouter.route", "/a.b.Service/*"),
        ("intellirouter.endpoint", "https://10.0.0.1:50051"),
    ] {
        assert_eq!(attribute(&span, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(&span, "enduser.id"), None);
    assert_eq!(span.status, Status::Unset, "the caller's own mistake");
}

#[tokio::test(start_paused = true)]
async fn the_subject_is_named_only_where_that_is_asked_for() {
    let config = TraceConfig {
        include_subject: true,
        ..config(1.0)
    };
    let span = span(&config, ended(Code::Ok, "")).await;
    assert_eq!(attribute(&span, "enduser.id").as_deref(), Some("alice"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_gateway_or_the_backend_is_an_error_with_its_reason() {
    let span = span(&config(1.0), ended(Code::Unavailable, "no_endpoint")).await;
    assert_eq!(span.status, Status::error("no_endpoint"));
    let reason = attribute(&span, "intellirouter.reason");
    assert_eq!(reason.as_deref(), Some("no_endpoint"));
}

#[tokio::test(start_paused = true)]
async fn paths_that_no_route_covers_share_one_name() {
    let ended = Ended {
        method: None,
        route: "unknown",
        ..ended(Code::Unimplemented, "unknown_method")
    };
    let span = span(&config(1.0), ended).await;
    assert_eq!(span.name, "unknown");
    assert_eq!(attribute(&span, "rpc.service"), None);
}

#[tokio::test(start_paused = true)]
async fn a_callers_trace_is_continued_and_the_backend_is_told_of_the_gateways_span() {
    let (tracing, keeps) = tracing(&config(1.0));
    let mut sent = headers(&[("traceparent", SAMPLED), ("tracestate", "a=1,b=2")]);
    let mut trace = tracing.begin(&sent);
    trace.inject(&mut sent);
    tracing.end(&mut trace, || ended(Code::Ok, ""));
    tracing.shutdown(Duration::from_secs(1)).await;
    let span = keeps.0.lock().unwrap().remove(0);
    assert_eq!(span.span_context.trace_id().to_string(), TRACE);
    assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(span.parent_span_is_remote);
    assert_eq!(span.span_context.trace_state().header(), "a=1,b=2");
    let expected = format!("00-{TRACE}-{}-01", span.span_context.span_id());
    assert_eq!(sent["traceparent"], expected);
    assert_eq!(sent["tracestate"], "a=1,b=2");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_context_begins_a_new_trace_and_its_state_goes_nowhere() {
    let (tracing, _keeps) = tracing(&config(1.0));
    let mut sent = headers(&[("traceparent", "00-0-0-01"), ("tracestate", "a=1")]);
    let trace = tracing.begin(&sent);
    trace.inject(&mut sent);
    let written = sent["traceparent"].to_str().unwrap();
    assert_eq!(written.len(), SAMPLED.len());
    assert!(
        written.ends_with("-01") && !written.contains("-0-"),
        "{written}"
    );
    assert!(!sent.contains_key("tracestate"));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_sampled_tells_its_backend_so() {
    let (tracing, keeps) = tracing(&config(0.0));
    // A caller's own trace goes on, unsampled; without one it is a new one.
    for (mut sent, begins) in [
        (
            headers(&[("traceparent", SAMPLED)]),
            &SAMPLED[..SAMPLED.len() - 2],
        ),
        (HeaderMap::new(), "00-"),
    ] {
        let mut trace = tracing.begin(&sent);
        trace.event("authenticated");
        trace.inject(&mut sent);
        let written = sent["traceparent"].to_str().unwrap();
        assert!(
            written.starts_with(begins) && written.ends_with("-00"),
            "{written}"
        );
        assert_eq!(&written[3..35], trace.trace_id().unwrap().to_string());
        tracing.end(&mut trace, || ended(Code::Ok, ""));
    }
    tracing.shutdown(Duration::from_secs(1)).await;
    assert!(keeps.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn events_are_noted_in_order_and_a_span_keeps_only_so_many() {
    let (tracing, keeps) = tracing(&config(1.0));
    let mut trace = tracing.begin(&HeaderMap::new());
    trace.event("authenticated");
    trace.event_with("refused", "reason", "role_missing");
    for _ in 0..100 {
        trace.event("more");
    }
    tracing.end(&mut trace, || ended(Code::Ok, ""));
    tracing.shutdown(Duration::from_secs(1)).await;
    let span = keeps.0.lock().unwrap().remove(0);
    assert_eq!(span.events.events.len(), EVENTS);
    assert_eq!(span.events.dropped_count, 102 - EVENTS as u32);
    assert_eq!(span.events[0].name, "authenticated");
    assert_eq!(span.events[1].name, "refused");
    let reason = KeyValue::new("reason", "role_missing");
    assert_eq!(span.events[1].attributes, [reason]);
    assert!(span.events[0].timestamp >= span.start_time);
}

#[tokio::test(start_paused = true)]
async fn a_tracestate_of_any_length_passes_and_only_a_short_one_is_recorded() {
    let (tracing, keeps) = tracing(&config(1.0));
    let long = format!("a={}", "x".repeat(250));
    let long = format!("{long},b={}", "x".repeat(250)) + ",c=123456789";
    let mut sent = headers(&[("traceparent", SAMPLED), ("tracestate", &long)]);
    let mut trace = tracing.begin(&sent);
    trace.inject(&mut sent);
    tracing.end(&mut trace, || ended(Code::Ok, ""));
    tracing.shutdown(Duration::from_secs(1)).await;
    assert_eq!(sent["tracestate"], long);
    let span = keeps.0.lock().unwrap().remove(0);
    assert_eq!(span.span_context.trace_state().header(), "");
}

#[test]
fn with_tracing_off_a_call_allocates_nothing_for_it_and_its_headers_pass_untouched() {
    let tracing = Tracing::off();
    let mut sent = headers(&[("traceparent", "whatever"), ("tracestate", "a=1")]);
    let before = sent.clone();
    let made = allocations(|| {
        let mut trace = tracing.begin(&sent);
        trace.event("authenticated");
        trace.event_with("refused", "reason", "no_endpoint");
        trace.inject(&mut sent);
        tracing.end(&mut trace, || ended(Code::Unavailable, "no_endpoint"));
    });
    assert_eq!(made, 0);
    assert_eq!(sent, before);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_sampled_allocates_nothing_but_the_header_that_says_so() {
    let (tracing, _keeps) = tracing(&config(0.0));
    let call = |sent: &mut HeaderMap| {
        allocations(|| {
            let mut trace = tracing.begin(sent);
            trace.event_with("connected", "endpoint", "https://10.0.0.1:50051");
            trace.inject(sent);
            tracing.end(&mut trace, || ended(Code::Ok, ""));
        })
    };
    let mut asks = headers(&[("traceparent", SAMPLED)]);
    assert_eq!(call(&mut asks), 1, "the value");
    let mut declines = headers(&[("traceparent", &SAMPLED.replace("-01", "-00"))]);
    assert_eq!(call(&mut declines), 0);
}

#[test]
fn what_a_call_carries_of_its_trace_is_small() {
    assert!(size_of::<CallTrace>() <= 32, "{}", size_of::<CallTrace>());
}
