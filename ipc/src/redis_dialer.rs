//! From a URL to connections: address, credentials and TLS of one Redis.
//!
//! Owns what is secret in the URL: nothing else sees it, and no message holds it. Whoever connects
//! has limits of its own. Where Sentinels know the Redis, each connection asks them anew where its
//! master is, and is refused if the server there says that it is none.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, PushInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
};
use tokio::time::timeout;

use self::sentinel::Sentinels;
use self::url::{Address, Place};

pub use self::url::RedisUrl;

mod sentinel;
mod url;

/// A Redis that can be reached.
pub struct RedisDialer {
    target: Target,
    address: String,
}

enum Target {
    Server(Client),
    Sentinels {
        sentinels: Sentinels,
        login: RedisConnectionInfo,
        tls: Option<Tls>,
    },
}

/// How a server shows who it is.
struct Tls {
    /// PEM; the system's without it.
    authorities: Option<Vec<u8>>,
}

impl std::fmt::Debug for RedisDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RedisDialer").field(&self.address).finish()
    }
}

impl RedisDialer {
    /// Connects to nothing yet. For what a URL may be see [`RedisUrl`]. `authorities` is PEM text,
    /// for TLS; the system's are used without it. Fails with what was expected, and never with the
    /// credentials.
    pub fn new(url: &str, authorities: Option<Vec<u8>>) -> Result<Self, String> {
        let url = RedisUrl::parse(url)?;
        let address = url.address();
        if authorities.is_some() && !url.tls {
            return Err("a file of authorities needs a rediss:// URL".to_owned());
        }
        let tls = url.tls.then_some(Tls { authorities });
        if tls.is_some() {
            // The client library takes the process's default provider. Fails only where one is
            // installed already, which then is the one to use.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let refused = |error: RedisError| format!("{address}: {error}");
        let target = match url.place {
            Place::At(server) => {
                Target::Server(client(&server, url.login, tls.as_ref()).map_err(refused)?)
            }
            Place::Sentinels { service, sentinels } => {
                // Told now if the authorities can't be read.
                client(&sentinels[0], url.login.clone(), tls.as_ref()).map_err(refused)?;
                Target::Sentinels {
                    sentinels: Sentinels::new(service, sentinels, &url.login),
                    login: url.login,
                    tls,
                }
            }
        };
        Ok(Self { target, address })
    }

    /// Host and port, or the service and its Sentinels; to be shown.
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
        let opened = async {
            match &self.target {
                Target::Server(client) => {
                    client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await
                }
                Target::Sentinels {
                    sentinels,
                    login,
                    tls,
                } => {
                    let master = sentinels.master(connect, tls.as_ref()).await?;
                    let client = client(&master, login.clone(), tls.as_ref())?;
                    let mut connection = client
                        .get_multiplexed_async_connection_with_config(&config)
                        .await?;
                    check_master(&mut connection, &master).await?;
                    Ok(connection)
                }
            }
        };
        let late = || RedisError::from((ErrorKind::Io, "not connected in time"));
        timeout(connect, opened).await.map_err(|_| late())?
    }
}

/// Refuses a server that is no master: a Sentinel may be behind.
async fn check_master(
    connection: &mut MultiplexedConnection,
    address: &Address,
) -> RedisResult<()> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
    match role.first() {
        Some(Value::BulkString(role)) if role == b"master" => Ok(()),
        _ => Err(RedisError::from((
            ErrorKind::Io,
            "the server that Sentinel names is not a master",
            address.to_string(),
        ))),
    }
}

fn client(address: &Address, login: RedisConnectionInfo, tls: Option<&Tls>) -> RedisResult<Client> {
    let (host, port) = (address.host.clone(), address.port);
    let place = match tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
    };
    let info = place.into_connection_info()?;
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    let info = info.set_redis_settings(login).set_tcp_settings(tcp);
    match tls {
        None => Client::open(info),
        Some(tls) => Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls: None,
                root_cert: tls.authorities.clone(),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_shown_without_credentials() {
        let dialer = RedisDialer::new("redis://user:s3cret@redis.local:6380/2", None);
        assert_eq!(
            format!("{dialer:?}"),
            "Ok(RedisDialer(\"redis.local:6380\"))"
        );
    }

    #[test]
    fn authorities_are_refused_where_they_would_count_for_nothing() {
        let plain = RedisDialer::new("redis://host", Some(Vec::new()));
        assert!(plain.is_err_and(|error| error.contains("needs a rediss:// URL")));
    }
}
