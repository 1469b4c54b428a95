//! Ends what the system's service manager runs for the user of a role. No role needs any of it, and a role that was taken over
//! may have asked for it, at another time or from another installation, to leave its control group. Other processes of
//! the user aren't ended: they may be another installation's roles.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::control_groups::{innermost_of_root, own_group};
use crate::role::Role;
use crate::system_users::SystemUsers;

/// Names the users whose service manager starts with the machine.
const LINGER: &str = "/var/lib/systemd/linger";

/// The user of a role.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoleUser {
    pub(super) id: u32,
    pub(super) name: &'static str,
}

impl RoleUser {
    /// `None` for root.
    pub(super) fn of(role: Role, system_users: &SystemUsers) -> Option<Self> {
        Some(Self { id: role.identity(system_users)?.user, name: role.user_name()? })
    }
}

/// Ends the user's service manager and sessions, with all processes in them, and forgets that they shall start again.
///
/// # Errors
/// If the system refuses.
pub(super) fn end(user: RoleUser) -> io::Result<()> {
    forget(&Path::new(LINGER).join(user.name))?;
    own_group().map_or(Ok(()), |(mount, _)| kill(&mount, user.id))
}

fn forget(mark: &Path) -> io::Result<()> {
    match fs::remove_file(mark) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(error),
        _ => Ok(()),
    }
}

/// Kills the processes in the group that systemd makes for each user, and in all groups in it.
fn kill(mount: &Path, user: u32) -> io::Result<()> {
    let slice: PathBuf = mount.join("user.slice").join(format!("user-{user}.slice"));
    if innermost_of_root(mount, &slice).as_ref() != Some(&slice) {
        return Ok(());
    }
    match fs::write(slice.join("cgroup.kill"), "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    //
    #[test]
    fn what_the_service_manager_runs_for_a_role_ends() {
        let Some((mount, own)) = own_group() else { return };
        let Some(place) = innermost_of_root(&mount, &own) else { return };
        let place = place.join(format!("test-{}-user", std::process::id()));
        let service = place.join("user.slice/user-4242.slice/user@4242.service");
        if fs::create_dir_all(&service).is_err() || !service.join("cgroup.kill").exists() {
            return;
        }
        let mut escaped = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(service.join("cgroup.procs"), escaped.id().to_string()).unwrap();
        kill(&place, 4243).unwrap();
        assert_eq!(escaped.try_wait().unwrap(), None, "another user's");
        kill(&place, 4242).unwrap();
        assert_eq!(escaped.wait().unwrap().signal(), Some(9));
        for folder in service.ancestors().take_while(|folder| folder.starts_with(&place)) {
            fs::remove_dir(folder).unwrap();
        }

        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("memgate-proxy");
        fs::write(&mark, "").unwrap();
        for _ in 0..2 {
            forget(&mark).unwrap();
            assert!(!mark.exists());
        }
    }
}
