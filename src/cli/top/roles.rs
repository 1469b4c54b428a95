//! What the roles of this machine say of themselves at their health endpoints.

use std::net::SocketAddr;
use std::time::Instant;

use crate::health_check;
use crate::role::Role;

/// Figures of a role's process.
#[derive(Debug, Clone, Default)]
pub(super) struct RoleSample {
    pub(super) role: &'static str,
    /// Why nothing is known of it, or why it isn't ready.
    pub(super) problem: Option<String>,
    pub(super) read_at: Option<Instant>,
    pub(super) pid: u32,
    pub(super) cpu_seconds: f64,
    pub(super) memory_bytes: f64,
    pub(super) open_files: f64,
    pub(super) files_max: f64,
    /// Client connections of a proxy or web UI.
    pub(super) connections: f64,
}

impl RoleSample {
    /// Asks the process at an address, which must be this installation's role.
    pub(super) async fn take(role: Role, address: SocketAddr, installation: &str) -> Self {
        let nothing = |problem| Self { role: role.name(), problem: Some(problem), ..Self::default() };
        let report = match health_check::ask(address).await {
            Ok(report) => report,
            Err(why) => return nothing(why),
        };
        if let Some(why) = health_check::foreign(&report, role, installation) {
            return nothing(why);
        }
        let metrics = match health_check::metrics(address).await {
            Ok(metrics) => metrics,
            Err(why) => return nothing(why),
        };
        let value = |series: &str| health_check::value(&metrics, series).unwrap_or_default();
        Self {
            role: role.name(),
            problem: report.message.filter(|_| !report.ready),
            read_at: Some(Instant::now()),
            pid: report.process.pid,
            cpu_seconds: value("process_cpu_seconds_total"),
            memory_bytes: value("process_resident_memory_bytes"),
            open_files: value("process_open_fds"),
            files_max: value("process_max_fds"),
            connections: value(&format!("memgate_{}_connections", role.name())),
        }
    }

    /// The share of one CPU since an earlier sample of the same process, in percent; `None` without one.
    pub(super) fn cpu_percent(&self, earlier: &Self) -> Option<f64> {
        let elapsed = self.read_at?.checked_duration_since(earlier.read_at?)?.as_secs_f64();
        let used = self.cpu_seconds - earlier.cpu_seconds;
        (self.pid == earlier.pid && elapsed > 0.0 && used >= 0.0).then(|| used / elapsed * 100.0)
    }
}
