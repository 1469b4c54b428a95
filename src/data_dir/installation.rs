//! The file with the installation's id. What acts on Docker believes this file alone: the store's copy may have been changed by
//! an unprivileged role, and then belongs to no command any more.

use std::path::{Path, PathBuf};

use store::Store;
use store::private_file::{self, Access};

use super::entries::exists;
use super::keys;
use crate::output::CliError;

/// The file's name in the data directory.
pub(super) const FILE: &str = "installation.id";
/// Its name until the store has recorded the id. Until then the keys may be made, and afterwards never again.
pub(super) const UNRECORDED_FILE: &str = "installation.id.new";
/// Bytes that are read of the file, which is shorter.
const LENGTH_MAX: u64 = 100;

/// The id in the file; `None` if there is no file.
///
/// # Errors
/// If the file can't be read, or another user could have written it.
pub(super) fn read(data: &Path) -> Result<Option<String>, CliError> {
    read_file(&path(data))
}

/// The id in the file.
///
/// # Errors
/// If there is none, or it can't be trusted.
pub(super) fn require(data: &Path) -> Result<String, CliError> {
    let missing = || {
        let fix = if data.join(UNRECORDED_FILE).exists() {
            "the first start didn't finish: run `memgate up` or `memgate migrate` again"
        } else {
            "restore it from a backup, or copy it from another machine of this installation, as the keys"
        };
        CliError::new(format!("{} is missing", path(data).display()), fix)
    };
    read(data)?.ok_or_else(missing)
}

/// Whether a store has recorded the installation of this data directory, as far as its files tell. The keys alone tell it too,
/// unless the first start didn't finish.
///
/// # Errors
/// If the id can't be read.
pub(super) fn is_recorded(data: &Path) -> Result<bool, CliError> {
    let is_first_start = exists(&data.join(UNRECORDED_FILE))? || keys::existing(data)?.is_none();
    Ok(read(data)?.is_some() || !is_first_start)
}

/// Refuses a store of another installation, or of none.
///
/// # Errors
/// If the store has recorded another id, or none.
pub(super) fn compare_with(data: &Path, recorded: Option<String>) -> Result<(), CliError> {
    let own = require(data)?;
    match recorded {
        Some(recorded) => compare(&own, &recorded),
        None => Err(CliError::new(
            format!(
                "the database belongs to no installation, but the data directory to {}",
                own.escape_default()
            ),
            "nothing was written; restore the database from a backup, or name an empty data directory for a new \
             installation",
        )),
    }
}

/// Reads the id; makes one, and the keys, if neither data directory nor store has one.
///
/// # Errors
/// If the store belongs to another installation, or to one whose id this data directory doesn't have.
pub(super) async fn read_or_create(data: &Path, store: &Store) -> Result<String, CliError> {
    let recorded = store.installation_id().await?;
    let unrecorded = data.join(UNRECORDED_FILE);
    // In this order: a concurrent start renames the file.
    let begun = read_file(&unrecorded)?;
    if let Some(own) = read(data)? {
        compare_with(data, recorded)?;
        return Ok(own);
    }
    let own = match (begun, recorded) {
        // The store recorded the id, and the last start ended before it knew.
        (Some(own), Some(recorded)) if own == recorded => own,
        (_, Some(recorded)) => return Err(missing(&recorded)),
        (begun, None) => {
            let own = begun.map_or_else(|| create(data), Ok)?;
            keys::create(data)?;
            compare(&own, &store.record_installation_id(&own).await?)?;
            own
        }
    };
    match std::fs::rename(&unrecorded, path(data)) {
        Err(error) if !path(data).exists() => Err(super::entries::io_error("create", &path(data), &error)),
        _ => Ok(own),
    }
}

/// Makes the id of a new installation.
fn create(data: &Path) -> Result<String, CliError> {
    if let Some(key) = keys::existing(data)? {
        return Err(CliError::new(
            format!(
                "{} exists, but neither {FILE} nor an installation in the database",
                data.join(key).display()
            ),
            format!(
                "restore {FILE} and the database from a backup, or name an empty data directory for a new installation"
            ),
        ));
    }
    let (path, id) = (data.join(UNRECORDED_FILE), store::new_installation_id());
    let access = Access { mode: 0o644, ..Access::PRIVATE };
    match private_file::create(&path, access, format!("{id}\n").as_bytes()) {
        Ok(()) => Ok(id),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            read_file(&path)?.map_or_else(|| require(data), Ok)
        }
        Err(error) => Err(super::entries::io_error("create", &path, &error)),
    }
}

fn read_file(path: &Path) -> Result<Option<String>, CliError> {
    match private_file::read(path, LENGTH_MAX, None) {
        Ok(file) => Ok(Some(String::from_utf8_lossy(&file.bytes).trim().to_owned())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn compare(own: &str, recorded: &str) -> Result<(), CliError> {
    if own == recorded {
        return Ok(());
    }
    // The database may hold any text; the data directory may be mounted elsewhere (`memgate up`).
    let (own, recorded) = (own.escape_default(), recorded.escape_default());
    Err(CliError::new(
        format!(
            "the database says that it belongs to installation {recorded}, but {FILE} in the data directory says {own}"
        ),
        "nothing was touched; name the data directory and the database of one installation, or restore the database \
         from a backup, because somebody may have changed it",
    ))
}

fn missing(recorded: &str) -> CliError {
    let recorded = recorded.escape_default();
    CliError::new(
        format!(
            "the database belongs to installation {recorded}, but {FILE} is missing in the data directory"
        ),
        "copy it and both keys from a backup, or from another machine of that installation",
    )
}

fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}
