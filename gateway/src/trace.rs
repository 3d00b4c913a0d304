//! Traces: one span per sampled call, to an OpenTelemetry collector.
//!
//! Owns the decision whether a call is traced, the span while the call lasts,
//! and the W3C trace context that goes upstream. The way to the collector is
//! [`export`]; what stands in a span is told by [`crate::telemetry`], which
//! knows how the call truly ended. Spans are built here and not by a layer of
//! `tracing`: a call has exactly one span, which lives in its record, and no
//! thread-local context or filter stands in the way of calls without one.
//!
//! The decision comes first. With tracing off a call costs one branch, and the
//! caller's headers pass untouched. A call that is not sampled costs no span;
//! its `traceparent` goes upstream with the sampled flag cleared, so that
//! backends which follow their parent agree with the share that was configured.
//! By default only the trace id is taken from a caller; a caller may choose one
//! that is sampled, which costs it its place in the bounded queue and no more.
//!
//! Bounds: 32 events in a span (further ones are counted in it), 512 bytes of
//! `tracestate` in a span (a longer one passes upstream, and is not recorded).

mod context;
mod export;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::config::TraceConfig;
use context::{Parent, Sampler};
use export::Export;

pub(crate) use export::check;

/// Events of one span.
const EVENTS: usize = 32;

/// See the module's comment. Lives as long as the process.
pub(crate) struct Tracing(Option<Active>);

struct Active {
    sampler: Sampler,
    include_subject: bool,
    scope: InstrumentationScope,
    export: Export,
}

impl Tracing {
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Must run on the runtime that exports: not on a worker's.
    pub(crate) fn start(config: Option<&TraceConfig>) -> Result<Self, String> {
        config.map_or(Ok(Self::off()), |config| {
            Ok(Self::with(config, Export::start(config)?))
        })
    }

    fn with(config: &TraceConfig, export: Export) -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Active {
            sampler: Sampler::new(config.sample, config.follow_caller),
            include_subject: config.include_subject,
            scope,
            export,
        }))
    }

    /// Shows what became of the spans.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let counts = self.0.as_ref().map(|active| active.export.counts.clone());
        counts.unwrap_or_default().register(registry);
    }

    /// Decides about a call.
    pub(crate) fn begin(&self, headers: &HeaderMap) -> CallTrace {
        let Some(active) = &self.0 else {
            return CallTrace::Off;
        };
        let parent = Parent::read(headers);
        let trace_id = parent.map_or_else(context::new_trace_id, |parent| parent.trace_id);
        if !active.sampler.takes(trace_id, parent.as_ref()) {
            return CallTrace::Unsampled {
                trace_id,
                span_id: parent.map_or_else(context::new_span_id, |parent| parent.span_id),
                known: parent.is_some_and(|parent| !parent.sampled),
                restarted: parent.is_none(),
            };
        }
        let state = parent.and_then(|_| context::state(headers));
        CallTrace::Sampled(Box::new(CallSpan {
            trace_id,
            span_id: context::new_span_id(),
            parent: parent.map(|parent| parent.span_id),
            state: state.unwrap_or_default(),
            started: SystemTime::now(),
            events: Vec::new(),
            dropped_events: 0,
        }))
    }

    /// Sends a call's span, if it has one, on its way.
    pub(crate) fn end<'a>(&self, trace: &mut CallTrace, ended: impl FnOnce() -> Ended<'a>) {
        let Some(active) = self.0.as_ref().filter(|_| trace.is_sampled()) else {
            return;
        };
        if let CallTrace::Sampled(span) = std::mem::take(trace) {
            active.export.take(span.data(active, &ended()));
        }
    }

    /// Sends what waits, for at most `limit`. Spans that end later are lost.
    pub(crate) async fn shutdown(&self, limit: Duration) {
        if let Some(active) = &self.0 {
            active.export.shutdown(limit).await;
        }
    }
}

/// What is known of a call at its end.
pub(crate) struct Ended<'a> {
    /// `/package.Service/Method` where a route covers it.
    pub(crate) method: Option<&'a str>,
    pub(crate) route: &'a str,
    pub(crate) protocol: &'static str,
    pub(crate) peer: std::net::SocketAddr,
    pub(crate) subject: Option<&'a str>,
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
}

/// What a call carries of its trace.
#[derive(Default)]
pub(crate) enum CallTrace {
    #[default]
    Off,
    Unsampled {
        trace_id: TraceId,
        span_id: SpanId,
        /// Whether the caller's header says so already.
        known: bool,
        /// Whether the trace begins here.
        restarted: bool,
    },
    Sampled(Box<CallSpan>),
}

