//! From the URL of the event store to the log.

use std::sync::Arc;

use super::channel::{invalid, shown};
use super::log::EventLog;
use super::memory::MemoryLog;
use super::redis::RedisLog;
use super::settings::LogSettings;
use crate::error::IpcResult;

/// Opens the event log that `url` names: `memory:`, or a Redis (see [`RedisUrl`](crate::RedisUrl)).
///
/// A Redis that is away is no error; see [`RedisLog::connect`].
///
/// # Errors
/// [`IpcError::InvalidArgument`](crate::IpcError::InvalidArgument) if URL or settings are not
/// valid. The message never holds a credential.
pub async fn open(url: &str, settings: LogSettings) -> IpcResult<Arc<dyn EventLog>> {
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Arc::new(MemoryLog::new(settings)?)),
        Some(("redis" | "rediss" | "redis+sentinel" | "rediss+sentinel", _)) => {
            Ok(Arc::new(RedisLog::connect(url, settings).await?))
        }
        // Only the scheme is shown: what follows may hold a password.
        Some((scheme, _)) => Err(invalid(format!(
            "event store with scheme {}: {EXPECTED}",
            shown(scheme)
        ))),
        None => Err(invalid(format!(
            "event store URL without a scheme: {EXPECTED}"
        ))),
    }
}

const EXPECTED: &str = "expected memory:, redis://host:port, \
     redis+sentinel://host:port,…/service, or one of these with rediss for TLS";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_embedded_log_opens() {
        let log = open("memory:", LogSettings::default()).await.unwrap();
        assert!(log.status().connected);
    }

    #[tokio::test]
    async fn a_url_that_names_no_store_is_refused_with_what_was_expected() {
        for (url, said) in [
            ("", "without a scheme"),
            ("memory", "without a scheme"),
            ("memory:x", "\"memory\""),
            ("kafka://user:s3cret@host", "\"kafka\""),
            ("redis+sentinel://user:s3cret@host", "no service"),
            ("redis://", "hostname"),
        ] {
            let Err(error) = open(url, LogSettings::default()).await else {
                panic!("{url} was accepted");
            };
            let error = error.to_string();
            assert!(error.contains(said), "{url} gave: {error}");
            assert!(error.contains("expected"), "{url} gave: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
