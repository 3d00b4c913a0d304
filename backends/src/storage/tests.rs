use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

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
