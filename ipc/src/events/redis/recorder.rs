//! What a recorder knows, and what it decides: no connection, no clock, no wait.
//!
//! The store's scripts append what they publish. What others publish plainly, somebody has to append;
//! this decides what, and when. Every message of others has a *coordinate*, the same for all who are
//! subscribed to one server: the number of the last mark before it (see `publish.lua`, `tick.lua`),
//! and how many messages came since. A message right after an `own` mark is in the log already.
//! The script that appends refuses coordinates up to the last one that is recorded, so nothing
//! comes twice, whoever appends; and whoever appends does so without leaving anything out, so what
//! is before a recorded coordinate is recorded.
//!
//! One *holder* of the lease appends at once. *Standbys* keep what is not known to be recorded, and
//! append it when they take over. One that can't vouch for all that came before its own first mark
//! takes over only if nobody else does, and appends a gap first. It can vouch if the records reach up to that; or if the server's own
//! count of PUBLISH commands says that no other came (see [`Standing::heard`]).
//!
//! Bounds: at most [`MAX_KEPT_BYTES`] and [`MAX_KEPT`] messages are kept. Beyond it a standby
//! forgets the oldest and vouches only for what comes later; at a holder a gap takes their place.

use std::collections::VecDeque;

use bytes::Bytes;

use super::scripts::{Claim, Done};
use crate::events::channel::{ChannelName, shown};
use crate::events::log::GapReason;
use crate::events::position::Position;

#[cfg(test)]
mod tests;

/// The most that is kept, in bytes: channels and payloads, with [`OVERHEAD`] for each.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// The most messages that are kept.
const MAX_KEPT: usize = 65_536;
const OVERHEAD: usize = 128;

/// Where a message stands among marks. Before any mark nothing has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Coordinate {
    pub(super) mark: u64,
    pub(super) count: u64,
}

/// What is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) at: Coordinate,
    /// How many messages it stands for, or less.
    pub(super) weight: u64,
    /// It stands for nothing before this mark; `None` if nobody can tell.
    since: Option<u64>,
    /// The server's count before all that it stands for, or less; `None` if nobody can tell.
    heard_before: Option<i64>,
    pub(super) what: Recorded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Message {
        channel: ChannelName,
        payload: Bytes,
    },
    /// On one channel, or on all.
    Gap {
        channel: Option<ChannelName>,
        reason: GapReason,
    },
}

/// How the books of the store stood at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The end of the log.
    pub(super) head: Position,
    /// Whether this recorder holds the lease.
    pub(super) holds: bool,
    /// Every message before this mark is recorded.
    pub(super) commit: u64,
    /// The last message that is recorded.
    pub(super) recorded: Coordinate,
    /// How many PUBLISH commands of others the records account for, by the server's own count since
    /// some moment of the epoch. Those on channels of no concern count too; so it may be too low to
    /// prove anything, never too high.
    pub(super) heard: Option<i64>,
}

/// The store lives another life than the one that the coordinates belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stale;

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The log has it already, or nothing can be said of it yet.
    Passed,
    Kept,
    /// Kept as a gap: it has so many bytes.
    TooLarge(usize),
    /// It is on no channel of the grammar.
    Ignored(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    Standby,
    Holder,
}

/// One life of a recorder: from its subscription on one connection to the end of that.
pub(super) struct Recorder {
    max_payload: usize,
    duty: Duty,
    epoch: Option<u64>,
    /// Everything after this is kept or known to be recorded.
    first: Option<Coordinate>,
    /// The server's count there.
    heard_at_first: Option<i64>,
    /// A mark with the server's count was seen.
    counted: bool,
    /// Messages since the first mark, until that.
    since_first: i64,
    at: Coordinate,
    /// The next message is in the log.
    skip: bool,
    /// The server's count, as of now.
    heard: Option<i64>,
    kept: VecDeque<Item>,
    kept_bytes: usize,
    /// Whether everything that came before what it keeps was recorded at the last tick.
    vouches: bool,
}

