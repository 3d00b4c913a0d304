use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt;

use super::readers::{READERS, reader};
use super::writer::commit;
use super::*;

const TABLES: &[&str] = &["CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"];

fn open(directory: &tempfile::TempDir) -> Database {
    Database::open(&directory.path().join("notes.db"), TABLES).unwrap()
}

async fn add(database: &Database, text: &str) -> Result<(), StorageError> {
    let text = text.to_owned();
    database
        .write(move |db| {
            db.execute("INSERT INTO notes (text) VALUES (?1)", [text])?;
            Ok(())
        })
        .await
}

async fn notes(database: &Database) -> Vec<String> {
    database
        .read(|db| {
            let mut rows = db.prepare("SELECT text FROM notes ORDER BY id")?;
            let texts = rows.query_map([], |row| row.get(0))?;
            Ok::<_, StorageError>(texts.collect::<Result<_, _>>()?)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_the_database_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    add(&database, "kept").await.unwrap();
    drop(database);

    let database = open(&directory);
    assert_eq!(notes(&database).await, ["kept"]);
}

#[tokio::test]
async fn a_write_that_fails_leaves_nothing_and_harms_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    let failing = database.write(|db| {
        db.execute("INSERT INTO notes (text) VALUES ('half')", [])?;
        db.execute("INSERT INTO nowhere VALUES (1)", [])?;
        Ok::<_, StorageError>(())
    });
    let (failed, added) = tokio::join!(failing, add(&database, "whole"));
    assert!(matches!(failed, Err(StorageError::Database(_))));
    added.unwrap();
    assert_eq!(notes(&database).await, ["whole"]);
}

#[tokio::test]
async fn a_write_that_panics_is_given_up_and_harms_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    let panicking = database.write(|db| -> Result<(), StorageError> {
        db.execute("INSERT INTO notes (text) VALUES ('half')", [])?;
        panic!("a fault");
    });
    let (failed, added) = tokio::join!(panicking, add(&database, "whole"));
    assert!(matches!(failed, Err(StorageError::GivenUp)));
    added.unwrap();
    assert_eq!(notes(&database).await, ["whole"]);
}

#[tokio::test]
async fn a_read_that_panics_gives_its_connection_back() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    for _ in 0..=READERS {
        let failed = database
            .read(|_| -> Result<(), StorageError> { panic!("a fault") })
            .await;
        assert!(matches!(failed, Err(StorageError::GivenUp)));
    }
    assert!(notes(&database).await.is_empty());
}

#[tokio::test]
async fn what_follows_a_commit_runs_in_the_order_of_the_writes() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writes = (0..200).map(|n| {
        let seen = Arc::clone(&seen);
        database.write_then(
            move |db| {
                db.execute("INSERT INTO notes (text) VALUES (?1)", [n.to_string()])?;
                Ok::<_, StorageError>(db.last_insert_rowid())
            },
            move |id| seen.lock().unwrap().push(*id),
        )
    });
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 200);
    assert!(seen.is_sorted());
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_has_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(&directory);
    // A lock belongs to the opened file, so a second opening here is like one elsewhere.
    let second = Database::open(&directory.path().join("notes.db"), TABLES);
    assert!(matches!(second, Err(StorageError::Locked(_))));
}

#[tokio::test]
async fn tables_of_an_older_version_are_brought_up_and_keep_their_rows() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    add(&database, "old").await.unwrap();
    drop(database);
    let newer = [
        TABLES[0],
        "ALTER TABLE notes ADD COLUMN stars INTEGER NOT NULL DEFAULT 3",
    ];
    let database = Database::open(&directory.path().join("notes.db"), &newer).unwrap();
    let stars: i64 = database
        .read(|db| {
            let row = db.query_row("SELECT stars FROM notes", [], |row| row.get(0))?;
            Ok::<_, StorageError>(row)
        })
        .await
        .unwrap();
    assert_eq!(stars, 3);
}

#[test]
fn tables_of_a_newer_version_and_other_files_are_refused_with_their_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.db");
    drop(Database::open(&path, &[TABLES[0], "CREATE TABLE more (id INTEGER)"]).unwrap());
    let error = Database::open(&path, TABLES).unwrap_err();
    assert!(error.to_string().contains("notes.db"), "{error}");

    let other = directory.path().join("other.db");
    std::fs::write(
        &other,
        "this is no database, whatever its name says".repeat(100),
    )
    .unwrap();
    let error = Database::open(&other, TABLES).unwrap_err();
    assert!(error.to_string().contains("other.db"), "{error}");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_undo_its_write() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&ran);
    let write = database.write_then(
        |db| {
            db.execute("INSERT INTO notes (text) VALUES ('sent')", [])?;
            Ok::<_, StorageError>(())
        },
        move |()| {
            counted.fetch_add(1, Ordering::SeqCst);
        },
    );
    // Polled once: the write is on its way.
    assert!(write.now_or_never().is_none());
    add(&database, "next").await.unwrap();
    assert_eq!(notes(&database).await, ["sent", "next"]);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn when_the_disk_is_full_what_is_there_is_exactly_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    add(&database, "before").await.unwrap();
    // As many pages as there are, and a few more: SQLite then says what it says of a full disk.
    database
        .write(|db| {
            let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            db.query_row(
                &format!("PRAGMA max_page_count = {}", pages + 4),
                [],
                |_| Ok(()),
            )?;
            Ok::<_, StorageError>(())
        })
        .await
        .unwrap();
    let large = "x".repeat(1 << 20);
    let texts = ["small", large.as_str(), "after"];
    let written = futures_util::future::join_all(texts.map(|text| add(&database, text))).await;
    assert!(matches!(written[1], Err(StorageError::Database(_))));
    let acknowledged = texts.iter().zip(&written).filter(|(_, done)| done.is_ok());
    let expected: Vec<_> = std::iter::once("before")
        .chain(acknowledged.map(|(text, _)| *text))
        .collect();
    assert_eq!(notes(&database).await, expected);
    // The disk being full for one write is no reason to refuse the next.
    add(&database, "next").await.unwrap();
}

