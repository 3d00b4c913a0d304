//! A point in wall-clock time, in whole microseconds, so that it is the same in memory, in the
//! database and in every answer.

use std::time::SystemTime;

use prost_types::Timestamp;
use time::OffsetDateTime;

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) i64);

impl Moment {
    /// Now. A clock that is set before 1970 shows 1970.
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let micros = since.unwrap_or_default().as_micros();
        Self(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// How many milliseconds passed since `earlier`; 0 if the clock was set back.
    pub(super) fn millis_since(self, earlier: Self) -> u64 {
        let micros = self.0.saturating_sub(earlier.0);
        u64::try_from(micros).unwrap_or(0) / 1000
    }
}

impl From<Moment> for Timestamp {
    fn from(moment: Moment) -> Self {
        Self {
            seconds: moment.0.div_euclid(1_000_000),
            // Below a billion, so that it fits.
            nanos: (moment.0.rem_euclid(1_000_000) * 1000) as i32,
        }
    }
}

impl From<Moment> for OffsetDateTime {
    fn from(moment: Moment) -> Self {
        Self::from_unix_timestamp_nanos(i128::from(moment.0) * 1000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}
