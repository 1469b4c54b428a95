//! The data directory: SQLite database, keys and certificates, with their owners and modes.
//!
//! As root, the directory and the database belong to the group `memgate`, which the roles share; the sticky
//! bit stops one role from removing another role's files. That group may read the token key; only the proxy
//! may read the lane key.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Gid;
use store::{Database, LaneKey, Store, TokenKey};

use crate::ca;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::settings::{Settings, data_path};
use crate::system_users::{SystemUsers, set_owner};

const TOKEN_KEY: &str = "token.key";
const LANE_KEY: &str = "lane.key";
const LOCK: &str = "up.lock";
/// Marks a directory that memgate created, so that `down --purge` may remove it.
const CREATED_MARKER: &str = ".made-by-memgate";
/// Bytes. With less free space SQLite may fail to write its log.
const FREE_SPACE_MIN: u64 = 8 << 20;

/// Owner and group have full access; new files inherit the group; only its owner may remove a file.
const SHARED_MODE: u32 = 0o3770;
const PRIVATE_MODE: u32 = 0o750;

/// Path of a data directory, which may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The directory that the command line names.
    pub(crate) fn of(global: &GlobalArgs) -> Self {
        Self { path: data_path(global) }
    }

    /// The directory at this path.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Whether the directory contains an installation.
    pub(crate) fn is_initialized(&self) -> bool {
        self.path.join(TOKEN_KEY).exists() || self.path.join(LANE_KEY).exists()
    }

    /// Creates the directory, the keys and the database file with their owners and modes. Idempotent.
    ///
    /// # Errors
    /// If the directory contains other files, the disk is full or something can't be created.
    pub(crate) fn prepare(
        &mut self,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<(), CliError> {
        self.create_dir()?;
        self.require_free_space()?;
        let group = system_users.map(|system_users| system_users.group);
        let mode = if group.is_some() { SHARED_MODE } else { PRIVATE_MODE };
        set_owner(&self.path, None, group, mode)?;
        self.create_keys()?;
        if let Some(system_users) = system_users {
            set_owner(&self.path.join(TOKEN_KEY), None, group, 0o640)?;
            set_owner(&self.path.join(LANE_KEY), Some(system_users.proxy), group, 0o400)?;
        }
        if let Database::Sqlite(file) = settings.database(&self.path) {
            prepare_database(&file, group)?;
        }
        Ok(())
    }

    /// Reads the key of token hashes.
    pub(crate) fn token_key(&self) -> Result<TokenKey, CliError> {
        self.require_initialized()?;
        Ok(TokenKey::load(&self.path.join(TOKEN_KEY))?)
    }

    /// Reads the key from which lane credentials are derived.
    pub(crate) fn lane_key(&self) -> Result<LaneKey, CliError> {
        self.require_initialized()?;
        Ok(LaneKey::load(&self.path.join(LANE_KEY))?)
    }

    /// Opens the store of an existing installation.
    pub(crate) async fn open_store(&self, settings: &Settings) -> Result<Store, CliError> {
        self.require_initialized()?;
        Ok(Store::open(&settings.database(&self.path)).await?)
    }

    /// Removes the files that [`DataDir::prepare`] and the store created, and nothing else.
    pub(crate) fn purge(&self, settings: &Settings) -> Result<Vec<PathBuf>, CliError> {
        let names = [TOKEN_KEY, LANE_KEY, LOCK].into_iter().chain(ca::FILES);
        let mut files: Vec<PathBuf> = names.map(|name| self.path.join(name)).collect();
        if let Database::Sqlite(file) = settings.database(&self.path) {
            files.extend(["-wal", "-shm", "-journal", ""].map(|suffix| with_suffix(&file, suffix)));
            files.push(file.with_extension("leader"));
        }
        let marker = self.path.join(CREATED_MARKER);
        let created_by_us = marker.exists();
        files.push(marker);
        let mut removed = Vec::new();
        for file in files {
            match fs::remove_file(&file) {
                Ok(()) => removed.push(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &file, &error)),
            }
        }
        // Fails if the directory contains other files, which stay.
        if created_by_us && fs::remove_dir(&self.path).is_ok() {
            removed.push(self.path.clone());
        }
        Ok(removed)
    }

    fn require_initialized(&self) -> Result<(), CliError> {
        if self.is_initialized() {
            return Ok(());
        }
        if let Err(error) = fs::metadata(self.path.join(TOKEN_KEY))
            && error.kind() != ErrorKind::NotFound
        {
            return Err(io_error("open", &self.path, &error));
        }
        Err(CliError::new(
            format!("{} contains no memgate data", self.path.display()),
            "name the data directory with --data DIR, or create one with `memgate up`",
        ))
    }

    /// Creates the directory and makes its path absolute. An existing directory must be empty or ours.
    fn create_dir(&mut self) -> Result<(), CliError> {
        let created = match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(io_error("create", &self.path, &error)),
        };
        self.path = fs::canonicalize(&self.path).map_err(|error| io_error("open", &self.path, &error))?;
        if created {
            create_file(&self.path.join(CREATED_MARKER), 0o600)?;
        } else if !self.is_initialized() {
            self.require_empty()?;
        }
        Ok(())
    }

    /// Rejects a directory with other files: a mistyped `--data /etc` must not change the mode of /etc.
    fn require_empty(&self) -> Result<(), CliError> {
        let entries = fs::read_dir(&self.path).map_err(|error| io_error("read", &self.path, &error))?;
        for name in entries.flatten().map(|entry| entry.file_name()) {
            let known = ["lost+found", LOCK, CREATED_MARKER].iter().any(|known| name == *known);
            if !known && !name.to_string_lossy().starts_with("memgate.") {
                return Err(CliError::new(
                    format!("{} is not empty and contains no memgate data", self.path.display()),
                    "name a new or empty directory with --data DIR",
                ));
            }
        }
        Ok(())
    }

    fn create_keys(&self) -> Result<(), CliError> {
        TokenKey::load_or_create(&self.path.join(TOKEN_KEY))?;
        LaneKey::load_or_create(&self.path.join(LANE_KEY))?;
        Ok(())
    }

    fn require_free_space(&self) -> Result<(), CliError> {
        let Ok(disk) = rustix::fs::statvfs(&self.path) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= FREE_SPACE_MIN {
            return Ok(());
        }
        Err(CliError::new(
            format!("the disk under {} is full ({} KB left)", self.path.display(), free >> 10),
            "free some space, or name another directory with --data DIR",
        ))
    }
}

