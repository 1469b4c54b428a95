//! What a connection checks and limits. A process with fewer rights may have written any bytes into the file: they change
//! neither how SQLite writes it, nor hold this process up, nor fill its memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::OnceCell;

use super::refused::Refused;
use crate::StoreError;
use crate::db::schema;
use crate::rows::{ROW_BYTES_MAX, decode};

/// What all connections of a process may allocate, in bytes: a planted value can have a gigabyte.
const HEAP_BYTES_MAX: &str = "134217728";
/// Rows that a statement reads ahead: long ones count against the same limit.
const ROWS_AHEAD_MAX: usize = 8;
/// CPU time of one use of a connection: a planted view can have rows without end. No statement of ours takes a tenth.
const CPU_TIME_MAX: Duration = Duration::from_secs(5);
/// Instructions of SQLite's virtual machine between two looks at the clock.
const INSTRUCTIONS_PER_CHECK: i32 = 10_000;
/// Made by sqlx, in a form that depends on its version.
const MIGRATIONS_TABLE: &str = "_sqlx_migrations";
/// Rows of `sqlite_schema` that are read at most.
const OBJECTS_MAX: usize = 1_000;

/// The settings that limit a connection.
pub(super) fn limited(options: SqliteConnectOptions) -> SqliteConnectOptions {
    options
        // Another role may have put views and triggers into the file: they call no function with effects outside it.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("hard_heap_limit", HEAP_BYTES_MAX)
        .row_buffer_size(ROWS_AHEAD_MAX)
}

/// Adds the checks of every connection to a pool, and those of every use of one. They leave in `refused` why they fail.
pub(super) fn guarded(pool: SqlitePoolOptions, refused: &Arc<Refused>) -> SqlitePoolOptions {
    let (of_new, of_used) = (Arc::clone(refused), Arc::clone(refused));
    let checked_version = Arc::new(AtomicI64::new(i64::MIN));
    // The look at the schema's version tells as much as a ping.
    pool.test_before_acquire(false)
        .after_connect(move |connection, _| {
            let refused = Arc::clone(&of_new);
            Box::pin(async move { refused.record(check(connection).await) })
        })
        .before_acquire(move |connection, _| {
            let (checked_version, refused) = (Arc::clone(&checked_version), Arc::clone(&of_used));
            Box::pin(async move {
                // On a full disk SQLite rolls back by itself, but sqlx believes that the transaction goes on, and every
                // later one would fail. Such a connection is replaced.
                if connection.is_in_transaction() {
                    return Ok(false);
                }
                limit_cpu_time(connection).await?;
                let version: i64 =
                    sqlx::query_scalar("PRAGMA schema_version").fetch_one(&mut *connection).await?;
                if checked_version.load(Ordering::Relaxed) != version {
                    refused.record(require_plain_schema(connection).await)?;
                    checked_version.store(version, Ordering::Relaxed);
                }
                Ok(true)
            })
        })
}

/// Checks a new connection before anything is written. Its mode stays what it is now, whatever happens to the file.
///
/// # Errors
/// `NotWal`, `Corrupt`, or the database's error.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    limit_cpu_time(connection).await?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if mode != "wal" {
        return Err(StoreError::NotWal);
    }
    sqlx::query("PRAGMA synchronous = NORMAL").execute(&mut *connection).await?;
    require_plain_schema(connection).await
}

/// Interrupts what uses more CPU time from now on. Time that it waits for a lock or the disk doesn't count.
async fn limit_cpu_time(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut started = None;
    let is_within = move || {
        // SQLite runs in one thread of the connection's own.
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let used = Duration::try_from(used).unwrap_or(Duration::MAX);
        used.saturating_sub(*started.get_or_insert(used)) < CPU_TIME_MAX
    };
    connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS_PER_CHECK, is_within);
    Ok(())
}

/// Takes the limit of CPU time away, for a command that reads the whole database: its schema has been checked, so nothing in it
/// has rows without end.
pub(crate) async fn lift_cpu_limit(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    connection.lock_handle().await?.remove_progress_handler();
    Ok(())
}

/// Refuses everything that runs when it is read or written: views, triggers, virtual tables.
async fn require_plain_schema(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let sql = "SELECT COUNT(*) FROM sqlite_schema WHERE (\
               (type = 'table' AND sql LIKE 'CREATE TABLE %') OR \
               (type = 'index' AND (sql IS NULL OR sql LIKE 'CREATE INDEX %' OR sql LIKE 'CREATE UNIQUE INDEX %'))\
               ) IS NOT TRUE";
    let others: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    if others == 0 { Ok(()) } else { Err(StoreError::Corrupt("schema")) }
}

/// A table or an index: type, name, table, and the statement that made it.
type Object = (String, String, String, Option<String>);

/// Refuses a migrated database whose tables and indexes aren't exactly those of the migrations.
///
/// # Errors
/// `Corrupt`, or the database's error.
pub(super) async fn require_own_schema(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    static OWN: OnceCell<BTreeSet<Object>> = OnceCell::const_new();
    let own = OWN.get_or_try_init(async || {
        let mut fresh = SqliteConnectOptions::new().in_memory(true).connect().await?;
        schema::migrate(&mut fresh).await?;
        let objects = objects(&mut fresh).await?;
        fresh.close().await?;
        Ok::<_, StoreError>(objects)
    });
    if objects(connection).await? == *own.await? { Ok(()) } else { Err(StoreError::Corrupt("schema")) }
}

/// Tables and indexes, without what `ANALYZE` leaves.
async fn objects(connection: &mut SqliteConnection) -> Result<BTreeSet<Object>, StoreError> {
    let sql =
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat_' LIMIT $1";
    let limit = i64::try_from(OBJECTS_MAX).unwrap_or(i64::MAX);
    let rows: Vec<Result<Object, StoreError>> =
        sqlx::query(sql).bind(limit).map(|row| decode(&row, ROW_BYTES_MAX)).fetch_all(connection).await?;
    let rows = rows.into_iter().collect::<Result<Vec<Object>, StoreError>>();
    let rows = rows.map_err(|_| StoreError::Corrupt("schema"))?;
    let comparable = |(kind, name, table, sql): Object| {
        let sql = sql.filter(|_| name != MIGRATIONS_TABLE);
        (kind, name, table, sql)
    };
    Ok(rows.into_iter().map(comparable).collect())
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteJournalMode;

    use super::*;

    //
    #[tokio::test]
    async fn statement_without_end_is_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            SqliteConnectOptions::new().filename(folder.path().join("file")).create_if_missing(true);
        let mut connection = options.journal_mode(SqliteJournalMode::Wal).connect().await.unwrap();
        check(&mut connection).await.unwrap();
        let endless =
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
        let error = sqlx::query(endless).fetch_optional(&mut connection).await.unwrap_err();
        assert!(matches!(StoreError::from(error), StoreError::Timeout));
        // The next use has its own time.
        limit_cpu_time(&mut connection).await.unwrap();
        let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.unwrap();
        assert_eq!(one, 1);
    }

    //
    #[tokio::test]
    async fn connection_in_another_mode_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            SqliteConnectOptions::new().filename(folder.path().join("file")).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        assert!(matches!(check(&mut connection).await, Err(StoreError::NotWal)));
    }
}
