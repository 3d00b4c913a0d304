//! The way of spans to the collector: a bounded queue and one task.
//!
//! Ending a call puts its span into the queue and never waits. The task takes
//! what has gathered every half second and sends it by OTLP over gRPC. A
//! collector that is slow or away costs spans, which are counted, and no call
//! anything. The first failure is logged, and so is the first success after it.
//!
//! What the SDK's own batch processor does not do: it counts what it drops, and
//! it needs no thread of its own. The exporter is the SDK's, so that
//! `OTEL_EXPORTER_OTLP_HEADERS` (credentials of a collector) and
//! `OTEL_RESOURCE_ATTRIBUTES` hold as everywhere.
//!
//! Bounds: 8,192 spans wait; 512 in a request; 5 s for a request with its
//! retries, 3 s of them for a connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as Exporter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::config::TraceConfig;

const QUEUE: usize = 8192;
const BATCH: usize = 512;
const LINGER: Duration = Duration::from_millis(500);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Why spans are lost.
const QUEUE_FULL: &str = "queue_full";
const EXPORT_FAILED: &str = "export_failed";
const SHUTDOWN: &str = "shutdown";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DropLabels {
    reason: &'static str,
}

/// What became of the spans.
#[derive(Clone, Default)]
pub(super) struct Counts {
    exported: Counter,
    dropped: Family<DropLabels, Counter>,
}

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Spans that the collector took";
        registry.register("trace_spans_exported", help, self.exported.clone());
        for reason in [QUEUE_FULL, EXPORT_FAILED, SHUTDOWN] {
            // A rate needs a figure before the first loss.
            self.dropped(reason, 0);
        }
        let help = "Spans that were lost on the way to the collector, by reason";
        registry.register("trace_spans_dropped", help, self.dropped.clone());
    }

    fn dropped(&self, reason: &'static str, spans: usize) {
        let labels = DropLabels { reason };
        self.dropped.get_or_create(&labels).inc_by(spans as u64);
    }
}

/// See the module's comment.
pub(super) struct Export {
    queue: mpsc::Sender<SpanData>,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    pub(super) counts: Counts,
}

impl Export {
    pub(super) fn start(config: &TraceConfig) -> Result<Self, String> {
        Ok(Self::through(exporter(config)?))
    }

    /// Spawns the task on the current runtime.
    pub(super) fn through(exporter: impl Exporter + 'static) -> Self {
        let (queue, spans) = mpsc::channel(QUEUE);
        let (stop, counts) = (CancellationToken::new(), Counts::default());
        let sending = Sending {
            exporter,
            spans,
            stop: stop.clone(),
            counts: counts.clone(),
            failing: false,
        };
        Self {
            queue,
            stop,
            task: Mutex::new(Some(tokio::spawn(sending.run()))),
            counts,
        }
    }

    pub(super) fn take(&self, span: SpanData) {
        match self.queue.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.counts.dropped(QUEUE_FULL, 1),
            Err(TrySendError::Closed(_)) => self.counts.dropped(SHUTDOWN, 1),
        }
    }

    pub(super) async fn shutdown(&self, limit: Duration) {
        self.stop.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && tokio::time::timeout(limit, task).await.is_err()
        {
            tracing::warn!(
                ?limit,
                "the collector took too long; the last spans are lost"
            );
        }
    }
}

/// The task's side.
struct Sending<E> {
    exporter: E,
    spans: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
    counts: Counts,
    failing: bool,
}

impl<E: Exporter> Sending<E> {
    async fn run(mut self) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                _ = self.spans.recv_many(&mut batch, BATCH) => {}
            }
            // Not by waiting on the queue: ending a call should wake nobody.
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
            self.send_all(&mut batch).await;
        }
        // What is in the queue now is the last that goes.
        self.spans.close();
        self.send_all(&mut batch).await;
    }

    /// Sends `batch` and all that waits behind it.
    async fn send_all(&mut self, batch: &mut Vec<SpanData>) {
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let export = self.exporter.export(batch);
        let failure = match tokio::time::timeout(EXPORT_TIMEOUT, export).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {EXPORT_TIMEOUT:?}")),
        };
        match failure {
            None => {
                self.counts.exported.inc_by(spans as u64);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Some(error) => {
                self.counts.dropped(EXPORT_FAILED, spans);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(error, "spans are lost: the collector does not take them");
                }
            }
        }
    }
}

fn exporter(config: &TraceConfig) -> Result<SpanExporter, String> {
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(channel(config)?)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// Connects when the first spans are sent, and again whenever it must.
fn channel(config: &TraceConfig) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(config.endpoint.clone())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT);
    let Some(tls) = tls(config)? else {
        return Ok(endpoint.connect_lazy());
    };
    let connector = tower::service_fn(move |uri: http::Uri| {
        let tls = tls.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let port = uri.port_u16().unwrap_or(443);
            let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
            let tcp = TcpStream::connect((host, port)).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Not tonic's own TLS: this one is the gateway's, with its provider.
fn tls(config: &TraceConfig) -> Result<Option<TlsConnector>, String> {
    if !config.endpoint.starts_with("https://") {
        return Ok(None);
    }
    intellirouter::security::client_config(config.ca_file.as_deref(), None, &[b"h2"])
        .map(|config| Some(TlsConnector::from(Arc::new(config))))
        .map_err(|error| error.to_string())
}

/// What is wrong inside the file that the configuration names, if anything.
pub(crate) fn check(config: &TraceConfig) -> Option<String> {
    tls(config).err()
}

#[cfg(test)]
mod tests;
