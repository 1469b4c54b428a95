//! `memgate migrate`: prepares the data directory and migrates the database.

use serde::Serialize;
use store::Store;

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

#[derive(Debug, Serialize)]
struct Migrated {
    installation: String,
}

pub(crate) fn run(global: &GlobalArgs) -> Result<(), CliError> {
    let settings = Settings::load(global)?;
    let mut data_dir = DataDir::of(global);
    data_dir.prepare(&settings, SystemUsers::ensure()?.as_ref())?;
    let installation = runtime()?.block_on(async {
        let store = Store::open(&settings.database(data_dir.path())).await?;
        let id = store.installation_id().await?;
        store.close().await;
        Ok::<_, CliError>(id)
    })?;
    let migrated = Migrated { installation };
    output::print(global.json, &migrated, || {
        format!("the database of installation {} is up to date", migrated.installation)
    })
}
