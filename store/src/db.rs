//! Two databases behind one type: an enum over concrete pools, and macros that expand one body for each.

mod postgres;
mod sqlite;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;

use crate::{StoreError, error};

/// Begins a write: takes the next revision, and locks its row until the commit.
pub(crate) const NEXT_REVISION: &str = "UPDATE revision SET value = value + 1 WHERE one = 1 RETURNING value";
/// Wakes the followers of a feed on PostgreSQL.
pub(crate) const NOTIFY: &str = "SELECT pg_notify('memgate_revision', '')";

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The actor of changes made with the command line.
const OPERATOR: &str = "operator";
/// How long a statement waits for another process's write before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one process. PostgreSQL allows about 100 in all by default.
const CONNECTIONS_MAX: u32 = 8;

/// Where the store is. `Debug` leaves out a PostgreSQL address, which may contain a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file on this machine; created if it doesn't exist.
    Sqlite(PathBuf),
    /// A PostgreSQL address: `postgres://user:password@host/database`.
    Postgres(String),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres"),
        }
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) db: Db,
    /// The actor in the audit log.
    pub(crate) actor: Arc<str>,
}

#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// SQLite has one writer at a time. With a pool of one, this process's writers queue instead of retrying.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Postgres(PgPool),
}

/// Runs a body with a pool to read from.
macro_rules! read {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { read: $pool, .. } => $body,
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}

/// Runs a body in a transaction that leaves the revision alone (for rows written several times per second).
macro_rules! write_unversioned {
    ($store:expr, $tx:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { write, .. } => {
                let mut $tx = write.begin_with("BEGIN IMMEDIATE").await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::db::Db::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
        }
    };
}

/// Runs a body in a transaction that takes the next revision first. A `?` in the body rolls back.
macro_rules! write {
    ($store:expr, $tx:ident, $revision:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { write, .. } => {
                let mut $tx = write.begin_with("BEGIN IMMEDIATE").await?;
                let $revision: i64 =
                    sqlx::query_scalar($crate::db::NEXT_REVISION).fetch_one(&mut *$tx).await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::db::Db::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let $revision: i64 =
                    sqlx::query_scalar($crate::db::NEXT_REVISION).fetch_one(&mut *$tx).await?;
                let value = $body;
                sqlx::query($crate::db::NOTIFY).execute(&mut *$tx).await?;
                $tx.commit().await?;
                value
            }
        }
    };
}
pub(crate) use {read, write, write_unversioned};

impl Store {
    /// Opens the store and migrates its tables. Several processes may do so at once.
    ///
    /// # Errors
    /// `Open`, `WorldReadable`, `NewerSchema`, `Migrate`, `DiskFull`.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let db = match database {
            Database::Sqlite(path) => sqlite::open(path).await?,
            Database::Postgres(url) => postgres::open(url).await?,
        };
        Ok(Self { db, actor: OPERATOR.into() })
    }

    /// Checks with one small query that the database answers and has memgate's tables.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(drop)
    }

    /// Closes all connections; SQLite then merges its write-ahead log into the file.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Db::Postgres(pool) => pool.close().await,
        }
    }
}

/// `run_direct`, because the future of `run` is `Send` for some lifetimes only (a limit of today's compiler).
async fn migrate<C: sqlx::migrate::Migrate>(connection: &mut C) -> Result<(), StoreError> {
    use sqlx::migrate::MigrateError;
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => StoreError::NewerSchema(version),
        MigrateError::Execute(error) => error.into(),
        MigrateError::ExecuteMigration(error, _) if error::is_disk_full(&error) => {
            StoreError::DiskFull(error)
        }
        error => StoreError::Migrate(error),
    })
}
