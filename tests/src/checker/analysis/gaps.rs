//! The gaps of one stream: what explains them, and what lies inside.

use std::time::Duration;

use super::log::Log;
use crate::checker::history::{Moment, Place, Publish, Retention};

/// What a log holds of an event beside its payload and its channel, in bytes, at least.
const OVERHEAD: usize = 128;
/// A gateway keeps each event in up to four forms, itself and a frame for each dialect, in seven eighths of what is
/// retained: what is younger than a sixth of it must be there.
const SHARE: usize = 6;
/// By how much the clocks of a store and a gateway may differ.
const SLACK: Duration = Duration::from_millis(50);

/// A gap that a stream was told.
pub(super) struct Gap {
    from: Place,
    to: Place,
    /// What is missing was published not before and not after.
    when: (Moment, Moment),
    /// Whether something is known that may have caused it.
    pub(super) explained: bool,
}

impl Gap {
    /// One that was told at `at`.
    pub(super) fn new(log: &Log<'_>, from: Place, to: Place, reason: &str, at: Moment) -> Self {
        let plain = log.plain_up_to(from);
        let mut begins = log.begun_up_to(from).unwrap_or_default();
        if reason == "recorder_away" {
            // It stands where plain messages are recorded, which may be seconds after they were published:
            // what others have put into the log meanwhile says nothing of it.
            begins = plain.unwrap_or(begins);
        }
        // A stream that is behind may be told long after.
        let ends = log.completed_after(to).map_or(at, |next| next.min(at));
        let mut faults = log.history.faults.iter();
        let explained = if matches!(reason, "trimmed" | "slow") {
            let retention = log.history.retention;
            retention.is_some_and(|retention| is_beyond(log, from, at, retention))
        } else {
            faults.any(|fault| {
                fault.loss.explains(reason) && fault.until >= begins && fault.from <= ends
            })
        };
        // Plain messages are recorded in their order, each a moment after it was answered: one that was
        // answered before another was begun that stands before the gap would stand there too.
        Self {
            from,
            to,
            when: (plain.unwrap_or_default(), ends),
            explained,
        }
    }

    pub(super) fn holds(&self, place: Place) -> bool {
        self.from < place && place <= self.to
    }

    /// The same for an event without a known place.
    pub(super) fn may_hold(&self, publish: &Publish) -> bool {
        let (begins, ends) = self.when;
        begins <= publish.completed && publish.invoked <= ends
    }
}

/// Whether what directly follows `from` may have been dropped by `at`: as much as is retained has come after it, or
/// it was too old.
fn is_beyond(log: &Log<'_>, from: Place, at: Moment, retention: Retention) -> bool {
    let mut after = log.after(from).filter(|publish| publish.invoked <= at);
    let Some(first) = after.next() else {
        return false;
    };
    let size =
        |publish: &Publish| publish.size + log.history.channels[publish.channel].len() + OVERHEAD;
    let bytes = size(first) + after.map(size).sum::<usize>();
    first.invoked + retention.age <= at + SLACK || bytes >= retention.bytes / SHARE
}
