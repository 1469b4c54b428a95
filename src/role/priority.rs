//! A role's share of the CPU, and its turn when memory is short. Roles on one machine compete for both: hashing passwords for a flood
//! of sign-ins must not delay requests, and a broken role must not have the system end others.

use std::fs;

/// Where the kernel schedules each session as a group, a process's niceness counts only within its session, and the session
/// has a niceness of its own here.
const SESSION: &str = "/proc/self/autogroup";
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// How far a role stands back for others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Priority {
    /// When the CPU is short.
    pub(super) niceness: i32,
    /// When memory has run out: the system ends processes with the highest score first, and 1000 is as much as having all of the
    /// memory. `None` keeps that of `memgate up`.
    pub(super) oom_score: Option<u16>,
}

/// Lowers the priority of this process, which leads its session. Not all systems allow it, and the role works without it. What root
/// has set here, the role can't take back as another user.
pub(super) fn lower(to: Priority) {
    let _ = rustix::process::nice(to.niceness);
    let _ = fs::write(SESSION, to.niceness.to_string());
    if let Some(score) = to.oom_score {
        let _ = fs::write(OOM_SCORE, score.to_string());
    }
}
