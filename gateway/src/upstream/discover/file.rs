//! A file of endpoints that is followed: one URL a line, as in `endpoints`;
//! `#` begins a comment.
//!
//! The content is compared at each look, not times or names, so that swapped
//! links and renamed files are seen. Looks come every [`EVERY`]; a change is
//! taken when a second look, [`SETTLE`] later, finds the same, so that a file
//! that is written in place is left alone meanwhile. A file that is faulty,
//! names nothing, is gone or hangs leaves those last known in use. What was found
//! is judged anew after a reload, which may have brought what it lacked.
//!
//! Limits: [`MOST_BYTES`]; what a reading may take is [`crate::files::Disk`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Found, Shared};
use crate::config::EndpointConfig;
use crate::upstream::connect::Dialer;

/// What the file may hold, in bytes.
const MOST_BYTES: u64 = 64 * 1024;
const EVERY: Duration = Duration::from_secs(1);
/// Between the two looks that must agree.
const SETTLE: Duration = Duration::from_millis(100);

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileFault {
    #[error("{path}: {source}", path = .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}:{line}: {expected}", path = .path.display())]
    Line {
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        expected: String,
    },
    #[error("{path}: expected at least one URL", path = .0.display())]
    Empty(PathBuf),
}

/// What the file holds.
#[derive(PartialEq)]
pub(super) struct Content(Vec<u8>);

/// Reads the file whole; blocks as long as the disk does.
pub(super) fn read(path: &Path) -> Result<Content, FileFault> {
    let bytes = crate::files::read_whole(path, MOST_BYTES);
    let bytes = bytes.map_err(|source| FileFault::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(Content(bytes))
}

impl Content {
    /// Its endpoints, all of which can be connected to by `dialer`.
    pub(super) fn found(&self, path: &Path, dialer: &Dialer) -> Result<Found, FileFault> {
        let mut endpoints = Vec::new();
        for (i, line) in self.0.split(|byte| *byte == b'\n').enumerate() {
            let endpoint = endpoint(line, dialer).map_err(|expected| FileFault::Line {
                path: path.to_owned(),
                line: i + 1,
                expected,
            })?;
            endpoints.extend(endpoint);
        }
        if endpoints.is_empty() {
            return Err(FileFault::Empty(path.to_owned()));
        }
        Ok(Found::new(endpoints))
    }
}

fn endpoint(line: &[u8], dialer: &Dialer) -> Result<Option<EndpointConfig>, String> {
    let line = std::str::from_utf8(line).map_err(|_| "expected UTF-8")?;
    let url = line.split('#').next().unwrap_or_default().trim();
    if url.is_empty() {
        return Ok(None);
    }
    let endpoint: EndpointConfig = url.parse()?;
    dialer.names(&endpoint).map_err(|error| error.to_string())?;
    Ok(Some(endpoint))
}

/// Follows the file until it is aborted.
pub(super) async fn follow(shared: Arc<Shared>, path: PathBuf) {
    let mut watch = Watch {
        shared,
        path,
        judged: None,
        candidate: None,
    };
    loop {
        let pause = match watch.look().await {
            Look::Changing => SETTLE,
            Look::Judged => EVERY,
        };
        tokio::time::sleep(pause).await;
    }
}

struct Watch {
    shared: Arc<Shared>,
    path: PathBuf,
    /// The content that was judged last, and for which generation.
    judged: Option<(Content, u64)>,
    /// What the last look found, if it was something new.
    candidate: Option<Content>,
}

enum Look {
    /// Something new, which may not be whole yet.
    Changing,
    Judged,
}

impl Watch {
    async fn look(&mut self) -> Look {
        if !self.shared.disk.is_idle() {
            // The last one hangs, which is told; another would hang beside it.
            return Look::Judged;
        }
        let path = self.path.clone();
        let content = match self.shared.disk.read(move || read(&path)).await {
            Ok(content) => content.map_err(|fault| fault.to_string()),
            Err(hangs) => Err(format!("{}: {hangs}", self.path.display())),
        };
        match content {
            Err(fault) => {
                // Whatever it holds later is then new.
                (self.judged, self.candidate) = (None, None);
                self.shared.bad(fault);
                Look::Judged
            }
            Ok(content) if self.is_judged(&content) => {
                self.candidate = None;
                Look::Judged
            }
            Ok(content) if self.candidate.as_ref() != Some(&content) => {
                self.candidate = Some(content);
                Look::Changing
            }
            Ok(content) => {
                self.candidate = None;
                let generation = self.judge(&content);
                self.judged = Some((content, generation));
                Look::Judged
            }
        }
    }

    fn is_judged(&self, content: &Content) -> bool {
        let (_, generation) = self.shared.upstream();
        let judged = self.judged.as_ref();
        judged.is_some_and(|(known, of)| known == content && *of == generation)
    }

    /// Tells for which generation.
    fn judge(&self, content: &Content) -> u64 {
        let (upstream, generation) = self.shared.upstream();
        if let Some(upstream) = upstream {
            match content.found(&self.path, &upstream.dialer) {
                Ok(found) => self.shared.good(found),
                Err(fault) => self.shared.bad(fault.to_string()),
            }
        }
        generation
    }
}

#[cfg(test)]
mod tests;
