//! SQLite: one file in WAL mode, accessible to its owner and group only.
//!
//! Processes with fewer rights write its content, so a connection trusts nothing in it: see `sqlite/file.rs` and
//! `sqlite/guard.rs`.

pub mod file;
pub(crate) mod guard;
mod refused;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use self::file::unusable;
pub(crate) use self::refused::Refused;
use super::renewable_pool::RenewablePool;
use super::{ACQUIRE_TIMEOUT, BUSY_TIMEOUT, Db, INSTALLATION_ID, StoreOptions, schema};
use crate::private_file;
use crate::rows::{SHORT_ROW_BYTES_MAX, decode};
use crate::{StoreError, error};

/// The file's mode: the roles of one installation share a group. SQLite gives `-wal` and `-shm` the same mode.
const MODE: u32 = 0o660;
/// Connections of one process that read.
const READERS_MAX: u32 = 8;

/// Opens a database that has this version's tables. Nothing is written: a writer connects for its first write.
pub(super) async fn open_existing(path: &Path, options: &StoreOptions) -> Result<Db, StoreError> {
    require_file(path)?;
    let Pools { read, write, refused } = pools(path, options);
    check(path, read.connect_options()).await?;
    let mut reader = read.get().acquire().await.map_err(|error| open_error(path, error))?;
    require_current(&mut reader, path).await?;
    guard::require_own_schema(&mut reader).await?;
    Ok(Db::Sqlite { read, write, refused })
}

/// The installation's id, if the database has recorded one.
pub(super) async fn installation_id(
    path: &Path,
    options: &StoreOptions,
) -> Result<Option<String>, StoreError> {
    match require_file(path) {
        Err(StoreError::NoTables(_)) => return Ok(None),
        other => other?,
    }
    let Pools { read, .. } = pools(path, options);
    check(path, read.connect_options()).await?;
    let read = read.get();
    let found = sqlx::query_scalar(INSTALLATION_ID).fetch_optional(&read).await;
    read.close().await;
    match found {
        Err(error) if error::is_missing_table(&error) => Ok(None),
        found => found.map_err(|error| open_error(path, error)),
    }
}

/// Writes a copy of the database to `copy`, a file that must not exist, as it is at this moment; others go on reading and
/// writing meanwhile. The copy is in WAL mode, complete, and checked.
pub(crate) async fn snapshot(path: &Path, copy: &Path) -> Result<(), StoreError> {
    require_file(path)?;
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(false).busy_timeout(BUSY_TIMEOUT);
    let options = guard::limited(options);
    check(path, &options).await?;
    let mut connection = options.connect().await.map_err(|error| open_error(path, error))?;
    require_current(&mut connection, path).await?;
    guard::require_own_schema(&mut connection).await?;
    let name = copy.to_str().ok_or_else(|| unusable(copy, "name a file in UTF-8", None))?;
    let written = sqlx::query("VACUUM INTO $1").bind(name).execute(&mut connection).await;
    connection.close().await?;
    written
        .map_err(|error| if error::is_disk_full(&error) { error.into() } else { open_error(copy, error) })?;
    let options = SqliteConnectOptions::new().filename(copy).create_if_missing(false);
    let mut connection = options.connect().await.map_err(|error| open_error(copy, error))?;
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
    let found: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await?;
    connection.close().await?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt("page")) }
}

/// Opens the database for reading and writing; creates it and its tables, or migrates them, if they aren't current.
pub(super) async fn migrate(path: &Path, options: &StoreOptions) -> Result<Db, StoreError> {
    refuse_public(path)?;
    create_file(path)?;
    file::require_wal(path)?;
    let Pools { read, write, refused } = pools(path, options);
    check(path, write.connect_options()).await?;
    // Not before there is a writer: it creates the log.
    let mut writer = write.get().acquire().await.map_err(|error| open_error(path, error))?;
    match require_current(&mut writer, path).await {
        Ok(()) => {}
        Err(StoreError::NoTables(_) | StoreError::OlderSchema { .. }) => {
            migrate_exclusively(&mut writer, options).await?;
        }
        Err(error) => return Err(error),
    }
    // SQLite opens the log when it reads the first time. Then the database's name may be away for a while.
    let mut reader = read.get().acquire().await.map_err(|error| open_error(path, error))?;
    require_current(&mut reader, path).await?;
    guard::require_own_schema(&mut reader).await?;
    Ok(Db::Sqlite { read, write, refused })
}

