//! `memgate migrate`: prepares the data directory and migrates the database.

use std::path::PathBuf;

use serde::Serialize;

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// Create the data directory if it is missing, and migrate the database to this version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate migrate --data /var/lib/memgate
  memgate migrate --data /var/lib/memgate --roles

`memgate up` does the same when it starts, without --roles.

With --roles, proxy, provisioner and web UI each get a user of their own in PostgreSQL, who may do what the role needs
and nothing else: the web UI can't write where caches are, and the proxy can't read accounts. The user in store.url
needs CREATEROLE for that. Each user's address is in a file of the data directory (store-proxy.env and so on), for root
alone; `memgate up`, and a role that root starts, use it by themselves. For others it is an EnvironmentFile of systemd.
Run it again after an upgrade that adds tables; `memgate up` does by itself.")]
pub(crate) struct Migrate {
    /// Give each role its own PostgreSQL user with the least rights
    #[arg(long)]
    roles: bool,
    /// Give these users new passwords; restart the roles afterwards
    #[arg(long, requires = "roles")]
    new_passwords: bool,
}

#[derive(Debug, Serialize)]
struct Migrated {
    installation: String,
    /// Files with the addresses of the database for each role.
    #[serde(skip_serializing_if = "Option::is_none")]
    role_files: Option<Vec<PathBuf>>,
}

impl Migrate {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let mut data_dir = DataDir::of(global);
        let system_users = SystemUsers::ensure()?;
        data_dir.prepare(&settings, system_users.as_ref())?;
        let migrated = runtime()?.block_on(async {
            let (store, installation) = data_dir.open_or_create(&settings, system_users.as_ref()).await?;
            let role_files = if self.roles || data_dir.has_role_users()? {
                Some(data_dir.set_up_role_users(&settings, &store, self.new_passwords).await)
            } else {
                None
            };
            data_dir.close_store(&settings, &store).await;
            Ok::<_, CliError>(Migrated { installation, role_files: role_files.transpose()? })
        })?;
        output::print(global.json, &migrated, || {
            let mut text = format!("the database of installation {} is up to date", migrated.installation);
            for file in migrated.role_files.iter().flatten() {
                text.push_str(&format!("\n{}", file.display()));
            }
            text
        })
    }
}
