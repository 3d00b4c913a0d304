use std::fs;
use std::path::PathBuf;

use super::*;
use crate::config::Config;

fn section(file: Option<PathBuf>) -> RevocationConfig {
    let config: Config = crate::test_util::config("");
    RevocationConfig {
        file,
        ..config.revocation
    }
}

fn revoked(revocations: &Revocations, subject: &str) -> bool {
    revocations.is_revoked("idp", subject, None, Some(1), 2)
}

#[tokio::test]
async fn without_sources_nobody_is_revoked() {
    let revocations = Revocations::new(&section(None)).unwrap();
    assert!(!revoked(&revocations, "alice"));
    assert_eq!(revocations.status(), "revocations off");
}

#[tokio::test]
async fn the_file_holds_from_the_start_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\n").unwrap();
    let revocations = Revocations::new(&section(Some(path))).unwrap();
    assert!(revoked(&revocations, "alice"));
    assert!(!revoked(&revocations, "bob"));
    assert_eq!(revocations.status(), "revocations 1 entries; file followed");
}

#[tokio::test]
async fn a_start_with_a_bad_file_is_refused_with_key_line_and_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\nhunter2\n").unwrap();
    let Err(error) = Revocations::new(&section(Some(path))) else {
        panic!("it was accepted");
    };
    let error = error.to_string();
    assert!(error.starts_with("revocation.file: "), "{error}");
    assert!(
        error.contains("revoked.txt:2: expected \"jti\" or \"sub\""),
        "{error}"
    );
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_changed_section_takes_the_place_of_the_old_one_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
    fs::write(&one, "sub alice\n").unwrap();
    fs::write(&two, "sub bob\n").unwrap();
    let revocations = Revocations::new(&section(Some(one))).unwrap();
    let mut changes = revocations.changes();
    changes.mark_unchanged();
    revocations.reconfigure(&section(Some(two))).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(!revoked(&revocations, "alice"));
    assert!(revoked(&revocations, "bob"));
    revocations.reconfigure(&section(None)).unwrap();
    assert!(!revoked(&revocations, "bob"));
}

#[tokio::test]
async fn a_section_that_can_not_be_used_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\n").unwrap();
    let revocations = Revocations::new(&section(Some(path))).unwrap();
    let gone = section(Some(dir.path().join("gone.txt")));
    assert!(revocations.reconfigure(&gone).is_err());
    assert!(revoked(&revocations, "alice"));
}

#[tokio::test]
async fn an_unchanged_source_keeps_its_last_good_entries_over_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\n").unwrap();
    let section = section(Some(path.clone()));
    let revocations = Revocations::new(&section).unwrap();
    // A file that is read anew would fail here.
    fs::remove_file(&path).unwrap();
    revocations.reconfigure(&section).unwrap();
    assert!(revoked(&revocations, "alice"));
}

#[tokio::test]
async fn a_source_that_is_gone_leaves_nothing_to_look_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\njti x\n").unwrap();
    let revocations = Revocations::new(&section(Some(path))).unwrap();
    let entries = || revocations.shared.entries.load(Ordering::Relaxed);
    assert_eq!(entries(), 2);
    revocations.reconfigure(&section(None)).unwrap();
    // The follower is ended by the runtime, at its next turn.
    while entries() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_revoked_caller_is_unauthenticated_and_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revoked.txt");
    fs::write(&path, "sub alice\n").unwrap();
    let revocations = Revocations::new(&section(Some(path))).unwrap();
    let now = SystemTime::now();
    let alice = crate::test_util::identity("alice", &[]);
    let reply = revocations.check(&alice, now).unwrap_err();
    assert_eq!(
        (reply.code, reply.label, &*reply.message),
        (
            tonic::Code::Unauthenticated,
            "revoked",
            "the token was revoked"
        )
    );
    let bob = crate::test_util::identity("bob", &[]);
    assert!(revocations.check(&bob, now).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_delays_the_start_by_a_bounded_time_and_is_told() {
    // Bound and never accepted from: connections hang.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://user:hunter2@{}", silent.local_addr().unwrap());
    let config = crate::test_util::config(&format!("[revocation]\nstore = '{url}'"));
    let revocations = Revocations::new(&config.revocation).unwrap();
    let start = tokio::time::Instant::now();
    revocations.first_look().await;
    assert!(
        start.elapsed() <= Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let status = revocations.status();
    assert!(status.contains("store never read: "), "{status}");
    assert!(!revocations.are_known());
    assert!(!status.contains("hunter2"), "{status}");
    assert!(!revoked(&revocations, "alice"));
}

/// The follower of the store.
fn follower(revocations: &Revocations) -> Arc<Source<StorePlace>> {
    revocations.sources.load().store.clone().unwrap()
}

#[tokio::test]
async fn a_changed_authority_of_the_store_is_taken_by_its_content_and_a_bad_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.crt");
    let renew = || {
        let ca = rcgen::generate_simple_self_signed(["store".to_owned()]).unwrap();
        fs::write(&path, ca.cert.pem()).unwrap();
    };
    renew();
    let ca = path.display();
    let text = format!("[revocation]\nstore = 'rediss://127.0.0.1:1'\nca_file = '{ca}'");
    let section = crate::test_util::config(&text).revocation;
    let revocations = Revocations::new(&section).unwrap();
    let first = follower(&revocations);
    revocations.reconfigure(&section).unwrap();
    assert!(Arc::ptr_eq(&first, &follower(&revocations)));
    renew();
    revocations.reconfigure(&section).unwrap();
    let second = follower(&revocations);
    assert!(!Arc::ptr_eq(&first, &second));

    fs::write(
        &path,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let error = revocations.reconfigure(&section).unwrap_err().to_string();
    assert!(error.starts_with("revocation."), "{error}");
    assert!(Arc::ptr_eq(&second, &follower(&revocations)));
    assert!(store_fault(&section).is_some());
}

#[tokio::test]
async fn a_store_with_other_settings_begins_with_what_the_one_before_knew() {
    let shared = Arc::<Shared>::default();
    let old = Kept::unread("store", shared);
    assert!(!old.successor().was_read());
    let entry = Entry::parse("sub alice").unwrap().unwrap();
    old.take(set::RevokedSet::new([entry]));
    let new = old.successor();
    assert!(new.was_read());
    assert_eq!((new.set().len(), new.state()), (1, State::Untried));
}
