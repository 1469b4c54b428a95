//! The file with the installation's id. What acts on Docker believes this file alone: the store's copy may have been changed by
//! an unprivileged role, and then belongs to no command any more.

use std::path::{Path, PathBuf};

use store::Store;
use store::private_file::{self, Access};

use crate::output::CliError;

/// The file's name in the data directory.
pub(super) const FILE: &str = "installation.id";
/// Bytes that are read of the file, which is shorter.
const LENGTH_MAX: u64 = 100;

/// The id in the file; `None` if there is no file.
///
/// # Errors
/// If the file can't be read, or another user could have written it.
pub(super) fn read(data: &Path) -> Result<Option<String>, CliError> {
    match private_file::read(&path(data), LENGTH_MAX, None) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The id in the file.
///
/// # Errors
/// If there is none, or it can't be trusted.
pub(super) fn require(data: &Path) -> Result<String, CliError> {
    read(data)?.ok_or_else(|| {
        CliError::new(
            format!("{} is missing", path(data).display()),
            "restore it from a backup, or copy it from another machine of this installation, as the keys",
        )
    })
}

/// Refuses a store of another installation.
///
/// # Errors
/// If the store has another id, or can't be read.
pub(super) async fn require_same(data: &Path, store: &Store) -> Result<(), CliError> {
    let own = require(data)?;
    match store.installation_id().await? {
        Some(recorded) => compare(&own, &recorded),
        None => Err(CliError::new(
            "the database belongs to no installation",
            "run `memgate migrate`, or restore the database from a backup",
        )),
    }
}

/// Reads the id; makes one if neither data directory nor store has one. Returns it, and whether the store was new.
///
/// # Errors
/// If the store belongs to another installation, or to one whose id this data directory doesn't have.
pub(super) async fn read_or_create(data: &Path, store: &Store) -> Result<(String, bool), CliError> {
    let recorded = store.installation_id().await?;
    let own = match (read(data)?, &recorded) {
        (Some(own), _) => own,
        (None, None) => create(data)?,
        (None, Some(recorded)) => return Err(missing(recorded)),
    };
    let is_new = recorded.is_none();
    compare(&own, &store.record_installation_id(&own).await?)?;
    Ok((own, is_new))
}

fn create(data: &Path) -> Result<String, CliError> {
    let (path, id) = (path(data), store::new_installation_id());
    let access = Access { mode: 0o644, ..Access::PRIVATE };
    match private_file::create(&path, access, format!("{id}\n").as_bytes()) {
        Ok(()) => Ok(id),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => require(data),
        Err(error) => Err(super::entries::io_error("create", &path, &error)),
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
