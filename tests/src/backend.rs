//! A backend that works on HTTP/2 frames, behind mTLS: it shows what the
//! gateway sends, and misbehaves as no library would.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::Request;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::Site;

/// A listening backend. It ends, with its connections, when it is dropped.
pub struct Backend {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Serves each request with `handle`, with the site's backend certificate.
    pub async fn start<H, F>(site: &Site, handle: H) -> Self
    where
        H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(site, &h2::server::Builder::new(), handle).await
    }

    /// As [`Backend::start`], with HTTP/2 settings of its own.
    pub async fn start_with<H, F>(site: &Site, http2: &h2::server::Builder, handle: H) -> Self
    where
        H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (acceptor, http2) = (acceptor(site), http2.clone());
        Self::listen(move |tcp| serve(acceptor.clone(), http2.clone(), tcp, handle.clone())).await
    }

    /// Takes TCP connections, tells each and says nothing on them, not even
    /// its half of a handshake.
    pub async fn dead(tell: UnboundedSender<()>) -> Self {
        Self::listen(move |tcp| {
            let told = tell.send(());
            async move {
                let _open = tcp;
                // A test that no longer listens has ended.
                if told.is_ok() {
                    std::future::pending::<()>().await;
                }
            }
        })
        .await
    }

    /// Finishes TLS handshakes, and then says nothing of HTTP/2.
    pub async fn silent(site: &Site) -> Self {
        let acceptor = acceptor(site);
        Self::listen(move |tcp| {
            let acceptor = acceptor.clone();
            async move {
                let _open = acceptor.accept(tcp).await;
                std::future::pending::<()>().await;
            }
        })
        .await
    }

    async fn listen<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(tcp));
            }
        });
        Self {
            port,
            connections: count,
            task,
        }
    }

    /// How many connections it has taken so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Cuts every connection and stops listening, and waits until it is so.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

/// Sends this once there is room for it; false when the call is no more.
pub async fn send_all(send: &mut SendStream<Bytes>, mut bytes: Bytes) -> bool {
    send.reserve_capacity(bytes.len());
    while !bytes.is_empty() {
        let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return false;
        };
        let part = bytes.split_to(room.min(bytes.len()));
        if send.send_data(part, false).is_err() {
            return false;
        }
    }
    true
}

async fn serve<H, F>(acceptor: TlsAcceptor, http2: h2::server::Builder, tcp: TcpStream, handle: H)
where
    H: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    tcp.set_nodelay(true).unwrap();
    let Ok(stream) = acceptor.accept(tcp).await else {
        return;
    };
    let Ok(mut connection) = http2.handshake(stream).await else {
        return;
    };
    let mut calls = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(handle(request, respond));
    }
}

fn acceptor(site: &Site) -> TlsAcceptor {
    tls(
        &site.certs.path("backend.crt"),
        &site.certs.path("backend.key"),
        &site.certs.path("ca.crt"),
    )
}

fn tls(cert: &Path, key: &Path, ca: &Path) -> TlsAcceptor {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(cert).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
