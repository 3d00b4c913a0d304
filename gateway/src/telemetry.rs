//! What operators see of a call: one log line, the metrics and, where it is
//! traced, a span, all with the true outcome.
//!
//! Owns every figure of the gateway but those of the issuers' keys, which are
//! made at each look ([`crate::layers::authenticate`]). Owns no span and no
//! sampling: that is [`crate::trace`].
//! A [`CallRecord`] is made when a call arrives and travels with the response
//! body, because only the trailers (or their absence) tell how a gRPC call
//! ended. Whoever drops it last ends the call: a record that saw no end is a
//! call that its client gave up. A call that was let in and then cut counts with
//! the status and reason of the cut; an event stream over HTTP says in band how
//! it ends, counts by that in `event_streams_closed` and keeps the status that it
//! was answered with. Label values come from the configuration or
//! from fixed sets, never from the caller, so their number is bounded.
//!
//! Tokens, query strings and payloads are never logged.

mod build;
mod transport;
mod upstream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

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

use crate::calls::{Cut, Listed, OpenCall};
use crate::layers::authenticate::Identity;
use crate::layers::conduct::End;
use crate::limits::LimitMetrics;
use crate::reply::Reply;
use crate::revocation::RevocationMetrics;
use crate::routes::Target;
use crate::trace::{CallTrace, Ended, Tracing};
use transport::Transport;
pub(crate) use transport::{Closed, UpstreamFigures};
use upstream::UpstreamMetrics;

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
struct RefusalLabels {
    route: Arc<String>,
    protocol: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RetryLabels {
    upstream: String,
    /// How the try before it failed.
    reason: &'static str,
    /// `retried`, or why not.
    outcome: &'static str,
}

/// All metrics of one gateway.
pub(crate) struct Telemetry {
    registry: Registry,
    process: Registry,
    calls: Family<CallLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    refusals: Family<RefusalLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
    connections_closed: Family<ReasonLabels, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) event_streams: Gauge,
    pub(crate) event_streams_closed: Family<EventCloseLabels, Counter>,
    pub(crate) events_recorded: Counter,
    pub(crate) events_ignored: Counter,
    pub(crate) events_malformed: Family<EventPayloadLabels, Counter>,
    pub(crate) store_connected: Gauge,
    calls_cut: Family<ReasonLabels, Counter>,
    pub(crate) reloads: Family<ResultLabels, Counter>,
    pub(crate) last_reload_ok: Gauge,
    pub(crate) loaded_at: Gauge,
    pub(crate) draining: Gauge,
    pub(crate) limits: LimitMetrics,
    pub(crate) revocation: RevocationMetrics,
    open_calls: Gauge,
    log_lines_dropped: Gauge,
    /// Whether each call is logged.
    pub(crate) access_log: AtomicBool,
    pub(crate) transport: Arc<Transport>,
    pub(crate) upstreams: UpstreamMetrics,
    pub(crate) tracing: Tracing,
}

/// How an attempt ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct ResultLabels {
    pub(crate) result: &'static str,
}

/// Why an event stream ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct EventCloseLabels {
    pub(crate) reason: &'static str,
}

/// What was wrong with the payload of an event.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct EventPayloadLabels {
    pub(crate) payload: &'static str,
}

