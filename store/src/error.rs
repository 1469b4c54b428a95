//! What can go wrong between a role and its database.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;

/// Why a call to the store failed. Messages name the fix where there is one; they hold no data of users.
/// `Debug` is the message and its causes: the drivers' own would quote rows that a constraint refused.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// The database can't be opened.
    #[error("can't open the database {what}: {fix}")]
    Open {
        /// A path or an address without its password.
        what: String,
        /// What to do about it.
        fix: String,
        /// What the driver said.
        source: Option<sqlx::Error>,
    },
    /// The file may be read by everybody on the machine.
    #[error("{} can be read by everybody: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// A newer memgate has migrated it.
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
    /// A value that must be unique is taken: an e-mail address at sign-up, say.
    #[error("that {0} is taken: choose another")]
    AlreadyExists(&'static str),
    /// There are as many as there may be.
    #[error("there is no room for another {0}: do without one of those that are there")]
    LimitReached(&'static str),
    /// A row that was asked for by name isn't there.
    #[error("there is no such {0}: check the spelling")]
    NotFound(&'static str),
    /// A row holds what no memgate writes.
    #[error("the database holds a {0} that makes no sense: restore a backup")]
    Corrupt(&'static str),
    /// It takes too long.
    #[error("the database doesn't answer in time: check that it runs, and how busy it is")]
    Timeout,
    /// It is older than it was.
    #[error("the database went back to an earlier revision (restored backup?): restarting from a fresh read")]
    RolledBack,
    /// Anything else: away, slow, locked.
    #[error("the database doesn't answer as it should: check that it runs")]
    Unavailable(#[source] sqlx::Error),
}

/// SQLite's primary result code for a full disk.
const SQLITE_FULL: &str = "13";
/// SQLite's extended result code when `-shm` can't grow (SQLITE_IOERR_SHMSIZE).
const SQLITE_SHM_FULL: &str = "4874";
/// PostgreSQL's SQLSTATE for it.
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
    /// `AlreadyExists(what)` if the cause is a unique constraint, else as `From` has it.
    pub(crate) fn unique(error: sqlx::Error, what: &'static str) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_unique_violation() => Self::AlreadyExists(what),
            _ => error.into(),
        }
    }

    /// `NotFound(what)` if the cause is a reference to a row that isn't there, else as `From` has it.
    pub(crate) fn reference(error: sqlx::Error, what: &'static str) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_foreign_key_violation() => Self::NotFound(what),
            _ => error.into(),
        }
    }
}
