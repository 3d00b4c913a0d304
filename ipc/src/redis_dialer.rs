//! From a URL to connections: address, credentials and TLS of one Redis.
//!
//! Owns what is secret in the URL: nothing else sees it, and no message holds it. Whoever connects
//! has limits of its own.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo,
    RedisResult, TlsCertificates,
};

use crate::events::shown;

/// A Redis that can be reached.
pub struct RedisDialer {
    client: Client,
    address: String,
}

impl std::fmt::Debug for RedisDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisDialer").field(&self.address).finish()
    }
}

impl RedisDialer {
    /// Connects to nothing yet. `authorities` is PEM text, for `rediss://`; the system's are used
    /// without it. Fails with what was expected, and never with the credentials.
    pub fn new(url: &str, authorities: Option<Vec<u8>>) -> Result<Self, String> {
        let (info, tls) = connection_info(url)?;
        let address = info.addr().to_string();
        if authorities.is_some() && !tls {
            return Err("a file of authorities needs a rediss:// URL".to_owned());
        }
        let client = if tls {
            // The client library takes the process's default provider. Fails only where one is
            // installed already, which then is the one to use.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: authorities,
            };
            Client::build_with_tls(info, certificates)
        } else {
            Client::open(info)
        };
        let client = client.map_err(|error| format!("{address}: {error}"))?;
        Ok(Self { client, address })
    }

    /// Host and port, to be shown.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Opens a connection, within `connect`; `answer` is the longest that an answer may take.
    /// `on_push` is called from the task that reads the connection, also at its end: nothing is
    /// queued between the two.
    pub async fn dial(
        &self,
        connect: Duration,
        answer: Option<Duration>,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(answer)
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
fn connection_info(url: &str) -> Result<(ConnectionInfo, bool), String> {
    let expected = "expected redis://[user:password@]host[:port][/db], or rediss:// for TLS";
    // The crate's own message is not used where it could quote the URL.
    let parsed =
        redis::parse_redis_url(url).ok_or_else(|| format!("the URL does not parse; {expected}"))?;
    let tls = match parsed.scheme() {
        "redis" => false,
        "rediss" => true,
        other => return Err(format!("scheme {}; {expected}", shown(other))),
    };
    if parsed.fragment().is_some() {
        return Err(format!(
            "the URL has a part after #, and certificates are always checked; {expected}"
        ));
    }
    let info = parsed
        .into_connection_info()
        .map_err(|error| format!("{error}; {expected}"))?;
    // RESP3, so that messages, and the end of a connection, come as pushes on a connection that also
    // answers commands.
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok((info.set_redis_settings(redis).set_tcp_settings(tcp), tls))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        match RedisDialer::new(url, None) {
            Ok(_) => panic!("{url} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn the_address_is_shown_without_credentials() {
        let dialer = RedisDialer::new("redis://user:s3cret@redis.local:6380/2", None);
        assert_eq!(
            format!("{dialer:?}"),
            "Ok(RedisDialer(\"redis.local:6380\"))"
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
            assert!(error.contains("expected redis://"), "{url} gave: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn authorities_are_refused_where_they_would_count_for_nothing() {
        let plain = RedisDialer::new("redis://host", Some(Vec::new()));
        assert!(plain.is_err_and(|error| error.contains("needs a rediss:// URL")));
    }
}
