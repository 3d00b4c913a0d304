//! Where in a log: an epoch and an offset within it.

use std::fmt;
use std::str::FromStr;

use super::channel::{invalid, shown};
use crate::error::IpcError;

/// A place in the log: everything up to and with `offset` of `epoch`. Written `epoch-offset` in
/// decimal, which is the id that clients resume from.
///
/// A log takes a new epoch whenever offsets can't be trusted to go on from the old ones. Epochs
/// come from the clock (milliseconds since 1970), so a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which life of the log.
    pub epoch: u64,
    /// The number of entries in it so far.
    pub offset: u64,
}

impl Position {
    /// Lies in no log: the epoch 0 is never taken. To resume from here always gives a gap.
    pub const NOWHERE: Self = Self {
        epoch: 0,
        offset: 0,
    };

    /// The one directly after it.
    pub(super) fn after(self) -> Self {
        Self {
            offset: self.offset.saturating_add(1),
            ..self
        }
    }

    /// The one directly before it; itself at the start of an epoch.
    pub(super) fn before(self) -> Self {
        Self {
            offset: self.offset.saturating_sub(1),
            ..self
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = IpcError;

    fn from_str(text: &str) -> Result<Self, IpcError> {
        let numbers = text.split_once('-');
        numbers
            .and_then(|(epoch, offset)| {
                Some(Self {
                    epoch: decimal(epoch)?,
                    offset: decimal(offset)?,
                })
            })
            .ok_or_else(|| {
                invalid(format!(
                    "event id {} is not <epoch>-<offset> in decimal",
                    shown(text)
                ))
            })
    }
}

/// One spelling per number, so that one position has one id: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    if !canonical || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_reads_back_as_it_was_written(epoch: u64, offset: u64) {
            let position = Position { epoch, offset };
            prop_assert_eq!(position.to_string().parse::<Position>().unwrap(), position);
        }

        #[test]
        fn what_is_read_is_spelled_in_its_only_way(text in "[0-9+-]{0,22}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-2",
            "01-2",
            "1-02",
            "1 -2",
            "a-b",
            "1-2\n",
            "18446744073709551616-0",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_later_epoch_is_greater_whatever_the_offset() {
        let (old, new) = ("1-99".parse::<Position>(), "2-0".parse::<Position>());
        assert!(old.unwrap() < new.unwrap());
    }
}
