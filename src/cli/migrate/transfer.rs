//! `memgate migrate --from sqlite:FILE`: moves an installation from SQLite to PostgreSQL.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use store::private_file::{self, Access, FileError};
use store::{CopyProgress, Database, Store, StoreError};

use crate::cli::{down, up};
use crate::data_dir::{DataDir, moved_database, store_options};
use crate::database_url;
use crate::output::CliError;
use crate::settings::Settings;

/// What the value of `--from` begins with.
const SCHEME: &str = "sqlite:";

/// What was copied.
pub(super) struct Transferred {
    pub(super) rows: u64,
    /// Where the old database is now.
    pub(super) kept: PathBuf,
}

/// Parses the value of `--from`.
///
/// # Errors
/// If it names no SQLite file.
pub(super) fn parse_from(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix(SCHEME) {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("write sqlite:FILE, as sqlite:/var/lib/memgate/db/memgate.db".to_owned()),
    }
}

/// Parses the value of `--to`.
///
/// # Errors
/// If it names no PostgreSQL database, or has a password.
pub(super) fn parse_to(text: &str) -> Result<String, String> {
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return Err("write postgres://user@host/database".to_owned());
    }
    if database_url::has_password(text) {
        let fix = "all users of the machine see it here. Set store.url in memgate.toml, or MEMGATE_STORE__URL, and leave out --to";
        return Err(format!("a password: {fix}"));
    }
    Ok(text.to_owned())
}

/// Copies the SQLite database of an installation that doesn't run to the database of `settings`, and renames the old one.
///
/// # Errors
/// If the installation runs, the file isn't its database, the other one isn't empty, or its user may not create those of the
/// roles, which `creates_users` says that it has to; or if a row can't be copied. Then nothing was copied.
pub(super) async fn run(
    settings: &Settings,
    data_dir: &DataDir,
    from: &Path,
    creates_users: bool,
) -> Result<Transferred, CliError> {
    let Some(url) = &settings.store.url else {
        return Err(CliError::usage(
            "no PostgreSQL database is named",
            "name it with --to, or set store.url",
        ));
    };
    let installation = data_dir.installation_id()?;
    require_stopped(settings, data_dir, &installation).await?;
    let mut old_settings = settings.clone();
    old_settings.store.url = None;
    old_settings.store.path = std::path::absolute(from)
        .map_err(|error| CliError::new(error.to_string(), "name an absolute path with --from"))?;
    let lock = data_dir.try_leader_lock(&old_settings).await?;
    if lock.is_none() {
        return Err(CliError::new(
            "a provisioner of this installation runs",
            "stop it, perhaps on another machine, then retry",
        ));
    }
    let old = data_dir.open_store(&old_settings).await?;
    let new = Store::migrate(&Database::Postgres(url.clone()), &store_options::of_command(settings)).await?;
    let may = if creates_users { new.require_may_create_users().await } else { Ok(()) };
    let copied = match may {
        Ok(()) => old.copy_to(&new, report).await,
        Err(error) => Err(error),
    };
    end_report();
    new.close().await;
    old.close().await;
    let rows = copied.map_err(|error| match error {
        StoreError::InUse(_) => CliError::new(
            "the PostgreSQL database isn't empty: it has an installation or users",
            "name an empty database; nothing was copied",
        ),
        error => error.into(),
    })?;
    let kept = set_aside(&old_settings.store.path)?;
    drop(lock);
    Ok(Transferred { rows, kept })
}

/// Refuses an installation that runs: what its roles write after the copy would be lost.
async fn require_stopped(
    settings: &Settings,
    data_dir: &DataDir,
    installation: &str,
) -> Result<(), CliError> {
    let stop = "stop it, then retry: it takes seconds";
    if let Some(holder) = up::lock_holder(data_dir)? {
        return Err(CliError::new(format!("memgate is running as process {}", holder.pid), stop));
    }
    match down::running_role(settings, installation).await? {
        Some(role) => Err(CliError::new(format!("the {role} of this installation runs"), stop)),
        None => Ok(()),
    }
}

/// Renames the old database with its logs, which it needs if they aren't empty. The roles, which shared it, can't read it any more.
fn set_aside(path: &Path) -> Result<PathBuf, CliError> {
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let kept = moved_database(path);
    for suffix in ["", "-wal", "-shm"] {
        let file = with(path, suffix);
        if !suffix.is_empty() && !file.exists() {
            continue;
        }
        let failed = |error: &dyn std::fmt::Display| {
            CliError::new(
                format!("everything is copied, but {} can't be renamed ({error})", file.display()),
                "move it away yourself, where only root can read it: nothing may use it any more",
            )
        };
        take_from_roles(&file).map_err(|error| failed(&error))?;
        fs::rename(&file, with(&kept, suffix)).map_err(|error| failed(&error))?;
    }
    Ok(kept)
}

/// Leaves a file that roles shared to the user running this command alone.
fn take_from_roles(path: &Path) -> Result<(), FileError> {
    let file = private_file::open_shared(path)?;
    let access = Access {
        owner: Some(rustix::process::geteuid().as_raw()),
        group: Some(rustix::process::getegid().as_raw()),
        ..Access::PRIVATE
    };
    private_file::set_access(&file, access).map_err(|source| FileError::Io { path: path.into(), source })
}

/// Shows how far the copy is, to a person.
fn report(progress: CopyProgress<'_>) {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[Kcopying {}: {} rows", progress.table, progress.rows);
    }
}

fn end_report() {
    if std::io::stderr().is_terminal() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_database_keeps_its_logs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memgate.db");
        for suffix in ["", "-wal"] {
            let path = folder.path().join(format!("memgate.db{suffix}"));
            private_file::create(&path, Access::PRIVATE, suffix.as_bytes()).unwrap();
        }
        let kept = set_aside(&file).unwrap();
        assert_eq!(kept, folder.path().join("memgate.db.moved"));
        assert_eq!(fs::read(folder.path().join("memgate.db.moved-wal")).unwrap(), b"-wal");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(set_aside(&file).is_err());
    }

    #[test]
    fn databases_are_named_with_their_kind_and_without_a_password() {
        assert_eq!(parse_from("sqlite:/a/b.db"), Ok("/a/b.db".into()));
        for wrong in ["/a/b.db", "sqlite:", "postgres://h/d"] {
            assert!(parse_from(wrong).is_err(), "{wrong}");
        }
        assert!(parse_to("postgres://a@h/d").is_ok());
        for (wrong, fix) in [
            ("sqlite:a", "postgres://"),
            ("h/d", "postgres://"),
            ("postgres://a:b@h/d", "MEMGATE_STORE__URL"),
        ] {
            assert!(parse_to(wrong).unwrap_err().contains(fix), "{wrong}");
        }
    }
}
