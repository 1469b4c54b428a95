//! SQLite's files. As root, their folder is one that only root may write: the unprivileged roles write the files' content, and
//! never decide what a name leads to. So `-wal` and `-shm`, which SQLite makes when they are missing, must exist before
//! an unprivileged role opens the database.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use store::private_file::{self, Access};

use crate::output::CliError;
use crate::trusted_folder::{self, Use};

/// Files that SQLite makes beside the database. `-journal` only exists while it makes a new database.
const LOG_FILES: [&str; 2] = ["-wal", "-shm"];

/// Creates the folder, readable by the group that the roles share.
///
/// # Errors
/// If it can't be created, or another user owns it.
pub(super) fn prepare_folder(folder: &Path, group: Option<u32>) -> Result<(), CliError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(super::entries::io_error("create", folder, &error));
        }
        _ => {}
    }
    let opened = private_file::open_folder(folder)?;
    let mode = if group.is_some() { 0o750 } else { 0o700 };
    private_file::set_access(&opened, Access { owner: None, group, mode })
        .map_err(|error| super::entries::io_error("set the access of", folder, &error))
}

/// Creates the files that are missing and gives all their owner, group and mode.
///
/// # Errors
/// If a file can't be created, isn't a regular file, another user owns it, or everybody may read it.
pub(super) fn prepare_files(file: &Path, group: Option<u32>) -> Result<(), CliError> {
    require_trusted(file)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    let access = Access { owner: None, group, mode };
    if group.is_none() {
        return create(file, access).map(drop);
    }
    for file in std::iter::once(file.to_path_buf()).chain(log_files(file)) {
        if !create(&file, access)? {
            let opened = private_file::open_shared(&file)?;
            private_file::set_access(&opened, access)
                .map_err(|error| super::entries::io_error("set the access of", &file, &error))?;
        }
    }
    Ok(())
}

/// Makes the files again that SQLite removes when root closes the database last.
pub(super) fn restore_log_files(file: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(meta) = fs::symlink_metadata(file) else { return };
    let access = Access { owner: Some(meta.uid()), group: Some(meta.gid()), mode: meta.mode() & 0o777 };
    for file in log_files(file) {
        if let Err(error) = create(&file, access) {
            tracing::warn!(%error, "failed to prepare the database for unprivileged roles");
        }
    }
}

/// Refuses a database whose place an unprivileged role decides.
///
/// # Errors
/// If the folder can't be trusted.
pub(super) fn require_trusted(file: &Path) -> Result<(), CliError> {
    trusted_folder::require(file.parent().unwrap_or(Path::new("/")), Use::Exclusive)
}

/// All files that a database may consist of.
pub(super) fn all_files(file: &Path) -> impl Iterator<Item = PathBuf> {
    let suffixes = LOG_FILES.into_iter().chain(["-journal", ""]);
    suffixes.map(|suffix| with_suffix(file, suffix)).chain([file.with_extension("leader")])
}

fn log_files(file: &Path) -> impl Iterator<Item = PathBuf> {
    LOG_FILES.into_iter().map(|suffix| with_suffix(file, suffix))
}

/// Creates an empty file. Returns whether it did not exist before.
fn create(file: &Path, access: Access) -> Result<bool, CliError> {
    match private_file::create(file, access, b"") {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(super::entries::io_error("create", file, &error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}
