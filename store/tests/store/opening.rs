//! Opening a store without changing it, as roles and commands do.

use store::{Database, Store, StoreError, StoreOptions};

use crate::test_db::{TestDb, sign_up};

const FORGET_LAST: &str =
    "DELETE FROM _sqlx_migrations WHERE version = (SELECT MAX(version) FROM _sqlx_migrations)";
const COUNT: &str = "SELECT COUNT(*) FROM _sqlx_migrations";

// F-19.
async fn only_a_migration_makes_or_changes_tables(db: TestDb) {
    if !db.is_postgres() {
        let error = db.open_existing().await.unwrap_err();
        assert!(matches!(error, StoreError::Missing(_)), "{error:?}");
        assert_eq!(std::fs::read_dir(db.folder.path()).unwrap().count(), 0, "no file is made");
        std::fs::write(db.folder.path().join("memgate.db"), "").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(db.folder.path().join("memgate.db"), mode).unwrap();
    }
    let error = db.open_existing().await.unwrap_err();
    assert!(matches!(error, StoreError::NoTables(_)), "{error:?}");
    let of = async |db: &TestDb| Store::installation_of(&db.database(), &StoreOptions::default()).await;
    assert_eq!(of(&db).await.unwrap(), None);
    db.execute("SELECT 1 FROM revision").await.unwrap_err();

    db.open().await.record_installation_id("abc234").await.unwrap();
    assert_eq!(of(&db).await.unwrap().as_deref(), Some("abc234"));
    db.open_existing().await.unwrap().close().await;
    let newest = db.number(COUNT).await;
    db.execute(FORGET_LAST).await.unwrap();
    let error = db.open_existing().await.unwrap_err();
    assert!(matches!(error, StoreError::OlderSchema { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("from an older memgate") && text.contains("`memgate migrate`"), "{text}");
    assert_eq!(db.number(COUNT).await, newest - 1);
    assert_eq!(of(&db).await.unwrap().as_deref(), Some("abc234"), "of any version");
}

async fn migration_that_is_not_what_it_was_is_refused(db: TestDb) {
    db.open().await.close().await;
    let checksum = if db.is_postgres() { "'\\x00'" } else { "x'00'" };
    let sql = format!("UPDATE _sqlx_migrations SET checksum = {checksum} WHERE version = 1");
    db.execute(&sql).await.unwrap();
    let error = db.open_existing().await.unwrap_err();
    assert!(matches!(error, StoreError::Migrate(_)), "{error:?}");
}

on_both! {
    only_a_migration_makes_or_changes_tables,
    migration_that_is_not_what_it_was_is_refused,
}

// F-19.
#[tokio::test]
async fn file_that_was_moved_away_is_used_again_when_it_is_back() {
    let db = TestDb::sqlite();
    let store = db.open().await;
    let (user, _) = sign_up(&store, "ada@example.org").await;
    let Database::Sqlite(path) = db.database() else { unreachable!() };
    let elsewhere = path.with_file_name("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    let error = db.open_existing().await.unwrap_err().to_string();
    assert!(error.contains("memgate.db is missing: put it back"), "{error}");
    assert!(!path.exists());
    assert_eq!(store.user(&user.id).await.unwrap().as_ref(), Some(&user), "open connections go on");
    std::fs::rename(&elsewhere, &path).unwrap();
    sign_up(&store, "bob@example.org").await;
    let again = db.open_existing().await.unwrap();
    assert_eq!(again.users().await.unwrap().len(), 2);
    sign_up(&again, "eve@example.org").await;
    assert_eq!(store.users().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_shows_who_uses_it() {
    let db = TestDb::postgres().await;
    let store = db.open().await;
    let options = StoreOptions {
        application: "memgate-proxy".to_owned(),
        connections_max: 3,
        ..StoreOptions::default()
    };
    let role = Store::open_existing(&db.database(), &options).await.unwrap();
    let _feed = role.feed().await.unwrap();
    let _lock = role.try_acquire_leader_lock().await.unwrap().expect("the lock is free");
    tokio::join!(
        async { role.ping().await.unwrap() },
        async { role.ping().await.unwrap() },
        async { role.ping().await.unwrap() },
        async { role.note("test", "subject", "").await.unwrap() },
    );
    let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'memgate-proxy'";
    let connections = db.number(sql).await;
    assert!((2..=4).contains(&connections), "the pool's three, and the lock: {connections}");
    store.close().await;
}
