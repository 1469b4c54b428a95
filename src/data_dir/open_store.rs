//! Opens the store of an existing installation.

use store::{Database, Store, StoreError, StoreOptions};

use super::{DataDir, database, installation, store_options};
use crate::output::CliError;
use crate::settings::Settings;

impl DataDir {
    /// Opens the store of an existing installation for a command; close it with [`DataDir::close_store`]. A command that only
    /// reads changes nothing and waits for no lock; one that writes waits for it, and says so.
    ///
    /// # Errors
    /// If there is none, or the store belongs to another one, or has tables of another version.
    pub(crate) async fn open_store(&self, settings: &Settings) -> Result<Store, CliError> {
        self.open_with(settings, &store_options::of_command(settings)).await
    }

    /// Opens the store of an existing installation for a role.
    ///
    /// # Errors
    /// As [`DataDir::open_store`].
    pub(crate) async fn open_role_store(&self, settings: &Settings, role: &str) -> Result<Store, CliError> {
        self.open_with(settings, &store_options::of_role(settings, role)).await
    }

    async fn open_with(&self, settings: &Settings, options: &StoreOptions) -> Result<Store, CliError> {
        let store = Store::open_existing(&self.existing_database(settings)?, options).await?;
        installation::compare_with(&self.path, store.installation_id().await?)?;
        Ok(store)
    }

    fn existing_database(&self, settings: &Settings) -> Result<Database, CliError> {
        self.require_initialized()?;
        let database = settings.database(&self.path);
        if let Database::Sqlite(file) = &database {
            database::require_trusted(file)?;
            self.require_database(file)?;
            database::restore_log_files(file);
        }
        Ok(database)
    }

    /// Checks that this version can use the store, once it is migrated perhaps. Changes nothing.
    ///
    /// # Errors
    /// As [`DataDir::open_store`], but for a store of an earlier version.
    pub(crate) async fn require_usable_store(&self, settings: &Settings) -> Result<(), CliError> {
        let (database, options) = (self.existing_database(settings)?, store_options::of_command(settings));
        match Store::open_existing(&database, &options).await {
            Ok(store) => {
                let same = installation::compare_with(&self.path, store.installation_id().await?);
                self.close_store(settings, &store).await;
                same
            }
            Err(StoreError::OlderSchema { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
