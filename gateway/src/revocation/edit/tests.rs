use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_000_000;

fn file(dir: &TempDir, text: &str) -> RevocationFile {
    let path = dir.path().join("revoked.txt");
    fs::write(&path, text).unwrap();
    RevocationFile {
        path,
        max_entries: 3,
    }
}

fn entry(line: &str) -> Entry {
    Entry::parse(line).unwrap().unwrap()
}

fn text(file: &RevocationFile) -> String {
    fs::read_to_string(&file.path).unwrap()
}

#[test]
fn an_entry_is_added_and_what_stands_there_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "# by hand\n\n  jti a  # left\nsub b");
    file.revoke(entry("jti c"), NOW).unwrap();
    assert_eq!(text(&file), "# by hand\n\n  jti a  # left\nsub b\njti c\n");
}

#[test]
fn an_empty_file_gets_its_first_entry() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "");
    file.revoke(entry("jti c"), NOW).unwrap();
    assert_eq!(text(&file), "jti c\n");
}

#[test]
fn a_target_that_is_revoked_already_is_revoked_for_as_long_as_both() {
    let dir = tempfile::tempdir().unwrap();
    let known = "sub b issued_before 1970-01-05T00:00:00Z until 2030-01-01T00:00:00Z";
    let file = file(&dir, &format!("{known}\nsub b issuer i\n"));
    let new = "sub b issued_before 1970-01-06T00:00:00Z until 2029-01-01T00:00:00Z";
    let now = file.revoke(entry(new), NOW).unwrap();
    let both = "sub b issued_before 1970-01-06T00:00:00Z until 2030-01-01T00:00:00Z";
    assert_eq!(now, entry(both));
    assert_eq!(text(&file), format!("sub b issuer i\n{both}\n"));
}

#[test]
fn an_entry_that_has_ended_goes_with_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "jti a until 1970-01-01T00:01:00Z\njti b\n");
    file.revoke(entry("jti c"), NOW).unwrap();
    assert_eq!(text(&file), "jti b\njti c\n");
}

#[test]
fn taking_back_removes_the_target_alone_and_tells_whether_it_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "jti a\nsub a issuer i\nsub a\n");
    let target = |line| entry(line).target;
    assert!(file.undo(&target("sub a"), NOW).unwrap());
    assert_eq!(text(&file), "jti a\nsub a issuer i\n");
    assert!(!file.undo(&target("sub a"), NOW).unwrap());
}

#[test]
fn a_full_file_takes_no_more_but_makes_known_entries_longer() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "jti a\njti b\njti c until 2030-01-01T00:00:00Z\n");
    let error = file.revoke(entry("jti d"), NOW).unwrap_err();
    assert!(error.to_string().contains("it has 3 entries"), "{error}");
    file.revoke(entry("jti c"), NOW).unwrap();
    assert_eq!(text(&file), "jti a\njti b\njti c\n");
}

#[test]
fn a_file_with_a_fault_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "jti a\nwhat\n");
    let error = file.revoke(entry("jti d"), NOW).unwrap_err().to_string();
    assert!(
        error.contains("revoked.txt:2: expected \"jti\" or \"sub\""),
        "{error}"
    );
    assert_eq!(text(&file), "jti a\nwhat\n");
}

#[test]
fn a_link_stays_a_link_and_the_mode_stays_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let real = file(&dir, "jti a\n");
    fs::set_permissions(&real.path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = RevocationFile {
        path: dir.path().join("link"),
        max_entries: 3,
    };
    symlink("revoked.txt", &link.path).unwrap();
    link.revoke(entry("jti b"), NOW).unwrap();
    assert!(fs::symlink_metadata(&link.path).unwrap().is_symlink());
    assert_eq!(text(&real), "jti a\njti b\n");
    let mode = fs::metadata(&real.path).unwrap().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "nothing is left over"
    );
}

#[test]
fn several_at_once_lose_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let file = RevocationFile {
        max_entries: 100,
        ..file(&dir, "")
    };
    std::thread::scope(|scope| {
        for n in 0..8 {
            let file = &file;
            scope.spawn(move || file.revoke(entry(&format!("jti t{n}")), NOW).unwrap());
        }
    });
    let bytes = file.read().unwrap();
    assert_eq!(file.entries(&bytes).map(Result::unwrap).count(), 8);
}

#[test]
fn a_file_that_is_not_there_is_an_error_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(&dir, "");
    fs::remove_file(&file.path).unwrap();
    let error = file.revoke(entry("jti a"), NOW).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert!(!file.path.exists());
}
