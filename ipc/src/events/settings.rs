//! What a log keeps and how long it waits: every bound of this module that can be set.

use std::path::PathBuf;
use std::time::Duration;

use super::channel::invalid;
use crate::error::{IpcError, IpcResult};

/// How long a store remembers the key of a publish.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(300);

/// How many keys the embedded log remembers at most; beyond it the oldest are forgotten early.
pub const MAX_IDEMPOTENCY_KEYS: usize = 100_000;

/// What a log is used for. The embedded log makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogUse {
    /// To serve others: it follows the store and records what is published on Redis itself from the
    /// start, and the store retains what its settings say.
    Gateway,
    /// By a service: it publishes, and follows and records only from its first subscription on. It
    /// leaves recording to a gateway where there is one, and has no say in what the store retains.
    Service,
}

/// The settings of an event log, the same for every store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The most memory that recent events and their encoded frames take, in bytes (default
    /// 64 MiB). Appending keeps an eighth of it free for frames. At least 16 times `max_payload`.
    /// A store beside this process keeps as much, and up to a part in 32 more; of age and number too.
    pub retain_bytes: usize,
    /// How long an event can be resumed from at most (default one hour).
    pub retain_age: Duration,
    /// How many entries are kept at most (default 1,000,000).
    pub retain_events: usize,
    /// The largest payload, in bytes (default 1 MiB).
    pub max_payload: usize,
    /// How long a publish waits for the store's answer at most (default 2 s).
    pub publish_timeout: Duration,
    /// How many replicas of the store must have confirmed an event before its publish is answered
    /// (default 0). Each publish then also waits for them, within its timeout.
    pub replicas: usize,
    /// The pause between tries to reconnect in the first 30 s (default 50 ms). After that one
    /// connection goes on so as long as nobody answers; the others are tried when it stands, and
    /// else less and less often: the pause doubles with each failure. Each pause is shortened by up
    /// to half at random.
    pub reconnect_min: Duration,
    /// The longest pause between tries to reconnect (default 1 s).
    pub reconnect_max: Duration,
    /// What the log is used for (default: by a gateway).
    pub usage: LogUse,
    /// PEM file of the authorities that `rediss://` trusts; without it, those of the system.
    pub ca_file: Option<PathBuf>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            retain_bytes: 64 << 20,
            retain_age: Duration::from_secs(3600),
            retain_events: 1_000_000,
            max_payload: 1 << 20,
            publish_timeout: Duration::from_secs(2),
            replicas: 0,
            reconnect_min: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(1),
            usage: LogUse::Gateway,
            ca_file: None,
        }
    }
}

impl LogSettings {
    /// Checks that the settings make sense together.
    ///
    /// # Errors
    /// [`IpcError::InvalidArgument`] that names the setting and what it must be.
    pub fn validate(&self) -> IpcResult<()> {
        let room = self.max_payload.checked_mul(16);
        let faults = [
            (self.max_payload == 0, "max_payload must be at least 1"),
            (
                room.is_none_or(|room| self.retain_bytes < room.max(MIN_RETAIN_BYTES)),
                "retain_bytes must be at least 64 KiB and 16 times max_payload",
            ),
            (self.retain_events == 0, "retain_events must be at least 1"),
            (self.retain_age.is_zero(), "retain_age must be above 0"),
            (
                self.publish_timeout.is_zero(),
                "publish_timeout must be above 0",
            ),
            (
                self.reconnect_min.is_zero() || self.reconnect_max < self.reconnect_min,
                "reconnect_min must be above 0 and at most reconnect_max",
            ),
        ];
        let found: Vec<_> = faults.iter().filter(|(wrong, _)| *wrong).collect();
        match found[..] {
            [] => Ok(()),
            _ => Err(message(&found)),
        }
    }
}

const MIN_RETAIN_BYTES: usize = 64 << 10;

fn message(found: &[&(bool, &str)]) -> IpcError {
    let texts: Vec<_> = found.iter().map(|(_, text)| *text).collect();
    invalid(format!("event log settings: {}", texts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert!(LogSettings::default().validate().is_ok());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let settings = LogSettings {
            retain_bytes: 1000,
            retain_age: Duration::ZERO,
            retain_events: 0,
            max_payload: 0,
            publish_timeout: Duration::ZERO,
            reconnect_min: Duration::from_secs(3),
            ..LogSettings::default()
        };
        let error = settings.validate().unwrap_err().to_string();
        for name in [
            "retain_bytes",
            "retain_age",
            "retain_events",
            "max_payload must",
            "publish_timeout",
            "reconnect_min",
        ] {
            assert!(error.contains(name), "{name} not in: {error}");
        }
    }

    #[test]
    fn a_payload_bound_that_overflows_is_refused() {
        let settings = LogSettings {
            max_payload: usize::MAX,
            ..LogSettings::default()
        };
        assert!(settings.validate().is_err());
    }
}
