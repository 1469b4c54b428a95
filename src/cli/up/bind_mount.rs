//! Makes a data directory reachable for unprivileged roles that may not enter its parents, such as
//! /root/memgate/data: a bind mount at [`MOUNT_POINT`] in a private mount namespace. Other processes don't see
//! it, no permissions change, and it disappears with this process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::output::CliError;
use crate::system_users::SystemUsers;

/// Outside the namespace this is an empty directory, so that several installations can use the same path.
const MOUNT_POINT: &str = "/run/memgate";

/// Returns a path at which all roles reach `data`. Call it while the process has a single thread.
///
/// # Errors
/// If the directory can't be mounted.
pub(crate) fn ensure_reachable(data: &Path, system_users: &SystemUsers) -> Result<PathBuf, CliError> {
    if is_reachable(data, system_users.group.as_raw()) {
        return Ok(data.to_path_buf());
    }
    if is_mounted(data) {
        return Ok(PathBuf::from(MOUNT_POINT));
    }
    bind_mount(data).map(|()| PathBuf::from(MOUNT_POINT)).map_err(|error| {
        let users = "the users memgate-proxy and memgate-webui";
        CliError::new(
            format!("{users} can't access {} ({error})", data.display()),
            "use a directory that all users may enter, like --data /var/lib/memgate",
        )
    })
}

/// Whether the system users may enter all parent directories.
fn is_reachable(data: &Path, group: u32) -> bool {
    data.ancestors().skip(1).all(|dir| {
        fs::metadata(dir).is_ok_and(|meta| {
            let bit = if meta.gid() == group { 0o010 } else { 0o001 };
            meta.mode() & bit != 0
        })
    })
}

/// Whether an earlier program of this process has mounted it already.
fn is_mounted(data: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    inode(data).is_ok_and(|data| inode(Path::new(MOUNT_POINT)).is_ok_and(|mounted| mounted == data))
}

fn bind_mount(data: &Path) -> std::io::Result<()> {
    fs::create_dir_all(MOUNT_POINT)?;
    // The umask of this process would deny access to other users.
    fs::set_permissions(MOUNT_POINT, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    #[expect(
        deprecated,
        reason = "the unsafe replacement is needed only for flags that unshare file descriptors"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount_bind(data, MOUNT_POINT)?;
    Ok(())
}
