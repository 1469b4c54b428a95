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
    /// The database's file doesn't exist.
    #[error(
        "the database {} is missing: put it back, or stop memgate and restore it from a backup; a new installation \
         needs an empty data directory",
        .0.display()
    )]
    Missing(PathBuf),
    /// The database has no tables of memgate.
    #[error("the database {0} is empty: restore it from a backup, or run `memgate migrate` if it is new")]
    NoTables(String),
    /// All users of the machine can read the file.
    #[error("{} can be read by everybody, as a restored backup often can: run `chmod o= {}`", .0.display(), .0.display())]
    WorldReadable(PathBuf),
    /// SQLite would write a rollback journal, whose content decides which files it removes.
    #[error("the database isn't in WAL mode: restore a backup")]
    NotWal,
    /// A newer memgate has migrated the database.
    #[error(
        "the database is from a newer memgate (its migration is {found}, memgate {} knows {known}): install that version, \
         or restore a backup", env!("CARGO_PKG_VERSION")
    )]
    NewerSchema {
        /// The migration that this version doesn't know.
        found: i64,
        /// The newest that it knows.
        known: i64,
    },
    /// An older memgate made the database, and perhaps still uses it.
    #[error(
        "the database is from an older memgate (migration {found} of {needed}): stop the older version, then run \
         `memgate up` or `memgate migrate`"
    )]
    OlderSchema {
        /// The newest migration that it has.
        found: i64,
        /// The newest migration of this version.
        needed: i64,
    },
    /// A migration failed.
    #[error("can't migrate the database: see the cause, restore a backup if it doesn't start again")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// The disk is full.
    #[error("can't save now, the disk is full: free some space")]
    DiskFull(#[source] sqlx::Error),
    /// Another program has locked the database for longer than a write waits.
    #[error("another program has locked the database: try again, or find that program and stop it")]
    Locked(#[source] sqlx::Error),
    /// A value that must be unique is taken, such as an e-mail address.
    #[error("that {0} is taken: choose another")]
    AlreadyExists(&'static str),
    /// There are already as many as allowed.
    #[error("{0} limit reached: delete one first")]
    LimitReached(&'static str),
    /// Something else refers to it.
    #[error("that {0} is in use: see what uses it, and change that first")]
    InUse(&'static str),
    /// A plan's caches hold more than its new memory.
    #[error(
        "{caches} caches of the plan hold more than {memory_mb} MB now: keep it at {most_mb} MB or more, or let their oldest \
         items go"
    )]
    PlanHolds {
        /// How many caches.
        caches: i64,
        /// What the plan was to have, in MiB.
        memory_mb: i64,
        /// What the largest of them holds, in MiB.
        most_mb: i64,
    },
    /// Warm caches would start empty with a plan's new memory, or with another plan's.
    #[error("{caches} warm caches would be emptied: keep their memory, or let their items go")]
    PlanEmpties {
        /// How many caches.
        caches: i64,
    },
    /// A cache was to sleep later than its plan allows.
    #[error("the cache's plan puts it to sleep after {max} s without a command: choose a shorter time")]
    SleepsEarlier {
        /// The plan's time, in seconds.
        max: i64,
    },
    /// What was asked of a cache can't be done now.
    #[error(transparent)]
    Operation(#[from] crate::operation_error::OperationError),
    /// There are more rows than a process reads at once.
    #[error("the database has more than 20,000 {0}: remove those that somebody made without need")]
    TooMany(&'static str),
    /// The row doesn't exist.
    #[error("there is no such {0}: check the spelling")]
    NotFound(&'static str),
    /// A row contains a value that no version of memgate writes.
    #[error("the database contains an invalid {0}: restore a backup")]
    Corrupt(&'static str),
    /// A row of a table that is to be copied has an invalid value.
    #[error("a row of the table {0} has a value that can't be copied: restore a backup, or correct the row")]
    Unreadable(String),
    /// The database doesn't answer in time.
    #[error("the database doesn't answer in time: check that it runs, and how busy it is")]
    Timeout,
    /// The revision went backwards, as after restoring a backup.
    #[error("the database went back to an earlier revision (restored backup?): restarting from a fresh read")]
    RolledBack,
    /// The database's user may not create others, or set their passwords.
    #[error(
        "the database's user {0} may not create other users: run this with a store.url whose user may (CREATEROLE)"
    )]
    MayNotCreateUsers(String),
    /// This kind of database can't do what was asked for.
    #[error("{0}: name another database")]
    Unsupported(&'static str),
    /// The roles' users could create functions in the schema.
    #[error(
        "the roles' users may create tables and functions in the schema {0}, as everybody may up to PostgreSQL 14: run \
         REVOKE CREATE ON SCHEMA {0} FROM PUBLIC as its owner"
    )]
    SchemaIsWritable(String),
    /// Any other failure: the database is unreachable.
    #[error("the database doesn't answer as it should: check that it runs")]
    Unavailable(#[source] sqlx::Error),
}

/// SQLite's result code for a statement that took too much CPU time.
const SQLITE_INTERRUPT: &str = "9";
/// SQLite's primary result code for a full disk.
const SQLITE_FULL: &str = "13";
/// SQLite's extended result code when `-shm` can't grow (SQLITE_IOERR_SHMSIZE).
const SQLITE_SHM_FULL: &str = "4874";
/// SQLite's primary result codes of a connection that can't write, of I/O errors and of damaged files.
const SQLITE_LASTING: [u32; 4] = [8, 10, 11, 26];
/// SQLite's extended result code when the database's name is away (SQLITE_IOERR_FSTAT). Connections that have it open go on.
const SQLITE_NAME_AWAY: u32 = 1802;
/// SQLite's primary result code for a statement that makes no sense.
const SQLITE_ERROR: u32 = 1;
/// SQLite's primary result code for a lock that wasn't released in time.
const SQLITE_BUSY: u32 = 5;
/// PostgreSQL's SQLSTATE for a full disk.
const PG_DISK_FULL: &str = "53100";
/// PostgreSQL's SQLSTATE for a write to a server that only reads, such as one that is no longer the primary.
const PG_READ_ONLY: &str = "25006";
/// PostgreSQL's SQLSTATE for a table that doesn't exist.
const PG_MISSING_TABLE: &str = "42P01";
/// PostgreSQL's SQLSTATE for a lock that wasn't released in time.
const PG_LOCKED: &str = "55P03";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            error if is_disk_full(&error) => Self::DiskFull(error),
            error if is_locked(&error) => Self::Locked(error),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Self::Corrupt("row"),
            // The checks of a connection pass their errors through sqlx.
            sqlx::Error::Configuration(error) => match error.downcast::<Self>() {
                Ok(error) => *error,
                Err(error) => Self::Unavailable(sqlx::Error::Configuration(error)),
            },
            error if is_interrupted(&error) => Self::Timeout,
            error => Self::Unavailable(error),
        }
    }
}

fn is_interrupted(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == SQLITE_INTERRUPT)
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

/// Whether another program holds a lock for too long.
pub(crate) fn is_locked(error: &sqlx::Error) -> bool {
    has_code(error, PG_LOCKED) || sqlite_code(error) == Some(SQLITE_BUSY)
}

/// Whether the connection will fail again, even when the cause is gone.
pub(crate) fn is_lasting(error: &sqlx::Error) -> bool {
    let sqlite = extended_sqlite_code(error).filter(|code| *code != SQLITE_NAME_AWAY);
    has_code(error, PG_READ_ONLY) || sqlite.is_some_and(|code| SQLITE_LASTING.contains(&(code & 0xff)))
}

/// Whether a statement names a table that doesn't exist.
pub(crate) fn is_missing_table(error: &sqlx::Error) -> bool {
    let is_sqlite = sqlite_code(error) == Some(SQLITE_ERROR);
    has_code(error, PG_MISSING_TABLE) || (is_sqlite && error.to_string().contains("no such table"))
}

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(code))
}

