//! The limits of a container that `docker update` can change: those that it should have, and those that it has. No I/O.

use store::CPU_WEIGHT_DEFAULT;

use crate::spec::Spec;

/// Processes and threads of a container; memcached has about ten.
const PROCESSES_MAX: i64 = 32;
const NANOS_PER_CPU: f64 = 1e9;
/// Docker's word for the CPU weight of a container, and what one has that was given none.
const CPU_SHARES: i64 = 1_024;
/// The least that Docker takes.
const CPU_SHARES_MIN: i64 = 2;

/// A container's limits. In those that a container has, zero and empty mean: never set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes, with the memory.
    pub(crate) memory_swap: i64,
    /// Bytes.
    pub(crate) memory_reservation: i64,
    /// The hard limit of its CPU time; zero in those that a container should have: none.
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
            cpu_shares: cpu_shares(spec.cpu_weight()),
            cpuset: String::new(),
            processes: PROCESSES_MAX,
            restarts: false,
        }
    }

    /// Whether these limits are as they should be. `all_cpus` are the CPUs of this machine.
    pub(crate) fn are(&self, wanted: &Self, all_cpus: &str) -> bool {
        self.memory == wanted.memory
            && self.memory_swap == wanted.memory_swap
            && self.has_nano_cpus(wanted, all_cpus)
            && self.processes == wanted.processes
            && self.restarts == wanted.restarts
            && (self.memory_reservation == 0 || self.memory_reservation >= wanted.memory_reservation)
            && self.has_cpu_shares(wanted)
            && (self.cpuset.is_empty() || self.cpuset == all_cpus)
    }

    /// Whether the CPU weight is as it should be.
    pub(crate) fn has_cpu_shares(&self, wanted: &Self) -> bool {
        self.cpu_shares == wanted.cpu_shares || (self.cpu_shares == 0 && wanted.cpu_shares == CPU_SHARES)
    }

    /// Docker can't remove a hard limit: one of all CPUs is as good.
    fn has_nano_cpus(&self, wanted: &Self, all_cpus: &str) -> bool {
        let is_none = wanted.nano_cpus == 0 && self.nano_cpus >= all_nano_cpus(all_cpus);
        self.nano_cpus == wanted.nano_cpus || is_none
    }
}

/// The hard limit that leaves a container all CPUs, given as `0-3,5`.
pub(crate) fn all_nano_cpus(all_cpus: &str) -> i64 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<i64>().ok()?.saturating_sub(first.parse().ok()?).saturating_add(1))
    };
    let count: i64 = all_cpus.split(',').filter_map(count).sum();
    count.max(1).saturating_mul(1_000_000_000)
}

/// A weight in Docker's words. Control groups of the second version get their own from it.
fn cpu_shares(weight: i64) -> i64 {
    (weight.saturating_mul(CPU_SHARES) / CPU_WEIGHT_DEFAULT).max(CPU_SHARES_MIN)
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

    #[test]
    fn cpus_are_weighted_with_a_hard_limit_or_without() {
        let spec = Spec::from_label("memory=64 connections=1024 item=1048576").unwrap();
        let unlimited = Limits::wanted(&spec, 0.0);
        assert_eq!((unlimited.nano_cpus, unlimited.cpu_shares), (0, 1_024));
        let created = Limits { cpu_shares: 0, ..unlimited.clone() };
        assert!(created.are(&unlimited, "0-3,5"));
        for (nano_cpus, enough) in [(5_000_000_000, true), (4_999_999_999, false)] {
            assert_eq!(Limits { nano_cpus, ..created.clone() }.are(&unlimited, "0-3,5"), enough);
        }
        for (weight, shares) in [(1, 10), (100, 1_024), (250, 2_560), (10_000, 102_400)] {
            assert_eq!(cpu_shares(weight), shares);
        }
        let heavier = Limits { cpu_shares: 2_560, ..unlimited };
        assert!(!created.are(&heavier, "0-3,5"), "never set is Docker's own");
    }
}
