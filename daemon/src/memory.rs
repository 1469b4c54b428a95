//! How much memory there is: the machine's, and what control groups allow this process.

use std::path::{Path, PathBuf};

/// Where version 2 of control groups is mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The machine's memory, in bytes.
#[must_use]
pub fn machine_bytes() -> usize {
    let machine = rustix::system::sysinfo();
    let unit = usize::try_from(machine.mem_unit).unwrap_or(1);
    usize::try_from(machine.totalram).unwrap_or(usize::MAX).saturating_mul(unit)
}

/// The memory that this process may use, in bytes: the machine's, or the least that its control group or one above it
/// allows. Only version 2 of control groups is read. Containers that this process starts have other groups.
#[must_use]
pub fn available_bytes() -> usize {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&own).iter().filter_map(|file| limit(file)).fold(machine_bytes(), usize::min)
}

/// The files with the limits of a control group and those above it. `own` is the content of `/proc/self/cgroup`.
fn limit_files(own: &str) -> Vec<PathBuf> {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    // A process in a namespace of its own may be in a group outside of it, whose path begins with `..`.
    let is_outside = Path::new(path).components().any(|part| part.as_os_str() == "..");
    let group = Path::new(CONTROL_GROUPS).join(if is_outside { "" } else { path });
    let groups = group.ancestors().take_while(|group| group.starts_with(CONTROL_GROUPS));
    groups.map(|group| group.join("memory.max")).collect()
}

/// The limit in a file; `None` if it is `max`, or the group has none.
fn limit(file: &Path) -> Option<usize> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_all_groups_above_count() {
        let files =
            |own| -> Vec<String> { limit_files(own).iter().map(|file| file.display().to_string()).collect() };
        assert_eq!(
            files("1:name=systemd:/x\n0::/system.slice/memgate.service\n"),
            [
                "/sys/fs/cgroup/system.slice/memgate.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        // In a container.
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
        assert_eq!(files("0::/../other\n"), ["/sys/fs/cgroup/memory.max"]);
        // Version 1 only.
        assert_eq!(files("5:memory:/x\n"), [""; 0]);
        assert!((1024 * 1024..=machine_bytes()).contains(&available_bytes()));
    }
}
