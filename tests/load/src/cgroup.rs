//! What the kernel says of a container's control group, in both versions of control groups and with both of Docker's drivers.

use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";
const MIB: f64 = 1_048_576.0;

/// Memory of a container since it was started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MemoryUse {
    /// In MiB.
    pub(crate) peak_mb: f64,
    pub(crate) limit_mb: f64,
    /// Processes that the kernel has killed because there was no more.
    pub(crate) oom_kills: u64,
}

/// The first of some files of a container's control group that can be read.
pub(crate) fn read(container: &str, controller: &str, names: &[&str]) -> Option<String> {
    read_at(Path::new(ROOT), container, controller, names)
}

/// The memory of a container; `None` if its control group isn't found, or lacks a figure: `memory.peak` came with Linux 5.19.
pub(crate) fn memory(container: &str) -> Option<MemoryUse> {
    memory_at(Path::new(ROOT), container)
}

/// A figure with a name, on a line of its own.
pub(crate) fn figure(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn read_at(root: &Path, container: &str, controller: &str, names: &[&str]) -> Option<String> {
    // With cgroupfs as Docker's driver, and with systemd.
    let groups = [format!("docker/{container}"), format!("system.slice/docker-{container}.scope")];
    let places = groups.iter().flat_map(|group| [root.join(controller).join(group), root.join(group)]);
    let mut files = places.flat_map(|place| names.iter().map(move |name| place.join(name)));
    files.find_map(|file| fs::read_to_string(file).ok())
}

fn memory_at(root: &Path, container: &str) -> Option<MemoryUse> {
    // Version 1, and version 2.
    let text = |names: [&str; 2]| read_at(root, container, "memory", &names);
    let megabytes = |names| text(names)?.trim().parse::<u64>().ok().map(|bytes| bytes as f64 / MIB);
    Some(MemoryUse {
        peak_mb: megabytes(["memory.max_usage_in_bytes", "memory.peak"])?,
        limit_mb: megabytes(["memory.limit_in_bytes", "memory.max"])?,
        oom_kills: figure(&text(["memory.oom_control", "memory.events"])?, "oom_kill")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |group: &str, files: [(&str, &str); 3]| {
            let group = folder.path().join(group);
            fs::create_dir_all(&group).unwrap();
            for (name, text) in files {
                fs::write(group.join(name), text).unwrap();
            }
        };
        let first = [
            ("memory.max_usage_in_bytes", "1048576\n"),
            ("memory.limit_in_bytes", "2097152\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
        ];
        write("memory/docker/one", first);
        let second = [
            ("memory.peak", "3145728\n"),
            ("memory.max", "4194304\n"),
            ("memory.events", "low 0\noom 7\noom_kill 0\noom_group_kill 9\n"),
        ];
        write("system.slice/docker-two.scope", second);
        let used = |container| memory_at(folder.path(), container);
        assert_eq!(used("one"), Some(MemoryUse { peak_mb: 1.0, limit_mb: 2.0, oom_kills: 3 }));
        assert_eq!(used("two"), Some(MemoryUse { peak_mb: 3.0, limit_mb: 4.0, oom_kills: 0 }));
        assert_eq!(used("three"), None);
    }
}
