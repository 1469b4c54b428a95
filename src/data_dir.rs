//! The data folder: SQLite and the two keys, and who may read which.
//!
//! As root, the folder and the database belong to the group `memgate`, so that the roles share them;
//! the sticky bit keeps one role from removing another's files. The token key is for that group to
//! read, the lane key for the proxy alone (DESIGN 3.4).

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
/// Says that we made the folder, so that `down --purge` may remove it.
const MADE_HERE: &str = ".made-by-memgate";
/// Less free space than this is a full disk: SQLite couldn't write its log.
const LEAST_FREE: u64 = 8 << 20;

/// Owner and group may do all; new files get the group; only a file's owner may remove it.
const SHARED_FOLDER: u32 = 0o3770;
const OWN_FOLDER: u32 = 0o750;

/// A data folder that may or may not be there yet.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// The one that the command line names.
    pub(crate) fn of(global: &GlobalArgs) -> Self {
        Self { path: data_path(global) }
    }

    /// The folder at this path.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Whether it holds an installation.
    pub(crate) fn is_in_use(&self) -> bool {
        self.path.join(TOKEN_KEY).exists() || self.path.join(LANE_KEY).exists()
    }

    /// Makes the folder, the keys and the database's file, each for those who need it. Safe to repeat.
    pub(crate) fn prepare(
        &mut self,
        settings: &Settings,
        accounts: Option<&SystemUsers>,
    ) -> Result<(), CliError> {
        self.make()?;
        self.refuse_full_disk()?;
        let group = accounts.map(|accounts| accounts.group);
        let mode = if group.is_some() { SHARED_FOLDER } else { OWN_FOLDER };
        set_owner(&self.path, None, group, mode)?;
        self.keep_new_keys()?;
        if let Some(accounts) = accounts {
            set_owner(&self.path.join(TOKEN_KEY), None, group, 0o640)?;
            set_owner(&self.path.join(LANE_KEY), Some(accounts.proxy), group, 0o400)?;
        }
        if let Database::Sqlite(file) = settings.database(&self.path) {
            prepare_database(&file, group)?;
        }
        Ok(())
    }

    /// Reads the key that tokens are hashed with.
    pub(crate) fn token_key(&self) -> Result<TokenKey, CliError> {
        self.require()?;
        Ok(TokenKey::load(&self.path.join(TOKEN_KEY))?)
    }

    /// Reads the key that lane secrets are made from.
    pub(crate) fn lane_key(&self) -> Result<LaneKey, CliError> {
        self.require()?;
        Ok(LaneKey::load(&self.path.join(LANE_KEY))?)
    }

    /// Opens the store of an installation that is there already.
    pub(crate) async fn open_store(&self, settings: &Settings) -> Result<Store, CliError> {
        self.require()?;
        Ok(Store::open(&settings.database(&self.path)).await?)
    }

    /// Removes what [`DataDir::prepare`] and the store have made, and nothing else.
    pub(crate) fn purge(&self, settings: &Settings) -> Result<Vec<PathBuf>, CliError> {
        let names = [TOKEN_KEY, LANE_KEY, LOCK].into_iter().chain(ca::FILES);
        let mut files: Vec<PathBuf> = names.map(|name| self.path.join(name)).collect();
        if let Database::Sqlite(file) = settings.database(&self.path) {
            files.extend(["-wal", "-shm", "-journal", ""].map(|suffix| with_suffix(&file, suffix)));
            files.push(file.with_extension("lead"));
        }
        let made_here = self.path.join(MADE_HERE);
        let ours = made_here.exists();
        files.push(made_here);
        let mut removed = Vec::new();
        for file in files {
            match fs::remove_file(&file) {
                Ok(()) => removed.push(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(cannot("remove", &file, &error)),
            }
        }
        // Not empty: the rest is somebody else's.
        if ours && fs::remove_dir(&self.path).is_ok() {
            removed.push(self.path.clone());
        }
        Ok(removed)
    }

    fn require(&self) -> Result<(), CliError> {
        if self.is_in_use() {
            return Ok(());
        }
        if let Err(error) = fs::metadata(self.path.join(TOKEN_KEY))
            && error.kind() != ErrorKind::NotFound
        {
            return Err(cannot("look into", &self.path, &error));
        }
        Err(CliError::new(
            format!("{} holds no memgate data", self.path.display()),
            "name the data folder with --data DIR, or make one with `memgate up`",
        ))
    }

    /// Makes the folder itself, and its path absolute. An existing one must be empty or ours.
    fn make(&mut self) -> Result<(), CliError> {
        let made = match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(cannot("make", &self.path, &error)),
        };
        self.path = fs::canonicalize(&self.path).map_err(|error| cannot("use", &self.path, &error))?;
        if made {
            create(&self.path.join(MADE_HERE), 0o600)?;
        } else if !self.is_in_use() {
            self.refuse_strangers()?;
        }
        Ok(())
    }

    /// A mistyped `--data /etc` must not change who may enter /etc.
    fn refuse_strangers(&self) -> Result<(), CliError> {
        let entries = fs::read_dir(&self.path).map_err(|error| cannot("read", &self.path, &error))?;
        for name in entries.flatten().map(|entry| entry.file_name()) {
            let known = ["lost+found", LOCK, MADE_HERE].iter().any(|known| name == *known);
            if !known && !name.to_string_lossy().starts_with("memgate.") {
                return Err(CliError::new(
                    format!("{} is not empty and holds no memgate data", self.path.display()),
                    "name a new or empty folder with --data DIR",
                ));
            }
        }
        Ok(())
    }

    fn keep_new_keys(&self) -> Result<(), CliError> {
        TokenKey::load_or_create(&self.path.join(TOKEN_KEY))?;
        LaneKey::load_or_create(&self.path.join(LANE_KEY))?;
        Ok(())
    }

    fn refuse_full_disk(&self) -> Result<(), CliError> {
        let Ok(disk) = rustix::fs::statvfs(&self.path) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= LEAST_FREE {
            return Ok(());
        }
        Err(CliError::new(
            format!("the disk under {} is full ({} KB left)", self.path.display(), free >> 10),
            "free some space, or name another folder with --data DIR",
        ))
    }
}

