//! The limits of a container that `docker update` can change: those that it should have, and those that it has. No I/O.

use crate::spec::Spec;

/// Processes and threads of a container; memcached has about ten.
const PROCESSES_MAX: i64 = 32;
const NANOS_PER_CPU: f64 = 1e9;
/// The weight of a container that was given none.
const CPU_SHARES: i64 = 1_024;

/// A container's limits. In those that a container has, zero and empty mean: never set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes, with the memory.
    pub(crate) memory_swap: i64,
    /// Bytes.
    pub(crate) memory_reservation: i64,
    pub(crate) nano_cpus: i64,
    pub(crate) cpu_shares: i64,
    /// The CPUs that it may use, like `0-3`.
    pub(crate) cpuset: String,
    pub(crate) processes: i64,
    /// Whether Docker restarts it by itself, even before the firewall is in place.
    pub(crate) restarts: bool,
}

impl Limits {
    /// The limits that a container should have.
    pub(crate) fn wanted(spec: &Spec, cpus: f64) -> Self {
        let memory = spec.memory_limit();
        Self {
            memory,
            memory_swap: memory,
            memory_reservation: memory,
            nano_cpus: nano_cpus(cpus),
            cpu_shares: CPU_SHARES,
            cpuset: String::new(),
            processes: PROCESSES_MAX,
            restarts: false,
        }
    }

    /// Whether these limits are as they should be. `all_cpus` are the CPUs of this machine.
    pub(crate) fn are(&self, wanted: &Self, all_cpus: &str) -> bool {
        self.memory == wanted.memory
            && self.memory_swap == wanted.memory_swap
            && self.nano_cpus == wanted.nano_cpus
            && self.processes == wanted.processes
            && self.restarts == wanted.restarts
            && (self.memory_reservation == 0 || self.memory_reservation >= wanted.memory_reservation)
            && (self.cpu_shares == 0 || self.cpu_shares == wanted.cpu_shares)
            && (self.cpuset.is_empty() || self.cpuset == all_cpus)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the setting is checked: at most 1024 CPUs")]
fn nano_cpus(cpus: f64) -> i64 {
    (cpus * NANOS_PER_CPU) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    // F-22.
    #[test]
    fn every_changed_limit_is_noticed() {
        let spec = Spec::from_label("memory=64 connections=1024 item=1048576").unwrap();
        let wanted = Limits::wanted(&spec, 1.0);
        let created = Limits { memory_reservation: 0, cpu_shares: 0, ..wanted.clone() };
        assert!(created.are(&wanted, "0-1") && wanted.are(&wanted, "0-1"));
        assert!(Limits { cpuset: "0-1".into(), ..created.clone() }.are(&wanted, "0-1"));
        for changed in [
            Limits { memory: 300 << 20, ..created.clone() },
            Limits { memory_swap: -1, ..created.clone() },
            Limits { memory_reservation: 1 << 20, ..created.clone() },
            Limits { nano_cpus: 100_000_000, ..created.clone() },
            Limits { cpu_shares: 2, ..created.clone() },
            Limits { cpuset: "0".into(), ..created.clone() },
            Limits { processes: 1, ..created.clone() },
            Limits { restarts: true, ..created.clone() },
        ] {
            assert!(!changed.are(&wanted, "0-1"), "{changed:?}");
        }
    }
}
