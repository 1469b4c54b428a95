//! SQLite: one file in WAL mode, accessible to its owner and group only.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, CONNECTIONS_MAX, Db, migrate};
use crate::StoreError;
use crate::private_file;

/// The file's mode: the roles of one installation share a group. SQLite gives `-wal` and `-shm` the same mode.
const MODE: u32 = 0o660;

pub(super) async fn open(path: &Path) -> Result<Db, StoreError> {
    refuse_public(path)?;
    create_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        // Another role may have put views and triggers into the file: they call no function with effects outside it.
        .pragma("trusted_schema", "OFF");
    // On a full disk SQLite rolls back by itself, but sqlx believes that the transaction goes on, and every later
    // one would fail. Such a connection is replaced.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
    let write = connect(writer, &options).await.map_err(|error| open_error(path, error))?;
    migrate_exclusively(&write).await?;
    let options = options.pragma("query_only", "ON");
    let read = connect(SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX), &options)
        .await
        .map_err(|error| open_error(path, error))?;
    Ok(Db::Sqlite { read, write })
}

async fn connect(pool: SqlitePoolOptions, options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    pool.acquire_timeout(ACQUIRE_TIMEOUT).connect_with(options.clone()).await
}

/// Migrates within a transaction: sqlx takes no lock on SQLite, so two processes would both create the tables.
async fn migrate_exclusively(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    migrate(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Refuses files that all users of the machine can read, because they contain password hashes.
fn refuse_public(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(unusable(path, "it is a folder: name a file in it", None));
            }
            Ok(metadata) if private_file::is_public(&metadata) => {
                return Err(StoreError::WorldReadable(file.into()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Creates the file, because SQLite would make it readable by all users of the machine.
fn create_file(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let created = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
    let Err(error) = created else { return Ok(()) };
    let fix = match error.kind() {
        ErrorKind::AlreadyExists => return Ok(()),
        ErrorKind::StorageFull => return Err(sqlx::Error::Io(error).into()),
        ErrorKind::NotFound | ErrorKind::NotADirectory => "create its folder first",
        _ => "check that this user may write in its folder",
    };
    Err(unusable(path, fix, Some(sqlx::Error::Io(error))))
}

/// The error for a file that SQLite can't open, by its primary result code (sqlite.org/rescode.html).
fn open_error(path: &Path, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code: Option<u32> = code.and_then(|code| code.parse().ok());
    let fix = match code.map(|code| code & 0xff) {
        Some(5) => "another program has locked it: stop that program",
        Some(11 | 26) => "it is not a database, or is damaged: restore a backup",
        Some(13) => return error.into(),
        _ => "check that this user may read and write it and its folder",
    };
    unusable(path, fix, Some(error))
}

fn unusable(path: &Path, fix: &str, source: Option<sqlx::Error>) -> StoreError {
    StoreError::Open { what: path.display().to_string(), fix: fix.into(), source }
}
