//! `memgate migrate`: prepares the data directory and migrates the database.

mod transfer;

use std::path::PathBuf;

use serde::Serialize;

use crate::ca;
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

`memgate up` does the same when it starts, without --roles. Where roles run one by one, --certificate issues what it issues.

With --roles, proxy, provisioner and web UI each get a user of their own in PostgreSQL, who may do what the role needs
and nothing else: the web UI can't write where caches are, and the proxy can't read accounts. The user in store.url
needs CREATEROLE for that. Each user's address is in a file of the data directory (store-proxy.env and so on), for root
alone; `memgate up`, and a role that root starts, use it by themselves. For others it is an EnvironmentFile of systemd.
Run it again after an upgrade that adds tables; `memgate up` does by itself.

To move from SQLite to PostgreSQL, stop memgate, name the new database in store.url, and copy the old one:

  memgate migrate --data /var/lib/memgate --from sqlite:/var/lib/memgate/db/memgate.db --roles

Users, tokens and everything else stay as they are, and caches keep their contents. The old file is kept, renamed.")]
pub(crate) struct Migrate {
    /// Give each role its own PostgreSQL user with the least rights
    #[arg(long)]
    roles: bool,
    /// Give these users new passwords, and end their connections; restart the roles at once
    #[arg(long, requires = "roles")]
    new_passwords: bool,
    /// The database was restored by other means than `memgate restore`: end its sessions, links and mail that waits
    #[arg(long, conflicts_with = "from")]
    restored: bool,
    /// Issue a new server certificate, signed by the installation's authority, as each start of `memgate up` does
    #[arg(long)]
    certificate: bool,
    /// Copy this installation's SQLite database to the PostgreSQL one, which must be empty: sqlite:FILE
    #[arg(long, value_name = "DATABASE", value_parser = transfer::parse_from)]
    from: Option<PathBuf>,
    /// The PostgreSQL database, without a password [default: store.url]
    #[arg(long, value_name = "URL", requires = "from", value_parser = transfer::parse_to)]
    to: Option<String>,
}

#[derive(Debug, Serialize)]
struct Migrated {
    installation: String,
    /// Files with the addresses of the database for each role.
    #[serde(skip_serializing_if = "Option::is_none")]
    role_files: Option<Vec<PathBuf>>,
    /// Connections with former passwords that store.url's user may not end.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_connections: Option<u64>,
    /// Rows that were copied from SQLite.
    #[serde(skip_serializing_if = "Option::is_none")]
    copied_rows: Option<u64>,
    /// Where the old database is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_database: Option<PathBuf>,
}

impl Migrate {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let mut settings = Settings::load(global)?;
        if let Some(to) = &self.to {
            settings.store.url = Some(to.clone());
        }
        let mut data_dir = DataDir::of(global);
        let system_users = SystemUsers::ensure()?;
        let migrated = runtime()?.block_on(async {
            let transferred = match &self.from {
                Some(from) => Some(transfer::run(&settings, &data_dir, from, self.roles).await?),
                None => None,
            };
            data_dir.prepare(&settings, system_users.as_ref())?;
            let (store, installation) = data_dir.open_or_create(&settings, system_users.as_ref()).await?;
            let ended = if self.restored { store.end_restored_sessions().await } else { Ok(()) };
            let role_users = if self.roles || data_dir.has_role_users(&settings)? {
                Some(data_dir.set_up_role_users(&settings, &store, self.new_passwords).await)
            } else {
                None
            };
            data_dir.close_store(&settings, &store).await;
            ended?;
            if self.certificate && ca::is_needed(&settings) {
                ca::issue_server_certificate(data_dir.path(), &settings, system_users.as_ref())?;
            }
            let (copied_rows, old_database) = transferred.map(|it| (it.rows, it.kept)).unzip();
            let (role_files, open_connections) =
                role_users.transpose()?.map(|it| (it.files, it.open_connections)).unzip();
            Ok::<_, CliError>(Migrated {
                installation,
                role_files,
                open_connections: open_connections.filter(|number| *number > 0),
                copied_rows,
                old_database,
            })
        })?;
        output::print(global.json, &migrated, || text(&migrated, self.to.is_some()))
    }
}

fn text(migrated: &Migrated, is_named_here: bool) -> String {
    let mut lines = Vec::new();
    if let (Some(rows), Some(old)) = (migrated.copied_rows, &migrated.old_database) {
        lines.push(format!("{rows} rows are copied; the old database is {} now", old.display()));
        if is_named_here {
            lines.push(
                "next: set store.url to the new database in memgate.toml, then start memgate".to_owned(),
            );
        }
    }
    lines.push(format!("the database of installation {} is up to date", migrated.installation));
    lines.extend(migrated.role_files.iter().flatten().map(|file| file.display().to_string()));
    lines.extend(migrated.open_connections.map(|number| {
        format!(
            "{number} connections with former passwords go on: restart the roles, then end the rest as a superuser of PostgreSQL (pg_terminate_backend)"
        )
    }));
    lines.join("\n")
}