impl CallTrace {
    pub(crate) fn trace_id(&self) -> Option<TraceId> {
        match self {
            Self::Off => None,
            Self::Unsampled { trace_id, .. } => Some(*trace_id),
            Self::Sampled(span) => Some(span.trace_id),
        }
    }

    fn is_sampled(&self) -> bool {
        matches!(self, Self::Sampled(_))
    }

    /// Notes a step of the call.
    pub(crate) fn event(&mut self, name: &'static str) {
        if let Self::Sampled(span) = self {
            span.event(name, Vec::new());
        }
    }

    /// Notes a step with one attribute.
    pub(crate) fn event_with(&mut self, name: &'static str, key: &'static str, value: &str) {
        if let Self::Sampled(span) = self {
            span.event(name, vec![KeyValue::new(key, value.to_owned())]);
        }
    }

    /// Makes the backend's spans children of the call's.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        match self {
            Self::Off | Self::Unsampled { known: true, .. } => {}
            Self::Unsampled {
                trace_id,
                span_id,
                restarted,
                ..
            } => context::write(headers, *trace_id, *span_id, false, *restarted),
            Self::Sampled(span) => {
                let restarted = span.parent.is_none();
                context::write(headers, span.trace_id, span.span_id, true, restarted);
            }
        }
    }
}

/// The span of a call that goes on.
pub(crate) struct CallSpan {
    trace_id: TraceId,
    span_id: SpanId,
    parent: Option<SpanId>,
    state: TraceState,
    started: SystemTime,
    events: Vec<Event>,
    dropped_events: u32,
}

impl CallSpan {
    fn event(&mut self, name: &'static str, attributes: Vec<KeyValue>) {
        if self.events.len() == EVENTS {
            self.dropped_events = self.dropped_events.saturating_add(1);
            return;
        }
        self.events
            .push(Event::new(name, SystemTime::now(), attributes, 0));
    }

    fn data(self, active: &Active, ended: &Ended<'_>) -> SpanData {
        let mut events = SpanEvents::default();
        events.events = self.events;
        events.dropped_count = self.dropped_events;
        let flags = TraceFlags::SAMPLED;
        SpanData {
            span_context: SpanContext::new(self.trace_id, self.span_id, flags, false, self.state),
            parent_span_id: self.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: SpanKind::Server,
            name: ended.name(),
            start_time: self.started,
            end_time: SystemTime::now(),
            attributes: ended.attributes(active.include_subject),
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: ended.status(),
            instrumentation_scope: active.scope.clone(),
        }
    }
}

impl Ended<'_> {
    /// What no route covers has one name, whatever was asked for.
    fn name(&self) -> Cow<'static, str> {
        let method = self.method.and_then(|path| path.strip_prefix('/'));
        let name = method.unwrap_or(self.route);
        name.to_owned().into()
    }

    /// By OpenTelemetry's conventions for RPC, and the gateway's own words.
    fn attributes(&self, include_subject: bool) -> Vec<KeyValue> {
        let mut attributes = Vec::with_capacity(12);
        let mut add = |key: &'static str, value: Value| attributes.push(KeyValue::new(key, value));
        let method = self.method.and_then(|path| path.strip_prefix('/'));
        if let Some((service, method)) = method.and_then(|path| path.split_once('/')) {
            add("rpc.system", "grpc".into());
            add("rpc.service", service.to_owned().into());
            add("rpc.method", method.to_owned().into());
        }
        add("rpc.grpc.status_code", i64::from(self.code as i32).into());
        add("network.protocol.name", self.protocol.into());
        add("client.address", self.peer.ip().to_string().into());
        add("client.port", i64::from(self.peer.port()).into());
        add("intellirouter.route", self.route.to_owned().into());
        if let Some(endpoint) = self.endpoint {
            add("intellirouter.endpoint", endpoint.to_owned().into());
        }
        if !self.reason.is_empty() {
            add("intellirouter.reason", self.reason.into());
        }
        if let Some(subject) = self.subject.filter(|_| include_subject) {
            add("enduser.id", subject.to_owned().into());
        }
        attributes
    }

    /// What OpenTelemetry calls an error of a server; others are the caller's.
    fn status(&self) -> Status {
        match self.code {
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Status::error(self.reason),
            _ => Status::Unset,
        }
    }
}

#[cfg(test)]
mod tests;
