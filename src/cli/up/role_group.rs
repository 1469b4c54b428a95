//! A control group for each role that root starts for another user: what the role starts stays in it, whatever session or
//! parent it gives itself, and ends with the role.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the processes of a group have to end once they were killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Folders below the mount that are searched at most for groups of an earlier `memgate up`.
const SEARCHED_MAX: usize = 20_000;

/// A group without processes yet, or with those of one role. Dropping it kills them.
#[derive(Debug)]
pub(super) struct RoleGroup {
    folder: PathBuf,
}

impl RoleGroup {
    /// Ends what an earlier `memgate up` of the installation has left of the role, and makes a new group below this
    /// process's own. `None` if this system has no version 2 of control groups that this process may write.
    ///
    /// # Errors
    /// If processes of an earlier one don't end.
    pub(super) fn create(installation: &str, role: &str) -> io::Result<Option<Self>> {
        let Some((mount, own)) = own_group() else { return Ok(None) };
        Self::create_in(&mount, &own, &format!("memgate-{installation}-{role}"))
    }

    fn create_in(mount: &Path, own: &Path, name: &str) -> io::Result<Option<Self>> {
        for folder in named(mount, name) {
            end(&folder)?;
        }
        let folder = own.join(name);
        if fs::create_dir(&folder).is_err() || !folder.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&folder);
            return Ok(None);
        }
        Ok(Some(Self { folder }))
    }

    /// Moves a process into the group, before it does anything that others decide.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())
    }
}

impl Drop for RoleGroup {
    fn drop(&mut self) {
        if let Err(error) = end(&self.folder) {
            tracing::error!(group = %self.folder.display(), %error, "failed to end what a role has left");
        }
    }
}

/// Kills all processes of a group and of those in it, and removes it. Nothing can be started in it meanwhile.
fn end(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.kill"), "1")?;
    let started = Instant::now();
    loop {
        let events = fs::read_to_string(folder.join("cgroup.events"))?;
        if events.lines().any(|line| line == "populated 0") {
            return fs::remove_dir(folder);
        }
        if started.elapsed() > KILL_TIMEOUT {
            return Err(io::Error::other("its processes don't end"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The mount of version 2 of control groups, and this process's own group in it.
fn own_group() -> Option<(PathBuf, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (folder, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = mount.join(own);
    Some((mount, own))
}

/// The folders of this name below a mount.
fn named(mount: &Path, name: &str) -> Vec<PathBuf> {
    let (mut found, mut open, mut searched) = (Vec::new(), vec![mount.to_path_buf()], 0);
    while let Some(folder) = open.pop() {
        searched += 1;
        if searched > SEARCHED_MAX {
            break;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name() == name { found.push(entry.path()) } else { open.push(entry.path()) }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    //
    #[test]
    fn what_a_role_has_started_ends_with_it() {
        let Some((mount, own)) = own_group() else { return };
        let name = format!("memgate-test-{}", std::process::id());
        let Some(group) = RoleGroup::create_in(&mount, &own, &name).unwrap() else { return };
        // It leaves its session and its parent, as code that wants to outlive the role does.
        let script = "read go; setsid sh -c 'echo $$; exec sleep 1000' & exit 0";
        let mut role = Command::new("sh");
        role.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut role = role.spawn().unwrap();
        group.add(role.id()).unwrap();
        drop(role.stdin.take());
        assert!(role.wait().unwrap().success());
        let mut line = String::new();
        let mut output = io::BufReader::new(role.stdout.take().unwrap());
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        let left = PathBuf::from(format!("/proc/{}", line.trim()));
        assert!(left.exists());
        // Another start finds it, and so does the end.
        let again = RoleGroup::create_in(&mount, &own, &name).unwrap().unwrap();
        let state = fs::read_to_string(left.join("stat")).unwrap_or_default();
        assert!(!left.exists() || state.contains(") Z "), "{state}");
        std::mem::forget(group);
        let folder = again.folder.clone();
        assert!(folder.exists());
        drop(again);
        assert!(!folder.exists());
    }
}
