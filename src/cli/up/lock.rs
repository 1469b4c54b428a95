//! The lock of a data directory: at most one `memgate up` runs with it. The file says which process that is, and where its
//! roles answer, for `memgate status` and `memgate down`, and where its roles' control groups are, for the next start. Only root
//! writes it.
//!
//! It is a lock of the open file (`F_OFD_SETLK`), because whether it is held can be asked without taking it: with flock(2),
//! `memgate status` would keep an `up` from starting at the same moment.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use store::private_file;

use super::role_group::GroupFolders;
use crate::data_dir::DataDir;
use crate::output::{CliError, escape_controls};
use crate::role::Role;
use crate::settings::Settings;

/// Begins a line that names a folder with control groups.
const GROUP_FOLDER: &[u8] = b"groups ";
/// Begins the line with the last upgrade: its number, and why it failed, if it did.
const UPGRADE: &str = "upgrade ";
/// Begins the line with the endpoint.
const ENDPOINT: &str = "endpoint ";
/// Bytes that are read of the file, which is shorter.
const LENGTH_MAX: u64 = 64 << 10;
/// A holder writes the file within microseconds of locking it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The `memgate up` that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHolder {
    /// Its process id.
    pub(crate) pid: i32,
    /// The health addresses of its roles.
    pub(crate) health: Vec<(Role, SocketAddr)>,
    /// The endpoint that it tells users. Commands may have other settings: `up --set` is none of theirs.
    pub(crate) endpoint: Option<String>,
    /// The last upgrade that was asked for; `None` if it can't upgrade, or not yet.
    pub(crate) upgrade: Option<RecordedUpgrade>,
}

/// An upgrade that was asked for, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecordedUpgrade {
    /// How many have been asked for.
    pub(crate) number: u64,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

/// A locked data directory. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// What the file says, but for the last upgrade.
    text: Vec<u8>,
    upgrade: Mutex<RecordedUpgrade>,
    /// Where control groups of this start and of earlier ones are.
    pub(super) group_folders: GroupFolders,
}

/// Locks the data directory.
///
/// # Errors
/// If another process holds the lock, or the file can't be written.
pub(super) fn lock(data_dir: &DataDir, settings: &Settings) -> Result<Lock, CliError> {
    let path = data_dir.lock_path();
    let mut file = private_file::open_or_create(&path)?;
    if fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())).is_err() {
        let holder = lock_holder(data_dir)?;
        let holder = holder.map_or_else(String::new, |holder| format!(" as process {}", holder.pid));
        return Err(CliError::new(
            format!("memgate is already running with the data in {}{holder}", data_dir.path().display()),
            "stop it first, or name another directory with --data DIR",
        ));
    }
    let failed = |error: std::io::Error| {
        CliError::new(
            format!("can't lock {} ({error})", path.display()),
            "check that this user may write there",
        )
    };
    let mut earlier = Vec::new();
    (&file).take(LENGTH_MAX).read_to_end(&mut earlier).map_err(failed)?;
    let recorded = recorded_group_folders(&earlier);
    // At once: until then the file may name the process of an earlier start.
    replace(&mut file, &contents(settings, recorded.iter())).map_err(failed)?;
    let group_folders = GroupFolders::find(recorded);
    let text = contents(settings, group_folders.all());
    let lock = Lock { file, text, upgrade: Mutex::default(), group_folders };
    lock.write();
    Ok(lock)
}

/// Goes on holding the lock of the program before this one in the same process.
///
/// # Errors
/// If the file can't be read or written.
pub(super) fn resume(file: &File, settings: &Settings) -> Result<Lock, CliError> {
    let mut recorded = Vec::new();
    let read = file.try_clone().and_then(|mut file| {
        file.rewind()?;
        (&file).take(LENGTH_MAX).read_to_end(&mut recorded)?;
        Ok(file)
    });
    let file = read.map_err(|error| CliError::new(error.to_string(), "check the disk, then try again"))?;
    let group_folders = GroupFolders::find(recorded_group_folders(&recorded));
    let upgrade = recorded_upgrade(&String::from_utf8_lossy(&recorded)).unwrap_or_default();
    let text = contents(settings, group_folders.all());
    let lock = Lock { file, text, upgrade: Mutex::new(upgrade), group_folders };
    lock.write();
    Ok(lock)
}

impl Lock {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Says what came of an upgrade that was asked for.
    pub(super) fn record_upgrade(&self, result: Result<(), String>) {
        let mut upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = result.err().map(|failure| escape_controls(&failure.replace('\n', "; ")).into_owned());
        *upgrade = RecordedUpgrade { number: upgrade.number + 1, failure };
        drop(upgrade);
        self.write();
    }

    fn write(&self) {
        let line = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).line();
        let text = [&self.text, line.as_bytes()].concat();
        let written = self.file.try_clone().and_then(|mut file| replace(&mut file, &text));
        if let Err(error) = written {
            tracing::error!(%error, "failed to write the lock file");
        }
    }
}

impl RecordedUpgrade {
    /// The line of the file that says so.
    fn line(&self) -> String {
        format!("{UPGRADE}{} {}\n", self.number, self.failure.as_deref().unwrap_or_default())
    }
}

impl Drop for Lock {
    /// The next holder has another id, and this one may be another process's by then.
    fn drop(&mut self) {
        let upgrade = self.upgrade.get_mut().unwrap_or_else(PoisonError::into_inner).line();
        let text = [b"\n".to_vec(), group_lines(self.group_folders.all()), upgrade.into_bytes()].concat();
        if let Err(error) = replace(&mut self.file, &text) {
            tracing::warn!(%error, "failed to remove the process id from the lock file");
        }
    }
}

fn replace(file: &mut File, text: &[u8]) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text)
}

