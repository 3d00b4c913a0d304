//! The gaps of one stream: what explains them, and what lies inside.

use super::log::Log;
use crate::checker::history::{Fault, Moment, Place, Publish};

/// A gap that a stream was told.
pub(super) struct Gap<'h> {
    from: Place,
    to: Place,
    /// What is missing was published not before and not after.
    when: (Moment, Moment),
    /// What may have caused it.
    pub(super) fault: Option<&'h Fault>,
}

impl<'h> Gap<'h> {
    /// One that was told at `at`.
    pub(super) fn new(log: &Log<'h>, from: Place, to: Place, reason: &str, at: Moment) -> Self {
        let begins = log.begun_up_to(from).unwrap_or_default();
        // A stream that is behind may be told long after.
        let ends = log.completed_after(to).map_or(at, |next| next.min(at));
        let mut faults = log.history.faults.iter();
        let fault = faults.find(|fault| {
            fault.loss.explains(reason) && fault.until >= begins && fault.from <= ends
        });
        // Plain messages are recorded in their order, each a moment after it was answered: one that was
        // answered before another was begun that stands before the gap would stand there too.
        let begins = log.plain_up_to(from).unwrap_or_default();
        Self {
            from,
            to,
            when: (begins, ends),
            fault,
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
