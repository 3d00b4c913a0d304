//! Judges a history: what happened goes in, what must not have happened comes out.
//!
//! Pure: no clock, no chance, no input but the history. What holds:
//!
//! - **Each event once, in order.** In one subscriber's stream, over all its connections, ids rise and no event comes
//!   twice. An id means the same event to everybody, so all subscribers see one order.
//! - **Nothing is lost in silence.** Every event that was acknowledged, or that anybody saw, and that lies after the
//!   first `ir.open` of a stream, is in that stream, or inside one of its gaps: `from < id <= to`. A plain
//!   `PUBLISH` that nobody saw has no id, but an order: once a stream has seen a plain one that was begun later,
//!   it must have a gap that was told for what was published then. The gap must not stand behind a plain one that was
//!   begun later, since what is recorded is recorded in order.
//! - **No gap without a reason.** A gap needs a fault that can destroy what its reason says, after the last event that
//!   is known to stand before it and before it was told. One that says that events were dropped (`trimmed`, `slow`)
//!   needs that what follows its beginning was too old then, or that enough has come after it.
//! - **The log keeps time.** An event that was acknowledged before another was begun stands before it. What was
//!   published through the log and what was merely `PUBLISH`ed are looked at apart, since the latter
//!   is recorded a moment after it was answered.
//! - **No event from nowhere.** A failed publish is never seen, one with an unknown outcome at most once. One
//!   that was going on while the store lost its data may be in the log twice, in two epochs: the store has forgotten
//!   the first.

mod gaps;
mod log;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::{History, Moment};

/// What kind of fault in the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An event that should be in a stream is not, and in no gap.
    Missing,
    /// An event came twice in one stream.
    Repeated,
    /// An event came after one that stands behind it.
    Disordered,
    /// A gap that nothing explains.
    FalseGap,
    /// A stream was told to resume from before what it has seen.
    Backwards,
    /// A payload that nobody published, or an event whose publish failed.
    Phantom,
    /// An event of a channel that was not asked for.
    Uninvited,
    /// One id stands for two events.
    Ambiguous,
    /// One event stands at two places, or not where its publisher was told.
    TwoPlaces,
    /// Two events stand in the log against the order in which they were published.
    Untimely,
    /// A stream was told what breaks the contract.
    Nonsense,
    /// A stream did not come to its end though all parts stood.
    Stuck,
}

/// One thing that must not have happened.
#[derive(Clone, Debug)]
pub struct Violation {
    /// See there.
    pub kind: Kind,
    /// Index in [`History::streams`], where it is one subscriber's matter.
    pub stream: Option<usize>,
    /// When it showed.
    pub at: Moment,
    /// For people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at {:.3} s: {}",
            self.kind,
            self.at.as_secs_f64(),
            self.text
        )
    }
}

/// Everything that is wrong with a history, the earliest first.
pub fn check(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let log = log::Log::new(history, &mut found);
    log.keeps_time(&mut found);
    for index in 0..history.streams.len() {
        stream::check(&log, index, &mut found);
    }
    found.sort_by_key(|violation| violation.at);
    found
}
