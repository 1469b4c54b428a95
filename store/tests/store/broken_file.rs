//! A SQLite file whose content an unprivileged process has changed decides nothing for the one that opens it.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use store::{Database, Store, StoreError};

use crate::test_db::{TestDb, sign_up};

/// Longer than the limit of CPU time that a statement has, and the time to get another connection.
const TIME_LIMIT: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

async fn closed_store() -> (TestDb, PathBuf) {
    let db = TestDb::sqlite();
    let store = db.open().await;
    sign_up(&store, "ada@example.org").await;
    store.close().await;
    let Database::Sqlite(path) = db.database() else { unreachable!() };
    (db, path)
}

fn files(db: &TestDb) -> Vec<String> {
    let entries = fs::read_dir(db.folder.path()).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// a rollback journal names the file that SQLite removes.
#[tokio::test]
async fn file_in_another_mode_is_refused_before_it_is_written() {
    type Change = fn(&mut fs::File);
    let truncate: Change = |file| file.set_len(0).unwrap();
    let change_mode: Change = |file| {
        file.seek(SeekFrom::Start(18)).unwrap();
        file.write_all(&[1, 1]).unwrap();
    };
    let overwrite: Change = |file| file.write_all(b"something else").unwrap();
    for (change, fix) in [(truncate, "is empty"), (change_mode, "WAL mode"), (overwrite, "not a database")] {
        for has_log in [false, true] {
            let (db, path) = closed_store().await;
            change(&mut fs::File::options().write(true).open(&path).unwrap());
            if has_log {
                fs::write(db.folder.path().join("memgate.db-wal"), "").unwrap();
                fs::set_permissions(
                    db.folder.path().join("memgate.db-wal"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o600),
                )
                .unwrap();
            }
            let before = (fs::read(&path).unwrap(), files(&db));
            let error = db.open_existing().await.unwrap_err();
            assert!(matches!(error, StoreError::Open { .. } | StoreError::NoTables(_)), "{error:?}");
            assert!(error.to_string().contains(fix), "{error}");
            if !before.0.is_empty() {
                Store::open(&db.database()).await.unwrap_err();
            }
            assert_eq!((fs::read(&path).unwrap(), files(&db)), before, "{fix}");
        }
    }
}

//
#[tokio::test]
async fn rollback_journal_is_refused_and_never_made() {
    let (db, _) = closed_store().await;
    let journal = db.folder.path().join("memgate.db-journal");
    fs::write(&journal, "planted").unwrap();
    let error = Store::open(&db.database()).await.unwrap_err();
    assert!(error.to_string().contains("rollback journal"), "{error}");
    assert_eq!(fs::read_to_string(&journal).unwrap(), "planted");
    fs::remove_file(&journal).unwrap();

    // A store that is open keeps its mode, whatever happens to the file.
    let (store, path) = (db.open().await, db.folder.path().join("memgate.db"));
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(18)).unwrap();
    file.write_all(&[1, 1]).unwrap();
    for email in ["bob@example.org", "eve@example.org"] {
        let _ = store.note("test", email, "").await;
        assert!(!journal.exists());
    }
    file.set_len(0).unwrap();
    let _ = tokio::join!(store.users(), store.note("test", "truncated", ""), store.revision());
    assert!(!journal.exists());
}

//
#[tokio::test]
async fn schema_that_runs_code_is_refused() {
    for planted in [
        "CREATE VIEW planted AS SELECT 1",
        "CREATE TRIGGER planted AFTER UPDATE ON revision BEGIN DELETE FROM audit; END",
        "CREATE VIRTUAL TABLE planted USING fts5 (x)",
        "ALTER TABLE plans ADD COLUMN planted AS (memory_mb * 2)",
        "CREATE TABLE planted (x TEXT)",
        "CREATE INDEX planted ON audit (abs(seq))",
        "DROP INDEX users_revision",
    ] {
        let (db, _) = closed_store().await;
        db.execute(planted).await.unwrap();
        let error = Store::open(&db.database()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt("schema")), "{planted}: {error:?}");
    }
    let (db, _) = closed_store().await;
    db.execute("ANALYZE").await.unwrap();
    db.open().await;
}

//
#[tokio::test]
async fn trigger_planted_under_an_open_store_is_no_outage() {
    let (db, _) = closed_store().await;
    let store = db.open().await;
    store.note("test", "a write", "").await.unwrap();
    db.execute("CREATE TRIGGER planted AFTER UPDATE ON revision BEGIN DELETE FROM audit; END").await.unwrap();
    let started = Instant::now();
    for _ in 0..10 {
        let read = store.installation_id().await.unwrap_err();
        let written = store.note("test", "a write", "").await.unwrap_err();
        for error in [read, written] {
            assert!(matches!(error, StoreError::Corrupt("schema")), "{error:?}");
            assert!(!error.is_outage());
        }
    }
    assert!(started.elapsed() < TIME_LIMIT, "only the first one waits: {:?}", started.elapsed());
    db.execute("DROP TRIGGER planted").await.unwrap();
    while let Err(error) = store.note("test", "a write", "").await {
        assert!(matches!(error, StoreError::Corrupt("schema")), "{error:?}");
        assert!(started.elapsed() < TIME_LIMIT * 2, "the store works again");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

//
#[tokio::test]
async fn endless_view_in_the_place_of_a_table_holds_nobody_up() {
    let (db, _) = closed_store().await;
    let plant = |table: &str| {
        format!(
            "ALTER TABLE {table} RENAME TO moved; CREATE VIEW {table} AS {ENDLESS} SELECT 1 AS one, 'x' AS id FROM n WHERE i < 0"
        )
    };
    let store = db.open().await;
    store.installation_id().await.unwrap();
    db.execute(&plant("installation")).await.unwrap();
    let started = Instant::now();
    assert!(store.installation_id().await.is_err());
    let error = Store::open(&db.database()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt("schema")), "{error:?}");
    assert!(started.elapsed() < TIME_LIMIT);

    let (db, _) = closed_store().await;
    db.execute(&plant("_sqlx_migrations")).await.unwrap();
    let error = Store::open(&db.database()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt("schema")), "{error:?}");
    assert!(started.elapsed() < TIME_LIMIT);
}

// the limit holds for all connections of a process, that of this test too.
#[tokio::test]
async fn huge_value_is_an_error_and_takes_no_memory() {
    let (db, _) = closed_store().await;
    let store = db.open().await;
    store.record_installation_id("abc234").await.unwrap();
    let huge = "SELECT length(CAST(zeroblob(100000000) AS TEXT) || CAST(zeroblob(100000000) AS TEXT))";
    assert!(StoreError::from(db.execute(huge).await.unwrap_err()).to_string().contains("the database"));
    assert_eq!(store.installation_id().await.unwrap().as_deref(), Some("abc234"));
}
