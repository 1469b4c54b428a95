//! Webhooks on PostgreSQL, where transactions overlap: no delivery is lost, and none waits for another that waits for it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use store::{
    ClaimedDelivery, Database, DeliveryOutcome, DetectedSource, DisabledReason, InstanceState, LockWait,
    NotificationKind, NotificationKinds, Observed, Store, StoreOptions, WebhookFields,
};
use tokio::task::{JoinError, JoinSet};

use crate::test_db::{DEADLINE, TestDb, sign_up};

const LEASE: Duration = Duration::from_secs(60);
const FIELDS: WebhookFields<'_> = WebhookFields {
    url: "https://hooks.example/a",
    host: "hooks.example",
    description: "",
    kinds: NotificationKinds::ALL,
};

/// Runs a task beside the test.
fn beside<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> {
    let mut tasks = JoinSet::new();
    tasks.spawn(task);
    async move { tasks.join_next().await.unwrap() }
}

/// The store of a process that waits for locks for as long as a test does.
async fn open(db: &TestDb) -> Store {
    let lock_wait = LockWait { limit: DEADLINE, report: None };
    let options = StoreOptions { lock_wait, ..StoreOptions::default() };
    Store::migrate(&db.database(), &options).await.unwrap()
}

/// A transaction of another program that has begun with this statement.
async fn begin(db: &TestDb, sql: &str) -> PgConnection {
    let Database::Postgres(url) = db.database() else { unreachable!("it is PostgreSQL") };
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let sql = AssertSqlSafe(format!("BEGIN; {sql}"));
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection
}

/// Waits until so many statements wait for locks.
async fn wait_for_waiting(db: &TestDb, number: i64) {
    let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    tokio::time::timeout(DEADLINE, async {
        while db.number(waiting).await < number {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

/// A webhook of a new user with a delivery that is being made.
async fn claimed(store: &Store) -> (String, ClaimedDelivery) {
    let (user, _) = sign_up(store, "ada@example.org").await;
    let id = store.create_webhook(&user.id, &FIELDS).await.unwrap();
    store.send_test(&id).await.unwrap();
    (user.id, store.claim_delivery(LEASE).await.unwrap().unwrap())
}

/// Has the user's cache fail, of which the user is then notified.
async fn fail(store: &Store, user: &str) {
    let instance = store.first_instance_of(user).await.unwrap().unwrap();
    let failed = Observed {
        state: InstanceState::Failed,
        generation: 1,
        address: None,
        container: None,
        version: None,
        message: None,
    };
    store.record_route(&instance.id, &failed).await.unwrap();
}

// W-30.
#[tokio::test]
async fn delivery_that_is_added_while_another_one_ends_is_made() {
    let db = TestDb::postgres().await;
    let store = open(&db).await;
    let (user, claimed) = claimed(&store).await;
    fail(&store, &user).await;
    // Keeps the transaction that adds the delivery from ending: it counts the mail to this user last.
    let held = begin(&db, "LOCK TABLE mails IN ACCESS EXCLUSIVE MODE").await;
    let detecting = beside({
        let store = store.clone();
        async move {
            let limits = store::MailLimits { to_recipient_per_hour: 5, in_total_per_hour: 100 };
            store.detect_notifications(DetectedSource::FailedCaches, Some(&limits)).await.unwrap()
        }
    });
    wait_for_waiting(&db, 1).await;
    let finishing = beside({
        let store = store.clone();
        async move { store.finish_delivery(&claimed, &DeliveryOutcome::Delivered(200)).await.unwrap() }
    });
    wait_for_waiting(&db, 2).await;
    held.close().await.unwrap();
    assert_eq!(detecting.await.unwrap().added, [NotificationKind::CacheFailed]);
    finishing.await.unwrap();
    let next = store.claim_delivery(LEASE).await.unwrap().expect("it is due");
    assert_eq!(next.notification.kind, NotificationKind::CacheFailed);
}

// W-30.
#[tokio::test]
async fn delivery_ends_while_its_webhook_is_disabled_or_deleted() {
    for deletes in [false, true] {
        let db = TestDb::postgres().await;
        let store = open(&db).await;
        let (_, claimed) = claimed(&store).await;
        let id = claimed.webhook.id.clone();
        let delivery = format!("SELECT 1 FROM webhook_deliveries WHERE id = '{}' FOR UPDATE", claimed.id);
        let held = begin(&db, &delivery).await;
        let finishing = beside({
            let store = store.clone();
            async move { store.finish_delivery(&claimed, &DeliveryOutcome::Delivered(200)).await.map(drop) }
        });
        wait_for_waiting(&db, 1).await;
        let ending = beside({
            let store = store.clone();
            async move {
                if deletes {
                    store.delete_webhook(&id).await
                } else {
                    store.disable_webhook(&id, DisabledReason::Failing, None).await
                }
            }
        });
        wait_for_waiting(&db, 2).await;
        held.close().await.unwrap();
        finishing.await.unwrap().unwrap();
        ending.await.unwrap().unwrap();
    }
}

// W-31.
#[tokio::test]
async fn notification_is_added_while_a_webhook_of_its_user_is_disabled() {
    let db = TestDb::postgres().await;
    let store = open(&db).await;
    let (user, claimed) = claimed(&store).await;
    let mut ids = vec![claimed.webhook.id];
    for _ in 0..2 {
        ids.push(store.create_webhook(&user, &FIELDS).await.unwrap());
    }
    ids.sort();
    fail(&store, &user).await;
    // The one in the middle: who waits for it has locked the first one, and needs the last one.
    let held = begin(&db, &format!("SELECT 1 FROM webhooks WHERE id = '{}' FOR UPDATE", ids[1])).await;
    let detecting = beside({
        let store = store.clone();
        async move { store.detect_notifications(DetectedSource::FailedCaches, None).await.map(drop) }
    });
    wait_for_waiting(&db, 1).await;
    let disabling = beside({
        let (store, id) = (store.clone(), ids[2].clone());
        async move { store.disable_webhook(&id, DisabledReason::Gone, None).await }
    });
    wait_for_waiting(&db, 2).await;
    held.close().await.unwrap();
    detecting.await.unwrap().unwrap();
    disabling.await.unwrap().unwrap();
}
