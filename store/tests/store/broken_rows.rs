//! Rows that another process has written without looking at their types, which SQLite doesn't either: each affects its own
//! user only.

use store::{InstanceState, Network, Observed, StoreError};

use crate::test_db::{DEADLINE, TestDb, sign_up};

/// Changes that make rows of `bob` unreadable, each with the list that contains him.
const CHANGES: [&str; 10] = [
    "UPDATE instances SET memory_mb = 'x' WHERE id = '{instance}'",
    "UPDATE instances SET created_at = zeroblob(8) WHERE id = '{instance}'",
    "UPDATE instances SET id = CAST(id AS BLOB) WHERE id = '{instance}'",
    "UPDATE users SET is_admin = 'yes' WHERE email = 'bob@example.org'",
    "UPDATE routes SET generation = 1e300 WHERE instance_id = '{instance}'",
    "UPDATE routes SET generation = 9223372036854775807 WHERE instance_id = '{instance}'",
    "UPDATE routes SET message = hex(zeroblob(100000)) WHERE instance_id = '{instance}'",
    "UPDATE routes SET version = zeroblob(2000000) WHERE instance_id = '{instance}'",
    "UPDATE caches SET name = hex(zeroblob(100000)) WHERE id = (SELECT cache_id FROM instances WHERE id = '{instance}')",
    "UPDATE users SET email = hex(zeroblob(100000)) WHERE email = 'bob@example.org'",
];

// F-15, R-43.
#[tokio::test]
async fn invalid_row_affects_its_own_user_only() {
    for change in CHANGES {
        let db = TestDb::sqlite();
        let store = db.open().await;
        let (ada, _) = sign_up(&store, "ada@example.org").await;
        let (bob, _) = sign_up(&store, "bob@example.org").await;
        let instance = store.first_instance_of(&bob.id).await.unwrap().unwrap();
        let seen = Observed {
            state: InstanceState::Running,
            generation: 1,
            address: None,
            container: None,
            version: None,
            message: None,
        };
        store.record_route(&instance.id, &seen).await.unwrap();
        let mut feed = store.feed_of_caches().await.unwrap();
        db.execute(&change.replace("{instance}", &instance.id)).await.unwrap();
        let (instances, users) = (store.instances().await.unwrap(), store.users().await.unwrap());
        assert!(instances.iter().any(|it| it.user_id == ada.id), "{change}");
        assert!(users.iter().any(|user| user.id == ada.id), "{change}");
        assert!(size(&instances) + size(&users) < 4096, "{change}: nothing long is copied");
        let ids = store.instance_ids().await.unwrap();
        assert!(ids.len() == 2 && ids.contains(&instance.id), "{change}: never an orphan");
        store.note("test", "a write", "").await.unwrap();
        tokio::time::timeout(DEADLINE, feed.next()).await.unwrap().unwrap();
    }
}

/// Bytes of what a list holds, nearly.
fn size<T: std::fmt::Debug>(list: &[T]) -> usize {
    format!("{list:?}").len()
}

/// Numbers from 1 to `count`, as the table `n (i)`.
fn numbers(count: usize) -> String {
    format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
}

// R-43, F-15.
#[tokio::test]
async fn one_long_text_is_not_multiplied_by_many_rows() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let (ada, _) = sign_up(&store, "ada@example.org").await;
    let (bob, _) = sign_up(&store, "bob@example.org").await;
    let (first, n) = (store.first_cache_of(&bob.id).await.unwrap().unwrap().id, numbers(2000));
    db.execute(&format!(
        "UPDATE users SET email = hex(zeroblob(25000)) WHERE id = '{bob}'; \
         {n} INSERT INTO caches (id, user_id, name, plan, created_at, deleted_at, revision) SELECT 'c-' || i, '{bob}', 'n' || i, 'default', i, NULL, 9 FROM n; \
         INSERT INTO instances SELECT id, id, 64, 1, 1, 'running', created_at, 9 FROM caches WHERE id LIKE 'c-%'; \
         {n} INSERT INTO tokens SELECT 't' || i, '{first}', 'x', '', '', 1, '', '', 'all', NULL, NULL, NULL, NULL, \
         NULL, i, NULL, 9 FROM n",
        bob = bob.id
    ))
    .await
    .unwrap();
    let instances = store.instances().await.unwrap();
    assert_eq!(instances.len(), 2002);
    assert!(size(&instances) < 2002 * 1024, "{}", size(&instances));
    assert_eq!(store.tokens_of_cache(&first).await.unwrap().len(), 2001);
    db.execute(&format!("UPDATE caches SET name = hex(zeroblob(25000)) WHERE id = '{first}'")).await.unwrap();
    assert!(matches!(store.tokens_of_cache(&first).await, Err(StoreError::Corrupt(_))));
    assert_eq!(store.instances().await.unwrap().len(), 2001, "all but that cache's");
    assert_eq!(store.tokens_of_user(&ada.id).await.unwrap().len(), 1);
}

