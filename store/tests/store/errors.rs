//! Errors of the database: their kind, and that they never contain values.

use std::error::Error as _;

use store::{Database, Store, StoreError};

use crate::concurrent_process::{self, Task};
use crate::test_db::{TestDb, sign_up};

// F-6.
async fn full_disk_is_distinguished_from_an_unavailable_database(db: TestDb) {
    db.open().await.close().await;
    // A test can't fill a disk: SQLite gets a page limit, PostgreSQL raises the error.
    let full = if db.is_postgres() {
        "DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"
    } else {
        "PRAGMA max_page_count = 1; CREATE TABLE filler (x TEXT); INSERT INTO filler VALUES (zeroblob(1000000))"
    };
    let error = StoreError::from(db.execute(full).await.unwrap_err());
    assert!(matches!(error, StoreError::DiskFull(_)), "{error:?}");
    assert_eq!(error.to_string(), "can't save now, the disk is full: free some space");

    let error = StoreError::from(db.execute("SELECT nothing FROM nowhere").await.unwrap_err());
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = StoreError::from(sqlx::Error::Io(std::io::ErrorKind::StorageFull.into()));
    assert!(matches!(error, StoreError::DiskFull(_)), "{error:?}");
}

async fn error_contains_no_row_data(db: TestDb) {
    let store = db.open().await;
    sign_up(&store, "ada@example.org").await;
    let refused = "UPDATE users SET password_hash = 'hash-of-password', state = 'confused'";
    let error = StoreError::from(db.execute(refused).await.unwrap_err());
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text} {error}");
        cause = error.source();
    }
    assert!(text.to_lowercase().contains("check constraint"), "the cause is included: {text}");
    for value in ["hash-of-password", "confused", "ada@"] {
        assert!(!text.contains(value), "{text}");
    }
}

// F-18.
async fn write_that_is_rolled_back_tells_nothing_of_the_database(db: TestDb) {
    let (store, other) = (db.open().await, db.open().await);
    let (_, token) = sign_up(&store, "ada@example.org").await;
    store.revoke_token(&token.token.id()).await.unwrap();
    assert!(store.write_health().last_success.is_some());
    other.revoke_token(&token.token.id()).await.unwrap();
    assert_eq!(other.write_health().last_success, None, "it was revoked already");
    other.note("test", "a write", "").await.unwrap();
    assert!(other.write_health().last_success.is_some());
}

async fn closed_store_is_unavailable(db: TestDb) {
    let store = db.open().await;
    store.ping().await.unwrap();
    store.close().await;
    let error = store.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

// F-4: what is waited for at start, and what isn't.
async fn outage_is_distinguished_from_a_mistake(db: TestDb) {
    let store = db.open().await;
    let error = StoreError::from(db.execute("SELECT nothing FROM nowhere").await.unwrap_err());
    assert!(!error.is_outage(), "{error:?}");
    assert!(StoreError::Timeout.is_outage() && !StoreError::RolledBack.is_outage());
    assert!(StoreError::from(sqlx::Error::Io(std::io::ErrorKind::StorageFull.into())).is_outage());
    store.close().await;

    let opened = async |url: &str| Store::open(&Database::Postgres(url.into())).await.unwrap_err();
    let error = opened("postgres://memgate@127.0.0.1:1/memgate").await;
    assert!(error.is_outage(), "{error:?}");
    let error = opened("mysql://memgate@127.0.0.1:1/memgate").await;
    assert!(!error.is_outage(), "{error:?}");
    if let Database::Postgres(url) = db.database() {
        let (address, query) = url.split_once('?').unwrap();
        let (server, _) = address.rsplit_once('/').unwrap();
        let error = opened(&format!("{server}/no_such_database?{query}")).await;
        assert!(!error.is_outage(), "{error:?}");
    }
}

//
async fn no_value_is_logged_at_any_level(db: TestDb) {
    concurrent_process::run(&db.database(), Task::Log).await;
}

on_both! {
    full_disk_is_distinguished_from_an_unavailable_database,
    error_contains_no_row_data,
    write_that_is_rolled_back_tells_nothing_of_the_database,
    closed_store_is_unavailable,
    outage_is_distinguished_from_a_mistake,
    no_value_is_logged_at_any_level,
}