impl Recorder {
    pub(super) fn new(max_payload: usize) -> Self {
        Self {
            max_payload,
            duty: Duty::Standby,
            epoch: None,
            first: None,
            heard_at_first: None,
            counted: false,
            since_first: 0,
            at: Coordinate::default(),
            skip: false,
            heard: None,
            kept: VecDeque::new(),
            kept_bytes: 0,
            vouches: false,
        }
    }

    pub(super) fn duty(&self) -> Duty {
        self.duty
    }

    /// What it is to the lease.
    pub(super) fn claim(&self) -> Claim {
        match self.duty {
            Duty::Holder => Claim::Holds,
            Duty::Standby if self.vouches => Claim::Vouches,
            Duty::Standby => Claim::Lacks,
        }
    }

    /// The epoch that the coordinates belong to.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether it knows from where on it covers everything.
    pub(super) fn is_ready(&self) -> bool {
        self.counted
    }

    /// A mark was heard: `own N`, `void N`, `tick N COUNT` or `free N COUNT`. True if the lease was
    /// given back.
    pub(super) fn mark(&mut self, text: &[u8]) -> Result<bool, Stale> {
        let Some((word, number, count)) = read_mark(text) else {
            // Not of the scripts.
            return Ok(false);
        };
        if self.first.is_some() && number <= self.at.mark {
            return Err(Stale);
        }
        self.at = Coordinate {
            mark: number,
            count: 0,
        };
        self.first.get_or_insert(self.at);
        self.skip = word == "own";
        if matches!(word, "tick" | "free") {
            if self
                .heard
                .zip(count)
                .is_some_and(|(heard, count)| count < heard)
            {
                self.distrust();
            }
            self.heard = count;
            if !self.counted {
                self.counted = true;
                self.heard_at_first = count.map(|count| count - self.since_first);
            }
        }
        Ok(word == "free")
    }

    /// The server's count went back: what it was before says nothing any more.
    fn distrust(&mut self) {
        self.heard_at_first = None;
        for item in &mut self.kept {
            item.heard_before = None;
        }
    }

    /// A message on a channel was heard.
    pub(super) fn message(&mut self, channel: &[u8], payload: Vec<u8>) -> Heard {
        if std::mem::take(&mut self.skip) || self.first.is_none() {
            return Heard::Passed;
        }
        self.at.count += 1;
        self.since_first += 1;
        let heard_before = self.heard;
        self.heard = heard_before.map(|heard| heard + 1);
        let channel = match std::str::from_utf8(channel).map(ChannelName::parse) {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Heard::Ignored(error.to_string()),
            Err(_) => return Heard::Ignored(shown(&String::from_utf8_lossy(channel))),
        };
        let bytes = payload.len();
        let fits = bytes <= self.max_payload;
        let what = if fits {
            let payload = Bytes::from(payload);
            Recorded::Message { channel, payload }
        } else {
            Recorded::Gap {
                channel: Some(channel),
                reason: GapReason::Trimmed,
            }
        };
        self.keep(what, heard_before);
        if fits {
            Heard::Kept
        } else {
            Heard::TooLarge(bytes)
        }
    }

    fn keep(&mut self, what: Recorded, heard_before: Option<i64>) {
        let item = Item {
            at: self.at,
            weight: 1,
            since: Some(self.at.mark),
            heard_before,
            what,
        };
        self.kept_bytes += item.size();
        self.kept.push_back(item);
        if self.kept.len() <= MAX_KEPT && self.kept_bytes <= MAX_KEPT_BYTES {
            return;
        }
        // Much at once, so that it isn't done for every message.
        let mut lost: Option<Item> = None;
        while self.kept.len() > MAX_KEPT / 2 || self.kept_bytes > MAX_KEPT_BYTES / 2 {
            let Some(item) = self.pop() else { break };
            lost = Some(match lost {
                None => item,
                Some(lost) => Item {
                    since: lost.since,
                    heard_before: lost.heard_before,
                    ..item
                },
            });
        }
        if let Some(lost) = lost {
            self.lose(lost);
        }
    }

    /// `lost` is kept no more.
    fn lose(&mut self, lost: Item) {
        match self.duty {
            Duty::Standby => {
                self.first = Some(lost.at);
                self.heard_at_first = None;
                self.vouches = false;
            }
            Duty::Holder => self.push_gap(Item {
                // Some may be on their way into the log, and count there.
                weight: 0,
                what: Recorded::Gap {
                    channel: None,
                    reason: GapReason::Trimmed,
                },
                ..lost
            }),
        }
    }

