//! Folders of version 2 of control groups, and which of them root may trust.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The mount of version 2 of control groups, and this process's own group in it.
pub(super) fn own_group() -> Option<(PathBuf, PathBuf)> {
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

/// The innermost of the folders from the mount to `group` that only root can remove, replace or fill, with all above it.
pub(super) fn innermost_of_root(mount: &Path, group: &Path) -> Option<PathBuf> {
    let below = group.strip_prefix(mount).ok()?;
    if below.components().any(|part| !matches!(part, Component::Normal(_))) || !is_of_root(mount) {
        return None;
    }
    let mut innermost = mount.to_path_buf();
    for part in below {
        let folder = innermost.join(part);
        if !is_of_root(&folder) {
            break;
        }
        innermost = folder;
    }
    Some(innermost)
}

fn is_of_root(folder: &Path) -> bool {
    let is_trusted =
        |found: fs::Metadata| found.is_dir() && found.uid() == 0 && found.mode() & WRITABLE_BY_OTHERS == 0;
    folder.symlink_metadata().is_ok_and(is_trusted)
}
