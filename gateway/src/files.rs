//! The files that a configuration names: reading them without being held up,
//! and telling whether they are still what they were.
//!
//! Content is compared, not times or names, so that swapped links, copies and
//! slow clocks are all seen. A file that is missing or can't be read counts as
//! such. Only regular files are opened: a pipe would wait for its writer.
//! Network disks may hang all the same, so [`Disk`] bounds each reading.
//!
//! Limits: at most [`MOST_BYTES`] of each file count; [`LIMIT`] for a reading,
//! [`MOST_LEFT`] of which may hang at a time.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::Semaphore;

const MIB: u64 = 1024 * 1024;
/// What is read of a file, in bytes.
const MOST_BYTES: u64 = 16 * MIB;
/// The longest that a reading may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// Readings that may hang at a time: each holds a thread, for as long as the
/// disk does.
const MOST_LEFT: usize = 4;

/// Tells one state of a configuration and its files from another.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl std::fmt::Debug for Fingerprint {
    /// Without the sum: short secrets could be guessed by it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprint")
    }
}

impl Fingerprint {
    /// The state of a text as it was read, and of these files now. Blocks.
    pub(crate) fn take<P: AsRef<Path>>(text: &str, paths: impl IntoIterator<Item = P>) -> Self {
        let mut all = Context::new(&SHA256);
        all.update(hash(text.as_bytes()).as_ref());
        for path in paths {
            let path = path.as_ref();
            let mut one = Context::new(&SHA256);
            one.update(path.as_os_str().as_encoded_bytes());
            match read(path) {
                Ok(content) => {
                    one.update(b"\0content\0");
                    one.update(&content);
                }
                Err(error) => {
                    one.update(b"\0error\0");
                    one.update(error.kind().to_string().as_bytes());
                }
            }
            all.update(one.finish().as_ref());
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(all.finish().as_ref());
        Self(sum)
    }
}

/// The state of these files now. Blocks.
pub(crate) fn fingerprint<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Fingerprint {
    Fingerprint::take("", paths)
}

fn hash(bytes: &[u8]) -> aws_lc_rs::digest::Digest {
    aws_lc_rs::digest::digest(&SHA256, bytes)
}

/// Opens a regular file to read it.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Asked before: opening a pipe waits, opening a device may do things.
    if std::fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        let message = "expected a regular file";
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

/// Reads a regular file whole. Fails if it has more than so many bytes.
pub(crate) fn read_whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(too_large(most));
    }
    Ok(content)
}

/// What is wrong with a file of more than so many bytes.
pub(crate) fn too_large(most: u64) -> io::Error {
    let (unit, name) = match most {
        ..MIB => (1024, "KiB"),
        MIB.. => (MIB, "MiB"),
    };
    let message = format!("expected at most {} {name}", most / unit);
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(MOST_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Readings that nothing waits for longer than [`LIMIT`].
pub(crate) struct Disk(Arc<Semaphore>);

impl Default for Disk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_LEFT)))
    }
}

impl Disk {
    /// Whether no reading hangs.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.available_permits() == MOST_LEFT
    }

    /// Runs what reads files on a thread of its own. It is left behind when it
    /// takes too long, and what it finds then is lost. Fails with why.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        reading: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return Err(format!("{MOST_LEFT} earlier readings of the files hang"));
        };
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            reading()
        });
        match tokio::time::timeout(LIMIT, reading).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the files could not be read within {LIMIT:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_a_swapped_and_a_missing_file_all_show() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (a, b) = (file("a", "one"), file("b", "two"));
        let first = Fingerprint::take("text", [&a, &b]);
        assert_eq!(first, Fingerprint::take("text", [&a, &b]));
        file("a", "uno");
        let changed = Fingerprint::take("text", [&a, &b]);
        assert_ne!(first, changed);
        file("a", "two");
        file("b", "one");
        assert_ne!(first, Fingerprint::take("text", [&a, &b]));
        std::fs::remove_file(&a).unwrap();
        assert_ne!(first, Fingerprint::take("text", [&a, &b]));
        file("a", "one");
        file("b", "two");
        assert_eq!(first, Fingerprint::take("text", [&a, &b]));
    }

    #[test]
    fn a_link_that_is_swapped_shows() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("1"), "one").unwrap();
        std::fs::write(dir.path().join("2"), "two").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("1", &link).unwrap();
        let first = Fingerprint::take("text", [&link]);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("2", &link).unwrap();
        assert_ne!(first, Fingerprint::take("text", [&link]));
    }

    #[test]
    fn a_changed_text_shows() {
        let none = std::iter::empty::<&Path>;
        assert_eq!(
            Fingerprint::take("a", none()),
            Fingerprint::take("a", none())
        );
        assert_ne!(
            Fingerprint::take("a", none()),
            Fingerprint::take("b", none())
        );
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [pipe.as_path(), dir.path(), Path::new("/dev/null")] {
            let error = open(path).unwrap_err();
            assert_eq!(error.to_string(), "expected a regular file", "{path:?}");
        }
    }

    #[test]
    fn a_file_is_read_whole_up_to_its_bound_and_not_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 1024]).unwrap();
        assert_eq!(read_whole(&path, 1024).unwrap(), [7; 1024]);
        std::fs::write(&path, [7; 1025]).unwrap();
        let error = read_whole(&path, 1024).unwrap_err();
        assert_eq!(error.to_string(), "expected at most 1 KiB");
        assert_eq!(too_large(MIB).to_string(), "expected at most 1 MiB");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_is_given_up_and_so_are_more_when_several_do() {
        let disk = Disk::default();
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        for _ in 0..MOST_LEFT {
            let hang = Arc::clone(&hang);
            let reading = disk.read(move || hang.lock().unwrap().recv());
            // Paused time goes on by itself only while no thread works.
            let (read, ()) = tokio::join!(reading, tokio::time::advance(LIMIT));
            assert_eq!(read.unwrap_err(), "the files could not be read within 10s");
            assert!(!disk.is_idle());
        }
        let refused = disk.read(|| ()).await;
        assert_eq!(refused.unwrap_err(), "4 earlier readings of the files hang");
        for _ in 0..MOST_LEFT {
            release.send(()).unwrap();
        }
        while !disk.is_idle() {
            tokio::task::yield_now().await;
        }
        assert_eq!(disk.read(|| 7).await, Ok(7));
    }
}
