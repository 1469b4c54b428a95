//! Hides from an unprivileged role the sockets of services that start processes for others: what systemd, its login manager,
//! or an engine for containers or machines starts is in none of the role's control groups and has none of its limits.
//!
//! The role gets mounts of its own, in which empty folders cover those of these services. It has no privilege to remove them.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::thread::UnshareFlags;

/// Where local users reach the system's services.
const BUS: &str = "/run/dbus";
const FOLDERS: [&str; 11] = [
    BUS,
    "/run/systemd",
    "/run/user",
    "/run/containerd",
    "/run/crio",
    "/run/docker",
    "/run/incus",
    "/run/libvirt",
    "/run/lxd",
    "/run/podman",
    "/run/snapd",
];
const SOCKETS: [&str; 3] = ["/run/docker.sock", "/run/snapd.socket", "/run/snapd-snap.socket"];
/// A folder in one of [`FOLDERS`] that stays: /etc/resolv.conf often leads there.
const KEPT: &str = "/run/systemd/resolve";

/// Hides what exists of them from this process, which must have one thread and root's privileges.
///
/// # Errors
/// If the system refuses. Where it allows no mounts at all, as in containers, that is an error only beside a message bus.
pub(super) fn hide() -> io::Result<()> {
    if !FOLDERS.iter().chain(&SOCKETS).any(|path| Path::new(path).exists()) {
        return Ok(());
    }
    #[expect(
        deprecated,
        reason = "the unsafe replacement is needed only for flags that unshare file descriptors"
    )]
    let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
    match unshared {
        Ok(()) => {}
        Err(_) if !Path::new(BUS).exists() => return Ok(()),
        Err(error) => {
            return Err(io::Error::other(format!("hide {BUS}: {error}: CAP_SYS_ADMIN is needed")));
        }
    }
    // Later mounts of the host arrive, below these.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let kept = rustix::fs::open(KEPT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let kept = kept.ok().map(File::from);
    for folder in FOLDERS.into_iter().filter(|folder| Path::new(folder).is_dir()) {
        cover(Path::new(folder), kept.as_ref())?;
    }
    for socket in SOCKETS.into_iter().filter(|socket| Path::new(socket).exists()) {
        mount_bind("/dev/null", socket)?;
    }
    Ok(())
}

/// Mounts an empty folder, which nobody may write, over one. `kept` is what stays in it, if it is there.
fn cover(folder: &Path, kept: Option<&File>) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", folder, "tmpfs", flags, c"mode=755,size=64k,nr_inodes=16")?;
    if let (Some(kept), true) = (kept, Path::new(KEPT).starts_with(folder)) {
        DirBuilder::new().mode(0o755).create(KEPT)?;
        mount_bind(format!("/proc/self/fd/{}", kept.as_raw_fd()), KEPT)?;
    }
    mount_remount(folder, flags | MountFlags::RDONLY, "")?;
    Ok(())
}
