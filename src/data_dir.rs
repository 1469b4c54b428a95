//! The data directory: root's files, the database, and their owners and modes.
//!
//! As root, only root may write the directory, so no unprivileged role decides what root reads, opens or removes. The
//! roles share the group `memgate`, which may write the content of SQLite's files and read the token key. The group
//! `memgate-proxy` may read the lane key.

mod database;
mod entries;
mod installation;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use store::private_file::{self, Access};
use store::{Database, LaneKey, Store, TokenKey};

use self::entries::{create_file, exists, io_error};
use crate::ca;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::settings::{self, DATABASE_FOLDER, DATABASE_NAME, Settings, data_path};
use crate::system_users::SystemUsers;
use crate::trusted_folder::{self, Use};

const TOKEN_KEY: &str = "token.key";
const LANE_KEY: &str = "lane.key";
const LOCK: &str = "up.lock";
/// Marks a directory that memgate created, so that `down --purge` may remove it.
const CREATED_MARKER: &str = ".made-by-memgate";
/// Bytes. With less free space SQLite may fail to write its log.
const FREE_SPACE_MIN: u64 = 8 << 20;

/// As root: others may pass through to the files that they may read, and see no names.
const PASSABLE_MODE: u32 = 0o711;
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

    /// Whether there is such a directory, or anything else of its name.
    ///
    /// # Errors
    /// If this user may not look.
    pub(crate) fn exists(&self) -> Result<bool, CliError> {
        exists(&self.path)
    }

    /// Whether the directory contains an installation.
    ///
    /// # Errors
    /// If this user may not look: that proves nothing.
    pub(crate) fn is_initialized(&self) -> Result<bool, CliError> {
        for name in [TOKEN_KEY, LANE_KEY, installation::FILE] {
            if exists(&self.path.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Creates the directory and the database's files with their owners and modes. Idempotent. Next comes
    /// [`DataDir::open_or_create`].
    ///
    /// # Errors
    /// If the directory contains other files, the disk is full or something can't be created.
    pub(crate) fn prepare(
        &mut self,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<(), CliError> {
        let created = self.create_dir()?;
        let prepared = self.prepare_files(settings, system_users);
        if created && prepared.is_err() {
            // A start that failed leaves nothing behind.
            let _ = self.purge(settings);
        }
        prepared
    }

    fn prepare_files(&self, settings: &Settings, system_users: Option<&SystemUsers>) -> Result<(), CliError> {
        let folder = private_file::open_folder(&self.path)?;
        let access = match system_users {
            Some(_) => Access { owner: None, group: Some(0), mode: PASSABLE_MODE },
            None => Access { owner: None, group: None, mode: PRIVATE_MODE },
        };
        private_file::set_access(&folder, access)
            .map_err(|error| io_error("set the access of", &self.path, &error))?;
        trusted_folder::require(&self.path, Use::Exclusive)?;
        self.require_free_space()?;
        if let Database::Sqlite(file) = settings.database(&self.path) {
            self.require_database(&file)?;
            let group = system_users.map(|system_users| system_users.group.as_raw());
            if file.parent() == Some(&self.path.join(DATABASE_FOLDER)) {
                database::prepare_folder(&self.path.join(DATABASE_FOLDER), group)?;
            }
            database::prepare_files(&file, group)?;
        }
        Ok(())
    }

    /// Opens the store; in a new installation, creates its id and the keys. Returns the store and the id.
    ///
    /// # Errors
    /// If the store belongs to another installation, or a key is missing that existed.
    pub(crate) async fn open_or_create(
        &self,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<(Store, String), CliError> {
        let store = Store::open(&settings.database(&self.path)).await?;
        let (id, is_new) = installation::read_or_create(&self.path, &store).await?;
        let (token_key, lane_key) = (self.path.join(TOKEN_KEY), self.path.join(LANE_KEY));
        if is_new {
            TokenKey::load_or_create(&token_key)?;
            LaneKey::load_or_create(&lane_key)?;
        }
        // What is wrong with an old key must not be hidden by a change of its mode.
        TokenKey::load(&token_key)?;
        LaneKey::load(&lane_key)?;
        let Some(users) = system_users else { return Ok((store, id)) };
        for (path, group) in [(token_key, users.group), (lane_key, users.proxy_group)] {
            let access = Access { owner: None, group: Some(group.as_raw()), mode: 0o640 };
            private_file::set_access(&private_file::open_existing(&path)?, access)
                .map_err(|error| io_error("set the access of", &path, &error))?;
        }
        Ok((store, id))
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

    /// Reads the installation's id.
    pub(crate) fn installation_id(&self) -> Result<String, CliError> {
        self.require_initialized()?;
        installation::require(&self.path)
    }

    /// Opens the store of an existing installation; close it with [`DataDir::close_store`].
    ///
    /// # Errors
    /// If there is none, or the store belongs to another one.
    pub(crate) async fn open_store(&self, settings: &Settings) -> Result<Store, CliError> {
        self.require_initialized()?;
        let database = settings.database(&self.path);
        if let Database::Sqlite(file) = &database {
            database::require_trusted(file)?;
            self.require_database(file)?;
            database::restore_log_files(file);
        }
        let store = Store::open(&database).await?;
        installation::require_same(&self.path, &store).await?;
        Ok(store)
    }

    /// Closes the store and leaves the database as unprivileged roles need it.
    pub(crate) async fn close_store(&self, settings: &Settings, store: &Store) {
        store.close().await;
        self.restore_log_files(settings);
    }

    /// Makes the files of a SQLite database that its last user removed. Unprivileged roles can't.
    pub(crate) fn restore_log_files(&self, settings: &Settings) {
        if let Database::Sqlite(file) = settings.database(&self.path) {
            database::restore_log_files(&file);
        }
    }

    /// The files that memgate created, as far as they exist.
    ///
    /// # Errors
    /// If this user may not look.
    pub(crate) fn own_files(&self, settings: &Settings) -> Result<Vec<PathBuf>, CliError> {
        let names = [TOKEN_KEY, LANE_KEY, LOCK, installation::FILE].into_iter().chain(ca::FILES);
        let mut files: Vec<PathBuf> = names.map(|name| self.path.join(name)).collect();
        if let Database::Sqlite(file) = settings.database(&self.path) {
            database::require_trusted(&file)?;
            files.extend(database::all_files(&file));
        }
        files.push(self.path.join(CREATED_MARKER));
        let mut existing = Vec::new();
        for file in files {
            if exists(&file)? {
                existing.push(file);
            }
        }
        Ok(existing)
    }

    /// Removes the files that memgate created, and nothing else.
    pub(crate) fn purge(&self, settings: &Settings) -> Result<Vec<PathBuf>, CliError> {
        trusted_folder::require(&self.path, Use::Exclusive)?;
        let created_by_us = exists(&self.path.join(CREATED_MARKER))?;
        let mut removed = Vec::new();
        for file in self.own_files(settings)? {
            match fs::remove_file(&file) {
                Ok(()) => removed.push(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &file, &error)),
            }
        }
        // Fails if a directory contains other files, which stay.
        let folders = [(self.path.join(DATABASE_FOLDER), true), (self.path.clone(), created_by_us)];
        for (folder, is_ours) in folders {
            if is_ours && fs::remove_dir(&folder).is_ok() {
                removed.push(folder);
            }
        }
        Ok(removed)
    }

    fn require_initialized(&self) -> Result<(), CliError> {
        if self.is_initialized()? {
            return trusted_folder::require(&self.path, Use::Exclusive);
        }
        Err(CliError::new(
            format!("{} contains no memgate data", self.path.display()),
            "name the data directory with --data DIR, or create one with `memgate up`",
        ))
    }

    /// An existing installation has a database: an empty one would make the provisioner remove all caches.
    fn require_database(&self, file: &Path) -> Result<(), CliError> {
        let old = self.path.join(DATABASE_NAME);
        if !exists(file)? && exists(&old)? {
            let (folder, name) = (DATABASE_FOLDER, DATABASE_NAME);
            return Err(CliError::new(
                format!("the database {} is not where this version expects it", old.display()),
                format!(
                    "stop memgate, then move {name}, {name}-wal and {name}-shm to the folder {folder} beside them"
                ),
            ));
        }
        if exists(file)? || installation::read(&self.path)?.is_none() {
            return Ok(());
        }
        Err(CliError::new(
            format!("the database {} is missing", file.display()),
            "put it back, or restore it from a backup",
        ))
    }

    /// Creates the directory and makes its path absolute. An existing directory must be empty or ours. Returns whether it
    /// did not exist before.
    fn create_dir(&mut self) -> Result<bool, CliError> {
        let created = match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(io_error("create", &self.path, &error)),
        };
        self.path = fs::canonicalize(&self.path).map_err(|error| io_error("open", &self.path, &error))?;
        // Before anything in it, or its access, is changed: others could give its name to another folder of root's.
        if let Some(parent) = self.path.parent() {
            trusted_folder::require(parent, Use::Shared).inspect_err(|_| {
                if created {
                    let _ = fs::remove_dir(&self.path);
                }
            })?;
        }
        if created {
            create_file(&self.path.join(CREATED_MARKER), 0o600)?;
        } else if !self.is_initialized()? {
            self.require_empty()?;
        }
        Ok(created)
    }

    /// Rejects a directory with other files: a mistyped `--data /etc` must not change the mode of /etc.
    fn require_empty(&self) -> Result<(), CliError> {
        let ours = ["lost+found", LOCK, CREATED_MARKER, DATABASE_FOLDER, settings::FILE, DATABASE_NAME];
        let entries = fs::read_dir(&self.path).map_err(|error| io_error("read", &self.path, &error))?;
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if !ours.iter().any(|known| name == *known) {
                return Err(CliError::new(
                    format!("{} is not empty and contains no memgate data", self.path.display()),
                    "name a new or empty directory with --data DIR",
                ));
            }
        }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    async fn create(path: &Path) -> DataDir {
        let mut data_dir = DataDir::at(path);
        for _ in 0..2 {
            data_dir.prepare(&Settings::default(), None).unwrap();
            let (store, _) = data_dir.open_or_create(&Settings::default(), None).await.unwrap();
            data_dir.close_store(&Settings::default(), &store).await;
        }
        assert!(data_dir.is_initialized().unwrap());
        data_dir
    }

    #[tokio::test]
    async fn purge_removes_only_our_files() {
        let parent = tempfile::tempdir().unwrap();
        let data_dir = create(&parent.path().join("data")).await;
        for name in ["notes.txt", "db/notes.txt"] {
            fs::write(data_dir.path().join(name), "mine").unwrap();
        }
        data_dir.purge(&Settings::default()).unwrap();
        let left = |path: &Path| -> Vec<_> {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().flatten().map(|it| it.file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(left(data_dir.path()), ["db", "notes.txt"]);
        assert_eq!(left(&data_dir.path().join("db")), ["notes.txt"]);
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

    //
    #[test]
    fn directory_whose_name_others_decide_is_rejected_unchanged() {
        use std::os::unix::fs::PermissionsExt as _;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        let open = |mode| fs::set_permissions(parent.path(), fs::Permissions::from_mode(mode)).unwrap();
        open(0o777);
        let error = DataDir::at(&path).prepare(&Settings::default(), None).unwrap_err().to_string();
        assert!(error.contains("can be changed by every user"), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        open(0o1777);
        DataDir::at(&path).prepare(&Settings::default(), None).unwrap();
    }

    #[tokio::test]
    async fn existing_directory_survives_a_purge() {
        let existing = tempfile::tempdir().unwrap();
        create(existing.path()).await.purge(&Settings::default()).unwrap();
        assert_eq!(fs::read_dir(existing.path()).unwrap().count(), 0);
    }

    //
    #[tokio::test]
    async fn store_of_another_installation_is_refused() {
        let (parent, settings) = (tempfile::tempdir().unwrap(), Settings::default());
        let mut data_dir = create(&parent.path().join("data")).await;
        let file = data_dir.path().join(installation::FILE);
        let own = fs::read_to_string(&file).unwrap();
        assert_eq!(own.trim(), data_dir.installation_id().unwrap());
        fs::write(&file, "xyz567\n").unwrap();
        for error in [
            data_dir.open_store(&settings).await.unwrap_err(),
            data_dir.open_or_create(&settings, None).await.unwrap_err(),
        ] {
            let error = error.to_string();
            assert!(error.contains(own.trim()) && error.contains("xyz567"), "{error}");
        }
        // As on another machine that joins with its own data directory.
        fs::remove_file(&file).unwrap();
        let error = data_dir.open_or_create(&settings, None).await.unwrap_err().to_string();
        assert!(error.contains("is missing") && error.contains("copy it and both keys"), "{error}");
        assert!(data_dir.open_store(&settings).await.unwrap_err().to_string().contains("is missing"));
        fs::write(&file, &own).unwrap();
        data_dir.open_store(&settings).await.unwrap();
        fs::remove_file(data_dir.path().join(TOKEN_KEY)).unwrap();
        assert!(data_dir.open_or_create(&settings, None).await.is_err(), "a key is never made again");
        // An empty database is never put in the place of a lost one.
        fs::remove_file(data_dir.path().join("db/memgate.db")).unwrap();
        for error in [
            data_dir.open_store(&settings).await.unwrap_err(),
            data_dir.prepare(&settings, None).unwrap_err(),
        ] {
            assert!(error.to_string().contains("memgate.db is missing"), "{error}");
        }
    }

    #[test]
    fn database_of_the_older_layout_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memgate.db"), "").unwrap();
        let error = DataDir::at(dir.path()).prepare(&Settings::default(), None).unwrap_err().to_string();
        assert!(error.contains("is not where") && error.contains("to the folder db"), "{error}");
    }
}
