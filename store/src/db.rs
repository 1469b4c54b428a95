//! Two databases behind one type: an enum over concrete pools, and macros that expand one body for each.

mod options;
mod pool_use;
pub(crate) mod postgres;
mod renewable_pool;
pub(crate) mod schema;
mod sqlite;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Postgres, Sqlite, Transaction};

pub use self::options::{LockWait, StoreOptions};
pub use self::pool_use::PoolUse;
pub(crate) use self::renewable_pool::RenewablePool;
use crate::write_health::{Attempt, WriteLog};
use crate::{StoreError, WriteCounts, WriteHealth, error};

pub use sqlite::file as sqlite_file;
pub(crate) use sqlite::guard::lift_cpu_limit;

/// Begins a write: takes the next revision, and locks its row until the commit.
pub(crate) const NEXT_REVISION: &str = "UPDATE revision SET value = value + 1 WHERE one = 1 RETURNING value";
/// The installation's id.
pub(crate) const INSTALLATION_ID: &str = "SELECT id FROM installation WHERE one = 1";
/// Wakes the followers of a feed on PostgreSQL.
pub(crate) const NOTIFY: &str = "SELECT pg_notify('memgate_revision', '')";

/// The actor of changes made with the command line.
pub(crate) const OPERATOR: &str = "operator";
/// How long a statement waits for another process's write before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the store is. `Debug` leaves out a PostgreSQL address, which may contain a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file on this machine.
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
    pub(crate) writes: Arc<WriteLog>,
    pub(crate) lock_wait: LockWait,
}

#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// SQLite has one writer at a time. With a pool of one, this process's writers queue instead of retrying.
    Sqlite {
        read: Arc<RenewablePool<Sqlite>>,
        write: Arc<RenewablePool<Sqlite>>,
        /// Why a connection of either was refused.
        refused: Arc<sqlite::Refused>,
    },
    Postgres(Arc<RenewablePool<Postgres>>),
}

/// Runs a body with a pool to read from.
macro_rules! read {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { read, .. } => {
                let pool = read.get();
                let $pool = &pool;
                match $store.refusal() {
                    Some(error) => Err(error),
                    None => $store.checked($body),
                }
            }
            $crate::db::Db::Postgres(pool) => {
                let pool = pool.get();
                let $pool = &pool;
                $store.checked($body)
            }
        }
    };
}

/// Runs a body in a transaction that leaves the revision alone (for rows written several times per second).
macro_rules! write_unversioned {
    ($store:expr, $tx:ident => $body:expr) => {{
        let attempt = $store.writes.attempt();
        let result = match &$store.db {
            $crate::db::Db::Sqlite { write, .. } => {
                async {
                    let mut $tx = $store.begin_sqlite(write).await?;
                    let value = $body;
                    $tx.commit().await?;
                    attempt.committed();
                    Ok::<_, $crate::StoreError>(value)
                }
                .await
            }
            $crate::db::Db::Postgres(pool) => {
                async {
                    let mut $tx = pool.get().begin().await?;
                    let value = $body;
                    $tx.commit().await?;
                    attempt.committed();
                    Ok::<_, $crate::StoreError>(value)
                }
                .await
            }
        };
        $store.finish(attempt, result)?
    }};
}

/// Runs a body in a transaction that takes the next revision first. An error in the body rolls back, and so does `return`.
macro_rules! write {
    ($store:expr, $tx:ident, $revision:ident => $body:expr) => {{
        let attempt = $store.writes.attempt();
        let result = match &$store.db {
            $crate::db::Db::Sqlite { write, .. } => {
                async {
                    let mut $tx = $store.begin_sqlite(write).await?;
                    let $revision: i64 =
                        sqlx::query_scalar($crate::db::NEXT_REVISION).fetch_one(&mut *$tx).await?;
                    let value = $body;
                    $tx.commit().await?;
                    attempt.committed();
                    Ok::<_, $crate::StoreError>(value)
                }
                .await
            }
            $crate::db::Db::Postgres(pool) => {
                async {
                    let (mut $tx, $revision) = $store.begin_postgres(pool).await?;
                    let value = $body;
                    sqlx::query($crate::db::NOTIFY).execute(&mut *$tx).await?;
                    $tx.commit().await?;
                    attempt.committed();
                    Ok::<_, $crate::StoreError>(value)
                }
                .await
            }
        };
        $store.finish(attempt, result)?
    }};
}
pub(crate) use {read, write, write_unversioned};

