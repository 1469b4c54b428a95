//! Another program that has locked the database: reads go on, writes wait and say so.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use store::{LockWait, Store, StoreError, StoreOptions};

use crate::test_db::{TestDb, sign_up};

/// More than a read takes, and less than any wait for a lock.
const AT_ONCE: Duration = Duration::from_secs(3);

// F-17.
async fn reads_go_on_while_another_program_writes(db: TestDb) {
    let (user, _) = sign_up(&db.open().await, "ada@example.org").await;
    let lock = db.lock().await;
    let started = Instant::now();
    let store = db.open_existing().await.unwrap();
    assert_eq!(store.user(&user.id).await.unwrap(), Some(user));
    store.close().await;
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    lock.release().await;
}

// F-17.
async fn write_waits_and_says_so_then_fails(db: TestDb) {
    static REPORTS: AtomicUsize = AtomicUsize::new(0);
    fn report(waited: Duration) {
        assert!(waited >= Duration::from_millis(900), "{waited:?}");
        REPORTS.fetch_add(1, Ordering::Relaxed);
    }
    db.open().await.close().await;
    let lock = db.lock().await;
    let lock_wait = LockWait { limit: Duration::from_millis(1500), report: Some(report) };
    let options = StoreOptions { lock_wait, ..StoreOptions::default() };
    let store = Store::open_existing(&db.database(), &options).await.unwrap();
    let before = REPORTS.load(Ordering::Relaxed);
    let error = store.note("test", "subject", "").await.unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error:?}");
    assert!(error.to_string().contains("another program has locked"), "{error}");
    assert!(REPORTS.load(Ordering::Relaxed) > before);
    let failure = store.write_health().failure.unwrap();
    assert!(failure.message.contains("has locked the database"), "{}", failure.message);

    let lock_wait = LockWait { limit: crate::test_db::DEADLINE, report: Some(report) };
    let options = StoreOptions { lock_wait, ..StoreOptions::default() };
    let store = Store::open_existing(&db.database(), &options).await.unwrap();
    let before = REPORTS.load(Ordering::Relaxed);
    let release = async {
        while REPORTS.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        lock.release().await;
    };
    let (written, ()) = tokio::join!(store.note("test", "subject", ""), release);
    written.unwrap();
    assert!(store.write_health().last_success.is_some());
}

on_both! {
    reads_go_on_while_another_program_writes,
    write_waits_and_says_so_then_fails,
}
