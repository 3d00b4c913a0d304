//! What both prototypes take and open alike: options, TLS outside, mTLS inside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Error, net, tls};

/// Command line of a pass-through prototype.
#[derive(Debug, Args)]
pub struct Options {
    /// Where clients connect.
    #[arg(long)]
    pub listen: SocketAddr,
    /// What clients are shown.
    #[command(flatten)]
    pub identity: tls::Identity,
    /// The service behind.
    #[arg(long)]
    pub to: SocketAddr,
    /// CA of the service's certificate.
    #[arg(long)]
    pub upstream_ca: PathBuf,
    /// Certificate shown to the service.
    #[arg(long)]
    pub upstream_cert: PathBuf,
    /// Key of that certificate.
    #[arg(long)]
    pub upstream_key: PathBuf,
}

impl Options {
    /// TLS for the clients.
    ///
    /// # Errors
    /// If a file cannot be used.
    pub fn acceptor(&self) -> Result<TlsAcceptor, Error> {
        Ok(TlsAcceptor::from(Arc::new(tls::server(
            &self.identity,
            None,
        )?)))
    }

    /// One mTLS connection to the service.
    ///
    /// # Errors
    /// If a file cannot be used or the service refuses.
    pub async fn upstream(&self) -> Result<TlsStream<TcpStream>, Error> {
        let identity = tls::Identity {
            cert: self.upstream_cert.clone(),
            key: self.upstream_key.clone(),
        };
        let config = tls::client(&self.upstream_ca, Some(&identity))?;
        let stream = net::connect(self.to).await?;
        let name = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?)
    }
}
