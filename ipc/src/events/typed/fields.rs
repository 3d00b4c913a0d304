//! How single fields of events are written, where serde's own way would break the contract.

use serde::Serializer;
use serde::ser::Error as _;

/// A time in UTC, as RFC 3339. Read with any offset, kept and written in UTC.
pub(super) mod utc {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};
    use time::serde::rfc3339;
    use time::{OffsetDateTime, UtcOffset};

    // An offset can carry the first and the last day that can be written out of what can.
    const OUT_OF_RANGE: &str = "the timestamp is outside of the years 0 to 9999 in UTC";

    pub(in super::super) fn serialize<S: Serializer>(
        at: &OffsetDateTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let at = at.checked_to_offset(UtcOffset::UTC);
        rfc3339::serialize(
            &at.ok_or_else(|| S::Error::custom(OUT_OF_RANGE))?,
            serializer,
        )
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<OffsetDateTime, D::Error> {
        let at = rfc3339::deserialize(deserializer)?;
        let at = at.checked_to_offset(UtcOffset::UTC);
        at.ok_or_else(|| D::Error::custom(OUT_OF_RANGE))
    }
}

/// A number that JSON can write. `NaN` and the infinities would become `null` without a word, and
/// no reader takes that for a number.
// By reference, as serde calls it.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn finite<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f32(*value)
    } else {
        Err(S::Error::custom(format!("{value} is not a JSON number")))
    }
}
