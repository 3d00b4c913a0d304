//! Changes a revocation file from the command line: whole or not at all, one process at a time.
//!
//! The new content is written beside the file and renamed over it, with the owner and the mode of
//! the old one, so that a gateway reads either. A link is followed to its file. Comments stay; an
//! entry that has ended goes. Limits: another process is waited for during 10 s.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::entry::{Entry, Target};
use super::file::{FileFault, MAX_FILE_BYTES, RevocationFile};
use crate::files;

const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    #[error("{0}")]
    Fault(#[from] FileFault),
    #[error("{path}: cannot be changed: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{path}: another process is changing it", path = .0.display())]
    Busy(PathBuf),
    #[error("{path}: it has {most} entries, which is the most it may have", path = .path.display())]
    Full { path: PathBuf, most: usize },
}

/// A change that has begun.
struct Change {
    /// Of the file itself, where a link leads to it.
    path: PathBuf,
    /// Locked until it is closed.
    folder: File,
    content: Vec<u8>,
}

impl RevocationFile {
    /// Adds an entry, or makes the one that is there hold longer. Gives the entry as it is now.
    pub(crate) fn revoke(&self, mut entry: Entry, now: u64) -> Result<Entry, EditError> {
        let change = self.begin()?;
        let mut count = 0;
        let mut text = self.rewritten(&change, |old| {
            let same = old.target == entry.target;
            if same && old.holds_at(now) {
                entry.merge(old);
            }
            let stays = !same && old.holds_at(now);
            count += usize::from(stays);
            stays
        })?;
        if count >= self.max_entries {
            return Err(EditError::Full {
                path: self.path.clone(),
                most: self.max_entries,
            });
        }
        // Writing to a String can't fail.
        let _ = writeln!(text, "{entry}");
        self.commit(&change, &text)?;
        Ok(entry)
    }

    /// Removes what revokes a target; tells whether there was something.
    pub(crate) fn undo(&self, target: &Target, now: u64) -> Result<bool, EditError> {
        let change = self.begin()?;
        let mut found = false;
        let text = self.rewritten(&change, |old| {
            let same = old.target == *target;
            found |= same && old.holds_at(now);
            !same && old.holds_at(now)
        })?;
        self.commit(&change, &text)?;
        Ok(found)
    }

    /// Locks and reads.
    fn begin(&self) -> Result<Change, EditError> {
        let path = fs::canonicalize(&self.path).map_err(|source| self.failed(source))?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = File::open(folder).map_err(|source| self.failed(source))?;
        self.lock(&folder)?;
        let content = self.read()?;
        Ok(Change {
            path,
            folder,
            content,
        })
    }

    /// The lines without an entry, and those whose entry stays.
    fn rewritten(
        &self,
        change: &Change,
        mut stays: impl FnMut(&Entry) -> bool,
    ) -> Result<String, FileFault> {
        let mut text = String::with_capacity(change.content.len() + 256);
        for line in self.lines(&change.content) {
            let (line, entry) = line?;
            if entry.is_none_or(|entry| stays(&entry)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        // What follows the last line break is no line of the file's.
        if change.content.is_empty() || change.content.ends_with(b"\n") {
            text.pop();
        }
        Ok(text)
    }

    fn commit(&self, change: &Change, text: &str) -> Result<(), EditError> {
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(self.unread(files::too_large(MAX_FILE_BYTES)).into());
        }
        replace(&change.path, text)
            .and_then(|()| change.folder.sync_all())
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> EditError {
        EditError::Write {
            path: self.path.clone(),
            source,
        }
    }

    /// Locks the folder: the file itself is about to be another one. Held until it is closed.
    fn lock(&self, folder: &File) -> Result<(), EditError> {
        let start = Instant::now();
        loop {
            match folder.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => return Err(EditError::Busy(self.path.clone())),
                Err(TryLockError::Error(source)) => return Err(self.failed(source)),
            }
        }
    }
}

/// Puts a new file in the place of an old one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    // Left over from a crash: an old file would keep its old mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        // A gateway of another user must be able to read it.
        fchown(&file, Some(old.uid()), Some(old.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests;
