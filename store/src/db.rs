//! Two databases behind one type: an enum over concrete pools, and macros that expand one body for each.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// How long a statement waits for another process's write before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one process: a role needs few, PostgreSQL has about 100 in all.
const MAX_CONNECTIONS: u32 = 8;

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file on this machine; made if it isn't there.
    Sqlite(PathBuf),
    /// A PostgreSQL address: `postgres://user:password@host/database`.
    Postgres(String),
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) db: Db,
}

#[derive(Debug, Clone)]
pub(crate) enum Db {
    /// SQLite has one writer at a time: a pool of one makes ours wait in order instead of by retries.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Postgres(PgPool),
}

/// Runs one body with a pool to read from.
macro_rules! read {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { read: $pool, .. } => $body,
            $crate::db::Db::Postgres($pool) => $body,
        }
    };
}

/// Runs one body in a transaction that doesn't touch the revision (high-rate rows only).
macro_rules! write_quietly {
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

/// Runs one body in a transaction that begins by taking the next revision. A `?` in it rolls back.
macro_rules! write {
    ($store:expr, $tx:ident, $revision:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Sqlite { write, .. } => {
                let mut $tx = write.begin_with("BEGIN IMMEDIATE").await?;
                let $revision: i64 =
                    sqlx::query_scalar($crate::feed::NEXT_REVISION).fetch_one(&mut *$tx).await?;
                let value = $body;
                $tx.commit().await?;
                value
            }
            $crate::db::Db::Postgres(pool) => {
                let mut $tx = pool.begin().await?;
                let $revision: i64 =
                    sqlx::query_scalar($crate::feed::NEXT_REVISION).fetch_one(&mut *$tx).await?;
                let value = $body;
                sqlx::query($crate::feed::NUDGE).execute(&mut *$tx).await?;
                $tx.commit().await?;
                value
            }
        }
    };
}
pub(crate) use {read, write, write_quietly};

impl Store {
    /// Opens the store and brings its tables up to date. Several processes may do so at once.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        let db = match database {
            Database::Sqlite(path) => open_sqlite(path).await?,
            Database::Postgres(url) => open_postgres(url).await?,
        };
        Ok(Self { db })
    }

    /// Ends all connections; SQLite then folds its log into the file.
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

async fn open_sqlite(path: &Path) -> Result<Db, StoreError> {
    let open = |error: sqlx::Error| StoreError::Open {
        what: path.display().to_string(),
        fix: "check that its folder exists and that this user may write there".into(),
        source: Some(error),
    };
    refuse_world_readable(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options.clone())
        .await
        .map_err(open)?;
    keep_private(path)?;
    migrate(&MIGRATIONS, &write).await?;
    let read = SqlitePoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options.create_if_missing(false).pragma("query_only", "ON"))
        .await
        .map_err(open)?;
    Ok(Db::Sqlite { read, write })
}

async fn open_postgres(url: &str) -> Result<Db, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(|error| StoreError::Open {
        what: "(store.url)".into(),
        fix: "write it as postgres://user:password@host/database".into(),
        source: Some(error),
    })?;
    let what = format!("{} on {}", options.get_database().unwrap_or("postgres"), options.get_host());
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await
        .map_err(|error| StoreError::Open {
            what,
            fix: "check store.url, and that PostgreSQL runs and lets this user in".into(),
            source: Some(error),
        })?;
    migrate(&MIGRATIONS, &pool).await?;
    Ok(Db::Postgres(pool))
}

async fn migrate<'a, A>(migrations: &Migrator, database: A) -> Result<(), StoreError>
where
    A: sqlx::Acquire<'a>,
    <A::Connection as std::ops::Deref>::Target: sqlx::migrate::Migrate,
{
    use sqlx::migrate::MigrateError;
    migrations.run(database).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            StoreError::Newer(version)
        }
        MigrateError::Execute(error) => error.into(),
        error => StoreError::Migrate(error),
    })
}

/// Password hashes are in it: nobody but its owner and group may read it.
fn refuse_world_readable(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(meta) if meta.permissions().mode() & 0o007 != 0 => Err(StoreError::WorldReadable(path.into())),
        _ => Ok(()),
    }
}

/// SQLite makes a new file for everybody to read; ours is for its owner and group.
fn keep_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let Ok(meta) = std::fs::metadata(&file) else { continue };
        let mode = meta.permissions().mode();
        if mode & 0o007 != 0 {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode & 0o770)).map_err(
                |error| StoreError::Open {
                    what: path.display().to_string(),
                    fix: format!("can't take other users' access away ({error}): run `chmod o=` on it"),
                    source: None,
                },
            )?;
        }
    }
    Ok(())
}
