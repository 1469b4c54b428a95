//! The lock of a data directory: at most one `memgate up` runs with it. The file says which process that is, and where its
//! roles answer, for `memgate status` and `memgate down`. Only root writes it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use rustix::fs::FlockOperation;
use store::private_file;

use crate::data_dir::DataDir;
use crate::output::CliError;
use crate::role::Role;
use crate::settings::Settings;

/// The `memgate up` that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHolder {
    /// Its process id.
    pub(crate) pid: i32,
    /// The health addresses of its roles.
    pub(crate) health: Vec<(Role, SocketAddr)>,
}

/// Locks the data directory as long as the returned file is open.
///
/// # Errors
/// If another process holds the lock, or the file can't be written.
pub(super) fn lock(data_dir: &DataDir, settings: &Settings) -> Result<File, CliError> {
    let path = data_dir.lock_path();
    let mut file = private_file::open_or_create(&path)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = lock_holder(data_dir)?;
        let holder = holder.map_or_else(String::new, |holder| format!(" as process {}", holder.pid));
        return Err(CliError::new(
            format!("memgate is already running with the data in {}{holder}", data_dir.path().display()),
            "stop it first, or name another directory with --data DIR",
        ));
    }
    let mut text = format!("{}\n", std::process::id());
    for role in Role::ALL {
        let _ = writeln!(text, "{} {}", role.name(), role.health(settings));
    }
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(|error| {
        CliError::new(
            format!("can't lock {} ({error})", path.display()),
            "check that this user may write there",
        )
    })?;
    Ok(file)
}

/// The `memgate up` that runs with this data directory, if one does.
///
/// # Errors
/// If the lock can't be looked at: then a process may hold it.
pub(crate) fn lock_holder(data_dir: &DataDir) -> Result<Option<LockHolder>, CliError> {
    let path = data_dir.lock_path();
    let mut file = match private_file::open_existing(&path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| {
        CliError::new(format!("can't read {} ({error})", path.display()), "check the disk, then retry")
    })?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Option<LockHolder> {
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    let address = |line: &str| {
        let (name, address) = line.split_once(' ')?;
        let role = Role::ALL.into_iter().find(|role| role.name() == name)?;
        Some((role, address.trim().parse().ok()?))
    };
    Some(LockHolder { pid, health: lines.filter_map(address).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-27.
    #[test]
    fn lock_says_who_holds_it_and_where_its_roles_answer() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::at(folder.path());
        assert_eq!(lock_holder(&data_dir).unwrap(), None);
        let mut settings = Settings::default();
        settings.proxy.health = "127.0.0.1:19151".parse().unwrap();
        let held = lock(&data_dir, &settings).unwrap();
        let holder = lock_holder(&data_dir).unwrap().unwrap();
        assert_eq!(holder.pid, std::process::id().cast_signed());
        assert!(holder.health.contains(&(Role::Proxy, settings.proxy.health)), "{holder:?}");
        assert_eq!(holder.health.len(), Role::ALL.len());
        let error = lock(&data_dir, &settings).unwrap_err().to_string();
        assert!(error.contains("already running") && error.contains(&holder.pid.to_string()), "{error}");
        drop(held);
        assert_eq!(lock_holder(&data_dir).unwrap(), None);
        assert_eq!(parse("12\n"), Some(LockHolder { pid: 12, health: Vec::new() }), "of an earlier version");
    }
}