#[tokio::test]
async fn a_database_says_that_it_fails_until_a_write_succeeds_again() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    add(&database, "before").await.unwrap();
    // No more pages than there are: every text that needs one meets a full disk.
    let limit = database.write(|db| {
        let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let limit = format!("PRAGMA max_page_count = {pages}");
        Ok::<_, StorageError>(db.query_row(&limit, [], |_| Ok(()))?)
    });
    limit.await.unwrap();
    assert!(!database.is_failing());
    add(&database, &"x".repeat(1 << 20)).await.unwrap_err();
    assert!(database.is_failing());
    // What a service refuses by itself is no failure, and no success either.
    let refused = database.write(|_| Err::<(), _>(StorageError::GivenUp));
    refused.await.unwrap_err();
    assert!(database.is_failing());
    database.probe().await.unwrap();
    assert!(!database.is_failing());
    assert_eq!(notes(&database).await, ["before"]);
}

#[tokio::test]
async fn a_probe_writes_to_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    let size = || {
        let file = directory.path().join("notes.db-wal");
        file.metadata().unwrap().len()
    };
    add(&database, "before").await.unwrap();
    let before = size();
    database.probe().await.unwrap();
    assert!(size() > before);
}

#[tokio::test]
async fn every_write_that_could_not_be_begun_hears_why() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = Connection::open(directory.path().join("notes.db")).unwrap();
    connection.execute_batch(TABLES[0]).unwrap();
    // Another program writes, and this one has no patience.
    let other = Connection::open(directory.path().join("notes.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();

    let heard = Arc::new(Mutex::new(Vec::new()));
    let writes = (0..3).map(|_| -> Write {
        let heard = Arc::clone(&heard);
        Box::new(move |transaction| {
            heard.lock().unwrap().push(transaction.err());
            Done {
                kept: false,
                answer: Box::new(|_| ()),
            }
        })
    });
    let state = State::default();
    assert!(commit(&mut connection, writes, &state).is_err());
    assert!(state.failing.load(Ordering::SeqCst));
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 3);
    let database = |why: &Option<StorageError>| matches!(why, Some(StorageError::Database(_)));
    assert!(heard.iter().all(database), "{heard:?}");
}

#[tokio::test]
async fn all_files_are_for_their_owner_alone_even_those_of_another_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let database = open(&directory);
    add(&database, "a secret").await.unwrap();
    let mut names = Vec::new();
    for file in directory.path().read_dir().unwrap() {
        let file = file.unwrap();
        names.push(file.file_name().into_string().unwrap());
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{names:?}");
    }
    names.sort();
    let expected = ["notes.db", "notes.db-shm", "notes.db-wal", "notes.db.lock"];
    assert_eq!(names, expected);
}

/// Whether one of the files of the database holds this text.
fn is_on_disk(directory: &tempfile::TempDir, text: &str) -> bool {
    let mut files = directory.path().read_dir().unwrap();
    files.any(|file| {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

async fn erase(database: &Database) {
    let erased = database.erase_then(
        |db| {
            db.execute("DELETE FROM notes WHERE text LIKE 'secret%'", [])?;
            Ok::<_, StorageError>(())
        },
        |()| (),
    );
    erased.await.unwrap();
}

#[tokio::test]
async fn what_was_erased_is_in_no_file_once_that_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    for n in 0..50 {
        add(&database, &format!("kept {n} {}", "x".repeat(300)))
            .await
            .unwrap();
        add(&database, &format!("secret {n}")).await.unwrap();
    }
    assert!(is_on_disk(&directory, "secret 7"));
    erase(&database).await;
    assert!(!is_on_disk(&directory, "secret"));
    assert_eq!(notes(&database).await.len(), 50);
}

#[tokio::test]
async fn what_was_erased_while_another_read_the_log_is_gone_after_the_next_write() {
    let directory = tempfile::tempdir().unwrap();
    let database = open(&directory);
    add(&database, "secret").await.unwrap();
    let other = reader(&directory.path().join("notes.db")).unwrap();
    other.execute_batch("BEGIN; SELECT * FROM notes").unwrap();
    erase(&database).await;
    assert!(is_on_disk(&directory, "secret"));
    other.execute_batch("COMMIT").unwrap();
    add(&database, "next").await.unwrap();
    assert!(!is_on_disk(&directory, "secret"));
}
