//! Opening a store: the first process creates the tables; an older memgate refuses a newer schema.

use store::{Database, Store, StoreError};

use crate::concurrent_process::{self, Task};
use crate::test_db::{DEADLINE, TestDb, sign_up};

async fn existing_data_is_kept_on_open(db: TestDb) {
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    store.close().await;
    let again = db.open().await;
    assert_eq!(again.user(&user.id).await.unwrap(), Some(user));
    again.ping().await.unwrap();
}

async fn four_processes_create_one_database(db: TestDb) {
    let database = db.database();
    let open = || concurrent_process::run(&database, Task::Open);
    let (a, b, c, d) = tokio::join!(open(), open(), open(), open());
    assert_eq!(a.len(), 1);
    assert!(a == b && b == c && c == d, "{a:?} {b:?} {c:?} {d:?}");
}

async fn concurrent_tasks_create_one_database(db: TestDb) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let database = db.database();
        tasks.spawn(async move {
            let store = Store::open(&database).await.unwrap();
            store.record_installation_id(&store::new_installation_id()).await.unwrap()
        });
    }
    let ids = tokio::time::timeout(DEADLINE, tasks.join_all()).await.unwrap();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(db.open().await.installation_id().await.unwrap().as_ref(), Some(&ids[0]));
}

//
async fn installation_id_is_recorded_once(db: TestDb) {
    let store = db.open().await;
    assert_eq!(store.installation_id().await.unwrap(), None);
    assert_eq!(store.record_installation_id("abc234").await.unwrap(), "abc234");
    assert_eq!(store.record_installation_id("xyz567").await.unwrap(), "abc234");
    assert_eq!(store.installation_id().await.unwrap().as_deref(), Some("abc234"));
}

#[test]
fn installation_id_is_valid_in_a_bridge_name() {
    let id = store::new_installation_id();
    assert_eq!(id.len(), 6);
    assert!(id.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)), "{id}");
}

async fn newer_schema_is_refused(db: TestDb) {
    db.open().await.close().await;
    let checksum = if db.is_postgres() { "'\\x00'" } else { "x'00'" };
    db.execute(&format!(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'from the future', TRUE, {checksum}, 0)"
    ))
    .await
    .unwrap();
    for _ in 0..2 {
        let error = Store::open(&db.database()).await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 9999, .. }), "{error:?}");
        let text = error.to_string();
        for part in [
            "migration is 9999",
            concat!("memgate ", env!("CARGO_PKG_VERSION"), " knows"),
            "install that version",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}

on_both! {
    existing_data_is_kept_on_open,
    four_processes_create_one_database,
    concurrent_tasks_create_one_database,
    installation_id_is_recorded_once,
    newer_schema_is_refused,
}

#[tokio::test]
async fn invalid_url_is_refused_without_showing_its_password() {
    for url in ["postgres://memgate:hunter2@local host/memgate", "memgate:hunter2"] {
        let database = Database::Postgres(url.into());
        let error = Store::open(&database).await.unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }), "{error:?}");
        assert!(error.to_string().contains("postgres://user:password@host/database"), "{error}");
        for text in [format!("{error:?}"), error.to_string(), format!("{database:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
