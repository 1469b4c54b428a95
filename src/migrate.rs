//! `memgate migrate`: the data folder and the tables, ready for the roles.

use serde::Serialize;
use store::Store;

use crate::account::Accounts;
use crate::args::Global;
use crate::folder::Folder;
use crate::report::{self, Failure};
use crate::role::runtime;
use crate::settings::Settings;

#[derive(Debug, Serialize)]
struct Migrated {
    installation: String,
}

pub(crate) fn run(global: &Global) -> Result<(), Failure> {
    let settings = Settings::load(global)?;
    let mut folder = Folder::of(global);
    folder.prepare(&settings, Accounts::ensure()?.as_ref())?;
    let installation = runtime()?.block_on(async {
        let store = Store::open(&settings.database(folder.path())).await?;
        let id = store.installation_id().await?;
        store.close().await;
        Ok::<_, Failure>(id)
    })?;
    let migrated = Migrated { installation };
    report::print(global.json, &migrated, || {
        format!("the tables of installation {} are up to date", migrated.installation)
    })
}
