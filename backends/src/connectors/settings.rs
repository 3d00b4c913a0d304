//! What an operator sets for the connectors, and the defaults.

use std::path::PathBuf;
use std::time::Duration;

use super::NamedKey;

/// How endpoints are called. The defaults suit a public provider.
#[derive(Clone, Debug)]
pub struct ConnectorSettings {
    /// To look up a name, connect, and shake hands over TLS. Default: 5 seconds.
    pub connect_timeout: Duration,
    /// From a request for a stream to the head of its answer. An answer that is asked for as a
    /// whole starts when it is finished, so there the call's limit counts alone. Default: 30 seconds.
    pub first_byte_timeout: Duration,
    /// Between two pieces of an answer. Default: 30 seconds.
    pub idle_timeout: Duration,
    /// How long an unused connection is kept. Default: 60 seconds.
    pub pool_idle_timeout: Duration,
    /// Most unused connections that are kept to one host. Default: 16.
    pub pool_idle_per_host: usize,
    /// Largest answer, in bytes, as a whole or in pieces. Default: 16 MiB.
    pub answer_bytes: usize,
    /// Largest event of a streamed answer, in bytes; it is held in memory. Default: 1 MiB.
    pub event_bytes: usize,
    /// A PEM file of CAs that are trusted beside the system's own, at most 1 MiB.
    pub extra_ca: Option<PathBuf>,
    /// Keys that models may use by name, at most 256, each name once.
    pub keys: Vec<NamedKey>,
}

impl Default for ConnectorSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            pool_idle_timeout: Duration::from_secs(60),
            pool_idle_per_host: 16,
            answer_bytes: 16 * 1024 * 1024,
            event_bytes: 1024 * 1024,
            extra_ca: None,
            keys: Vec::new(),
        }
    }
}