    fn push_gap(&mut self, gap: Item) {
        self.kept_bytes += gap.size();
        self.kept.push_front(gap);
    }

    /// A tick was answered. The first that may bring the lease must come after the first mark with
    /// a count.
    pub(super) fn ticked(&mut self, standing: &Standing) -> Result<(), Stale> {
        let epoch = standing.head.epoch;
        if *self.epoch.get_or_insert(epoch) != epoch {
            return Err(Stale);
        }
        self.forget(|item| item.at <= standing.recorded || item.at.mark < standing.commit);
        self.vouches = self.covers(standing);
        if !standing.holds {
            self.duty = Duty::Standby;
        } else if self.duty == Duty::Standby {
            self.take_over(standing);
        }
        Ok(())
    }

    /// Whether everything that came before what it keeps is recorded.
    pub(super) fn covers(&self, standing: &Standing) -> bool {
        let commit = Coordinate {
            mark: standing.commit,
            count: 0,
        };
        let recorded = standing.recorded.max(commit);
        let heard = standing.heard.zip(self.heard_at_first);
        self.first.is_some_and(|first| recorded >= first)
            // Not more: the server's count was reset then, and proves nothing.
            || heard.is_some_and(|(heard, at_first)| heard == at_first)
    }

    fn take_over(&mut self, standing: &Standing) {
        self.duty = Duty::Holder;
        if let Some(first) = self.first
            && !self.covers(standing)
        {
            self.push_gap(Item {
                at: first,
                weight: 0,
                since: None,
                heard_before: None,
                what: Recorded::Gap {
                    channel: None,
                    reason: GapReason::RecorderAway,
                },
            });
        }
    }

    /// What is to be appended next, the oldest first: at most so many, and one more than `bytes`
    /// hold. Nothing at a standby.
    pub(super) fn batch(&self, most: usize, bytes: usize) -> Vec<Item> {
        if self.duty == Duty::Standby {
            return Vec::new();
        }
        self.oldest(most, bytes)
    }

    /// The oldest that is kept, whoever appends it.
    pub(super) fn oldest(&self, most: usize, bytes: usize) -> Vec<Item> {
        let mut room = bytes;
        let fits = |item: &&Item| {
            let fits = room > 0;
            room = room.saturating_sub(item.size());
            fits
        };
        let oldest = self.kept.iter().take(most);
        oldest.take_while(fits).cloned().collect()
    }

    /// Everything up to there was appended.
    pub(super) fn appended(&mut self, up_to: Coordinate) {
        self.forget(|item| item.at <= up_to);
    }

    /// How far its records stand; `None` if that can't be said.
    pub(super) fn done(&self) -> Option<Done> {
        if self.duty == Duty::Standby {
            return None;
        }
        // Not all but what is kept: of what came elsewhere since then, nobody may conclude that what
        // is kept was not missed.
        let (mark, heard) = match self.kept.front() {
            None => (self.at.mark, self.heard),
            Some(oldest) => (oldest.since?, oldest.heard_before),
        };
        Some(Done {
            epoch: self.epoch?,
            mark,
            heard,
        })
    }

    fn forget(&mut self, known: impl Fn(&Item) -> bool) {
        while self.kept.front().is_some_and(&known) {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.kept.pop_front()?;
        self.kept_bytes -= item.size();
        Some(item)
    }
}

impl Item {
    fn size(&self) -> usize {
        OVERHEAD
            + match &self.what {
                Recorded::Message { channel, payload } => channel.as_str().len() + payload.len(),
                Recorded::Gap { channel, .. } => channel.as_ref().map_or(0, |c| c.as_str().len()),
            }
    }
}

/// The word, the number, and the server's count where there is one.
fn read_mark(text: &[u8]) -> Option<(&str, u64, Option<i64>)> {
    let mut parts = std::str::from_utf8(text).ok()?.split(' ');
    let (word, number) = (parts.next()?, parts.next()?.parse().ok()?);
    let count = parts.next().and_then(|count| count.parse().ok());
    Some((word, number, count))
}