/// Creates SQLite's file before SQLite does, to set its owner, group and mode. SQLite's `-wal` and `-shm` files
/// inherit them.
fn prepare_database(file: &Path, group: Option<Gid>) -> Result<(), CliError> {
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if create_file(file, mode)? || group.is_some() {
        for suffix in ["", "-wal", "-shm"] {
            let file = with_suffix(file, suffix);
            // The store rejects a world-readable file; that must not be hidden by changing the mode here.
            if fs::metadata(&file).is_ok_and(|meta| meta.mode() & 0o007 == 0) {
                set_owner(&file, None, group, mode)?;
            }
        }
    }
    Ok(())
}

/// Creates an empty file. Returns whether it did not exist before.
fn create_file(path: &Path, mode: u32) -> Result<bool, CliError> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_error("create", path, &error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn io_error(verb: &str, path: &Path, error: &std::io::Error) -> CliError {
    let fix = match error.kind() {
        ErrorKind::StorageFull => "free some space, or name another directory with --data DIR",
        ErrorKind::PermissionDenied => "run this as root, or as the user that owns the data",
        ErrorKind::NotFound => "create the parent directory first, or name another directory with --data DIR",
        _ => "check the path, or name another directory with --data DIR",
    };
    CliError::new(format!("can't {verb} {} ({error})", path.display()), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_removes_only_our_files() {
        let parent = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let mut data_dir = DataDir::at(&parent.path().join("data"));
        data_dir.prepare(&settings, None).unwrap();
        data_dir.prepare(&settings, None).unwrap();
        assert!(data_dir.is_initialized());
        fs::write(data_dir.path().join("notes.txt"), "mine").unwrap();
        data_dir.purge(&settings).unwrap();
        let left: Vec<_> = fs::read_dir(data_dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn directory_with_other_files_is_rejected_unchanged() {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("notes.txt"), "mine").unwrap();
        let before = fs::metadata(other.path()).unwrap().mode();
        assert!(DataDir::at(other.path()).prepare(&Settings::default(), None).is_err());
        assert_eq!(fs::metadata(other.path()).unwrap().mode(), before);
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn existing_directory_survives_a_purge() {
        let existing = tempfile::tempdir().unwrap();
        let mut data_dir = DataDir::at(existing.path());
        data_dir.prepare(&Settings::default(), None).unwrap();
        data_dir.purge(&Settings::default()).unwrap();
        assert_eq!(fs::read_dir(existing.path()).unwrap().count(), 0);
    }
}
