//! `memgate backup`: one file with everything that an installation can't be made again without.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use daemon::host_tool;
use serde::Serialize;
use store::{Database, Store, postgres_tables};
use time::OffsetDateTime;

use crate::backup_archive::{self, DatabaseKind, Manifest};
use crate::data_dir::DataDir;
use crate::database_url;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;
use crate::trusted_folder::{self, Use};

/// What names of backups in a folder end with.
const SUFFIX: &str = ".tar";
/// How long pg_dump waits for tables that somebody else has locked. A role that is broken may hold such a lock for ever.
const LOCK_TIMEOUT: &str = "--lock-wait-timeout=60000";

/// Write a backup of users, tokens, keys and settings to one file, while memgate runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate backup --data /var/lib/memgate /root/memgate.tar
  memgate backup --data /var/lib/memgate --folder /var/backups/memgate --keep 14

The file has the database, installation.id, the keys, the certificate authority and memgate.toml: its reader can do what
the operator can, so root alone may read it. Contents of caches aren't part of it. With PostgreSQL, pg_dump must be
installed, of the server's version or later. `memgate restore` reads it.")]
#[group(id = "target", required = true)]
pub(crate) struct Backup {
    /// The file to write, which must not exist
    #[arg(group = "target")]
    file: Option<PathBuf>,
    /// Write memgate-INSTALLATION-TIME.tar in this folder instead; made if it is missing
    #[arg(long, group = "target", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// With --folder: keep only this many of this installation's backups there, the newest
    #[arg(long, requires = "folder", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

#[derive(Debug, Serialize)]
struct BackedUp {
    file: PathBuf,
    bytes: u64,
    installation: String,
    /// Older backups that were removed.
    removed: Vec<PathBuf>,
}

impl Backup {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let data_dir = DataDir::of(global);
        let installation = data_dir.installation_id()?;
        let file = self.target(&installation)?;
        if file.symlink_metadata().is_ok() {
            let what = format!("{} exists already", file.display());
            return Err(CliError::new(what, "name another file: a backup replaces nothing"));
        }
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        trusted_folder::require(parent, Use::Shared)?;
        // Drafts of the database hold its secrets, too.
        let drafts = tempfile::Builder::new()
            .prefix(".memgate-backup-")
            .tempdir_in(parent)
            .map_err(|error| file_error("write in", parent, &error))?;
        let database = drafts.path().join("database");
        let kind = dump(&settings, &data_dir, &database)?;
        let draft = drafts.path().join("archive");
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
        let to = to.map_err(|error| file_error("write", &draft, &error))?;
        // The keys after the database: these never change, and a database is never newer than its keys.
        let files = data_dir.files_to_back_up()?;
        let manifest = Manifest::new(installation.clone(), kind);
        let written = backup_archive::write(to, &manifest, &files, &database);
        // Unlike a rename, a link never replaces a file that somebody has made meanwhile.
        let linked = written.and_then(|()| fs::hard_link(&draft, &file));
        linked.map_err(|error| file_error("write", &file, &error))?;
        let bytes = file.metadata().map_or(0, |meta| meta.len());
        let removed = match (&self.folder, self.keep) {
            (Some(folder), Some(keep)) => remove_old(folder, &installation, keep, &file)?,
            _ => Vec::new(),
        };
        let done = BackedUp { file, bytes, installation, removed };
        output::print(global.json, &done, || {
            let removed = match done.removed.len() {
                0 => String::new(),
                number => format!(", {number} older removed"),
            };
            format!("{}: {} KB{removed}", done.file.display(), done.bytes.div_ceil(1024))
        })
    }

    fn target(&self, installation: &str) -> Result<PathBuf, CliError> {
        let Some(folder) = &self.folder else { return Ok(self.file.clone().unwrap_or_default()) };
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        created.map_err(|error| file_error("create", folder, &error))?;
        Ok(folder.join(format!("{}{}{SUFFIX}", prefix(installation), stamp())))
    }
}

/// What the names of an installation's backups begin with.
fn prefix(installation: &str) -> String {
    format!("memgate-{installation}-")
}

/// The time in a form that sorts: `20261201T024500Z`, to the millisecond.
fn stamp() -> String {
    let now = OffsetDateTime::now_utc();
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    let (hour, minute, second, millis) = (now.hour(), now.minute(), now.second(), now.millisecond());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{millis:03}Z")
}

/// Whether a text is what [`stamp`] makes.
fn is_stamp(text: &str) -> bool {
    const SHAPE: &str = "00000000T000000.000Z";
    let fits = |(shape, byte)| if shape == b'0' { u8::is_ascii_digit(&byte) } else { shape == byte };
    text.len() == SHAPE.len() && SHAPE.bytes().zip(text.bytes()).all(fits)
}

/// Writes the database as it is at this moment to a new file.
fn dump(settings: &Settings, data_dir: &DataDir, to: &Path) -> Result<DatabaseKind, CliError> {
    match settings.database(data_dir.path()) {
        Database::Sqlite(file) => {
            runtime()?.block_on(async {
                // The command's checks: it belongs to this installation, and its folder can be trusted.
                let store = data_dir.open_store(settings).await?;
                let copied = Store::snapshot(&file, to).await;
                data_dir.close_store(settings, &store).await;
                Ok::<_, CliError>(copied?)
            })?;
            Ok(DatabaseKind::Sqlite)
        }
        Database::Postgres(url) => {
            // The same checks: the database of another installation is no backup of this one.
            runtime()?.block_on(async {
                let store = data_dir.open_store(settings).await?;
                data_dir.close_store(settings, &store).await;
                Ok::<_, CliError>(())
            })?;
            run_tool(pg_dump(&url, to)?, "pg_dump")?;
            Ok(DatabaseKind::Postgres)
        }
    }
}

