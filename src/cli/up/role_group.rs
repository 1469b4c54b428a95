//! A control group for each role that root starts for another user: what the role starts stays in it, whatever session or
//! parent it gives itself, and ends with the role.
//!
//! Groups are made and looked for only in folders that root alone may change, because another user who may write a folder
//! above a group keeps it from being removed: each one with a login session has such folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::control_groups::{innermost_of_root, own_group};
use super::user_manager::{self, RoleUser};
use crate::output::CliError;
use crate::role::Role;

/// How long the processes of a group have to end once they were killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Folders of earlier starts that are looked at.
const EARLIER_MAX: usize = 8;
/// Groups of one role: that of its process, and those of processes that drain.
const GROUPS_MAX: usize = 64;

/// The folders in which an installation's groups are.
#[derive(Debug, Clone, Default)]
pub(crate) struct GroupFolders {
    /// For those of this process. `None` if this system has no version 2 of control groups.
    own: Option<PathBuf>,
    /// Those of earlier starts, whose roles may have left processes.
    earlier: Vec<PathBuf>,
}

impl GroupFolders {
    /// The folders of this process and those of `earlier` starts that still exist.
    pub(super) fn find(earlier: impl IntoIterator<Item = PathBuf>) -> Self {
        let Some((mount, group)) = own_group() else { return Self::default() };
        Self::find_in(&mount, &group, earlier)
    }

    fn find_in(mount: &Path, group: &Path, earlier: impl IntoIterator<Item = PathBuf>) -> Self {
        let own = innermost_of_root(mount, group);
        let earlier = earlier.into_iter().filter(|folder| Some(folder) != own.as_ref());
        let exists = |folder: &PathBuf| innermost_of_root(mount, folder).as_ref() == Some(folder);
        Self { earlier: earlier.filter(exists).take(EARLIER_MAX).collect(), own }
    }

    /// All of them, the newest first: what the next start has to know.
    pub(super) fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.own.iter().chain(&self.earlier)
    }
}

/// A group without processes yet, or with those of one role. Dropping it kills them, and what else runs for the role's user.
#[derive(Debug)]
pub(super) struct RoleGroup {
    folder: PathBuf,
    user: RoleUser,
}

impl RoleGroup {
    /// Ends what an earlier `memgate up` of the installation has left of the role, as [`RoleGroup::end_earlier`], and makes a new
    /// group beside those that are `kept`. `None` if this process can't make one.
    ///
    /// # Errors
    /// If processes of an earlier one don't end.
    pub(super) fn create(
        folders: &GroupFolders,
        names: (&str, &str),
        user: RoleUser,
        kept: &[PathBuf],
    ) -> io::Result<Option<Self>> {
        end_groups(folders, names, kept)?;
        report(user_manager::end(user));
        let Some(own) = &folders.own else { return Ok(None) };
        let mut free = (0..GROUPS_MAX).map(|number| own.join(numbered(names, number)));
        let Some(folder) = free.find(|folder| !folder.exists()) else { return Ok(None) };
        if fs::create_dir(&folder).is_err() || !folder.join("cgroup.kill").exists() {
            let _ = fs::remove_dir(&folder);
            return Ok(None);
        }
        Ok(Some(Self { folder, user }))
    }

    /// Ends what an earlier `memgate up` of the installation has left of the role. Takes [`KILL_TIMEOUT`] at most for each folder.
    ///
    /// # Errors
    /// If processes don't end.
    pub(super) fn end_earlier(folders: &GroupFolders, names: (&str, &str), user: RoleUser) -> io::Result<()> {
        end_groups(folders, names, &[])?;
        report(user_manager::end(user));
        Ok(())
    }

    /// The group that an earlier program of this process has made.
    pub(super) fn resume(folder: PathBuf, user: RoleUser) -> Self {
        Self { folder, user }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
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
        report(user_manager::end(self.user));
    }
}

