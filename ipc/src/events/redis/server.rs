//! One connection to a server that may be used: a master, and no cluster.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, PushInfo, RedisError, RedisResult, Value};

use super::keep::CONNECT_LIMIT;
use crate::RedisDialer;

/// A connection, and the run id of the server at its other end: that can't become another without
/// the connection breaking.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) connection: MultiplexedConnection,
    pub(super) run: Arc<str>,
}

impl Server {
    /// Connects, within [`CONNECT_LIMIT`], and asks who answers. A server that is not a master is
    /// refused: it takes no writes, and may be behind.
    pub(super) async fn connect(
        dialer: &RedisDialer,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<Self> {
        let mut connection = dialer.dial(CONNECT_LIMIT, None, on_push).await?;
        let mut ask = redis::pipe();
        ask.cmd("INFO").arg("server").cmd("ROLE");
        let (info, role): (String, Value) = ask.query_async(&mut connection).await?;
        check_role(&role)?;
        let field = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        if field("redis_mode") == Some("cluster") {
            return Err(refused(
                "it is a cluster, which has no one order of messages",
            ));
        }
        let run = field("run_id").ok_or_else(|| refused("it does not tell its run_id"))?;
        Ok(Self {
            run: run.into(),
            connection,
        })
    }
}

/// Refuses the answer to ROLE of a server that is no master.
pub(super) fn check_role(role: &Value) -> RedisResult<()> {
    let Value::Array(parts) = role else {
        return Err(refused("it does not tell its role"));
    };
    match parts.first() {
        Some(Value::BulkString(word)) if word == b"master" => Ok(()),
        _ => Err(refused("it is not a master")),
    }
}

fn refused(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, why))
}
