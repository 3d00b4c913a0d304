//! A text file as a source of revocations: one entry a line, as in [`super::entry`].
//!
//! The content is compared at each look, not times or names, so that swapped links and copies are
//! seen. A change is taken when a second look, [`SETTLE`] later, finds the same: so a file that is
//! written in place is left alone meanwhile. An entry that is no longer there holds for
//! [`TAKE_BACK`] more, in which the file must stay the same: a writer that is slow, or stopped
//! after it had emptied the file, lets nobody in. A file that is bad or gone, or hangs, leaves the
//! last good entries in force.
//!
//! Limits: 16 MiB and the configured number of entries, for a moment twice that; the last content
//! stays in memory beside the entries.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinError;
use tokio::time::Instant;

use super::entry::{Entry, Expected};
use super::kept::{Kept, State};
use super::set::RevokedSet;
use super::unix_seconds;
use crate::files::{self, LIMIT};

pub(crate) const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Between the two looks that must agree.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a content must stay before what it no longer has is let in again.
const TAKE_BACK: Duration = Duration::from_secs(1);

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileFault {
    #[error("{path}: {source}", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}:{line}: {expected}", path = .path.display())]
    Line {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        expected: Expected,
    },
    #[error("{path}: expected at most {most} entries (revocation.max_entries)", path = .path.display())]
    TooMany { path: PathBuf, most: usize },
}

/// Where the file is and how much may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevocationFile {
    pub(crate) path: PathBuf,
    pub(crate) max_entries: usize,
}

impl RevocationFile {
    /// Reads the file whole; blocks as long as the disk does.
    pub(crate) fn read(&self) -> Result<Vec<u8>, FileFault> {
        files::read_whole(&self.path, MAX_FILE_BYTES).map_err(|source| self.unread(source))
    }

    pub(crate) fn unread(&self, source: io::Error) -> FileFault {
        FileFault::Read {
            path: self.path.clone(),
            source,
        }
    }

    /// The lines of a content, each with its entry if it has one.
    pub(crate) fn lines<'b>(
        &self,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = Result<(&'b str, Option<Entry>), FileFault>> {
        let mut entries = 0;
        let lines = bytes.split(|byte| *byte == b'\n').enumerate();
        lines.map(move |(i, line)| {
            let fault = |expected| FileFault::Line {
                path: self.path.clone(),
                line: i + 1,
                expected,
            };
            let line = std::str::from_utf8(line).map_err(|_| fault("expected UTF-8"))?;
            let entry = Entry::parse(line).map_err(fault)?;
            entries += usize::from(entry.is_some());
            if entries > self.max_entries {
                return Err(FileFault::TooMany {
                    path: self.path.clone(),
                    most: self.max_entries,
                });
            }
            Ok((line, entry))
        })
    }

    /// The entries of a content, in its order.
    pub(crate) fn entries(&self, bytes: &[u8]) -> impl Iterator<Item = Result<Entry, FileFault>> {
        let lines = self.lines(bytes);
        lines.filter_map(|line| line.map(|(_, entry)| entry).transpose())
    }

    pub(crate) fn set(&self, bytes: &[u8]) -> Result<RevokedSet, FileFault> {
        let mut set = RevokedSet::default();
        for entry in self.entries(bytes) {
            set.add(entry?);
        }
        Ok(set)
    }
}

impl fmt::Display for RevocationFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// What is wrong with a file that a configuration names.
pub(crate) fn fault(path: &Path, max_entries: usize) -> Option<String> {
    let file = RevocationFile {
        path: path.to_owned(),
        max_entries,
    };
    let set = file.read().and_then(|bytes| file.set(&bytes));
    set.err().map(|fault| fault.to_string())
}

