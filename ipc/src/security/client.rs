//! A gRPC client over mutual TLS that shows a fresh token with every call.
//!
//! Owns the connection settings, the TLS handshake and the renewal of the token. It does not own
//! retries, balancing or deadlines: a call waits as long as its own deadline
//! (`tonic::Request::set_timeout`) lets it. tonic's TLS settings are not used, so that the rules are
//! the same as everywhere here ([`super::TlsConfig`]). Every new connection, also one that replaces a
//! broken one, uses the TLS files as they are then; bad ones leave the last good ones in use.
//!
//! Limits: 10 s to connect, TLS included; one connection, with as many calls at a time as the server
//! lets it have; 1024 calls may wait for it. 64 KiB of headers per answer. A peer that
//! does not answer an HTTP/2 ping (every 30 s while calls run) within 10 s is given up.

mod channel;
mod connect;
mod token;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use intellirouter_proto::intellirouter as services;
use tonic::transport::Endpoint;

pub use channel::SecureChannel;

use super::jwt::JwtAuthenticator;
use super::reload::TlsReload;
use super::tls::{ALPN_GRPC, TlsConfig};
use crate::error::{IpcError, IpcResult};
pub(crate) use connect::shown;
use connect::{Connector, Target};
use token::TokenSource;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const WAITING_CALLS: usize = 1024;
// Room for a status that quotes a lot: what is over it ends the call, and then the connection.
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// A generated client that can be made from a [`SecureChannel`].
///
/// Stands for every service of the contract and for health; for other clients use
/// [`SecureGrpcClientBuilder::build_with`], or implement it in one line for those of your own crate.
pub trait FromSecureChannel: Sized {
    /// Usually `Self::new(channel)`.
    fn from_secure_channel(channel: SecureChannel) -> Self;
}

/// Connects a client `C`.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use intellirouter::security::*;
/// # use intellirouter::generated::intellirouter::memory::v1::memory_service_client::MemoryServiceClient;
/// # async fn connect(tls: TlsConfig, jwt: Arc<JwtAuthenticator>) -> intellirouter::IpcResult<()> {
/// let client = SecureGrpcClientBuilder::<MemoryServiceClient<SecureChannel>>::new("localhost")
///     .with_tls(tls)
///     .with_jwt(jwt, "chain_engine".to_owned(), vec!["reader".to_owned()])
///     .build("https://localhost:50053")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct SecureGrpcClientBuilder<C> {
    domain: String,
    tls: Option<TlsConfig>,
    tokens: Option<TokenSource>,
    plaintext: bool,
    client: PhantomData<fn() -> C>,
}

impl<C> SecureGrpcClientBuilder<C> {
    /// `domain` is the name that the server's certificate must have.
    pub fn new(domain: impl Into<String>) -> Self {
        Self {
            domain: domain.into(),
            tls: None,
            tokens: None,
            plaintext: false,
            client: PhantomData,
        }
    }

    /// Connects over mutual TLS.
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Shows a token for `service` with `roles` in every call that has no `authorization` of its
    /// own. It is renewed when less than a fifth of its life is left, or less than a second. Since
    /// tokens end on whole seconds, one that is to live 1 s lives 2 s here.
    pub fn with_jwt(
        mut self,
        jwt: Arc<JwtAuthenticator>,
        service: String,
        roles: Vec<String>,
    ) -> Self {
        self.tokens = Some(TokenSource::new(jwt, service, roles));
        self
    }

    /// Lets the client connect without TLS: tokens and payloads can then be read on the way. For
    /// tests, and for links that something else protects.
    pub fn allow_plaintext(mut self) -> Self {
        self.plaintext = true;
        self
    }

    /// Connects to `https://host[:port]` and makes the client.
    ///
    /// With TLS set, `http://` is taken as `https://`: the connection is never less safe than the
    /// builder says.
    pub async fn build(self, url: impl AsRef<str>) -> IpcResult<C>
    where
        C: FromSecureChannel,
    {
        self.build_with(url, C::from_secure_channel).await
    }