/// Makes SQLite's file before SQLite does, so that its owner, group and mode are ours; SQLite gives
/// the files beside it the same.
fn prepare_database(file: &Path, group: Option<Gid>) -> Result<(), CliError> {
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if create(file, mode)? || group.is_some() {
        for suffix in ["", "-wal", "-shm"] {
            let file = with_suffix(file, suffix);
            // One that everybody can read is not ours to mend quietly: the store refuses it.
            if fs::metadata(&file).is_ok_and(|meta| meta.mode() & 0o007 == 0) {
                set_owner(&file, None, group, mode)?;
            }
        }
    }
    Ok(())
}

/// Makes an empty file; whether it was not there before.
fn create(path: &Path, mode: u32) -> Result<bool, CliError> {
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot("make", path, &error)),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> CliError {
    let fix = match error.kind() {
        ErrorKind::StorageFull => "free some space, or name another folder with --data DIR",
        ErrorKind::PermissionDenied => "run this as root, or as the user that the data belongs to",
        ErrorKind::NotFound => "make the folder above it first, or name another one with --data DIR",
        _ => "check the path, or name another folder with --data DIR",
    };
    CliError::new(format!("can't {verb} {} ({error})", path.display()), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_removed_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        let mut folder = DataDir::at(&parent.path().join("data"));
        folder.prepare(&settings, None).unwrap();
        folder.prepare(&settings, None).unwrap();
        assert!(folder.is_in_use());
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        folder.purge(&settings).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn a_folder_of_other_things_is_left_alone() {
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("notes.txt"), "mine").unwrap();
        let before = fs::metadata(other.path()).unwrap().mode();
        assert!(DataDir::at(other.path()).prepare(&Settings::default(), None).is_err());
        assert_eq!(fs::metadata(other.path()).unwrap().mode(), before);
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_was_there_stays() {
        let there = tempfile::tempdir().unwrap();
        let mut folder = DataDir::at(there.path());
        folder.prepare(&Settings::default(), None).unwrap();
        folder.purge(&Settings::default()).unwrap();
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
    }
}
