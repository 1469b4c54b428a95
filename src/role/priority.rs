//! A role's share of the CPU. Roles on one machine compete for it, and hashing passwords for a flood of sign-ins must not delay
//! requests.

use std::fs;

/// Where the kernel schedules each session as a group, a process's niceness counts only within its session, and the session
/// has a niceness of its own here.
const SESSION: &str = "/proc/self/autogroup";

/// Lowers the priority of this process, which leads its session. Not all systems allow it, and the role works without it.
pub(super) fn lower(niceness: i32) {
    let _ = rustix::process::nice(niceness);
    let _ = fs::write(SESSION, niceness.to_string());
}
