//! `memgate migrate`: prepares the data directory and migrates the database.

use serde::Serialize;

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
    let system_users = SystemUsers::ensure()?;
    data_dir.prepare(&settings, system_users.as_ref())?;
    let installation = runtime()?.block_on(async {
        let (store, id) = data_dir.open_or_create(&settings, system_users.as_ref()).await?;
        data_dir.close_store(&settings, &store).await;
        Ok::<_, CliError>(id)
    })?;
    let migrated = Migrated { installation };
    output::print(global.json, &migrated, || {
        format!("the database of installation {} is up to date", migrated.installation)
    })
}
