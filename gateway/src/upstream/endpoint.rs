//! One endpoint of an upstream, as all workers see it: where it is, and what
//! is known of it.

mod describe;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::{Authority, Scheme};
use intellirouter::resilience::Breaker;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use super::connect::{Dialer, UpstreamError, bracketed};
use super::dial::Dial;
use super::ejection::Ejection;
use super::health::Health;
use super::load::Load;
use crate::config::{BreakerConfig, EndpointConfig, UpstreamConfig};

pub(crate) use describe::Figures;

/// See the module's comment.
pub(crate) struct Endpoint {
    pub(super) config: EndpointConfig,
    /// Its URL: as in the configuration, or with the address that was found.
    pub(crate) name: Arc<str>,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) standing: Arc<Standing>,
    /// The calls in flight of each connection, of all workers.
    connections: Mutex<Vec<Weak<AtomicUsize>>>,
    failure: Mutex<Option<(SystemTime, String)>>,
}

/// What is known of an endpoint. Lives as long as its endpoint is configured,
/// whatever else changes.
pub(crate) struct Standing {
    followed: BreakerConfig,
    pub(super) breaker: Arc<Breaker>,
    pub(super) load: Load,
    pub(super) dial: Dial,
    pub(super) health: Health,
    pub(super) ejection: Ejection,
}

impl Standing {
    /// Of an endpoint that nothing is known of.
    pub(super) fn new(name: &str, config: &UpstreamConfig) -> Self {
        // The settings are checked where the configuration is.
        let breaker = Breaker::new(name, config.breaker.settings.clone())
            .or_else(|_| Breaker::new(name, Default::default()));
        Self {
            followed: config.breaker.clone(),
            #[allow(clippy::expect_used, reason = "the defaults are valid")]
            breaker: Arc::new(breaker.expect("a breaker with valid settings")),
            load: Load::default(),
            dial: Dial::default(),
            health: Health::default(),
            ejection: Ejection::default(),
        }
    }

    /// Whether it can be kept under these settings.
    pub(super) fn follows(&self, config: &UpstreamConfig) -> bool {
        self.followed == config.breaker
    }
}

impl Endpoint {
    pub(super) fn new(
        config: &EndpointConfig,
        dialer: Arc<Dialer>,
        standing: Arc<Standing>,
    ) -> Result<Self, UpstreamError> {
        let names = dialer.names(config)?;
        let scheme = if config.tls {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        };
        Ok(Self {
            name: format!("{scheme}://{}:{}", bracketed(&config.host), config.port).into(),
            config: config.clone(),
            scheme,
            authority: names.authority,
            server_name: names.certificate,
            dialer,
            standing,
            connections: Mutex::default(),
            failure: Mutex::default(),
        })
    }

    /// A connection of its own for whoever asks after the endpoint: its calls
    /// are not counted, and no PING is sent on it.
    pub(crate) async fn connect(&self) -> Result<SendRequest<Bytes>, UpstreamError> {
        self.dial(Arc::default()).await
    }

    /// A connection that is ready for calls, and the count of them, with the
    /// first one in it.
    pub(super) async fn open(
        &self,
    ) -> Result<(SendRequest<Bytes>, Arc<AtomicUsize>), UpstreamError> {
        let in_flight = Arc::new(AtomicUsize::new(1));
        let send = self.dial(in_flight.clone()).await?;
        let mut connections = unpoisoned(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&in_flight));
        Ok((send, in_flight))
    }

    async fn dial(&self, in_flight: Arc<AtomicUsize>) -> Result<SendRequest<Bytes>, UpstreamError> {
        let began = Instant::now();
        let connected = self.dialer.connect(self, in_flight).await;
        match &connected {
            Ok(_) => {
                self.standing.dial.connected();
                if unpoisoned(&self.failure).take().is_some() {
                    // What it was like before it was away must not keep it out.
                    self.standing.load.forget();
                }
            }
            Err(error) => {
                self.standing.dial.failed(began, Instant::now());
                *unpoisoned(&self.failure) = Some((SystemTime::now(), error.to_string()));
            }
        }
        connected
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
