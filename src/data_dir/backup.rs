//! The files of the data directory that a backup holds, and how a restored one gets them back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use store::Database;
use store::private_file::{self, Access};

use super::entries::{exists, io_error};
use super::{CREATED_MARKER, DataDir, database, installation, keys, role_users};
use crate::ca;
use crate::locations::SETTINGS_NAME;
use crate::output::CliError;
use crate::settings::{DATABASE_FOLDER, Settings, SettingsFile};
use crate::system_users::SystemUsers;

/// Without these there is no installation.
const REQUIRED: [&str; 3] = [installation::FILE, keys::TOKEN_KEY, keys::LANE_KEY];
/// These may be missing. The server's certificate isn't among them: each start issues another.
const OPTIONAL: [&str; 6] =
    [ca::CA, ca::CA_KEY, SETTINGS_NAME, role_users::FILES[0], role_users::FILES[1], role_users::FILES[2]];
/// Bytes that are read of one of them, which is shorter.
pub(crate) const FILE_LENGTH_MAX: u64 = 1 << 20;

/// Whether a backup may hold a file of this name.
pub(crate) fn is_backed_up(name: &str) -> bool {
    REQUIRED.contains(&name) || OPTIONAL.contains(&name)
}

/// The names without which a backup can't be restored.
pub(crate) fn required() -> [&'static str; 3] {
    REQUIRED
}

/// What a restore has created.
#[derive(Debug)]
pub(crate) struct Created {
    /// Whether the directory is new.
    is_new: bool,
    files: Vec<PathBuf>,
}

impl DataDir {
    /// Names and contents of the files that a backup holds, apart from the database.
    ///
    /// # Errors
    /// If one is missing or can't be read.
    pub(crate) fn files_to_back_up(&self) -> Result<Vec<(&'static str, Vec<u8>)>, CliError> {
        let mut files = Vec::new();
        for name in REQUIRED.into_iter().chain(OPTIONAL) {
            let mut path = self.path().join(name);
            if name == SETTINGS_NAME
                && let Some(settings) = SettingsFile::path_for(self.path())?
            {
                path = settings;
            }
            if exists(&path)? || REQUIRED.contains(&name) {
                let content = private_file::read(&path, FILE_LENGTH_MAX, None)?;
                files.push((name, content.bytes));
            }
        }
        Ok(files)
    }

    /// Creates the directory for a backup's files, which must not exist or be empty.
    ///
    /// # Errors
    /// If it can't be created, or has other files.
    pub(crate) fn prepare_restore(
        &mut self,
        system_users: Option<&SystemUsers>,
    ) -> Result<Created, CliError> {
        let created = Created { is_new: self.create_dir()?, files: Vec::new() };
        match self.prepare_folder(system_users) {
            Ok(()) => Ok(created),
            Err(error) => {
                self.remove_created(&created);
                Err(error)
            }
        }
    }

    /// Writes the files of a backup into this directory. A settings file that is there stays.
    ///
    /// # Errors
    /// If a file can't be written.
    pub(crate) fn restore_files(
        &self,
        files: &[(String, Vec<u8>)],
        created: &mut Created,
    ) -> Result<(), CliError> {
        for (name, bytes) in files {
            let path = self.path().join(name);
            let is_settings = name == SETTINGS_NAME;
            if is_settings && (exists(&path)? || SettingsFile::path_for(self.path())?.is_some()) {
                continue;
            }
            let mode = if [installation::FILE, ca::CA].contains(&name.as_str()) { 0o644 } else { 0o600 };
            private_file::create(&path, Access { mode, ..Access::PRIVATE }, bytes)
                .map_err(|error| io_error("create", &path, &error))?;
            created.files.push(path);
        }
        Ok(())
    }

    /// Writes a database of a backup, where none is.
    ///
    /// # Errors
    /// If there is one, or it can't be written.
    pub(crate) fn restore_database(
        &self,
        settings: &Settings,
        content: &mut impl Read,
        system_users: Option<&SystemUsers>,
        created: &mut Created,
    ) -> Result<(), CliError> {
        let Database::Sqlite(file) = settings.database(self.path()) else {
            return Err(CliError::new(
                "the backup is of SQLite, but store.url names PostgreSQL",
                "restore it without store.url, then move it with `memgate migrate --from`",
            ));
        };
        if exists(&file)? {
            return Err(CliError::new(
                format!("there is a database already: {}", file.display()),
                "move it away, or name another file as store.path",
            ));
        }
        created.files.extend(database::all_files(&file));
        self.prepare_database_files(&file, system_users)?;
        let mut draft = file.as_os_str().to_owned();
        draft.push(".restored");
        let draft = PathBuf::from(draft);
        let written = write_new(&draft, content).and_then(|()| fs::rename(&draft, &file));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written.map_err(|error| io_error("write", &file, &error))?;
        for log in database::log_files(&file) {
            let _ = fs::remove_file(log);
        }
        self.prepare_database_files(&file, system_users)
    }

    /// Removes what a restore has created that failed: half an installation would neither start nor let it be tried again.
    pub(crate) fn remove_created(&self, created: &Created) {
        let drafts = role_users::DRAFTS.map(|name| self.path().join(name));
        let marker = created.is_new.then(|| self.path().join(CREATED_MARKER));
        for file in created.files.iter().cloned().chain(drafts).chain(marker) {
            let _ = fs::remove_file(file);
        }
        // Fails if a directory contains other files, which stay.
        let _ = fs::remove_dir(self.path().join(DATABASE_FOLDER));
        if created.is_new {
            let _ = fs::remove_dir(self.path());
        }
    }
}

fn write_new(path: &std::path::Path, content: &mut impl Read) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(content, &mut file)?;
    file.sync_all()
}
