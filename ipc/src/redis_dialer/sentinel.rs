//! Asks Sentinels where the master is.
//!
//! In turn, beginning with the one that answered last; each has a quarter of the time that connecting
//! may take. What a Sentinel says is not believed blindly: the server must say itself that it is a
//! master (that is the dialer's to ask).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, RedisResult};
use tokio::time::timeout;

use super::url::Address;
use super::{Tls, client};

pub(super) struct Sentinels {
    service: String,
    sentinels: Vec<Address>,
    /// For one that asks for credentials.
    login: RedisConnectionInfo,
    /// The one to begin with.
    first: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(
        service: String,
        sentinels: Vec<Address>,
        login: &RedisConnectionInfo,
    ) -> Self {
        // A Sentinel has no databases.
        let login = login.clone().set_db(0).set_skip_set_lib_name();
        Self {
            service,
            sentinels,
            login,
            first: AtomicUsize::new(0),
        }
    }

    /// Where the master is, as the first Sentinel says that knows it.
    pub(super) async fn master(&self, limit: Duration, tls: Option<&Tls>) -> RedisResult<Address> {
        let first = self.first.load(Ordering::Relaxed);
        let mut why = "none was asked".to_owned();
        for step in 0..self.sentinels.len() {
            let index = (first + step) % self.sentinels.len();
            let sentinel = &self.sentinels[index];
            match timeout(limit / 4, self.ask(sentinel, limit, tls)).await {
                Ok(Ok(Some(master))) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(master);
                }
                Ok(Ok(None)) => why = format!("{sentinel} does not know the service"),
                Ok(Err(error)) => why = format!("{sentinel}: {error}"),
                Err(_) => why = format!("{sentinel} does not answer"),
            }
        }
        // The next try begins with another one.
        self.first.store(first + 1, Ordering::Relaxed);
        Err(RedisError::from((
            ErrorKind::Io,
            "no Sentinel names a master",
            why,
        )))
    }

    async fn ask(
        &self,
        sentinel: &Address,
        limit: Duration,
        tls: Option<&Tls>,
    ) -> RedisResult<Option<Address>> {
        let bare = RedisConnectionInfo::default().set_skip_set_lib_name();
        match self.ask_as(&bare, sentinel, limit, tls).await {
            Err(error) if error.code() == Some("NOAUTH") => {
                self.ask_as(&self.login, sentinel, limit, tls).await
            }
            answer => answer,
        }
    }

    async fn ask_as(
        &self,
        login: &RedisConnectionInfo,
        sentinel: &Address,
        limit: Duration,
        tls: Option<&Tls>,
    ) -> RedisResult<Option<Address>> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        let client = client(sentinel, login.clone(), tls)?;
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let master: Option<(String, u16)> = ask.query_async(&mut connection).await?;
        Ok(master.map(|(host, port)| Address { host, port }))
    }
}