/// The command that dumps memgate's tables by name: what else is in the database may be an attacker's, and would be run by the restore.
fn pg_dump(url: &str, to: &Path) -> Result<Command, CliError> {
    let mut command = postgres_tool("pg_dump", url)?;
    command.args(["--format=custom", "--no-owner", "--no-privileges", "--strict-names", LOCK_TIMEOUT]);
    command.args(postgres_tables().map(|table| format!("--table={table}"))).arg("--file").arg(to);
    Ok(command)
}

/// A program of PostgreSQL for this database. The password is in its environment, which only root reads.
pub(super) fn postgres_tool(program: &str, url: &str) -> Result<Command, CliError> {
    let (url, password) = database_url::without_password(url).ok_or_else(|| {
        CliError::new("store.url is malformed", "write it as postgres://user:password@host/database")
    })?;
    let mut command = host_tool(program);
    command.arg("--dbname").arg(url).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    Ok(command)
}

pub(super) fn run_tool(mut command: Command, program: &str) -> Result<(), CliError> {
    let output = command.output().map_err(|error| {
        let fix = "install PostgreSQL's client programs (Debian: postgresql-client)";
        CliError::new(format!("can't run {program} ({error})"), fix)
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(CliError::new(
        format!("{program} failed: {said}"),
        "check that it is of the server's version or later, and that store.url's user may do this",
    ))
}

/// Removes all but the newest backups of an installation from a folder. The one that was just made is kept whatever the others'
/// names say, since the clock may have been ahead; other files stay, too.
fn remove_old(folder: &Path, installation: &str, keep: u32, new: &Path) -> Result<Vec<PathBuf>, CliError> {
    let entries = fs::read_dir(folder).map_err(|error| file_error("read", folder, &error))?;
    let prefix = prefix(installation);
    let is_backup = |name: &str| {
        name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(SUFFIX)).is_some_and(is_stamp)
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_backup(name) && new.file_name() != Some(name.as_ref()))
        .collect();
    names.sort_unstable();
    let kept = usize::try_from(keep).unwrap_or(usize::MAX) - 1;
    let surplus = names.len().saturating_sub(kept);
    let mut removed = Vec::new();
    for name in names.drain(..surplus) {
        let path = folder.join(name);
        fs::remove_file(&path).map_err(|error| file_error("remove", &path, &error))?;
        removed.push(path);
    }
    Ok(removed)
}

fn file_error(verb: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(
        format!("can't {verb} {} ({error})", path.display()),
        "run this as root, name a folder that exists, and check its disk",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The path of a backup that was made on a day of December.
    fn backup(folder: &Path, installation: &str, day: u32) -> PathBuf {
        folder.join(format!("memgate-{installation}-202612{day:02}T024500.000Z.tar"))
    }

    //
    #[test]
    fn only_the_oldest_backups_of_this_installation_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let of_others = [
            backup(folder, "xyz", 1),
            folder.join("memgate-abc-before-upgrade.tar"),
            folder.join("memgate-abc-20261201T024500.000Z.tar.txt"),
            folder.join("memgate-abc-20261201T024500.000Z-copy.tar"),
        ];
        let [first, second, new] = [1, 2, 3].map(|day| backup(folder, "abc", day));
        for file in of_others.iter().chain([&first, &second, &new]) {
            fs::write(file, "").unwrap();
        }
        assert_eq!(remove_old(folder, "abc", 2, &new).unwrap(), [first]);
        assert!(of_others.iter().all(|file| file.exists()));
        assert!(remove_old(folder, "abc", 9, &new).unwrap().is_empty());
        // The clock was ahead when the others were made.
        let earlier = backup(folder, "abc", 1);
        fs::write(&earlier, "").unwrap();
        assert_eq!(remove_old(folder, "abc", 1, &earlier).unwrap(), [second, new]);
        assert!(earlier.exists());
    }

    // a broken role can make other objects, and hold a lock for ever.
    #[test]
    fn dump_has_named_tables_only_and_waits_for_no_lock_for_long() {
        let command = pg_dump("postgres://a@h/d", Path::new("/x")).unwrap();
        let args: Vec<&str> = command.get_args().filter_map(|arg| arg.to_str()).collect();
        let is_given = |wanted: &str| args.contains(&wanted);
        for wanted in
            ["--table=users", "--table=audit", "--table=_sqlx_migrations", "--strict-names", LOCK_TIMEOUT]
        {
            assert!(is_given(wanted), "{wanted}: {args:?}");
        }
    }

    //
    #[test]
    fn programs_are_those_of_the_system_and_see_the_password_in_their_environment_only() {
        let command = postgres_tool("pg_dump", "postgres://a:secret@h/d").unwrap();
        let variable = |name: &str| command.get_envs().find(|(it, _)| *it == name).and_then(|(_, it)| it);
        assert_eq!(variable("PATH").is_some(), rustix::process::geteuid().is_root());
        assert_eq!(variable("PGPASSWORD").unwrap(), "secret");
        assert!(command.get_args().all(|it| !it.to_string_lossy().contains("secret")));
    }

    #[test]
    fn stamps_sort_by_time() {
        let first = stamp();
        assert!(is_stamp(&first), "{first}");
        assert!(first <= stamp());
    }
}