impl Store {
    /// [`Store::migrate`] with default options, for tests.
    ///
    /// # Errors
    /// As [`Store::migrate`].
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        Self::migrate(database, &StoreOptions::default()).await
    }

    /// Opens the store, and creates or migrates its tables where this is necessary: only `memgate up` and `memgate migrate`
    /// may. Several processes may do so at once.
    ///
    /// # Errors
    /// `Open`, `WorldReadable`, `NewerSchema`, `Migrate`, `Corrupt`, `DiskFull`, `Locked`.
    pub async fn migrate(database: &Database, options: &StoreOptions) -> Result<Self, StoreError> {
        let db = match database {
            Database::Sqlite(path) => sqlite::migrate(path, options).await?,
            Database::Postgres(url) => postgres::migrate(url, options).await?,
        };
        Ok(Self::new(db, options))
    }

    /// Opens a store that has this version's tables. Creates, migrates and locks nothing; a connection that may write is
    /// opened by the first write.
    ///
    /// # Errors
    /// `Missing`, `NoTables`, `OlderSchema`, `NewerSchema`, `Corrupt`, `Open`, `WorldReadable`.
    pub async fn open_existing(database: &Database, options: &StoreOptions) -> Result<Self, StoreError> {
        let db = match database {
            Database::Sqlite(path) => sqlite::open_existing(path, options).await?,
            Database::Postgres(url) => postgres::open_existing(url, options).await?,
        };
        Ok(Self::new(db, options))
    }

    /// The id of the installation that a database has recorded, whatever the version of its tables; `None` if it has none.
    ///
    /// # Errors
    /// `Missing`, `Open`, `WorldReadable`.
    pub async fn installation_of(
        database: &Database,
        options: &StoreOptions,
    ) -> Result<Option<String>, StoreError> {
        match database {
            Database::Sqlite(path) => sqlite::installation_id(path, options).await,
            Database::Postgres(url) => postgres::installation_id(url, options).await,
        }
    }

    /// Writes a copy of a SQLite database, as it is at this moment, to a file that must not exist. Others go on reading and
    /// writing meanwhile.
    ///
    /// # Errors
    /// As [`Store::open_existing`]; `DiskFull`; `Corrupt` if the database is damaged.
    pub async fn snapshot(database: &Path, copy: &Path) -> Result<(), StoreError> {
        sqlite::snapshot(database, copy).await
    }

    fn new(db: Db, options: &StoreOptions) -> Self {
        Self { db, actor: OPERATOR.into(), writes: Arc::default(), lock_wait: options.lock_wait }
    }

    /// Checks with one small query that the database answers and has memgate's tables.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.revision().await.map(drop)
    }

    /// How the writes of this store and its clones go.
    #[must_use]
    pub fn write_health(&self) -> WriteHealth {
        self.writes.health()
    }

    /// How many writes of this store and its clones there were, and how long they took.
    #[must_use]
    pub fn write_counts(&self) -> WriteCounts {
        self.writes.counts()
    }

    /// Closes all connections; SQLite then merges its write-ahead log into the file.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite { read, write, .. } => {
                read.get().close().await;
                // Last, because a connection that only reads can't merge.
                write.get().close().await;
            }
            Db::Postgres(pool) => pool.get().close().await,
        }
    }

    /// Begins a write to SQLite, which waits for those of other processes as long as `lock_wait` says.
    pub(crate) async fn begin_sqlite(
        &self,
        pool: &RenewablePool<Sqlite>,
    ) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        let mut wait = self.lock_wait.start();
        loop {
            if let Some(error) = self.refusal() {
                return Err(error);
            }
            match pool.get().begin_with("BEGIN IMMEDIATE").await {
                Err(error) if error::is_locked(&error) && wait.continues() => {}
                begun => return begun.map_err(|error| self.explain(error)),
            }
        }
    }

    /// Begins a write to PostgreSQL and takes the next revision, for which it waits as long as `lock_wait` says.
    pub(crate) async fn begin_postgres(
        &self,
        pool: &RenewablePool<Postgres>,
    ) -> Result<(Transaction<'static, Postgres>, i64), sqlx::Error> {
        let mut wait = self.lock_wait.start();
        loop {
            let mut tx = pool.get().begin().await?;
            match sqlx::query_scalar(NEXT_REVISION).fetch_one(&mut *tx).await {
                Ok(revision) => return Ok((tx, revision)),
                Err(error) if error::is_locked(&error) && wait.continues() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Passes the result of a read on, and replaces connections that are useless from now on.
    pub(crate) fn checked<T>(&self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        result.inspect_err(|error| self.renew_after(error)).map_err(|error| self.explain(error))
    }

    /// Why the database's content was refused just now, if it was: then nobody waits for a connection, which would be
    /// refused too.
    pub(crate) fn refusal(&self) -> Option<sqlx::Error> {
        match &self.db {
            Db::Sqlite { refused, .. } => refused.error(),
            Db::Postgres(_) => None,
        }
    }

    /// A pool waits for a connection that is accepted, and hides why none is.
    fn explain(&self, error: sqlx::Error) -> sqlx::Error {
        match error {
            sqlx::Error::PoolTimedOut => self.refusal().unwrap_or(sqlx::Error::PoolTimedOut),
            error => error,
        }
    }

    /// Passes the result of a write on, records it, and replaces connections that are useless from now on.
    pub(crate) fn finish<T>(
        &self,
        attempt: Attempt<'_>,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        attempt.finish(&result);
        result.inspect_err(|error| {
            if let StoreError::Unavailable(error) = error {
                self.renew_after(error);
            }
        })
    }

    /// A connection that couldn't be opened for writing, or whose file had an error, fails for ever: SQLite opens a file
    /// for reading if it can't write it, and the connections of a process share some of what they have open. So all are
    /// replaced. Those in use end when they are returned.
    fn renew_after(&self, error: &sqlx::Error) {
        if !error::is_lasting(error) {
            return;
        }
        match &self.db {
            Db::Sqlite { read, write, .. } => {
                read.renew();
                write.renew();
            }
            Db::Postgres(pool) => pool.renew(),
        }
    }
}
