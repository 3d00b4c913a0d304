//! What operators see of a call: one log line and the metrics, both with the
//! true outcome.
//!
//! A [`CallRecord`] is made when a call arrives and travels with the response
//! body, because only the trailers (or their absence) tell how a gRPC call
//! ended. Whoever drops it last ends the call: a record that saw no end is a
//! call that its client gave up. Label values come from the configuration or
//! from fixed sets, never from the caller, so their number is bounded.
//!
//! Tokens, query strings and payloads are never logged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use intellirouter::error::code_name;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::layers::authenticate::Identity;
use crate::routes::{Access, Route};

/// The number of gRPC codes.
const CODES: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc = 0,
    GrpcWeb = 1,
    Http = 2,
}

impl Protocol {
    const ALL: usize = 3;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
            Self::Http => "http",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    route: String,
    protocol: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// All metrics of one gateway.
pub(crate) struct Telemetry {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    refusals: Family<ReasonLabels, Counter>,
    connections_closed: Family<ReasonLabels, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) event_streams: Gauge,
    pub(crate) event_streams_closed: Family<EventCloseLabels, Counter>,
    pub(crate) events_recorded: Counter,
    pub(crate) events_ignored: Counter,
    pub(crate) store_connected: Gauge,
    pub(crate) open_calls: AtomicUsize,
    /// Those of them that need no token.
    pub(crate) public_calls: AtomicUsize,
    open_calls_gauge: Gauge,
    log_lines_dropped: Gauge,
    access_log: bool,
}

/// Why an event stream ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct EventCloseLabels {
    pub(crate) reason: &'static str,
}