    /// As [`build`](Self::build), for any client: `make` is usually `MyServiceClient::new`.
    pub async fn build_with(
        self,
        url: impl AsRef<str>,
        make: impl FnOnce(SecureChannel) -> C,
    ) -> IpcResult<C> {
        let (endpoint, connector) = self.prepare(url.as_ref())?;
        let channel = endpoint
            .connect_with_connector(connector.into_service())
            .await?;
        Ok(make(SecureChannel::new(channel, self.tokens)))
    }

    /// As [`build`](Self::build), without waiting for the server: the first call connects. For a
    /// service that may start before the ones that it calls.
    pub fn build_lazy(self, url: impl AsRef<str>) -> IpcResult<C>
    where
        C: FromSecureChannel,
    {
        let (endpoint, connector) = self.prepare(url.as_ref())?;
        let channel = endpoint.connect_with_connector_lazy(connector.into_service());
        Ok(C::from_secure_channel(SecureChannel::new(
            channel,
            self.tokens,
        )))
    }

    fn prepare(&self, url: &str) -> IpcResult<(Endpoint, Connector)> {
        // First, so that a bad JWT config shows here and not at the first call.
        if let Some(tokens) = &self.tokens {
            tokens.header(SystemTime::now())?;
        }
        let target = Target::parse(url)?;
        let connector = self.connector(&target)?;
        Ok((endpoint(&target)?, connector))
    }

    fn connector(&self, target: &Target) -> IpcResult<Connector> {
        match &self.tls {
            Some(tls) => {
                let name = super::tls::server_name(&self.domain)?;
                let identity = (tls.cert_path.as_path(), tls.key_path.as_path());
                let files = TlsReload::client(Some(&tls.ca_cert_path), Some(identity), ALPN_GRPC)?;
                Ok(Connector::tls(target, name, files))
            }
            None if !self.plaintext => Err(IpcError::Security(
                "no TLS is configured: call with_tls, or allow_plaintext if that is meant".into(),
            )),
            None if target.is_https() => Err(IpcError::Security(
                "the URL says https, but no TLS is configured: call with_tls".into(),
            )),
            None => Ok(Connector::plaintext(target)),
        }
    }
}

fn endpoint(target: &Target) -> IpcResult<Endpoint> {
    Ok(Endpoint::from_shared(target.endpoint_uri())?
        .origin(target.origin())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .buffer_size(WAITING_CALLS))
}

impl<C> fmt::Debug for SecureGrpcClientBuilder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecureGrpcClientBuilder")
            .field("domain", &self.domain)
            .field("tls", &self.tls)
            .field("jwt", &self.tokens.is_some())
            .field("plaintext", &self.plaintext)
            .finish()
    }
}

macro_rules! from_secure_channel {
    ($($client:path),+ $(,)?) => {$(
        impl FromSecureChannel for $client {
            fn from_secure_channel(channel: SecureChannel) -> Self {
                Self::new(channel)
            }
        }
    )+};
}

from_secure_channel! {
    tonic_health::pb::health_client::HealthClient<SecureChannel>,
    services::chain_engine::v1::chain_engine_service_client::ChainEngineServiceClient<SecureChannel>,
    services::chain_engine::v1::chain_store_service_client::ChainStoreServiceClient<SecureChannel>,
    services::events::v1::event_service_client::EventServiceClient<SecureChannel>,
    services::memory::v1::memory_service_client::MemoryServiceClient<SecureChannel>,
    services::memory::v1::memory_chain_integration_service_client::MemoryChainIntegrationServiceClient<SecureChannel>,
    services::model_registry::v1::model_registry_service_client::ModelRegistryServiceClient<SecureChannel>,
    services::model_registry::v1::router_service_client::RouterServiceClient<SecureChannel>,
    services::rag_manager::v1::rag_manager_service_client::RagManagerServiceClient<SecureChannel>,
    services::rag_manager::v1::persona_layer_service_client::PersonaLayerServiceClient<SecureChannel>,
    services::rag_manager::v1::rag_persona_integration_service_client::RagPersonaIntegrationServiceClient<SecureChannel>,
}
