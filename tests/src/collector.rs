//! An OpenTelemetry collector that keeps what it gets: the public service, by
//! gRPC, in the process of the test.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use crate::Site;
use crate::client::in_time;

/// A listening collector. It ends when it is dropped.
pub struct Collector {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    received: watch::Receiver<Vec<Received>>,
    tasks: JoinSet<()>,
}

/// A span and who sent it.
#[derive(Clone, Debug)]
pub struct Received {
    /// `service.name`.
    pub service: String,
    /// As it was sent.
    pub span: Span,
}

impl Received {
    /// The text of an attribute, numbers included.
    pub fn attribute(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// The names of its events, each with the values of its attributes.
    pub fn events(&self) -> Vec<String> {
        let events = self.span.events.iter().map(|event| {
            let values = event.attributes.iter().filter_map(|pair| show(&pair.value));
            [event.name.clone()]
                .into_iter()
                .chain(values)
                .collect::<Vec<_>>()
                .join(" ")
        });
        events.collect()
    }

    /// The id of its trace, in hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Its own id, in hexadecimal digits.
    pub fn span_id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Its parent's id, in hexadecimal digits; empty for none.
    pub fn parent_id(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    show(&found.value)
}

fn show(value: &Option<AnyValue>) -> Option<String> {
    match value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("a value that no test knows: {other:?}"),
    }
}

struct Keeps(watch::Sender<Vec<Received>>);

#[tonic::async_trait]
impl TraceService for Keeps {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes);
            let service = text(&attributes.unwrap_or_default(), "service.name");
            let service = service.unwrap_or_default();
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            let spans = spans.map(|span| Received {
                service: service.clone(),
                span,
            });
            self.0.send_modify(|all| all.extend(spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Without TLS.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, received) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Keeps(sender));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            port,
            received,
            tasks,
        }
    }

    /// Behind TLS, with the site's backend certificate.
    pub async fn start_tls(site: &Site) -> Self {
        let mut collector = Self::start().await;
        let behind = collector.port;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        collector.port = listener.local_addr().unwrap().port();
        let acceptor = acceptor(site);
        collector.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let mut plain = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
                    // Ends with either side.
                    let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
                });
            }
        });
        collector
    }

    /// Waits until there are so many spans, and gives all that there are.
    pub async fn spans(&self, least: usize) -> Vec<Received> {
        let mut received = self.received.clone();
        let enough = received.wait_for(|all| all.len() >= least);
        let all = in_time("spans", enough).await.expect("the collector lives");
        all.clone()
    }
}

fn acceptor(site: &Site) -> TlsAcceptor {
    let cert = CertificateDer::from_pem_file(site.certs.path("backend.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(site.certs.path("backend.key")).unwrap();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
