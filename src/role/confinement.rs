//! What a role that `memgate up` starts gives up before it does anything else: the terminal, inherited files, the sockets of
//! services that start processes for others, and all privileges that it doesn't need. It still has one thread then, which it checks, and has read nothing but its
//! command line.

use std::fs::{self, File};
use std::io;
use std::str::FromStr;

use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::hidden_sockets;
use super::priority::{self, Priority};

/// Stdin, stdout and stderr.
const STANDARD_FILES: i32 = 3;
/// Capability numbers are below this.
const CAPABILITIES_MAX: u32 = 64;

/// Limits of a role that becomes another user: processes and threads of that user, of which the role needs some hundred; the
/// size of a file in bytes; dumps of memory, which contains secrets.
const LIMITS: [(Resource, u64); 3] =
    [(Resource::Nproc, 4_096), (Resource::Fsize, 64 << 30), (Resource::Core, 0)];

/// A user with groups, as text: `user:group[:group...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) other_groups: Vec<u32>,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.user, self.group)?;
        self.other_groups.iter().try_for_each(|group| write!(f, ":{group}"))
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ids: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
        match ids.as_deref() {
            Ok([user, group, other_groups @ ..]) => {
                Ok(Self { user: *user, group: *group, other_groups: other_groups.to_vec() })
            }
            _ => Err("write USER:GROUP in numbers".to_owned()),
        }
    }
}

/// Confines this process for good: it becomes `identity`, if one is given, keeps of root's capabilities those in `kept`, may
/// take those in `takeable`, and lowers its priority.
///
/// # Errors
/// If the system refuses one of the steps, or there is another thread. The caller must exit then.
pub(super) fn confine(
    identity: Option<&Identity>,
    (kept, takeable): (CapabilitySet, CapabilitySet),
    priority: Priority,
) -> io::Result<()> {
    require_single_thread()?;
    let parent = rustix::process::getppid();
    rustix::process::setsid()?;
    priority::lower(priority);
    // A process started as /proc/self/exe is listed as "exe".
    rustix::thread::set_name(c"memgate")?;
    close_inherited_files()?;
    rustix::thread::set_no_new_privs(true)?;
    if identity.is_some() {
        hidden_sockets::hide()?;
    }
    if rustix::process::geteuid().is_root() {
        limit_capabilities(kept)?;
    }
    if let Some(identity) = identity {
        become_user(identity)?;
        limit_resources()?;
    }
    reduce_capabilities((kept, takeable), identity.is_some())?;
    // Last: a change of the user resets it.
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    require_parent(parent)
}

/// A parent that ended before it was to send a signal then sent none.
fn require_parent(parent: Option<Pid>) -> io::Result<()> {
    if rustix::process::getppid() == parent {
        Ok(())
    } else {
        Err(io::Error::other("the process that has started it has ended"))
    }
}

/// Gives the process of a proxy that runs alone a session of its own, in which no terminal signals it beside its parent, no inherited
/// file, and no capability but root's: its parent has bound its ports. It ends when its parent ends, however that is.
///
/// # Errors
/// If the system refuses one of the steps. The caller must exit then.
pub(super) fn end_with_parent() -> io::Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::setsid()?;
    rustix::thread::set_name(c"memgate")?;
    close_inherited_files()?;
    rustix::thread::set_no_new_privs(true)?;
    if !rustix::process::geteuid().is_root() {
        reduce_capabilities((CapabilitySet::empty(), CapabilitySet::empty()), false)?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    require_parent(parent)
}

/// User, groups and capabilities are a thread's own: another thread would keep root's.
fn require_single_thread() -> io::Result<()> {
    match fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        count => Err(io::Error::other(format!("it has {count} threads already"))),
    }
}

/// Closes what `memgate up` was started with, such as a script's lock file: a child inherits it.
fn close_inherited_files() -> io::Result<()> {
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<i32>().ok();
    let files: Vec<i32> = fs::read_dir("/proc/self/fd")?.filter_map(number).collect();
    for file in files.into_iter().filter(|file| *file >= STANDARD_FILES) {
        // The one that listed the directory is closed already.
        let _ = nix::unistd::close(file);
    }
    Ok(())
}

/// Removes all other capabilities from the bounding set: no program that this process starts can have them.
fn limit_capabilities(kept: CapabilitySet) -> io::Result<()> {
    for number in 0..CAPABILITIES_MAX {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // An error means that the kernel has no such capability.
        let Ok(is_possible) = rustix::thread::capability_is_in_bounding_set(capability) else { break };
        if is_possible && !kept.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    Ok(())
}

fn become_user(identity: &Identity) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(identity.user), Gid::from_raw(identity.group));
    let others: Vec<Gid> = identity.other_groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&others)?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    let is_complete = rustix::process::getuid() == user && rustix::process::geteuid() == user;
    if is_complete { Ok(()) } else { Err(io::Error::other("the user did not change")) }
}

fn limit_resources() -> io::Result<()> {
    for (resource, most) in LIMITS {
        let hard = rustix::process::getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })?;
    }
    Ok(())
}

/// Keeps of this process's own capabilities those in `kept` in effect, and those in `takeable` out of effect, and passes on
/// none. Without root, the provisioner keeps what the user who started `memgate up` gave it.
fn reduce_capabilities((kept, takeable): (CapabilitySet, CapabilitySet), is_user: bool) -> io::Result<()> {
    let held = rustix::thread::capabilities(None::<Pid>)?.permitted;
    let may_inherit = !rustix::process::geteuid().is_root() && !is_user && !kept.is_empty();
    if !may_inherit {
        let none = CapabilitySet::empty();
        rustix::thread::clear_ambient_capability_set()?;
        let sets =
            CapabilitySets { effective: held & kept, permitted: held & (kept | takeable), inheritable: none };
        rustix::thread::set_capabilities(None::<Pid>, sets)?;
    }
    Ok(())
}

/// Puts /dev/null in the place of stdin.
pub(super) fn close_stdin() -> io::Result<()> {
    Ok(rustix::stdio::dup2_stdin(File::open("/dev/null")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // threads of a test binary stand for one that a library started too early.
    #[test]
    fn process_with_other_threads_is_not_confined() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        let error = require_single_thread().unwrap_err().to_string();
        assert!(error.contains("threads already"), "{error}");
        drop(stop);
        assert!(thread.join().unwrap().is_err());
    }

    #[test]
    fn identity_is_read_as_it_is_written() {
        for text in ["999:994", "999:994:993", "1:2:3:4"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for text in ["", "999", "999:", "a:b", "-1:2", "1:2:"] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
