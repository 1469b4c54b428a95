//! The process and the build, by the names that all programs with Prometheus metrics use.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::seconds_since_1970;

/// Reads the process's figures whenever they are asked for.
#[derive(Debug)]
struct ProcessCollector {
    started_at: f64,
}

/// Registers both. Call it when the process starts.
pub(crate) fn register(registry: &mut Registry) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    registry.register("memgate_build", "The version that runs", Info::new(version));
    registry.register_collector(Box::new(ProcessCollector { started_at: seconds_since_1970() }));
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = std::time::Duration::try_from(time).unwrap_or_default().as_secs_f64();
        encode(&mut encoder, "process_cpu_seconds", "CPU time used", &ConstCounter::new(cpu))?;
        // One is the descriptor that this listing needs.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("process_open_fds", "Open file descriptors", u64::try_from(open).unwrap_or(u64::MAX)),
            ("process_max_fds", "Maximum of open file descriptors", limit),
            ("process_resident_memory_bytes", "Memory in RAM", bytes(&status, "VmRSS:")),
            ("process_virtual_memory_bytes", "Address space", bytes(&status, "VmSize:")),
            ("process_threads", "Threads", number(&status, "Threads:")),
            (
                "memgate_memory_limit_bytes",
                "Memory that the process may use: the machine's, or what its control groups allow",
                u64::try_from(crate::memory::available_bytes()).unwrap_or(u64::MAX),
            ),
        ] {
            encode(&mut encoder, name, help, &ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)))?;
        }
        let started_at = ConstGauge::new(self.started_at);
        encode(&mut encoder, "process_start_time_seconds", "When the process has started", &started_at)
    }
}

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// A size in a `/proc/.../status`, which is in KiB.
fn bytes(status: &str, name: &str) -> u64 {
    number(status, name).saturating_mul(1024)
}

fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
