//! Where a role finds its installation: the data directory, or for a further proxy a key file.

use std::path::Path;

use store::{DatabaseRole, LaneKey, Store, TokenKey};

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::key_file::KeyFile;
use crate::output::CliError;
use crate::settings::Settings;
use crate::store_clock;

/// The installation's id, keys and store.
pub(crate) enum InstallationSource {
    DataDir(DataDir),
    KeyFile(Box<KeyFile>),
}

impl InstallationSource {
    /// The key file, if one is named, else the data directory.
    ///
    /// # Errors
    /// If the key file can't be read or trusted.
    pub(crate) fn find(keys: Option<&Path>, global: &GlobalArgs) -> Result<Self, CliError> {
        match keys {
            Some(keys) => Ok(Self::KeyFile(Box::new(KeyFile::read(keys)?))),
            None => Ok(Self::DataDir(DataDir::of(global))),
        }
    }

    /// The settings of a role that runs alone: as they are read, with what this completes.
    ///
    /// # Errors
    /// If they can't be read.
    pub(crate) fn settings(&self, role: DatabaseRole, global: &GlobalArgs) -> Result<Settings, CliError> {
        let mut settings = Settings::load(global)?;
        match self {
            Self::DataDir(folder) => {
                if rustix::process::geteuid().is_root() {
                    settings.store.url = folder.role_store_url(&settings, role)?;
                }
                folder.use_own_certificate(&mut settings);
            }
            Self::KeyFile(file) => file.complete(&mut settings),
        }
        Ok(settings)
    }

    /// Whether a proxy has the same keys with another one.
    pub(crate) fn has_same_keys(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::KeyFile(file), Self::KeyFile(other)) => file.has_same_keys(other),
            // Those of a data directory are for ever.
            (Self::DataDir(folder), Self::DataDir(other)) => folder.path() == other.path(),
            _ => false,
        }
    }

    /// Checks that a proxy can work with the store as it is, and with these keys. Changes nothing.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) async fn require_usable(&self, settings: &Settings, role: &str) -> Result<(), CliError> {
        let store = self.open_store(settings, role).await?;
        let checked = async {
            store_clock::require(&store, true).await?;
            self.proxy_keys(&store).await.map(drop)
        };
        let checked = checked.await;
        self.close_store(settings, &store).await;
        checked
    }

    /// The installation's id.
    ///
    /// # Errors
    /// If it can't be read.
    pub(crate) fn installation_id(&self) -> Result<String, CliError> {
        match self {
            Self::DataDir(folder) => folder.installation_id(),
            Self::KeyFile(file) => Ok(file.installation.clone()),
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// If it is missing, away, of another version or another installation's.
    pub(super) async fn open_store(&self, settings: &Settings, role: &str) -> Result<Store, CliError> {
        match self {
            Self::DataDir(folder) => folder.open_role_store(settings, role).await,
            Self::KeyFile(file) => file.open_store(settings, role).await,
        }
    }

    /// Closes the store.
    pub(super) async fn close_store(&self, settings: &Settings, store: &Store) {
        match self {
            Self::DataDir(folder) => folder.close_store(settings, store).await,
            Self::KeyFile(_) => store.close().await,
        }
    }

    /// The keys of token hashes and lanes, as the proxy needs them.
    ///
    /// # Errors
    /// If they can't be read, or aren't the installation's.
    pub(super) async fn proxy_keys(&self, store: &Store) -> Result<(TokenKey, LaneKey), CliError> {
        match self {
            Self::DataDir(folder) => Ok((folder.token_key(store).await?, folder.lane_key(store).await?)),
            Self::KeyFile(file) => file.keys(store).await,
        }
    }

    /// The data directory, which the provisioner and the web UI need.
    ///
    /// # Errors
    /// If there is only a key file.
    pub(super) fn data_dir(&self) -> Result<&DataDir, CliError> {
        match self {
            Self::DataDir(folder) => Ok(folder),
            Self::KeyFile(_) => {
                Err(CliError::usage("--keys is for the proxy alone", "name --data DIR instead"))
            }
        }
    }
}
