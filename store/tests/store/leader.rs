//! The leader lock: one holder at a time, until it is dropped.

use store::LeaderLock;

use crate::test_db::TestDb;

// F-13.
async fn leader_lock_has_one_holder_until_it_is_dropped(db: TestDb) {
    let (one, other) = (db.open().await, db.open().await);
    let mut lock: LeaderLock = one.try_acquire_leader_lock().await.unwrap().expect("the lock is free");
    assert!(lock.is_held().await);
    assert!(other.try_acquire_leader_lock().await.unwrap().is_none());
    assert!(one.try_acquire_leader_lock().await.unwrap().is_none(), "not even the same store twice");
    drop(lock);
    let again = acquire_leader_lock(&other).await;
    assert!(one.try_acquire_leader_lock().await.unwrap().is_none());
    drop(again);
}

/// Retries: the database needs a moment to notice that a session has ended.
async fn acquire_leader_lock(store: &store::Store) -> LeaderLock {
    let deadline = std::time::Instant::now() + crate::test_db::DEADLINE;
    loop {
        if let Some(lock) = store.try_acquire_leader_lock().await.unwrap() {
            return lock;
        }
        assert!(std::time::Instant::now() < deadline, "the lock is not released");
        tokio::task::yield_now().await;
    }
}

on_both!(leader_lock_has_one_holder_until_it_is_dropped);

// F-19.
#[tokio::test]
async fn lock_of_a_file_that_was_replaced_is_not_held() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let mut lock = store.try_acquire_leader_lock().await.unwrap().expect("the lock is free");
    let (file, elsewhere) = (db.folder.path().join("memgate.leader"), db.folder.path().join("elsewhere"));
    std::fs::rename(&file, &elsewhere).unwrap();
    assert!(lock.is_held().await, "nobody else has a lock");
    let other = db.open().await.try_acquire_leader_lock().await.unwrap();
    assert!(other.is_some() && !lock.is_held().await);
}
