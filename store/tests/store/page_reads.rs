//! How many rows PostgreSQL reads for pages and for followers, of a cache with a long history.

use std::time::Duration;

use store::{DenialCause, DenialRecord, now};

use crate::test_db::{DEADLINE, TestDb, first_cache, sign_up};

/// More than a user can make in 80 days.
const ENDED: usize = 40_000;
/// Rows that the tables in question may have to return for one call.
const READ_MAX: i64 = 200;

/// Rows that PostgreSQL has read of tokens and of what belongs to them. Connections count when they end.
async fn rows_read(db: &TestDb) -> i64 {
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                  AND backend_type = 'client backend'";
    let started = std::time::Instant::now();
    while db.number(others).await > 0 {
        assert!(started.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    db.number(
        "SELECT CAST(SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0)) AS BIGINT) FROM pg_stat_user_tables \
         WHERE relname IN ('tokens', 'leaks', 'denials')",
    )
    .await
}

/// Runs calls with connections of their own, and counts what they read.
macro_rules! reads {
    ($db:expr, $what:literal, |$store:ident| $calls:expr) => {{
        let before = rows_read(&$db).await;
        let $store = $db.open_existing().await.unwrap();
        $calls;
        $store.close().await;
        let rows = rows_read(&$db).await - before;
        assert!(rows <= READ_MAX, "{}: {rows} rows", $what);
    }};
}

//
#[tokio::test]
async fn pages_and_followers_read_no_history() {
    let db = TestDb::postgres().await;
    let store = db.open().await;
    let (ada, first) = sign_up(&store, "ada@example.org").await;
    let cache = first_cache(&store, &ada).await;
    db.execute(&format!(
        "INSERT INTO tokens SELECT 't' || i, '{cache}', 'x', '', '', 1, '', '', 'all', NULL, \
         CASE WHEN i % 2 = 0 THEN i END, NULL, NULL, NULL, i, CASE WHEN i % 2 = 1 THEN i END, 1 \
         FROM generate_series(1, {ENDED}) i"
    ))
    .await
    .unwrap();
    db.execute("ANALYZE").await.unwrap();
    let denial = DenialRecord {
        token_id: first.token.id().to_string(),
        cause: DenialCause::WrongSecret,
        source: None,
        detail: "x".into(),
        protocol: "text".into(),
        tls: false,
        count: 1,
        first_at: now(),
        last_at: now(),
    };
    store.add_denials(&[denial]).await.unwrap();
    store.close().await;
    reads!(db, "leaks", |store| {
        assert_eq!(store.open_leaks(&ada.id).await.unwrap(), []);
        assert_eq!(store.leaks_of(&ada.id).await.unwrap(), []);
    });
    reads!(db, "denials", |store| assert_eq!(store.denials_of_cache(&cache).await.unwrap().len(), 1));
    reads!(db, "active tokens", |store| assert_eq!(store.count_active_tokens(&cache).await.unwrap(), 1));
    reads!(db, "a list of tokens", |store| {
        let listed = store.list_tokens(&cache, 20).await.unwrap();
        assert_eq!((listed.active.len(), listed.inactive.len()), (1, 20));
    });
    reads!(db, "grants", |store| assert_eq!(store.grants_of_cache(&cache).await.unwrap().len(), 1));
}
