//! Rows that another process has written without looking at their types, which SQLite doesn't either: each affects its own
//! user only.

use store::{InstanceState, Network, Observed, StoreError};

use crate::test_db::{DEADLINE, TestDb, sign_up};

/// Changes that make rows of `bob` unreadable, each with the list that contains him.
const CHANGES: [&str; 6] = [
    "UPDATE instances SET memory_mb = 'x' WHERE id = '{instance}'",
    "UPDATE instances SET created_at = zeroblob(8) WHERE id = '{instance}'",
    "UPDATE instances SET id = CAST(id AS BLOB) WHERE id = '{instance}'",
    "UPDATE users SET is_admin = 'yes' WHERE email = 'bob@example.org'",
    "UPDATE routes SET generation = 1e300 WHERE instance_id = '{instance}'",
    "UPDATE routes SET generation = 9223372036854775807 WHERE instance_id = '{instance}'",
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
        let of_ada = |instances: Vec<store::Instance>| instances.iter().any(|it| it.user_id == ada.id);
        assert!(of_ada(store.instances().await.unwrap()), "{change}");
        assert!(store.users().await.unwrap().iter().any(|user| user.id == ada.id), "{change}");
        let ids = store.instance_ids().await.unwrap();
        assert!(ids.len() == 2 && ids.contains(&instance.id), "{change}: never an orphan");
        store.note("test", "a write", "").await.unwrap();
        tokio::time::timeout(DEADLINE, feed.next()).await.unwrap().unwrap();
    }
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
    db.execute("INSERT INTO plans VALUES ('broken', 'x', 1, 1, 1, 1, 1)").await.unwrap();
    assert_eq!(store.plans().await.unwrap(), plans);
    db.execute("INSERT INTO proxies VALUES ('x', 'x', 'x', 'then', 1, 1)").await.unwrap();
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
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20001) \
         INSERT INTO caches SELECT 'c' || i, '{}', 'n' || i, 'default', i, NULL, 9 FROM n; \
         INSERT INTO instances SELECT id, id, 64, 1, 1, 'running', created_at, 9 FROM caches WHERE id LIKE 'c%'; \
         UPDATE caches SET revision = 1000; UPDATE revision SET value = 1000",
        user.id
    ))
    .await
    .unwrap();
    assert_eq!(store.instances().await.unwrap().len(), 20_000);
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
