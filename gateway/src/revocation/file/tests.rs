use std::fs::{self, File};
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::revocation::kept::Shared;

const POLL: Duration = Duration::from_millis(250);

struct Site {
    dir: TempDir,
    file: RevocationFile,
    kept: Arc<Kept>,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Site {
    /// Follows a file with this text.
    fn following(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked.txt");
        fs::write(&path, text).unwrap();
        Self::at(dir, path)
    }

    fn at(dir: TempDir, path: PathBuf) -> Self {
        let file = RevocationFile {
            path,
            max_entries: 3,
        };
        let shared = Arc::<Shared>::default();
        let changes = shared.changes.subscribe();
        let first = file.read().unwrap();
        let set = Arc::new(file.set(&first).unwrap());
        let kept = Kept::new("file", set, shared);
        tokio::spawn(follow(file.clone(), first, POLL, Arc::clone(&kept)));
        Self {
            dir,
            file,
            kept,
            changes,
        }
    }

    fn write(&self, text: &str) {
        fs::write(&self.file.path, text).unwrap();
    }

    /// Lets the follower look twice and settle.
    async fn looks(&self) {
        tokio::time::sleep(POLL * 2 + SETTLE * 2).await;
    }

    /// The same for what is no longer there.
    async fn takes_back(&self) {
        self.looks().await;
        tokio::time::sleep(TAKE_BACK).await;
    }

    fn lines(&self) -> Vec<String> {
        let set = self.kept.set();
        let mut lines: Vec<_> = set.entries(0).map(|entry| entry.to_string()).collect();
        lines.sort();
        lines
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_holds_within_a_second() {
    let mut site = Site::following("jti a\n");
    site.write("jti b\n");
    let start = tokio::time::Instant::now();
    site.changes.changed().await.unwrap();
    assert!(
        start.elapsed() <= POLL + SETTLE * 2,
        "{:?}",
        start.elapsed()
    );
    assert_eq!(site.lines(), ["jti a", "jti b"]);
    site.changes.changed().await.unwrap();
    assert_eq!(site.lines(), ["jti b"]);
    let limit = POLL * 2 + SETTLE * 2 + TAKE_BACK;
    assert!(start.elapsed() <= limit, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_emptied_and_filled_again_lets_nobody_in_meanwhile() {
    let site = Site::following("jti a\njti b\n");
    // A writer that stops in between; what is new holds all the same.
    for text in ["", "jti c\n", "jti c\njti a\n"] {
        site.write(text);
        tokio::time::sleep(TAKE_BACK - SETTLE).await;
        assert!(site.lines().starts_with(&["jti a".into(), "jti b".into()]));
    }
    site.write("jti c\njti a\njti b\n");
    site.looks().await;
    assert_eq!(site.lines(), ["jti a", "jti b", "jti c"]);
    site.takes_back().await;
    assert_eq!(site.lines(), ["jti a", "jti b", "jti c"]);
    site.write("");
    site.takes_back().await;
    assert!(site.lines().is_empty(), "{:?}", site.lines());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_seen_otherwise_while_entries_are_taken_back_waits_anew() {
    let site = Site::following("jti a\n");
    site.write("");
    site.looks().await;
    // Gone for one look, and then what it was before that.
    fs::remove_file(&site.file.path).unwrap();
    tokio::time::sleep(POLL).await;
    site.write("");
    tokio::time::sleep(TAKE_BACK - POLL).await;
    assert_eq!(site.lines(), ["jti a"]);
    tokio::time::sleep(POLL * 2).await;
    assert!(site.lines().is_empty(), "{:?}", site.lines());
}

#[tokio::test(start_paused = true)]
async fn a_pipe_in_the_place_of_the_file_is_bad_and_not_waited_for() {
    let site = Site::following("jti a\n");
    fs::remove_file(&site.file.path).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&site.file.path)
        .status();
    assert!(made.unwrap().success());
    site.looks().await;
    let state = site.kept.state();
    assert!(
        matches!(&state, State::Bad(why) if why.contains("expected a regular file")),
        "{state:?}"
    );
    fs::remove_file(&site.file.path).unwrap();
    site.write("jti a\njti b\n");
    site.looks().await;
    assert_eq!(site.lines(), ["jti a", "jti b"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_still_being_written_is_left_alone() {
    let site = Site::following("jti a\n");
    tokio::time::sleep(POLL - SETTLE / 2).await;
    site.write("jti abc");
    // The first look at it has been; the second finds something else.
    tokio::time::sleep(SETTLE).await;
    assert_eq!(site.lines(), ["jti a"]);
    site.write("jti abcdef\njti a\n");
    site.looks().await;
    assert_eq!(site.lines(), ["jti a", "jti abcdef"]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_keeps_the_last_good_entries_and_says_where_it_is_bad() {
    let site = Site::following("jti a\n");
    site.write("jti a\njti\n");
    site.looks().await;
    assert_eq!(site.lines(), ["jti a"]);
    let State::Bad(why) = site.kept.state() else {
        panic!("the file is bad");
    };
    assert!(
        why.contains("revoked.txt:2: expected what is revoked"),
        "{why}"
    );
    site.write("jti c\n");
    site.takes_back().await;
    assert_eq!(
        (site.lines(), site.kept.state()),
        (vec!["jti c".into()], State::Good)
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_vanishes_keeps_its_entries_until_it_is_back() {
    let site = Site::following("jti a\n");
    fs::remove_file(&site.file.path).unwrap();
    site.looks().await;
    assert_eq!(site.lines(), ["jti a"]);
    let state = site.kept.state();
    assert!(
        matches!(&state, State::Bad(why) if why.contains("No such file")),
        "{state:?}"
    );
    site.write("jti a\n");
    site.looks().await;
    assert_eq!(site.kept.state(), State::Good);
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_that_becomes_what_it_was_is_good_again() {
    let site = Site::following("jti a\n");
    for text in ["what\n", "jti a\n"] {
        site.write(text);
        site.looks().await;
    }
    assert_eq!(
        (site.lines(), site.kept.state()),
        (vec!["jti a".into()], State::Good)
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_swapped_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("f"), format!("jti {name}\n")).unwrap();
    }
    symlink("one", dir.path().join("data")).unwrap();
    let path = dir.path().join("data/f");
    let site = Site::at(dir, path);
    assert_eq!(site.lines(), ["jti one"]);
    symlink("two", site.dir.path().join("new")).unwrap();
    fs::rename(site.dir.path().join("new"), site.dir.path().join("data")).unwrap();
    site.takes_back().await;
    assert_eq!(site.lines(), ["jti two"]);
}

#[tokio::test(start_paused = true)]
async fn a_file_with_too_many_entries_or_bytes_is_bad() {
    let site = Site::following("jti a\n");
    site.write("jti a\njti b\njti c\njti d\n");
    site.looks().await;
    let state = site.kept.state();
    assert!(
        matches!(&state, State::Bad(why) if why.contains("at most 3 entries")),
        "{state:?}"
    );
    let huge = File::create(&site.file.path).unwrap();
    huge.set_len(MAX_FILE_BYTES + 1).unwrap();
    site.looks().await;
    let state = site.kept.state();
    assert!(
        matches!(&state, State::Bad(why) if why.contains("16 MiB")),
        "{state:?}"
    );
    assert_eq!(site.lines(), ["jti a"]);
}

#[test]
fn text_that_is_not_utf_8_is_a_fault_of_its_line() {
    let file = RevocationFile {
        path: "f".into(),
        max_entries: 3,
    };
    let fault = file.set(b"jti a\nsub \xff\n").unwrap_err();
    assert_eq!(fault.to_string(), "f:2: expected UTF-8");
}
