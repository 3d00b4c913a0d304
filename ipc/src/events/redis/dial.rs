//! From a URL to connections: addresses, credentials and TLS of one Redis.
//!
//! Owns what is secret in the URL: nothing else sees it, and no message holds it.

use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisResult, TlsCertificates,
};

use crate::error::IpcResult;
use crate::events::channel::{invalid, shown};

/// The longest that a connection may take until it is ready to be used.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

pub(super) struct Dialer {
    client: Client,
    address: String,
}

impl Dialer {
    pub(super) fn new(url: &str, ca_file: Option<&Path>) -> IpcResult<Self> {
        let (info, tls) = connection_info(url)?;
        let address = info.addr().to_string();
        let root_cert = match ca_file {
            Some(_) if !tls => {
                return Err(invalid(
                    "event store: a file of authorities needs a rediss:// URL".to_owned(),
                ));
            }
            Some(file) => Some(read(file)?),
            None => None,
        };
        let client = if tls {
            // The client library takes the process's default provider. Fails only where one is
            // installed already, which then is the one to use.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert,
            };
            Client::build_with_tls(info, certificates)
        } else {
            Client::open(info)
        };
        let client = client.map_err(|error| invalid(format!("event store {address}: {error}")))?;
        Ok(Self { client, address })
    }

    /// Host and port, to be shown.
    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// Opens a connection. `on_push` is called from the task that reads it: nothing is queued
    /// between the two. There is no limit on an answer here; the users set theirs.
    pub(super) async fn dial(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(None)
            .set_push_sender(move |push| {
                on_push(push);
                Ok::<(), redis::aio::SendError>(())
            });
        let client = &self.client;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

/// Reads the URL; also says whether it asks for TLS.
fn connection_info(url: &str) -> IpcResult<(ConnectionInfo, bool)> {
    let expected = "expected redis://[user:password@]host[:port][/db], or rediss:// for TLS";
    // The crate's own message is not used where it could quote the URL.
    let parsed = redis::parse_redis_url(url)
        .ok_or_else(|| invalid(format!("event store: the URL does not parse; {expected}")))?;
    let tls = match parsed.scheme() {
        "redis" => false,
        "rediss" => true,
        other => {
            let scheme = shown(other);
            return Err(invalid(format!("event store: scheme {scheme}; {expected}")));
        }
    };
    if parsed.fragment().is_some() {
        return Err(invalid(format!(
            "event store: the URL has a part after #, and certificates are always checked; {expected}"
        )));
    }
    let info = parsed
        .into_connection_info()
        .map_err(|error| invalid(format!("event store: {error}; {expected}")))?;
    // RESP3, so that messages come as pushes on a connection that also answers commands.
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok((info.set_redis_settings(redis).set_tcp_settings(tcp), tls))
}

fn read(file: &Path) -> IpcResult<Vec<u8>> {
    std::fs::read(file).map_err(|error| {
        let file = file.display();
        invalid(format!(
            "event store: can't read the authorities in {file}: {error}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        match Dialer::new(url, None) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_address_is_shown_without_credentials() {
        let dialer = Dialer::new("redis://user:s3cret@redis.local:6380/2", None);
        assert_eq!(
            dialer.ok().map(|d| d.address()).as_deref(),
            Some("redis.local:6380")
        );
    }

    #[test]
    fn a_url_that_can_not_work_is_refused_without_its_credentials() {
        for (url, expected) in [
            ("redis://user:s3cret@", "does not parse"),
            ("redis://user:s3cret@host:port", "does not parse"),
            ("redis://user:s3cret@host/s3cret", "database"),
            ("valkey://user:s3cret@host", "scheme"),
            ("http://user:s3cret@host", "does not parse"),
            ("rediss://user:s3cret@host#insecure", "after #"),
        ] {
            let error = error(url);
            assert!(error.contains(expected), "{url} gave: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn authorities_that_can_not_be_read_or_used_are_refused() {
        let missing = Dialer::new("rediss://host", Some(Path::new("/nonexistent/ca.pem")));
        assert!(missing.is_err_and(|e| e.to_string().contains("/nonexistent/ca.pem")));
        let plain = Dialer::new("redis://host", Some(Path::new("/nonexistent/ca.pem")));
        assert!(plain.is_err_and(|e| e.to_string().contains("needs a rediss:// URL")));
    }
}