fn latency_buckets() -> Histogram {
    // 0.5 ms to about 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Telemetry {
    pub(crate) fn new(access_log: bool, tracing: Tracing) -> Arc<Self> {
        let mut registry = Registry::with_prefix("intellirouter");
        build::register(&mut registry);
        tracing.register(&mut registry);
        let transport = Transport::default();
        transport.register(&mut registry);
        let upstreams = UpstreamMetrics::register(&mut registry);
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
        let retries = Family::default();
        registry.register(
            "retries",
            "Failed tries of calls that may be tried again, and whether they were",
            retries.clone(),
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
        let open_calls = Gauge::default();
        registry.register(
            "open_calls",
            "Calls and streams in progress",
            open_calls.clone(),
        );
        let calls_cut = Family::<ReasonLabels, Counter>::default();
        for reason in Cut::ALL.map(Cut::label) {
            // From 0 on, so that the first one shows as a rise.
            let _ = calls_cut.get_or_create(&ReasonLabels { reason });
        }
        registry.register(
            "calls_cut",
            "Calls in progress that the gateway ended, by reason",
            calls_cut.clone(),
        );
        let reloads = Family::<ResultLabels, Counter>::default();
        for result in ["ok", "failed"] {
            let _ = reloads.get_or_create(&ResultLabels { result });
        }
        registry.register(
            "config_reloads",
            "Attempts to take a changed configuration, by result",
            reloads.clone(),
        );
        let last_reload_ok = Gauge::default();
        last_reload_ok.set(1);
        registry.register(
            "config_last_reload_ok",
            "0 while the files on disk are not those in use, because they are faulty",
            last_reload_ok.clone(),
        );
        let loaded_at = Gauge::default();
        registry.register(
            "config_loaded_timestamp_seconds",
            "When the configuration in use was loaded",
            loaded_at.clone(),
        );
        let draining = Gauge::default();
        registry.register(
            "draining",
            "1 once the gateway is stopping",
            draining.clone(),
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
        let events_malformed = Family::default();
        registry.register(
            "events_malformed",
            "Events whose payload is no JSON, or that were too large and became a gap",
            events_malformed.clone(),
        );
        let store_connected = Gauge::default();
        registry.register(
            "event_store_connected",
            "1 while the event store answers",
            store_connected.clone(),
        );
        let revocation = RevocationMetrics::register(&mut registry);
        let limits = LimitMetrics::register(&mut registry);
        Arc::new(Self {
            registry,
            revocation,
            process: build::process(),
            calls,
            seconds,
            refusals,
            retries,
            connections_closed,
            connections,
            event_streams,
            event_streams_closed,
            events_recorded,
            events_ignored,
            events_malformed,
            store_connected,
            calls_cut,
            reloads,
            last_reload_ok,
            loaded_at,
            draining,
            limits,
            open_calls,
            log_lines_dropped,
            access_log: AtomicBool::new(access_log),
            transport: Arc::new(transport),
            upstreams,
            tracing,
        })
    }

    pub(crate) fn refused(&self, route: &Arc<String>, protocol: Protocol, reason: &'static str) {
        let labels = RefusalLabels {
            route: route.clone(),
            protocol: protocol.name(),
            reason,
        };
        self.refusals.get_or_create(&labels).inc();
    }

    pub(crate) fn connection_closed(&self, reason: &'static str) {
        self.connections_closed
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// The text that Prometheus reads (OpenMetrics 1.0), with `more` after the gateway's own.
    pub(crate) fn encode<'r>(
        &self,
        open_calls: usize,
        more: impl IntoIterator<Item = &'r Registry>,
    ) -> Result<String, std::fmt::Error> {
        self.open_calls
            .set(i64::try_from(open_calls).unwrap_or(i64::MAX));
        let dropped = intellirouter::logging::dropped_lines();
        self.log_lines_dropped
            .set(i64::try_from(dropped).unwrap_or(i64::MAX));
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode_registry(&mut text, &self.process)?;
        for more in more {
            text::encode_registry(&mut text, more)?;
        }
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

/// The counters of one route, resolved once per code, so that a call costs no
/// look-up: an atomic addition, and the short lock of the histogram.
pub(crate) struct RouteMetrics {
    pub(crate) name: Arc<String>,
    by_code: [[OnceLock<Counter>; CODES]; Protocol::ALL],
    seconds: OnceLock<Histogram>,
}

impl RouteMetrics {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name: Arc::new(name),
            by_code: Default::default(),
            seconds: OnceLock::new(),
        }
    }

    fn finished(&self, telemetry: &Telemetry, protocol: Protocol, code: Code, seconds: f64) {
        self.by_code[protocol as usize][code as usize % CODES]
            .get_or_init(|| {
                let labels = CallLabels {
                    route: (*self.name).clone(),
                    protocol: protocol.name(),
                    code: code_name(code),
                };
                telemetry.calls.get_or_create_owned(&labels)
            })
            .inc();
        self.seconds
            .get_or_init(|| {
                telemetry.seconds.get_or_create_owned(&RouteLabels {
                    route: (*self.name).clone(),
                })
            })
            .observe(seconds);
    }
}

/// How one call goes, from its arrival to its last byte.
pub(crate) struct CallRecord {
    telemetry: Arc<Telemetry>,
    call: Listed,
    /// The backend that the call went to.
    endpoint: Option<Arc<str>>,
    /// How often it was sent to one.
    tries: u32,
    pub(crate) trace: CallTrace,
    code: Option<Code>,
    reason: &'static str,
    bytes_out: u64,
    answered: bool,
    done: bool,
}

impl CallRecord {
    pub(crate) fn begin(telemetry: &Arc<Telemetry>, call: Listed) -> Box<Self> {
        Box::new(Self {
            telemetry: telemetry.clone(),
            call,
            endpoint: None,
            tries: 0,
            trace: CallTrace::Off,
            code: None,
            reason: "",
            bytes_out: 0,
            answered: false,
            done: false,
        })
    }

    /// The call as others see it.
    pub(crate) fn call(&self) -> &Arc<OpenCall> {
        &self.call
    }

    /// See [`Listed::identified`].
    pub(crate) fn identified(&mut self, caller: &Arc<Identity>, most: usize) -> Result<(), Reply> {
        self.call.identified(caller, most)
    }

    /// Decides whether the call is traced.
    pub(crate) fn begin_trace(&mut self, headers: &HeaderMap) {
        self.trace = self.telemetry.tracing.begin(headers);
    }

    /// The call has a place on a connection to this backend.
    pub(crate) fn connected(&mut self, endpoint: &Arc<str>) {
        self.trace.event_with("connected", "endpoint", endpoint);
        self.endpoint = Some(endpoint.clone());
        self.tries += 1;
    }

    /// A try failed, and another may follow: `outcome` says whether one does.
    pub(crate) fn retry(&mut self, upstream: &str, reason: &'static str, outcome: &'static str) {
        let labels = RetryLabels {
            upstream: upstream.to_owned(),
            reason,
            outcome,
        };
        self.telemetry.retries.get_or_create(&labels).inc();
        let event = match outcome {
            "retried" => "retry",
            _ => "no retry",
        };
        self.trace.event_with(event, "reason", reason);
    }

    /// Whether the call's end is known.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// The gateway ends a call that it had let in.
    pub(crate) fn cut(&mut self, cut: Cut, reply: &Reply) {
        let reason = cut.label();
        self.telemetry
            .calls_cut
            .get_or_create(&ReasonLabels { reason })
            .inc();
        self.code = Some(reply.code);
        self.broke_off(reason);
    }

    /// The gateway waits for the receiver no longer.
    pub(crate) fn gave_up(&mut self, reason: &'static str) {
        let route = &self.call.route.metrics.name;
        self.telemetry.refused(route, self.call.protocol, reason);
        self.broke_off(reason);
    }

    /// The answer broke off after its headers.
    pub(crate) fn broke_off(&mut self, reason: &'static str) {
        self.trace.event_with("cut", "reason", reason);
        self.reason = reason;
    }

    /// The gateway answers itself.
    pub(crate) fn refused(&mut self, reply: &Reply) {
        let route = &self.call.route.metrics.name;
        self.telemetry
            .refused(route, self.call.protocol, reply.label);
        self.trace.event_with("refused", "reason", reply.label);
        self.code = Some(reply.code);
        self.reason = reply.label;
    }

    /// The answer has begun. A status in the header block is a trailers-only one.
    pub(crate) fn see_headers(&mut self, headers: &HeaderMap) {
        self.answered = true;
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
        self.broke_off("upstream_cut");
        self.finish();
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let code = self.code.unwrap_or(Code::Cancelled);
        let elapsed = self.call.started.elapsed();
        self.call.ended(match (code, self.reason) {
            (Code::Ok, _) => End::Answered,
            (_, "client_gone" | "deadline") if !self.answered => End::GivenUp,
            _ => End::Other,
        });
        self.call.route.metrics.finished(
            &self.telemetry,
            self.call.protocol,
            code,
            elapsed.as_secs_f64(),
        );
        if self.telemetry.access_log.load(Ordering::Relaxed) {
            let caller = self.call.caller();
            tracing::info!(
                target: "access",
                peer = %self.call.client.address,
                protocol = self.call.protocol.name(),
                path = self.call.path.path(),
                route = self.call.route.metrics.name.as_str(),
                subject = caller.as_deref().map_or("", Identity::subject),
                code = code_name(code),
                reason = self.reason,
                bytes_out = self.bytes_out,
                ms = (elapsed.as_micros() as f64) / 1e3,
                endpoint = self.endpoint.as_deref(),
                tries = (self.tries > 1).then_some(self.tries),
                trace_id = self.trace.trace_id().map(tracing::field::display),
            );
        }
        self.end_trace(code);
    }

    fn end_trace(&mut self, code: Code) {
        let call = &self.call;
        let caller = call.caller();
        let covered = call.protocol != Protocol::Http && call.route.target != Target::Nowhere;
        self.telemetry.tracing.end(&mut self.trace, || Ended {
            method: covered.then(|| call.path.path()),
            route: &call.route.metrics.name,
            protocol: call.protocol.name(),
            peer: call.client.address,
            subject: caller.as_deref().map(Identity::subject),
            endpoint: self.endpoint.as_deref(),
            code,
            reason: self.reason,
        });
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
    }
}

#[cfg(test)]
mod tests;
