//! Whether root may open files in a folder by name: only if no unprivileged role may change what the name leads to.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::output::CliError;
use crate::system_users::RoleIds;

const STICKY: u32 = 0o1000;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;

/// Who may have files in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Its owner alone.
    Exclusive,
    /// Others too, as in /tmp, if they can't remove each other's files.
    Shared,
}

/// Refuses a folder if an unprivileged role may change its entries or those of a parent. Without root, all roles are the
/// same user, and any folder will do. A folder that doesn't exist is left to who opens it.
///
/// # Errors
/// Names the first folder that can't be trusted, or can't be checked.
pub(crate) fn require(folder: &Path, used: Use) -> Result<(), CliError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    check(folder, used, RoleIds::get()?)
}

fn check(folder: &Path, used: Use, roles: &RoleIds) -> Result<(), CliError> {
    let folder = match fs::canonicalize(folder) {
        Ok(folder) => folder,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unknown(folder, &error)),
    };
    for (level, folder) in folder.ancestors().enumerate() {
        let meta = fs::metadata(folder).map_err(|error| unknown(folder, &error))?;
        let may_be_shared = level > 0 || used == Use::Shared;
        let is_open = |bit: u32| meta.mode() & bit != 0 && !(may_be_shared && meta.mode() & STICKY != 0);
        let reason = if roles.users.contains(&meta.uid()) {
            "belongs to an unprivileged role of memgate"
        } else if is_open(WRITABLE_BY_ALL) {
            "can be changed by every user"
        } else if is_open(WRITABLE_BY_GROUP) && roles.groups.contains(&meta.gid()) {
            "can be changed by unprivileged roles of memgate"
        } else {
            continue;
        };
        return Err(CliError::new(
            format!("root can't trust files in {}, because it {reason}", folder.display()),
            "name a folder that only root may write, such as /var/lib/memgate",
        ));
    }
    Ok(())
}

fn unknown(folder: &Path, error: &std::io::Error) -> CliError {
    CliError::new(
        format!("can't check who may change {} ({error})", folder.display()),
        "name a folder that only root may write, such as /var/lib/memgate",
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    //
    #[test]
    fn folder_that_a_role_may_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, folder) = (dir.path().join("parent"), dir.path().join("parent/folder"));
        fs::create_dir_all(&folder).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let meta = fs::metadata(&folder).unwrap();
        let (nobody, own_group) =
            (RoleIds::default(), RoleIds { users: Vec::new(), groups: vec![meta.gid()] });
        set(&parent, 0o755);
        for (mode, used, roles, is_trusted) in [
            (0o755, Use::Exclusive, &nobody, true),
            (0o775, Use::Exclusive, &nobody, true),
            (0o775, Use::Exclusive, &own_group, false),
            (0o3770, Use::Exclusive, &own_group, false),
            (0o3770, Use::Shared, &own_group, true),
            (0o1777, Use::Exclusive, &nobody, false),
            (0o1777, Use::Shared, &nobody, true),
            (0o757, Use::Shared, &nobody, false),
        ] {
            set(&folder, mode);
            assert_eq!(check(&folder, used, roles).is_ok(), is_trusted, "{mode:o} {used:?}");
        }
        set(&folder, 0o700);
        for (mode, roles, is_trusted) in [
            (0o775, &nobody, true),
            (0o1777, &nobody, true),
            (0o777, &nobody, false),
            (0o775, &own_group, false),
        ] {
            set(&parent, mode);
            assert_eq!(check(&folder, Use::Exclusive, roles).is_ok(), is_trusted, "parent {mode:o}");
        }
        set(&parent, 0o755);
        assert!(check(&parent.join("missing"), Use::Exclusive, &nobody).is_ok());
        fs::write(parent.join("file"), "").unwrap();
        assert!(check(&parent.join("file/missing"), Use::Exclusive, &nobody).is_err(), "can't be checked");
        let role = RoleIds { users: vec![12345], groups: Vec::new() };
        if chown(&parent, Some(12345), None).is_ok() {
            assert!(check(&folder, Use::Exclusive, &role).is_err());
        }
    }
}
