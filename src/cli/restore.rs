//! `memgate restore`: makes an installation of a backup.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::Serialize;
use store::{Timestamp, private_file};

use super::backup::{postgres_tool, run_tool};
use crate::backup_archive::{self, DatabaseKind, Manifest};
use crate::data_dir::DataDir;
use crate::database_url;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError, time};
use crate::role::runtime;
use crate::settings::Settings;
use crate::system_users::SystemUsers;

/// Make an installation of a backup, in a new data directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate restore /root/memgate.tar --data /var/lib/memgate
  memgate up --data /var/lib/memgate

The data directory must be new or empty; with PostgreSQL, store.url must name an empty database, and pg_restore must be
installed. Tokens work as they did when the backup was made, also those that were revoked since: see \"Back up\" in
docs/operating.md for what to revoke again. Sessions of the web UI, links and mail that waited are ended.
If the installation that the backup is of still runs somewhere, stop it first: two of them would both act on its containers.")]
pub(crate) struct Restore {
    /// The file that `memgate backup` has written
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Restored {
    data: PathBuf,
    installation: String,
    /// Milliseconds since 1970.
    backed_up_at: i64,
}

impl Restore {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        // What it holds runs as root and as the database's owner, so others must not have written it.
        let file = private_file::open_existing(&self.file)?;
        let mut data_dir = DataDir::of(global);
        if data_dir.is_initialized()? {
            return Err(CliError::new(
                format!("{} holds an installation already", data_dir.path().display()),
                "name a new data directory with --data DIR, or move the old one away first",
            ));
        }
        let restored = backup_archive::read(file, |manifest, files, database| {
            restore(global, &mut data_dir, manifest, files, database)
        })?;
        output::print(global.json, &restored, || {
            let at = time::utc(Timestamp::from_millis(restored.backed_up_at));
            format!(
                "installation {} is as it was at {at}, in {}\nWhat was revoked since works again: see \"Back up\" in docs/operating.md, then run `memgate up`",
                restored.installation,
                restored.data.display()
            )
        })
    }
}

fn restore(
    global: &GlobalArgs,
    data_dir: &mut DataDir,
    manifest: &Manifest,
    files: &[(String, Vec<u8>)],
    database: &mut dyn Read,
) -> Result<Restored, CliError> {
    let system_users = SystemUsers::ensure()?;
    let system_users = system_users.as_ref();
    let mut created = data_dir.prepare_restore(system_users)?;
    let restored = data_dir
        .restore_files(files, &mut created)
        // Those of the backup are part of them now.
        .and_then(|()| Settings::load(global))
        .and_then(|settings| match manifest.database {
            DatabaseKind::Sqlite => {
                let mut content = database;
                data_dir.restore_database(&settings, &mut content, system_users, &mut created)?;
                finish(&settings, data_dir, system_users)
            }
            DatabaseKind::Postgres => {
                let url = require_url(&settings)?;
                pg_restore(url, database)?;
                finish(&settings, data_dir, system_users).map_err(|error| now_full(url, error))
            }
        });
    if restored.is_err() {
        data_dir.remove_created(&created);
    }
    restored?;
    Ok(Restored {
        data: data_dir.path().to_path_buf(),
        installation: manifest.installation.clone(),
        backed_up_at: manifest.created_at,
    })
}

fn require_url(settings: &Settings) -> Result<&str, CliError> {
    settings.store.url.as_deref().ok_or_else(|| {
        CliError::new(
            "the backup is of PostgreSQL, but store.url isn't set",
            "set it to an empty database in memgate.toml, or as MEMGATE_STORE__URL",
        )
    })
}

/// What went wrong after the database was filled, which the next try would find so.
fn now_full(url: &str, error: CliError) -> CliError {
    let (what, fix) = error.into_parts();
    let url = database_url::redact(url);
    CliError::new(
        what,
        format!("{fix}; the database {url} holds the backup now: empty it before the next try"),
    )
}

/// Migrates the database, compares it with the keys, and ends what may have been ended since the backup.
fn finish(
    settings: &Settings,
    data_dir: &DataDir,
    system_users: Option<&SystemUsers>,
) -> Result<(), CliError> {
    runtime()?.block_on(async {
        let (store, _) = data_dir.open_or_create(settings, system_users).await?;
        let ended = store.end_restored_sessions().await;
        let granted = if ended.is_ok() && data_dir.has_role_users(settings)? {
            // The database's users may be those of another server, or gone.
            data_dir.set_up_role_users(settings, &store, true).await.map(drop)
        } else {
            Ok(())
        };
        data_dir.close_store(settings, &store).await;
        ended?;
        granted
    })
}

fn pg_restore(url: &str, database: &mut dyn Read) -> Result<(), CliError> {
    let failed =
        |error: io::Error| CliError::new(format!("can't write a draft ({error})"), "check the disk of /tmp");
    let mut draft = tempfile::NamedTempFile::new().map_err(failed)?;
    io::copy(database, &mut draft).map_err(failed)?;
    let mut command = postgres_tool("pg_restore", url)?;
    command
        .args(["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"])
        .arg(draft.path());
    run_tool(command, "pg_restore")
}
