//! The database's tables: whether they are this version's, and their migration.

use sqlx::migrate::{Migrate, MigrateError, Migrator};

use crate::{StoreError, error};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// A migration that the database has: its version and checksum.
pub(super) type Applied = (i64, Vec<u8>);

/// Lists the migrations of a database that has tables.
pub(super) const APPLIED: &str = "SELECT version, checksum FROM _sqlx_migrations ORDER BY version LIMIT 1000";

/// Refuses a database that doesn't have exactly this version's tables.
///
/// # Errors
/// `NoTables`, `NewerSchema`, `OlderSchema`, `Migrate` if a migration isn't what it was.
pub(super) fn require_current(
    applied: Result<Vec<Applied>, sqlx::Error>,
    what: &str,
) -> Result<(), StoreError> {
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) if error::is_missing_table(&error) => return Err(StoreError::NoTables(what.to_owned())),
        Err(error) => return Err(error.into()),
    };
    let Some((found, _)) = applied.last() else { return Err(StoreError::NoTables(what.to_owned())) };
    for (version, checksum) in &applied {
        let Some(known) = MIGRATIONS.iter().find(|known| known.version == *version) else {
            return Err(StoreError::NewerSchema { found: *version, known: newest() });
        };
        if known.checksum.as_ref() != checksum.as_slice() {
            return Err(StoreError::Migrate(MigrateError::VersionMismatch(*version)));
        }
    }
    let needed = newest();
    if applied.len() < MIGRATIONS.iter().count() {
        return Err(StoreError::OlderSchema { found: *found, needed });
    }
    Ok(())
}

/// The newest migration of this version.
fn newest() -> i64 {
    MIGRATIONS.iter().map(|known| known.version).max().unwrap_or_default()
}

/// Creates the tables, or brings them up to date.
///
/// `run_direct`, because the future of `run` is `Send` for some lifetimes only (a limit of today's compiler).
pub(crate) async fn migrate<C: Migrate>(connection: &mut C) -> Result<(), StoreError> {
    MIGRATIONS.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => StoreError::NewerSchema { found, known: newest() },
        MigrateError::Execute(error) => error.into(),
        MigrateError::ExecuteMigration(error, _) if error::is_disk_full(&error) => {
            StoreError::DiskFull(error)
        }
        error => StoreError::Migrate(error),
    })
}