// F-15.
#[tokio::test]
async fn other_invalid_rows_are_skipped() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let plans = store.plans().await.unwrap();
    let network = |number: u8| Network {
        name: format!("network-{number}"),
        bridge: format!("bridge-{number}"),
        subnet: format!("10.0.{number}.0/24"),
        gateway: format!("10.0.{number}.1"),
    };
    for number in [1, 2] {
        store.add_network(&network(number), &[]).await.unwrap();
    }
    db.execute("UPDATE networks SET bridge = zeroblob(3) WHERE name = 'network-1'").await.unwrap();
    assert_eq!(store.networks().await.unwrap(), [network(2)]);
    assert_eq!(store.network_names().await.unwrap().len(), 2, "never an orphan");
    let broken = "INSERT INTO plans (name, memory_mb, connections, item_size_max, revision) VALUES ('broken', 'x', 1, 1, 1)";
    db.execute(broken).await.unwrap();
    assert_eq!(store.plans().await.unwrap(), plans);
    db.execute("INSERT INTO proxies VALUES ('x', 'x', 'x', 'then', 1, 1)").await.unwrap();
    db.execute("INSERT INTO proxies VALUES ('y', 'y', hex(zeroblob(100000)), 1, 1, 1)").await.unwrap();
    assert!(store.proxies().await.unwrap().is_empty());
}

//
#[tokio::test]
async fn lists_are_bounded() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let mut feed = store.feed_of_caches().await.unwrap();
    db.execute(&format!(
        "{n} INSERT INTO users SELECT 'u' || i, i || '@example.org', NULL, 'default', 0, 'active', i, NULL, 9, NULL FROM n; \
         {n} INSERT INTO plans (name, memory_mb, connections, item_size_max, revision) SELECT 'p' || i, 1, 1, 1, 9 FROM n; \
         {n} INSERT INTO proxies SELECT 'x' || i, 'x', '1', i, i, 1 FROM n; \
         {n} INSERT INTO caches (id, user_id, name, plan, created_at, deleted_at, revision) SELECT 'c-' || i, '{}', 'n' || i, 'default', i, NULL, 9 FROM n; \
         INSERT INTO instances SELECT id, id, 64, 1, 1, 'running', created_at, 9 FROM caches WHERE id LIKE 'c-%'; \
         UPDATE caches SET revision = 1000; UPDATE revision SET value = 1000",
        user.id,
        n = numbers(20_001)
    ))
    .await
    .unwrap();
    assert_eq!(store.instances().await.unwrap().len(), 20_000);
    assert_eq!(store.users().await.unwrap().len(), 20_000);
    assert_eq!(store.plans().await.unwrap().len(), 20_000);
    let proxies = store.proxies().await.unwrap();
    assert!(proxies.len() == 1000 && proxies.iter().all(|proxy| proxy.seen_at.as_millis() > 19_001));
    assert!(matches!(store.caches_of(&user.id).await, Err(StoreError::TooMany("caches"))));
    assert!(matches!(store.caches_of_other_size("default").await, Err(StoreError::TooMany("caches"))));
    assert!(matches!(store.instance_ids().await, Err(StoreError::TooMany("instances"))));
    assert!(matches!(feed.next().await, Err(StoreError::TooMany("changes"))));
}

//
#[tokio::test]
async fn numbers_at_their_end_are_errors() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    sign_up(&store, "ada@example.org").await;
    db.execute("UPDATE audit SET seq = 9223372036854775807 WHERE seq = (SELECT MAX(seq) FROM audit)")
        .await
        .unwrap();
    assert!(matches!(store.note("test", "a write", "").await, Err(StoreError::Corrupt("audit log"))));
    db.execute("DELETE FROM audit; UPDATE revision SET value = 9223372036854775807").await.unwrap();
    assert!(matches!(store.note("test", "a write", "").await, Err(StoreError::Corrupt("row"))));
    assert_eq!(store.revision().await.unwrap(), i64::MAX, "nothing was written");
}