/// The error if what an earlier start has left of a role doesn't end.
pub(super) fn not_ended(role: Role, error: &io::Error) -> CliError {
    let what = format!("processes of an earlier {} don't end ({error})", role.name());
    CliError::new(what, "end the processes of its user yourself")
}

/// Ends all groups of a role, but those that are `kept`.
fn end_groups(folders: &GroupFolders, names: (&str, &str), kept: &[PathBuf]) -> io::Result<()> {
    let groups = folders.all().flat_map(|folder| {
        (0..GROUPS_MAX).map(|number| folder.join(numbered(names, number))).filter(|group| group.exists())
    });
    groups.filter(|group| !kept.contains(group)).try_for_each(|group| end(&group))
}

/// The name of a role's group. During an upgrade it has more than one.
fn numbered((installation, role): (&str, &str), number: usize) -> String {
    match number {
        0 => format!("memgate-{installation}-{role}"),
        number => format!("memgate-{installation}-{role}-{number}"),
    }
}

fn report(ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::error!(%error, "failed to end what the service manager runs for the user of a role");
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;
    use std::process::Command;

    use super::*;

    const NOBODY: u32 = 65_534;
    const USER: RoleUser = RoleUser { id: 4242, name: "no such user" };

    /// A group of this process's own, removed in the end. `None` without root or version 2 of control groups.
    struct Place {
        mount: PathBuf,
        folder: PathBuf,
    }

    impl Place {
        fn new(name: &str) -> Option<Self> {
            let (mount, own) = own_group()?;
            let folder = innermost_of_root(&mount, &own)?.join(format!("test-{}-{name}", std::process::id()));
            fs::create_dir(&folder).ok()?;
            Some(Self { mount, folder })
        }

        fn folders(&self, group: &Path, earlier: &[&Path]) -> GroupFolders {
            GroupFolders::find_in(&self.mount, group, earlier.iter().map(|folder| folder.to_path_buf()))
        }

        fn below(&self, name: &str, owner: u32) -> PathBuf {
            let folder = self.folder.join(name);
            fs::create_dir(&folder).unwrap();
            chown(&folder, Some(owner), None).unwrap();
            folder
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            remove(&self.folder);
        }
    }

    fn remove(folder: &Path) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
        let _ = fs::remove_dir(folder);
    }

    //
    #[test]
    fn what_a_role_has_started_ends_with_it() {
        let Some(place) = Place::new("role") else { return };
        let folders = place.folders(&place.folder, &[]);
        let Some(group) = RoleGroup::create(&folders, ("test", "role"), USER, &[]).unwrap() else { return };
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
        // A start from elsewhere finds it, and so does the end.
        let other = place.below("other", 0);
        let folders = place.folders(&other, &[&place.folder]);
        let again = RoleGroup::create(&folders, ("test", "role"), USER, &[]).unwrap().unwrap();
        let state = fs::read_to_string(left.join("stat")).unwrap_or_default();
        assert!(!left.exists() || state.contains(") Z "), "{state}");
        std::mem::forget(group);
        let folder = again.folder.clone();
        assert!(folder.starts_with(&other) && folder.exists());
        drop(again);
        assert!(!folder.exists());
    }

    //
    #[test]
    fn groups_of_other_users_are_left_alone_and_stop_no_start() {
        let Some(place) = Place::new("foreign") else { return };
        // What a user can make in the folder of his login session: a group that can't be removed.
        let session = place.below("session", NOBODY);
        let planted = session.join("memgate-test-role");
        fs::create_dir_all(planted.join("kept")).unwrap();
        let folders =
            place.folders(&session, &[&session, &planted, &place.folder.join("session/../session")]);
        assert_eq!(folders.all().collect::<Vec<_>>(), [&place.folder]);
        let group = RoleGroup::create(&folders, ("test", "role"), USER, &[]).unwrap().unwrap();
        assert_eq!(group.folder, place.folder.join("memgate-test-role"));
        drop(group);
        assert!(planted.join("kept").exists());
    }
}
