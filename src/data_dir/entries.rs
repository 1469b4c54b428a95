//! Single names in the data directory: whether they are there, and what to say when that can't be found out.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::output::CliError;

/// Whether a name is there, also if it leads nowhere.
///
/// # Errors
/// If that can't be looked up, which doesn't mean that nothing is there.
pub(super) fn exists(path: &Path) -> Result<bool, CliError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(io_error("open", path, &error)),
    }
}

/// Creates an empty file. Returns whether it did not exist before.
pub(super) fn create_file(path: &Path, mode: u32) -> Result<bool, CliError> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_error("create", path, &error)),
    }
}

/// What went wrong with a path, and how to fix it.
pub(super) fn io_error(verb: &str, path: &Path, error: &std::io::Error) -> CliError {
    let fix = match error.kind() {
        ErrorKind::StorageFull => "free some space, or name another directory with --data DIR",
        ErrorKind::PermissionDenied => "run this as root, or as the user that owns the data",
        ErrorKind::NotFound => "create the parent directory first, or name another directory with --data DIR",
        _ => "check the path, or name another directory with --data DIR",
    };
    CliError::new(format!("can't {verb} {} ({error})", path.display()), fix)
}
