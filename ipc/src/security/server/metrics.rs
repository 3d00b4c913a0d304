//! What a server counts: finished calls by true gRPC code, how long they took, and calls in progress.
//!
//! One [`ServerMetrics`] serves any number of servers in a process; the label `server` tells them
//! apart. A [`Record`] is made when a call arrives and travels with the answer's body, because only
//! the trailers tell how a call ended; a record that saw no end is a call that was given up.
//!
//! Label values come from the services and the descriptor set, never from a caller, so their number
//! is bounded: methods that the server knows by name, `/package.Service/*` for the other methods of a
//! service, `unknown` for paths of no service.

use std::sync::{Arc, OnceLock};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Code;

use super::methods::Method;
use crate::error::code_name;

/// The number of gRPC codes.
const CODES: usize = 17;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    server: String,
    method: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    server: String,
    method: String,
}

type Histograms = Family<MethodLabels, Histogram, fn() -> Histogram>;

/// The metrics of all servers that share a registry.
///
/// ```
/// use intellirouter::security::{SecureGrpcServerBuilder, ServerMetrics};
/// use prometheus_client::registry::Registry;
///
/// let mut registry = Registry::with_prefix("intellirouter");
/// let metrics = ServerMetrics::register(&mut registry);
/// let memory = SecureGrpcServerBuilder::new().with_metrics(&metrics, "memory");
/// let rag = SecureGrpcServerBuilder::new().with_metrics(&metrics, "rag_manager");
/// ```
#[derive(Clone, Debug)]
pub struct ServerMetrics {
    calls: Family<CallLabels, Counter>,
    seconds: Histograms,
    open: Family<MethodLabels, Gauge>,
}

fn latency_buckets() -> Histogram {
    // 0.5 ms to about 4 min: a chain of model calls may take that long.
    Histogram::new(exponential_buckets(0.0005, 2.0, 20))
}

impl ServerMetrics {
    /// Registers `server_calls` (a counter), `server_call_seconds` and `server_open_calls`: once per
    /// registry, whose prefix is usually `intellirouter`.
    pub fn register(registry: &mut Registry) -> Self {
        let calls = Family::default();
        registry.register(
            "server_calls",
            "Finished calls by true gRPC status",
            calls.clone(),
        );
        let seconds: Histograms = Family::new_with_constructor(latency_buckets);
        registry.register(
            "server_call_seconds",
            "Time from arrival to the last byte",
            seconds.clone(),
        );
        let open = Family::default();
        registry.register(
            "server_open_calls",
            "Calls and streams in progress",
            open.clone(),
        );
        Self {
            calls,
            seconds,
            open,
        }
    }

    pub(super) fn meter(&self, server: &str, method: &str) -> Meter {
        Meter {
            families: self.clone(),
            labels: MethodLabels {
                server: server.to_owned(),
                method: method.to_owned(),
            },
            by_code: Default::default(),
            seconds: OnceLock::new(),
            open: OnceLock::new(),
        }
    }
}

/// The counters of one method, resolved once, so that a call costs no look-up.
#[derive(Debug)]
pub(super) struct Meter {
    families: ServerMetrics,
    labels: MethodLabels,
    by_code: [OnceLock<Counter>; CODES],
    seconds: OnceLock<Histogram>,
    open: OnceLock<Gauge>,
}

impl Meter {
    fn open(&self) -> &Gauge {
        self.open
            .get_or_init(|| self.families.open.get_or_create_owned(&self.labels))
    }

    fn finished(&self, code: Code, seconds: f64) {
        self.by_code[code as usize % CODES]
            .get_or_init(|| {
                let labels = CallLabels {
                    server: self.labels.server.clone(),
                    method: self.labels.method.clone(),
                    code: code_name(code),
                };
                self.families.calls.get_or_create_owned(&labels)
            })
            .inc();
        self.seconds
            .get_or_init(|| self.families.seconds.get_or_create_owned(&self.labels))
            .observe(seconds);
        self.open().dec();
    }
}

/// How one call goes, from its arrival to its last byte.
#[derive(Debug)]
pub(super) struct Record {
    method: Arc<Method>,
    arrived: Instant,
    deadline: Option<Instant>,
    done: bool,
}

impl Record {
    pub(super) fn begin(method: Arc<Method>, arrived: Instant) -> Self {
        if let Some(meter) = &method.meter {
            meter.open().inc();
        }
        Self {
            method,
            arrived,
            deadline: None,
            done: false,
        }
    }

    pub(super) fn method(&self) -> &Arc<Method> {
        &self.method
    }

    pub(super) fn ends_by(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The call has ended; the first word counts.
    pub(super) fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        if let Some(meter) = &self.method.meter {
            meter.finished(code, self.arrived.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // Nobody saw an end: the caller left before it, usually because its own time was up.
        let late = self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline);
        self.finish(if late {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::security::policy::Access;

    fn counted(go: impl FnOnce(&mut Record)) -> String {
        let mut registry = Registry::default();
        let metrics = ServerMetrics::register(&mut registry);
        let method = Method {
            name: "m".to_owned(),
            access: Access::Public,
            timeout: None,
            places: Arc::new(Semaphore::new(1)),
            meter: Some(metrics.meter("s", "m")),
            status_too_long: std::sync::Once::new(),
        };
        let mut record = Record::begin(Arc::new(method), Instant::now());
        go(&mut record);
        drop(record);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("server_calls_total"));
        line.unwrap().to_owned()
    }

    #[test]
    fn a_call_that_is_given_up_is_cancelled_or_late() {
        assert!(counted(|_| {}).contains("code=\"CANCELLED\"} 1"));
        let now = Instant::now();
        let early = counted(|record| record.ends_by(Some(now + Duration::from_secs(600))));
        assert!(early.contains("code=\"CANCELLED\"} 1"), "{early}");
        let late = counted(|record| record.ends_by(Some(now)));
        assert!(late.contains("code=\"DEADLINE_EXCEEDED\"} 1"), "{late}");
    }

    #[test]
    fn the_first_end_counts_and_only_once() {
        let line = counted(|record| {
            record.finish(Code::NotFound);
            record.finish(Code::Ok);
        });
        assert!(line.contains("code=\"NOT_FOUND\"} 1"), "{line}");
    }
}