/// SQLite's primary result code (sqlite.org/rescode.html).
pub(crate) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    extended_sqlite_code(error).map(|code| code & 0xff)
}

fn extended_sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let error = error.as_database_error()?.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    sqlx::error::DatabaseError::code(error)?.parse().ok()
}

/// SQLite's primary result codes for a database that is locked, read-only for a while, or can't be read or written.
const SQLITE_OUTAGES: [u32; 4] = [SQLITE_BUSY, 6, 8, 10];
/// PostgreSQL's classes of SQLSTATEs: connection lost, out of resources, shutting down or starting.
const PG_OUTAGES: [&str; 3] = ["08", "53", "57P"];

fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(postgres) if sqlite_code(error).is_none() => {
            let code = postgres.code().unwrap_or_default();
            PG_OUTAGES.iter().any(|class| code.starts_with(class))
        }
        _ => sqlite_code(error).is_some_and(|code| SQLITE_OUTAGES.contains(&code)),
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
    /// Whether the database is away, busy or full, and may answer later without a change of settings.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout | Self::DiskFull(_) | Self::Locked(_) => true,
            Self::Open { source: Some(error), .. } | Self::Unavailable(error) => is_outage(error),
            _ => false,
        }
    }

    /// `AlreadyExists(what)` for a violated unique constraint; other errors are converted by `From`.
    pub(crate) fn unique(error: sqlx::Error, what: &'static str) -> Self {
        match error.as_database_error() {
            Some(e) if e.is_unique_violation() => Self::AlreadyExists(what),
            _ => error.into(),
        }
    }

    /// Whether the database failed. Other errors say that the request makes no sense.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::DiskFull(_) | Self::Locked(_) | Self::Timeout => true,
            Self::Unavailable(error) => {
                let kind = error.as_database_error().map(sqlx::error::DatabaseError::kind);
                !kind.is_some_and(|kind| kind != sqlx::error::ErrorKind::Other)
            }
            _ => false,
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
