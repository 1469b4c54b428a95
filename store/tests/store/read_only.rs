//! A database that can't be written for a while: as soon as it can, a store that was open all the time writes again.

use std::path::Path;
use std::process::Command;

use store::{Database, Store, StoreError};

use crate::test_db::{TestDb, sign_up};

/// SQLite's files, which nobody can write, not even root, as with a file system that was mounted read-only.
struct Immutable<'a>(&'a Path);

impl<'a> Immutable<'a> {
    fn make(database: &'a Path) -> Self {
        change_flag(database, "+i");
        Self(database)
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        change_flag(self.0, "-i");
    }
}

fn change_flag(database: &Path, flag: &str) {
    // Not "-shm": the kernel ends a process that writes to the memory of such a file.
    for suffix in ["", "-wal"] {
        let file = format!("{}{suffix}", database.display());
        let done = Command::new("chattr").args([flag, &file]).output().unwrap();
        let error = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "run the tests as root, with a /tmp on ext4, xfs or btrfs: {error}");
    }
}

async fn assert_takes_no_write(store: &Store) {
    let error = store.note("test", "subject", "").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let health = store.write_health();
    assert!(health.failure.is_some_and(|failure| !failure.message.is_empty()), "{error:?}");
    store.ping().await.unwrap();
}

async fn assert_writes_again(store: &Store) {
    let deadline = std::time::Instant::now() + crate::test_db::DEADLINE;
    while let Err(error) = store.note("test", "subject", "").await {
        assert!(std::time::Instant::now() < deadline, "{error:?}");
    }
    let health = store.write_health();
    assert!(health.failure.is_none() && health.last_success.is_some(), "{health:?}");
}

// F-18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_is_written_again_after_it_could_only_be_read() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let Database::Sqlite(path) = db.database() else { unreachable!() };
    sign_up(&store, "ada@example.org").await;
    let spell = Immutable::make(&path);
    // A connection that was open before may still write, as the file system decides; one that opens now may not.
    let _ = store.note("test", "subject", "").await;
    let role = db.open_existing().await.unwrap();
    assert_takes_no_write(&role).await;
    assert_takes_no_write(&role).await;
    drop(spell);
    assert_writes_again(&role).await;
    assert_writes_again(&store).await;
    assert_eq!(role.users().await.unwrap().len(), 1);
}

// F-18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_written_again_after_it_could_only_be_read() {
    let db = TestDb::postgres().await;
    let set = async |value: &str| {
        let sql = format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {value}', \
             current_database()); END $$"
        );
        db.execute(&format!("BEGIN READ WRITE; {sql}; COMMIT")).await.unwrap();
    };
    db.open().await.close().await;
    set("on").await;
    let store = db.open_existing().await.unwrap();
    assert_takes_no_write(&store).await;
    set("off").await;
    assert_writes_again(&store).await;
}
