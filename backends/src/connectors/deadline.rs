//! How long a call may take: as a whole, and for one step of it.
//!
//! Owns the arithmetic and the choice of which limit is named when time is up. It fails with
//! [`ConnectorError::TimedOut`].

use std::time::Duration;

use intellirouter_proto::intellirouter::model_registry::v1::ConnectorConfig;
use tokio::time::{Instant, timeout_at};

use super::ConnectorError;

/// No call waits longer, and no sum of times overflows.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When a call has to be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    /// The caller's limit, or the connector's own if that is shorter (0: it has none).
    pub(super) fn of(config: &ConnectorConfig, limit: Duration) -> Self {
        let own = match config.timeout_ms {
            0 => LONGEST,
            ms => Duration::from_millis(ms.into()),
        };
        let limit = limit.min(own).min(LONGEST);
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    /// Waits for `step` as long as the call may take.
    pub(super) async fn run<F: Future>(self, step: F) -> Result<F::Output, ConnectorError> {
        timeout_at(self.at, step)
            .await
            .map_err(|_| ConnectorError::TimedOut(self.limit))
    }

    /// Waits for `step` for at most `pause`, and no longer than the call may take.
    pub(super) async fn within<F: Future>(
        self,
        pause: Duration,
        step: F,
    ) -> Result<F::Output, ConnectorError> {
        let pause_ends = Instant::now() + pause.min(LONGEST);
        if pause_ends >= self.at {
            return self.run(step).await;
        }
        timeout_at(pause_ends, step)
            .await
            .map_err(|_| ConnectorError::TimedOut(pause))
    }
}
