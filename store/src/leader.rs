//! The leader lock: at most one provisioner reconciles at a time.
//!
//! A file lock beside the SQLite file, or an advisory lock of a PostgreSQL session. Both end with the process.

use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sqlx::{Connection, PgConnection};

use crate::db::{Database, Db, StoreOptions, postgres};
use crate::private_file::{self, FileError};
use crate::{Store, StoreError};

/// The advisory lock's number: "memgate" in ASCII. Advisory locks are per database.
const ADVISORY_LOCK: i64 = 0x6d_65_6d_67_61_74_65;

/// Which other user has the advisory lock `$1`: PostgreSQL shows a number of 64 bits as two halves.
const OTHER_HOLDER: &str = "SELECT CAST(a.usename AS TEXT) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database() \
     AND (CAST(l.classid AS BIGINT) << 32) + CAST(l.objid AS BIGINT) = $1 AND a.usename <> current_user LIMIT 1";

/// The lock. Dropping it releases it; see [`LeaderLock::is_held`].
#[derive(Debug)]
pub struct LeaderLock(Held);

#[derive(Debug)]
enum Held {
    /// Locked until it is closed.
    File {
        file: File,
        path: PathBuf,
    },
    Session(PgConnection),
}

impl Store {
    /// Acquires the lock; `None` if another process holds it.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn try_acquire_leader_lock(&self) -> Result<Option<LeaderLock>, StoreError> {
        match &self.db {
            Db::Sqlite { write, .. } => lock_beside(write.connect_options().get_filename()),
            Db::Postgres(pool) => lock_in(PgConnection::connect_with(pool.connect_options()).await?).await,
        }
    }

    /// The database's user who holds the lock, if it is another one than this process's: no provisioner, but PostgreSQL lets every
    /// user take it.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn other_leader_lock_holder(&self) -> Result<Option<String>, StoreError> {
        let Db::Postgres(pool) = &self.db else { return Ok(None) };
        Ok(sqlx::query_scalar(OTHER_HOLDER).bind(ADVISORY_LOCK).fetch_optional(&pool.get()).await?)
    }
}

impl LeaderLock {
    /// Acquires the lock whatever the state of the store: SQLite's file isn't opened, and PostgreSQL's tables aren't read.
    /// `None` if another process holds it.
    ///
    /// # Errors
    /// If the file's folder can't be written, or PostgreSQL doesn't answer.
    pub async fn try_acquire(
        database: &Database,
        options: &StoreOptions,
    ) -> Result<Option<Self>, StoreError> {
        match database {
            Database::Sqlite(path) => lock_beside(path),
            Database::Postgres(url) => lock_in(postgres::connect(url, options).await?.1).await,
        }
    }

    /// Whether this process still holds the lock: PostgreSQL releases it when the session ends, and a lock of a file that
    /// was replaced keeps nobody out.
    pub async fn is_held(&mut self) -> bool {
        match &mut self.0 {
            Held::File { file, path } => !is_replaced(file, path),
            Held::Session(session) => session.ping().await.is_ok(),
        }
    }
}

/// Whether the name leads to another file now. Nobody locks a missing one.
fn is_replaced(file: &File, path: &Path) -> bool {
    let identity = |meta: Metadata| (meta.dev(), meta.ino());
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(held), Ok(named)) => identity(held) != identity(named),
        _ => false,
    }
}

async fn lock_in(mut session: PgConnection) -> Result<Option<LeaderLock>, StoreError> {
    let acquired: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
        .bind(ADVISORY_LOCK)
        .fetch_one(&mut session)
        .await?;
    Ok(acquired.then_some(LeaderLock(Held::Session(session))))
}

fn lock_beside(database: &Path) -> Result<Option<LeaderLock>, StoreError> {
    let path = database.with_extension("leader");
    let failed = |error: std::io::Error| StoreError::Open {
        what: path.display().to_string(),
        fix: format!("can't lock it ({error}): check that this user may write in its folder"),
        source: None,
    };
    let file = private_file::open_or_create(&path).map_err(|error| match error {
        FileError::Io { source, .. } => failed(source),
        error => failed(std::io::Error::other(error)),
    })?;
    match file.try_lock() {
        // Another process may have replaced the file before it was locked.
        Ok(()) if is_replaced(&file, &path) => Ok(None),
        Ok(()) => Ok(Some(LeaderLock(Held::File { file, path }))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