/// Checks a connection before a pool makes others: that would hide the cause of a failure behind a time-out.
async fn check(path: &Path, options: &SqliteConnectOptions) -> Result<(), StoreError> {
    let mut first = options.connect().await.map_err(|error| open_error(path, error))?;
    let checked = guard::check(&mut first).await;
    let _ = first.close().await;
    checked.map_err(|error| match error {
        StoreError::NotWal => file::not_in_wal_mode(path),
        StoreError::Unavailable(error) => open_error(path, error),
        error => error,
    })
}

/// The pool for reading, that for writing, and why a connection of either was refused.
struct Pools {
    read: Arc<RenewablePool<sqlx::Sqlite>>,
    write: Arc<RenewablePool<sqlx::Sqlite>>,
    refused: Arc<Refused>,
}

fn pools(path: &Path, options: &StoreOptions) -> Pools {
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    // No journal mode: setting one would let the file's content decide how SQLite writes it.
    let connect = guard::limited(connect);
    let reader = connect.clone().read_only(true).pragma("query_only", "ON");
    let writer = connect.busy_timeout(options.lock_wait.attempt_timeout());
    // Connections stay open: SQLite keeps its log while there is one, and the file may be away for a while.
    let pool =
        SqlitePoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT).idle_timeout(None).max_lifetime(None);
    let refused = Arc::new(Refused::default());
    let pool = guard::guarded(pool, &refused);
    let read = Arc::new(RenewablePool::new(pool.clone().max_connections(READERS_MAX), reader));
    Pools { read, write: Arc::new(RenewablePool::new(pool.max_connections(1), writer)), refused }
}

async fn require_current(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let query = sqlx::query(schema::APPLIED).map(|row| decode(&row, SHORT_ROW_BYTES_MAX));
    let applied = match query.fetch_all(connection).await {
        // SQLite looks into the file when it reads the first time.
        Err(error) if !error::is_missing_table(&error) => return Err(open_error(path, error)),
        Err(error) => Err(error),
        Ok(rows) => {
            let rows: Result<Vec<schema::Applied>, StoreError> = rows.into_iter().collect();
            Ok(rows.map_err(|_| StoreError::Corrupt("schema"))?)
        }
    };
    schema::require_current(applied, &path.display().to_string())
}

/// Migrates within a transaction: sqlx takes no lock on SQLite, so two processes would both create the tables.
async fn migrate_exclusively(
    connection: &mut SqliteConnection,
    options: &StoreOptions,
) -> Result<(), StoreError> {
    let mut wait = options.lock_wait.start();
    loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Ok(mut tx) => {
                schema::migrate(&mut *tx).await?;
                return Ok(tx.commit().await?);
            }
            Err(error) if error::is_locked(&error) && wait.continues() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn require_file(path: &Path) -> Result<(), StoreError> {
    refuse_public(path)?;
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::Missing(path.into())),
        _ => file::require_wal(path),
    }
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

/// Creates the file, because SQLite would make it readable by all users of the machine, and not in WAL mode. Other processes
/// never see a part of it.
fn create_file(path: &Path) -> Result<(), StoreError> {
    if let Ok(existing) = path.metadata() {
        let filled = if existing.len() == 0 { file::fill_if_empty(path) } else { Ok(()) };
        return filled.map_err(|error| sqlx::Error::Io(error).into());
    }
    let draft = file::with_suffix(path, &format!(".{:016x}.draft", rand::random::<u64>()));
    let created = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft);
    let linked = created.and_then(|mut file| {
        let written = file.write_all(&file::empty_database()).and_then(|()| file.sync_all());
        // Unlike a rename, a link never replaces a file that another process has created meanwhile.
        let linked = written.and_then(|()| std::fs::hard_link(&draft, path));
        let _ = std::fs::remove_file(&draft);
        linked
    });
    let Err(error) = linked else { return Ok(()) };
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
    let fix = match error::sqlite_code(&error) {
        Some(11 | 26) => "it is not a database, or is damaged: restore a backup",
        Some(5 | 13) => return error.into(),
        _ => "check that this user may read and write it and its folder",
    };
    unusable(path, fix, Some(error))
}
