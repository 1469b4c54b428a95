//! The data directory: root's files, the database, and their owners and modes.
//!
//! As root, only root may write the directory, so no unprivileged role decides what root reads, opens or removes. The
//! roles share the group `memgate`, which may write the content of SQLite's files and read the token key. The group
//! `memgate-proxy` may read the lane key.

pub(crate) mod backup;
mod database;
mod entries;
mod installation;
mod keys;
mod open_store;
mod role_users;
pub(crate) mod store_options;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use store::private_file::{self, Access};
use store::{Database, LaneKey, LeaderLock, Store, StoreError, TokenKey};

use self::entries::{create_file, exists, io_error};
use crate::ca;
use crate::global_args::GlobalArgs;
use crate::locations::{SETTINGS_NAME, data_path};
use crate::output::CliError;
use crate::settings::{DATABASE_FOLDER, DATABASE_NAME, Settings};
use crate::system_users::SystemUsers;
use crate::trusted_folder::{self, Use};

pub(crate) use self::database::moved_database;
pub(crate) use self::keys::compare_fingerprints;

const LOCK: &str = "up.lock";
/// The id of the image that was built last, which new containers get.
const IMAGE: &str = "image.id";
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

    /// The provisioner's settings, with the file that names the image.
    pub(crate) fn provisioner_config(&self, settings: &Settings) -> provisioner::Config {
        let chosen_image = Some(self.path.join(IMAGE));
        provisioner::Config { chosen_image, ..settings.provisioner.clone() }
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
        Ok(exists(&self.path.join(installation::FILE))? || keys::existing(&self.path)?.is_some())
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
        let prepared =
            self.prepare_folder(system_users).and_then(|()| self.prepare_database(settings, system_users));
        if created && prepared.is_err() {
            self.remove_new(settings);
        }
        prepared
    }

    fn prepare_folder(&self, system_users: Option<&SystemUsers>) -> Result<(), CliError> {
        let folder = private_file::open_folder(&self.path)?;
        let access = match system_users {
            Some(_) => Access { owner: None, group: Some(0), mode: PASSABLE_MODE },
            None => Access { owner: None, group: None, mode: PRIVATE_MODE },
        };
        private_file::set_access(&folder, access)
            .map_err(|error| io_error("set the access of", &self.path, &error))?;
        trusted_folder::require(&self.path, Use::Exclusive)?;
        self.require_free_space()
    }

    fn prepare_database(
        &self,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<(), CliError> {
        let Database::Sqlite(file) = settings.database(&self.path) else { return Ok(()) };
        self.require_database(&file)?;
        self.prepare_database_files(&file, system_users)
    }

    fn prepare_database_files(
        &self,
        file: &Path,
        system_users: Option<&SystemUsers>,
    ) -> Result<(), CliError> {
        let group = system_users.map(|system_users| system_users.group.as_raw());
        if file.parent() == Some(&self.path.join(DATABASE_FOLDER)) {
            database::prepare_folder(&self.path.join(DATABASE_FOLDER), group)?;
        }
        database::prepare_files(file, group)
    }

    /// Opens the store, with tables of this version; in a new installation, creates its id and the keys. Returns the store and
    /// the id.
    ///
    /// # Errors
    /// If the store belongs to another installation, or a key is missing or another one.
    pub(crate) async fn open_or_create(
        &self,
        settings: &Settings,
        system_users: Option<&SystemUsers>,
    ) -> Result<(Store, String), CliError> {
        let (database, options) = (settings.database(&self.path), store_options::of_command(settings));
        // Nothing is written to another installation's database, or to an empty one in the place of a lost one.
        if installation::read(&self.path)?.is_some() {
            installation::compare_with(&self.path, Store::installation_of(&database, &options).await?)?;
        }
        let store = Store::migrate(&database, &options).await?;
        let id = installation::read_or_create(&self.path, &store).await?;
        keys::require_or_record(&self.path, &store).await?;
        if let Some(users) = system_users {
            keys::set_access(&self.path, users)?;
        }
        Ok((store, id))
    }

    /// Reads the key of token hashes.
    ///
    /// # Errors
    /// If it can't be used, or isn't the one of the store's installation.
    pub(crate) async fn token_key(&self, store: &Store) -> Result<TokenKey, CliError> {
        self.require_initialized()?;
        keys::token_key(&self.path, store).await
    }

    /// Reads the key from which lane credentials are derived.
    ///
    /// # Errors
    /// If it can't be used, or isn't the one of the store's installation.
    pub(crate) async fn lane_key(&self, store: &Store) -> Result<LaneKey, CliError> {
        self.require_initialized()?;
        keys::lane_key(&self.path, store).await
    }

    /// Reads the installation's id.
    pub(crate) fn installation_id(&self) -> Result<String, CliError> {
        self.require_initialized()?;
        installation::require(&self.path)
    }

    /// Makes the settings name the installation's own certificate, if it has one and they name none: a proxy that runs alone
    /// speaks TLS as one of `memgate up` does.
    pub(crate) fn use_own_certificate(&self, settings: &mut Settings) {
        let [certificate, key] = [ca::SERVER, ca::SERVER_KEY].map(|name| self.path.join(name));
        if ca::is_needed(settings) && certificate.exists() && key.exists() {
            settings.proxy.tls_certificate = Some(certificate);
            settings.proxy.tls_key = Some(key);
            settings.webui.ca_certificate.get_or_insert_with(|| self.path.join(ca::CA));
        }
    }

    /// Why the store can't be compared with the installation, if it can't.
    ///
    /// # Errors
    /// If the store belongs to another installation, or its folder can't be trusted.
    pub(crate) async fn store_problem(&self, settings: &Settings) -> Result<Option<CliError>, CliError> {
        self.require_initialized()?;
        let database = settings.database(&self.path);
        if let Database::Sqlite(file) = &database {
            database::require_trusted(file)?;
            if let Err(problem) = self.require_database(file) {
                return Ok(Some(problem));
            }
            database::restore_log_files(file);
        }
        match Store::installation_of(&database, &store_options::of_command(settings)).await {
            Ok(Some(recorded)) => installation::compare_with(&self.path, Some(recorded)).map(|()| None),
            Ok(None) => Ok(installation::compare_with(&self.path, None).err()),
            Err(error) => Ok(Some(error.into())),
        }
    }

    /// Tries to acquire the lock of the provisioner that leads, although the store may not be readable. `None` if another
    /// process holds it.
    ///
    /// # Errors
    /// If its folder can't be written, or PostgreSQL doesn't answer.
    pub(crate) async fn try_leader_lock(&self, settings: &Settings) -> Result<Option<LeaderLock>, CliError> {
        let options = store_options::of_command(settings);
        Ok(LeaderLock::try_acquire(&settings.database(&self.path), &options).await?)
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
        let names =
            [keys::TOKEN_KEY, keys::LANE_KEY, LOCK, IMAGE, installation::FILE, installation::UNRECORDED_FILE];
        let names = names.into_iter().chain(ca::FILES).chain(role_users::FILES).chain(role_users::DRAFTS);
        let mut files: Vec<PathBuf> = names.map(|name| self.path.join(name)).collect();
        if let Database::Sqlite(file) = settings.database(&self.path) {
            database::require_trusted(&file)?;
            files.extend(database::all_files(&file));
        }
        files.extend(database::all_files(&moved_database(
            &self.path.join(DATABASE_FOLDER).join(DATABASE_NAME),
        )));
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

    /// Removes a directory that this start created, because a start that failed leaves nothing behind. A database elsewhere
    /// may have been there before, with another installation's data. Once there is an id, it may name that, and never works
    /// again without the keys: the next start goes on.
    pub(crate) fn remove_new(&self, settings: &Settings) {
        let is_inside =
            |database: &Database| matches!(database, Database::Sqlite(file) if file.starts_with(&self.path));
        if !is_inside(&settings.database(&self.path)) && self.is_initialized().unwrap_or(true) {
            return;
        }
        for file in self.own_files(settings).unwrap_or_default() {
            if file.starts_with(&self.path) {
                let _ = fs::remove_file(file);
            }
        }
        // Fails if a directory contains other files, which stay.
        let _ = fs::remove_dir(self.path.join(DATABASE_FOLDER));
        let _ = fs::remove_dir(&self.path);
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
        if !installation::is_recorded(&self.path)? {
            return Ok(());
        }
        match file.symlink_metadata() {
            Ok(found) if found.len() > 0 => Ok(()),
            Ok(_) => Err(StoreError::NoTables(file.display().to_string()).into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(StoreError::Missing(file.into()).into()),
            Err(error) => Err(io_error("open", file, &error)),
        }
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
        let ours = [
            "lost+found",
            LOCK,
            CREATED_MARKER,
            DATABASE_FOLDER,
            SETTINGS_NAME,
            DATABASE_NAME,
            installation::UNRECORDED_FILE,
        ];
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
mod tests;