/// Follows a file from the content on that was read first.
pub(super) async fn follow(file: RevocationFile, first: Vec<u8>, poll: Duration, kept: Arc<Kept>) {
    let mut watch = Watch {
        file,
        judged: first,
        fault: None,
        candidate: None,
        fewer: None,
    };
    let mut pause = poll;
    loop {
        tokio::time::sleep(pause).await;
        let look;
        (watch, look) = match watch.look_beside(&kept).await {
            Ok(looked) => looked,
            Err(error) => return kept.is(State::Bad(format!("the follower ended: {error}"))),
        };
        pause = poll;
        match look {
            Look::Changing => pause = SETTLE.min(poll),
            Look::Good(set) => {
                kept.is(State::Good);
                if let Some(set) = set {
                    tracing::info!(file = %watch.file, entries = set.len(), "new revocations hold");
                    kept.take(set);
                }
            }
            Look::Bad(fault) => kept.is(State::Bad(fault)),
        }
    }
}

struct Watch {
    file: RevocationFile,
    /// The content that was parsed last, and what was wrong with it.
    judged: Vec<u8>,
    fault: Option<String>,
    /// What the last look found, if it was something new.
    candidate: Option<Vec<u8>>,
    /// The entries of what was parsed last, where more than those hold; and since when the file
    /// is as it is.
    fewer: Option<(RevokedSet, Instant)>,
}

enum Look {
    /// Something new, which may not be whole yet.
    Changing,
    /// With a set when there is a new one.
    Good(Option<RevokedSet>),
    Bad(String),
}

impl Watch {
    /// Looks on a thread of its own, until that ends: a disk that hangs is told, and there is never
    /// more than one look.
    async fn look_beside(mut self, kept: &Arc<Kept>) -> Result<(Self, Look), JoinError> {
        let path = self.file.to_string();
        let (now, holding) = (Instant::now(), kept.set());
        let mut looking = tokio::task::spawn_blocking(move || {
            let look = self.look(now, &holding);
            (self, look)
        });
        loop {
            match tokio::time::timeout(LIMIT, &mut looking).await {
                Ok(looked) => return looked,
                Err(_) => kept.is(State::Bad(format!(
                    "{path}: could not be read within {LIMIT:?}"
                ))),
            }
        }
    }

    fn look(&mut self, now: Instant, holding: &RevokedSet) -> Look {
        let found = match self.file.read() {
            Ok(found) => found,
            Err(fault) => {
                self.changed(None, now);
                return Look::Bad(fault.to_string());
            }
        };
        if found == self.judged {
            if self.candidate.is_some() {
                self.changed(None, now);
            }
            return match &self.fault {
                None => Look::Good(self.taken_back(now)),
                Some(fault) => Look::Bad(fault.clone()),
            };
        }
        if self.candidate.as_ref() != Some(&found) {
            self.changed(Some(found), now);
            return Look::Changing;
        }
        self.candidate = None;
        self.fewer = None;
        let set = self.file.set(&found);
        self.judged = found;
        self.fault = set.as_ref().err().map(ToString::to_string);
        match set {
            Ok(set) => Look::Good(Some(self.with_missing(set, now, holding))),
            Err(fault) => Look::Bad(fault.to_string()),
        }
    }

    /// The file is not what it was at the last look.
    fn changed(&mut self, candidate: Option<Vec<u8>>, now: Instant) {
        self.candidate = candidate;
        if let Some((_, since)) = &mut self.fewer {
            *since = now;
        }
    }

    /// The set without what is no longer in the file, when that was so for long enough.
    fn taken_back(&mut self, now: Instant) -> Option<RevokedSet> {
        let long_enough = |(_, since): &mut (_, Instant)| now.duration_since(*since) >= TAKE_BACK;
        self.fewer.take_if(long_enough).map(|(set, _)| set)
    }

    /// The set, and the entries beside it that hold now.
    fn with_missing(&mut self, set: RevokedSet, now: Instant, holding: &RevokedSet) -> RevokedSet {
        let today = unix_seconds(SystemTime::now());
        let new: HashSet<Entry> = set.entries(today).collect();
        let missing: Vec<_> = holding
            .entries(today)
            .filter(|entry| !new.contains(entry))
            .collect();
        if missing.is_empty() {
            return set;
        }
        self.fewer = Some((set, now));
        RevokedSet::new(new.into_iter().chain(missing))
    }
}

#[cfg(test)]
mod tests;
