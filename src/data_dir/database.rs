//! SQLite's files. As root, their folder is one that only root may write: the unprivileged roles write the files' content, and
//! never decide what a name leads to. So `-wal` and `-shm`, which SQLite makes when they are missing, must exist before
//! an unprivileged role opens the database.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use store::private_file::{self, Access};
use store::sqlite_file::{self, Content};

use crate::output::CliError;
use crate::trusted_folder::{self, Use};

/// Files that SQLite makes beside the database. It makes no `-journal`: a database is in WAL mode from its first byte on.
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
/// If a file can't be created, isn't a regular file, another user owns it, or everybody may read it; or if the database's
/// file contains something else. Then nothing of it was changed.
pub(super) fn prepare_files(file: &Path, group: Option<u32>) -> Result<(), CliError> {
    require_trusted(file)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    let access = Access { owner: None, group, mode };
    let existing = if create(file, access, &sqlite_file::empty_database())? { None } else { Some(file) };
    if let Some(file) = existing {
        require_database(file, group.is_some())?;
    }
    if group.is_none() {
        return Ok(());
    }
    for file in existing.map(Path::to_path_buf).into_iter().chain(log_files(file)) {
        if !create(&file, access, b"")? {
            let opened = private_file::open_shared(&file)?;
            private_file::set_access(&opened, access)
                .map_err(|error| super::entries::io_error("set the access of", &file, &error))?;
        }
    }
    Ok(())
}

/// Refuses a file that is no database: a mistyped `store.path` must not change who may read or write it. Makes a database of
/// an empty one.
fn require_database(file: &Path, is_shared: bool) -> Result<(), CliError> {
    let failed = |error: std::io::Error| super::entries::io_error("read", file, &error);
    let opened =
        if is_shared { private_file::open_shared(file)? } else { File::open(file).map_err(failed)? };
    match sqlite_file::content(&opened).map_err(failed)? {
        Content::Wal | Content::OtherMode => Ok(()),
        Content::Other => Err(CliError::new(
            format!("{} contains something else than a database", file.display()),
            "name another file as store.path, or restore the database from a backup",
        )),
        Content::Empty => {
            sqlite_file::fill_if_empty(file).map_err(|error| super::entries::io_error("write", file, &error))
        }
    }
}

/// Makes the files again that SQLite removes when root closes the database last.
pub(super) fn restore_log_files(file: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Ok(meta) = fs::symlink_metadata(file) else { return };
    let access = Access { owner: Some(meta.uid()), group: Some(meta.gid()), mode: meta.mode() & 0o777 };
    for file in log_files(file) {
        if let Err(error) = create(&file, access, b"") {
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

/// What a database is called after its content was moved to PostgreSQL, so that nothing uses it by mistake.
pub(crate) fn moved_database(file: &Path) -> PathBuf {
    with_suffix(file, ".moved")
}

/// All files that a database may consist of.
pub(super) fn all_files(file: &Path) -> impl Iterator<Item = PathBuf> {
    let suffixes = LOG_FILES.into_iter().chain(["-journal", ""]);
    suffixes.map(|suffix| with_suffix(file, suffix)).chain([file.with_extension("leader")])
}

pub(super) fn log_files(file: &Path) -> impl Iterator<Item = PathBuf> {
    LOG_FILES.into_iter().map(|suffix| with_suffix(file, suffix))
}

/// Creates a file. Returns whether it did not exist before.
fn create(file: &Path, access: Access, bytes: &[u8]) -> Result<bool, CliError> {
    match private_file::create(file, access, bytes) {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    // a mistyped `store.path`.
    #[test]
    fn file_that_is_no_database_is_refused_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memgate.db");
        let own_group = rustix::process::getegid().as_raw();
        for group in [None, Some(own_group)] {
            for content in ["root:x:0:0", "SQLite format 2", &"x".repeat(10_000)] {
                fs::write(&file, content).unwrap();
                fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
                let error = prepare_files(&file, group).unwrap_err().to_string();
                assert!(error.contains("something else than a database"), "{error}");
                assert_eq!(fs::read_to_string(&file).unwrap(), content);
                assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
            }
            fs::write(&file, "").unwrap();
            prepare_files(&file, group).unwrap();
            assert_eq!(sqlite_file::content(&File::open(&file).unwrap()).unwrap(), Content::Wal);
        }
    }
}
