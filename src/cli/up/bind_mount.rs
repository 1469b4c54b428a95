//! A way for unprivileged roles into a data folder that lies where they can't go, /root/memgate/data
//! say: a private view of the file system in which the folder is also at [`VIEW`]. Nobody else sees
//! it, nobody's permissions change, and it ends with us.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;

use crate::output::CliError;
use crate::system_users::SystemUsers;

/// An empty folder to everybody else. Installations don't meet here: each has its own view.
const VIEW: &str = "/run/memgate";

/// The path by which all roles get to `data`. Call it while there is one thread only.
pub(crate) fn open(data: &Path, accounts: &SystemUsers) -> Result<PathBuf, CliError> {
    if passable(data, accounts.group.as_raw()) {
        return Ok(data.to_path_buf());
    }
    enter_view(data).map(|()| PathBuf::from(VIEW)).map_err(|error| {
        let user = "the users memgate-proxy and memgate-webui";
        CliError::new(
            format!("{user} can't get to {} ({error})", data.display()),
            "name a folder below one that everybody may enter, like --data /var/lib/memgate",
        )
    })
}

/// Whether our accounts may pass through every folder above.
fn passable(data: &Path, group: u32) -> bool {
    data.ancestors().skip(1).all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let bit = if meta.gid() == group { 0o010 } else { 0o001 };
            meta.mode() & bit != 0
        })
    })
}

fn enter_view(data: &Path) -> std::io::Result<()> {
    fs::create_dir_all(VIEW)?;
    // The process's umask would keep others out of what is an empty folder.
    fs::set_permissions(VIEW, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    #[expect(deprecated, reason = "its unsafe twin is for flags that split the table of open files")]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    mount_bind(data, VIEW)?;
    Ok(())
}