/// What the file says while this process holds it.
fn contents<'a>(settings: &Settings, folders: impl Iterator<Item = &'a PathBuf>) -> Vec<u8> {
    let mut text = format!("{}\n", std::process::id()).into_bytes();
    for role in Role::ALL {
        text.extend(format!("{} {}\n", role.name(), role.health(settings)).into_bytes());
    }
    text.extend(format!("{ENDPOINT}{}\n", settings.webui.endpoint).into_bytes());
    text.extend(group_lines(folders));
    text
}

fn group_lines<'a>(folders: impl Iterator<Item = &'a PathBuf>) -> Vec<u8> {
    folders.flat_map(|folder| [GROUP_FOLDER, folder.as_os_str().as_bytes(), b"\n"].concat()).collect()
}

/// The folders with control groups that an earlier start has recorded.
fn recorded_group_folders(text: &[u8]) -> Vec<PathBuf> {
    let folders = text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(GROUP_FOLDER));
    folders.map(|folder| PathBuf::from(OsStr::from_bytes(folder))).collect()
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
    let failed = |error: String| {
        CliError::new(format!("can't read {} ({error})", path.display()), "check the disk, then retry")
    };
    let started = Instant::now();
    loop {
        if !is_locked(&file).map_err(|error| failed(error.to_string()))? {
            return Ok(None);
        }
        let mut text = Vec::new();
        let read = file.rewind().and_then(|()| (&file).take(LENGTH_MAX).read_to_end(&mut text));
        read.map_err(|error| failed(error.to_string()))?;
        if let Some(holder) = parse(&String::from_utf8_lossy(&text)) {
            return Ok(Some(holder));
        }
        if started.elapsed() > WRITE_TIMEOUT {
            return Err(failed("it is locked and doesn't say by which process".to_owned()));
        }
        sleep(POLL_INTERVAL);
    }
}

/// Where a role answers: as the running `memgate up` says, or the settings.
pub(crate) fn health_address(up: Option<&LockHolder>, role: Role, settings: &Settings) -> SocketAddr {
    let known = up.into_iter().flat_map(|up| &up.health).find(|(known, _)| *known == role);
    known.map_or_else(|| role.health(settings), |(_, address)| *address)
}

/// Whether another open file holds the lock. Takes none itself.
fn is_locked(file: &File) -> nix::Result<bool> {
    let mut found = whole_file();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// A lock for writing of a file from its beginning to its end.
fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn parse(text: &str) -> Option<LockHolder> {
    let mut lines = text.lines();
    let pid = lines.next()?.parse().ok()?;
    let address = |line: &str| {
        let (name, address) = line.split_once(' ')?;
        let role = Role::ALL.into_iter().find(|role| role.name() == name)?;
        Some((role, address.trim().parse().ok()?))
    };
    let endpoint = |line: &str| Some(line.strip_prefix(ENDPOINT)?.trim().to_owned());
    let rest: Vec<&str> = lines.collect();
    Some(LockHolder {
        pid,
        health: rest.iter().filter_map(|line| address(line)).collect(),
        endpoint: rest.iter().find_map(|line| endpoint(line)),
        upgrade: recorded_upgrade(text),
    })
}

fn recorded_upgrade(text: &str) -> Option<RecordedUpgrade> {
    let line = text.lines().find_map(|line| line.strip_prefix(UPGRADE))?;
    let (number, failure) = line.split_once(' ').unwrap_or((line, ""));
    let failure = Some(failure.trim().to_owned()).filter(|failure| !failure.is_empty());
    Some(RecordedUpgrade { number: number.parse().unwrap_or_default(), failure })
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
        let folders: Vec<PathBuf> = held.group_folders.all().cloned().collect();
        drop(held);
        assert_eq!(lock_holder(&data_dir).unwrap(), None);
        // Another start that has the lock, and hasn't written its id yet.
        let starting = private_file::open_or_create(&data_dir.lock_path()).unwrap();
        fcntl(&starting, FcntlArg::F_OFD_SETLK(&whole_file())).unwrap();
        assert!(lock_holder(&data_dir).is_err(), "the id isn't the earlier holder's");
        drop(starting);
        // The next start knows where this one's control groups are.
        let text = std::fs::read(data_dir.lock_path()).unwrap();
        assert_eq!(recorded_group_folders(&text), folders);
        assert_eq!(recorded_group_folders(b"12\ngroups /a b\nproxy 127.0.0.1:1\n"), [PathBuf::from("/a b")]);
        assert_eq!(holder.endpoint, Some(settings.webui.endpoint));
        let earlier = LockHolder { pid: 12, health: Vec::new(), endpoint: None, upgrade: None };
        assert_eq!(parse("12\n"), Some(earlier), "of an earlier version");
    }

    // F-27.
    #[test]
    fn looking_at_the_lock_keeps_nobody_from_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::at(folder.path());
        drop(private_file::open_or_create(&data_dir.lock_path()).unwrap());
        // Somebody who looks, and hasn't closed the file yet.
        let looking = private_file::open_existing(&data_dir.lock_path()).unwrap();
        assert_eq!(is_locked(&looking), Ok(false));
        let held = lock(&data_dir, &Settings::default()).unwrap();
        assert_eq!(is_locked(&looking), Ok(true));
        drop(held);
    }

    // F-27.
    #[test]
    fn lock_that_is_not_written_is_held_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::at(folder.path());
        let mut file = private_file::open_or_create(&data_dir.lock_path()).unwrap();
        fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())).unwrap();
        let error = lock_holder(&data_dir).unwrap_err().to_string();
        assert!(error.contains("doesn't say by which process"), "{error}");
        file.write_all(b"12\n").unwrap();
        assert_eq!(lock_holder(&data_dir).unwrap().map(|holder| holder.pid), Some(12));
    }
}
