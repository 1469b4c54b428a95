//! SQLite: one file, private to its owner and group, in WAL mode.

use std::io::ErrorKind;
use std::path::Path;

use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, Db, MAX_CONNECTIONS, migrate};
use crate::{StoreError, files};

/// For the roles of one installation, which share a group; the umask may take more away. SQLite gives
/// `-wal` and `-shm` the same.
const MODE: u32 = 0o660;

pub(super) async fn open(path: &Path) -> Result<Db, StoreError> {
    refuse_public(path)?;
    make_file(path)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    // A full disk makes SQLite roll back by itself; sqlx then believes that the transaction goes on, and
    // every later one would fail. Such a connection is replaced.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
    let write = connect(writer, &options).await.map_err(|error| refused(path, error))?;
    migrate_alone(&write).await?;
    let options = options.pragma("query_only", "ON");
    let read = connect(SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS), &options)
        .await
        .map_err(|error| refused(path, error))?;
    Ok(Db::Sqlite { read, write })
}

async fn connect(pool: SqlitePoolOptions, options: &SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    pool.acquire_timeout(ACQUIRE_TIMEOUT).connect_with(options.clone()).await
}

/// sqlx takes no lock on SQLite: two processes would both make the tables.
async fn migrate_alone(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    migrate(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// Password hashes are in it: nobody but its owner and group may read it.
fn refuse_public(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match std::fs::metadata(&file) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(unusable(path, "it is a folder: name a file in it", None));
            }
            Ok(metadata) if files::is_public(&metadata) => {
                return Err(StoreError::WorldReadable(file.into()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Left to itself SQLite would make the file for everybody to read.
fn make_file(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let error = match files::create(path, MODE, b"") {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let fix = match error.kind() {
        ErrorKind::AlreadyExists => return Ok(()),
        ErrorKind::StorageFull => return Err(sqlx::Error::Io(error).into()),
        ErrorKind::NotFound | ErrorKind::NotADirectory => "make its folder first",
        _ => "check that this user may write in its folder",
    };
    Err(unusable(path, fix, Some(sqlx::Error::Io(error))))
}

/// What to do when SQLite can't open a file, by its primary result code (sqlite.org/rescode.html).
fn refused(path: &Path, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let code: Option<u32> = code.and_then(|code| code.parse().ok());
    let fix = match code.map(|code| code & 0xff) {
        Some(5) => "another program holds it: end that program",
        Some(11 | 26) => "it isn't a database, or is damaged: restore a backup",
        Some(13) => return error.into(),
        _ => "check that this user may read and write it and its folder",
    };
    unusable(path, fix, Some(error))
}

fn unusable(path: &Path, fix: &str, source: Option<sqlx::Error>) -> StoreError {
    StoreError::Open { what: path.display().to_string(), fix: fix.into(), source }
}
