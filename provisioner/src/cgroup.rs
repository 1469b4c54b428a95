//! What a container uses, as its control group says: two small files of the kernel, where Docker's own statistics take a
//! second for each container.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Bytes that are read of a file; those that are needed stand at its beginning.
const FILE_MAX: u64 = 4_096;
/// Characters of a container's id.
const ID_LEN: usize = 64;

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ContainerUsage {
    /// Bytes of memory, with the kernel's buffers for it.
    pub(crate) memory_bytes: u64,
    /// CPU time since the container was started, in microseconds.
    pub(crate) cpu_us: u64,
}

/// What the container with this id uses; `None` if its control group can't be read, or isn't where Docker makes it.
pub(crate) fn usage(container: &str) -> Option<ContainerUsage> {
    read(Path::new(ROOT), container)
}

fn read(root: &Path, container: &str) -> Option<ContainerUsage> {
    // It becomes a part of a path.
    if container.len() != ID_LEN || !container.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    // With systemd as Docker's cgroup driver, and with cgroupfs.
    let groups = [format!("system.slice/docker-{container}.scope"), format!("docker/{container}")];
    groups.iter().find_map(|group| version_2(&root.join(group)).or_else(|| version_1(root, group)))
}

fn version_2(group: &Path) -> Option<ContainerUsage> {
    let memory_bytes = number(&text(group.join("memory.current"))?)?;
    let cpu = text(group.join("cpu.stat"))?;
    let cpu_us = number(cpu.lines().find_map(|line| line.strip_prefix("usage_usec "))?)?;
    Some(ContainerUsage { memory_bytes, cpu_us })
}

fn version_1(root: &Path, group: &str) -> Option<ContainerUsage> {
    let file = |controller: &str, name: &str| number(&text(root.join(controller).join(group).join(name))?);
    let memory_bytes = file("memory", "memory.usage_in_bytes")?;
    let nanos = file("cpuacct", "cpuacct.usage")?;
    Some(ContainerUsage { memory_bytes, cpu_us: nanos / 1_000 })
}

fn text(path: PathBuf) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn usage_is_found_with_each_driver_and_version() {
        let (one, two, three) = ("a".repeat(ID_LEN), "b".repeat(ID_LEN), "0f".repeat(ID_LEN / 2));
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, &format!("system.slice/docker-{one}.scope/memory.current"), "1048576\n");
        write(root, &format!("system.slice/docker-{one}.scope/cpu.stat"), "usage_usec 77\nuser_usec 7\n");
        write(root, &format!("docker/{two}/memory.current"), "5\n");
        write(root, &format!("docker/{two}/cpu.stat"), "usage_usec 6\n");
        write(root, &format!("memory/docker/{three}/memory.usage_in_bytes"), "9\n");
        write(root, &format!("cpuacct/docker/{three}/cpuacct.usage"), "12345678\n");
        for (id, memory_bytes, cpu_us) in [(&one, 1 << 20, 77), (&two, 5, 6), (&three, 9, 12_345)] {
            assert_eq!(read(root, id), Some(ContainerUsage { memory_bytes, cpu_us }), "{id}");
        }
        for unknown in ["c".repeat(ID_LEN), "../../etc".to_owned(), String::new()] {
            assert_eq!(read(root, &unknown), None, "{unknown}");
        }
    }
}
