//! What happened when, in a file that a runner reads along.
//!
//! A line is nanoseconds of the system's monotonic clock, which all processes of
//! a machine share, and words; tabs stand between. Each is written at once with
//! one call to the kernel, so that what was written outlives a process that is
//! killed. Owns the file's shape, not the words.
//! A line that cannot be written ends the process with 1: what is judged by a
//! journal with holes would be judged wrongly. The file grows by less than 100
//! bytes per event, without a bound of its own.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

use crate::Error;

/// See the module's comment.
pub struct Journal {
    file: File,
}

impl Journal {
    /// Goes on with a file that is there: a restarted process writes behind what
    /// its predecessor wrote.
    ///
    /// # Errors
    /// If the file cannot be opened; names it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { file })
    }

    /// Writes what happened just now.
    pub fn now(&self, words: &[&str]) {
        self.write(monotonic_ns(), words);
    }

    /// Writes what happened at a time that [`monotonic_ns`] gave.
    pub fn write(&self, at_ns: u64, words: &[&str]) {
        let line = format!("{at_ns}\t{}\n", words.join("\t"));
        if let Err(error) = (&self.file).write_all(line.as_bytes()) {
            eprintln!("journal: {error}");
            std::process::exit(1);
        }
    }
}

/// The system's monotonic clock, in nanoseconds; `time.monotonic_ns()` in Python.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the start of the machine: never negative, and 64 bits hold 584 years.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_writes_behind_what_is_there() {
        let path = std::env::temp_dir().join(format!("bench-journal-{}", std::process::id()));
        for (at, word) in [(1, "killed"), (2, "restarted")] {
            Journal::open(&path).unwrap().write(at, &[word, "id"]);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "1\tkilled\tid\n2\trestarted\tid\n");
    }

    #[test]
    fn the_clock_never_goes_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }
}
