//! Errors of the store.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

/// Why a call to the store failed. Messages say how to fix it, and contain no data of users. `Debug` prints the
/// messages of the error and its causes, because the drivers' own `Debug` quotes rows that violate a constraint.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened.
    #[error("can't open the database {what}: {fix}")]
    Open {
        /// A path or an address without its password.
        what: String,
        /// How to fix it.
        fix: String,
        /// The driver's error.
        source: Option<sqlx::Error>,
    },
    /// All users of the machine can read the file.
    #[error("{} can be read by everybody: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// A newer memgate has migrated the database.
    #[error(
        "the database is from a newer memgate (migration {0}): install that version, or restore a backup"
    )]
    NewerSchema(i64),
    /// A migration failed.
    #[error("can't migrate the database: see the cause, restore a backup if it doesn't start again")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The disk is full.
    #[error("can't save now, the disk is full: free some space")]
    DiskFull(#[source] sqlx::Error),
    /// A value that must be unique is taken, such as an e-mail address.
    #[error("that {0} is taken: choose another")]
    AlreadyExists(&'static str),
    /// There are already as many as allowed.
    #[error("{0} limit reached: delete one first")]
    LimitReached(&'static str),
    /// Something else refers to it.
    #[error("that {0} is in use: see what uses it, and change that first")]
    InUse(&'static str),
    /// The row doesn't exist.
    #[error("there is no such {0}: check the spelling")]
    NotFound(&'static str),
    /// A row contains a value that no version of memgate writes.
    #[error("the database contains an invalid {0}: restore a backup")]
    Corrupt(&'static str),
    /// The database doesn't answer in time.
    #[error("the database doesn't answer in time: check that it runs, and how busy it is")]
    Timeout,
    /// The revision went backwards, as after restoring a backup.
    #[error("the database went back to an earlier revision (restored backup?): restarting from a fresh read")]
    RolledBack,
    /// Any other failure: the database is unreachable or locked.
    #[error("the database doesn't answer as it should: check that it runs")]
    Unavailable(#[source] sqlx::Error),
}

/// SQLite's primary result code for a full disk.
const SQLITE_FULL: &str = "13";
/// SQLite's extended result code when `-shm` can't grow (SQLITE_IOERR_SHMSIZE).
const SQLITE_SHM_FULL: &str = "4874";
/// PostgreSQL's SQLSTATE for a full disk.
const PG_DISK_FULL: &str = "53100";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            error if is_disk_full(&error) => Self::DiskFull(error),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Self::Corrupt("row"),
            error => Self::Unavailable(error),
        }
    }
}

pub(crate) fn is_disk_full(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::StorageFull,
        sqlx::Error::Database(error) => {
            matches!(error.code().as_deref(), Some(SQLITE_FULL | SQLITE_SHM_FULL | PG_DISK_FULL))
        }
        _ => false,
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StoreError {
    /// `AlreadyExists(what)` for a violated unique constraint; other errors are converted by `From`.
    pub(crate) fn unique(error: sqlx::Error, what: &'static str) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_unique_violation() => Self::AlreadyExists(what),
            _ => error.into(),
        }
    }

    /// `NotFound(what)` for a violated foreign key; other errors are converted by `From`.
    pub(crate) fn reference(error: sqlx::Error, what: &'static str) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_foreign_key_violation() => Self::NotFound(what),
            _ => error.into(),
        }
    }
}