fn latency_buckets() -> Histogram {
    // 0.5 ms to about 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Telemetry {
    pub(crate) fn new(access_log: bool) -> Arc<Self> {
        let mut registry = Registry::with_prefix("intellirouter");
        let calls = Family::default();
        registry.register("calls", "Finished calls by true gRPC status", calls.clone());
        let seconds: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(latency_buckets as fn() -> Histogram);
        registry.register(
            "call_seconds",
            "Time from arrival to the last byte",
            seconds.clone(),
        );
        let refusals = Family::default();
        registry.register(
            "refusals",
            "Calls that the gateway answered itself",
            refusals.clone(),
        );
        let connections_closed = Family::default();
        registry.register(
            "connections_closed",
            "Client connections that the gateway closed, by reason",
            connections_closed.clone(),
        );
        let connections = Gauge::default();
        registry.register(
            "connections",
            "Open client connections",
            connections.clone(),
        );
        let open_calls_gauge = Gauge::default();
        registry.register(
            "open_calls",
            "Calls and streams in progress",
            open_calls_gauge.clone(),
        );
        let log_lines_dropped = Gauge::default();
        registry.register(
            "log_lines_dropped",
            "Log lines that stderr did not take in time",
            log_lines_dropped.clone(),
        );
        let event_streams = Gauge::default();
        registry.register("event_streams", "Open event streams", event_streams.clone());
        let event_streams_closed = Family::default();
        registry.register(
            "event_streams_closed",
            "Event streams that ended, by reason",
            event_streams_closed.clone(),
        );
        let events_recorded = Counter::default();
        registry.register(
            "events_recorded",
            "Events in the log",
            events_recorded.clone(),
        );
        let events_ignored = Counter::default();
        registry.register(
            "events_ignored",
            "Messages on channels that break the grammar",
            events_ignored.clone(),
        );
        let store_connected = Gauge::default();
        registry.register(
            "event_store_connected",
            "1 while the event store answers",
            store_connected.clone(),
        );
        Arc::new(Self {
            registry,
            calls,
            seconds,
            refusals,
            connections_closed,
            connections,
            event_streams,
            event_streams_closed,
            events_recorded,
            events_ignored,
            store_connected,
            open_calls: AtomicUsize::new(0),
            public_calls: AtomicUsize::new(0),
            open_calls_gauge,
            log_lines_dropped,
            access_log,
        })
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn connection_closed(&self, reason: &'static str) {
        self.connections_closed
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// The text that Prometheus reads (OpenMetrics 1.0), with `more` after the gateway's own.
    pub(crate) fn encode(&self, more: Option<&Registry>) -> Result<String, std::fmt::Error> {
        let open = self.open_calls.load(Ordering::Relaxed);
        self.open_calls_gauge
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        let dropped = intellirouter::logging::dropped_lines();
        self.log_lines_dropped
            .set(i64::try_from(dropped).unwrap_or(i64::MAX));
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        if let Some(more) = more {
            text::encode_registry(&mut text, more)?;
        }
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

/// The counters of one route, resolved once per code so that a call costs two
/// atomic additions and no look-up.
pub(crate) struct RouteMetrics {
    name: String,
    by_code: [[OnceLock<Counter>; CODES]; Protocol::ALL],
    seconds: OnceLock<Histogram>,
}

impl RouteMetrics {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            by_code: Default::default(),
            seconds: OnceLock::new(),
        }
    }

    fn finished(&self, telemetry: &Telemetry, protocol: Protocol, code: Code, seconds: f64) {
        self.by_code[protocol as usize][code as usize % CODES]
            .get_or_init(|| {
                let labels = CallLabels {
                    route: self.name.clone(),
                    protocol: protocol.name(),
                    code: code_name(code),
                };
                telemetry.calls.get_or_create_owned(&labels)
            })
            .inc();
        self.seconds
            .get_or_init(|| {
                telemetry.seconds.get_or_create_owned(&RouteLabels {
                    route: self.name.clone(),
                })
            })
            .observe(seconds);
    }
}

/// How one call goes, from its arrival to its last byte.
pub(crate) struct CallRecord {
    telemetry: Arc<Telemetry>,
    started: Instant,
    protocol: Protocol,
    peer: SocketAddr,
    path: http::uri::PathAndQuery,
    pub(crate) route: Arc<Route>,
    pub(crate) caller: Option<Arc<Identity>>,
    code: Option<Code>,
    reason: &'static str,
    bytes_out: u64,
    done: bool,
}

impl CallRecord {
    pub(crate) fn begin(
        telemetry: &Arc<Telemetry>,
        protocol: Protocol,
        peer: SocketAddr,
        path: http::uri::PathAndQuery,
        route: Arc<Route>,
    ) -> Box<Self> {
        telemetry.open_calls.fetch_add(1, Ordering::Relaxed);
        if route.access == Access::Public {
            telemetry.public_calls.fetch_add(1, Ordering::Relaxed);
        }
        Box::new(Self {
            telemetry: telemetry.clone(),
            started: Instant::now(),
            protocol,
            peer,
            path,
            route,
            caller: None,
            code: None,
            reason: "",
            bytes_out: 0,
            done: false,
        })
    }

    /// The gateway answers itself.
    pub(crate) fn refused(&mut self, reply: &crate::reply::Reply) {
        self.telemetry.refused(reply.label);
        self.code = Some(reply.code);
        self.reason = reply.label;
    }

    /// A status in the header block: a trailers-only answer.
    pub(crate) fn see_headers(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }

    pub(crate) fn http_status(&mut self, status: http::StatusCode) {
        self.code = Some(match status.as_u16() {
            200..=399 => Code::Ok,
            _ => Code::Unknown,
        });
    }

    pub(crate) fn see(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.bytes_out += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_ref() {
            self.see_headers(trailers);
            self.finish();
        }
    }

    pub(crate) fn ended(&mut self) {
        self.code.get_or_insert(Code::Unknown);
        self.finish();
    }

    pub(crate) fn broke(&mut self) {
        self.code = Some(Code::Unavailable);
        self.reason = "upstream_cut";
        self.finish();
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let code = self.code.unwrap_or(Code::Cancelled);
        let elapsed = self.started.elapsed();
        self.route
            .metrics
            .finished(&self.telemetry, self.protocol, code, elapsed.as_secs_f64());
        if self.telemetry.access_log {
            tracing::info!(
                target: "access",
                peer = %self.peer,
                protocol = self.protocol.name(),
                path = self.path.path(),
                route = self.route.metrics.name,
                subject = self.caller.as_ref().map_or("", |caller| caller.subject()),
                code = code_name(code),
                reason = self.reason,
                bytes_out = self.bytes_out,
                ms = (elapsed.as_micros() as f64) / 1e3,
            );
        }
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        if !self.done {
            // Nobody saw an end: the client left before it.
            self.code = Some(Code::Cancelled);
            if self.reason.is_empty() {
                self.reason = "client_gone";
            }
            self.finish();
        }
        self.telemetry.open_calls.fetch_sub(1, Ordering::Relaxed);
        if self.route.access == Access::Public {
            self.telemetry.public_calls.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
