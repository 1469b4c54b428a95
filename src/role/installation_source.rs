//! Where a role finds its installation: the data directory, or for a further proxy a key file.

use store::{LaneKey, Store, TokenKey};

use crate::data_dir::DataDir;
use crate::key_file::KeyFile;
use crate::output::CliError;
use crate::settings::Settings;

/// The installation's id, keys and store.
pub(super) enum InstallationSource {
    DataDir(DataDir),
    KeyFile(Box<KeyFile>),
}

impl InstallationSource {
    /// The installation's id.
    ///
    /// # Errors
    /// If it can't be read.
    pub(super) fn installation_id(&self) -> Result<String, CliError> {
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
