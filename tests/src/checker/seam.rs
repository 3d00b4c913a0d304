//! A proxy before a gateway that puts one bug into the server-sent events that pass: what the checker must
//! find when the fault is in the path, and not in what was written down.
//!
//! It ends TLS with the gateway's own certificate. Each bug comes once, at the event with a number
//! that chance has drawn.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::bugs::Bug;
use super::wire::{Entrance, Http1, find};
use crate::certs::Certs;

/// A running seam; its tasks end with the runtime.
pub struct Seam {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
}

#[derive(Clone)]
struct Path {
    tls: TlsAcceptor,
    entrance: Entrance,
    target: u16,
    bug: Bug,
    /// Before which event it comes.
    at: u32,
    done: Arc<AtomicBool>,
}

impl Seam {
    /// Before a gateway, with its certificate.
    pub async fn start(
        certs: &Certs,
        entrance: &Entrance,
        target: u16,
        bug: Bug,
        seed: u64,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let certificate = CertificateDer::from_pem_file(certs.path("gateway.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(certs.path("gateway.key")).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate], key).unwrap();
        let path = Path {
            tls: TlsAcceptor::from(Arc::new(config)),
            entrance: entrance.clone(),
            target,
            bug,
            at: StdRng::seed_from_u64(seed).random_range(5..40),
            done: Arc::default(),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let path = path.clone();
                // Either side may end it at any time.
                tokio::spawn(async move { drop(path.serve(client).await) });
            }
        });
        Self { port }
    }
}

impl Path {
    async fn serve(self, client: TcpStream) -> io::Result<()> {
        let mut client: Http1<TlsStream<TcpStream>> = Http1::new(self.tls.accept(client).await?);
        let request = client.head().await?;
        let mut server = self.entrance.http1(self.target).await?;
        server.write(request.0.as_bytes()).await?;
        client.write(server.head().await?.0.as_bytes()).await?;
        let (mut rest, mut events) = (Vec::new(), Events::new(self));
        while let Some(chunk) = server.chunk().await? {
            rest.extend_from_slice(&chunk);
            let mut passed = Vec::new();
            while let Some(end) = find(&rest, b"\n\n") {
                let frame: Vec<u8> = rest.drain(..end + 2).collect();
                passed.extend(events.pass(frame));
            }
            let passed = passed.concat();
            if !passed.is_empty() {
                let head = format!("{:x}\r\n", passed.len());
                client
                    .write(&[head.as_bytes(), &passed, b"\r\n"].concat())
                    .await?;
            }
        }
        client.write(b"0\r\n\r\n").await
    }
}

/// The frames of one body.
struct Events {
    path: Path,
    count: u32,
    held: Option<Vec<u8>>,
}

impl Events {
    fn new(path: Path) -> Self {
        Self {
            path,
            count: 0,
            held: None,
        }
    }

    fn pass(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(id) = event_id(&frame) else {
            return vec![frame];
        };
        if let Some(held) = self.held.take() {
            return vec![frame, held];
        }
        self.count += 1;
        if self.count <= self.path.at || self.path.done.swap(true, Ordering::Relaxed) {
            return vec![frame];
        }
        match self.path.bug {
            Bug::Drop => Vec::new(),
            Bug::Duplicate => vec![frame.clone(), frame],
            Bug::Swap => {
                self.held = Some(frame);
                Vec::new()
            }
            Bug::FalseGap => {
                let data = format!(r#"{{"from":"{id}","to":"{id}","reason":"recorder_away"}}"#);
                let gap = format!("id: {id}\nevent: ir.gap\ndata: {data}\n\n");
                vec![frame, gap.into_bytes()]
            }
        }
    }
}

/// The id of a frame that is an event.
fn event_id(frame: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(frame).ok()?;
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
    let event = field("event: ")?;
    (!event.starts_with("ir."))
        .then(|| field("id: ").map(str::to_owned))
        .flatten()
}
