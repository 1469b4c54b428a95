//! The cores that processes run on. A flood's own use of the CPU isn't what is measured: on a machine with several
//! cores it has the last one, and the victim's clients have the others; memgate may use all.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::LoadError;

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// The cores that this process may use.
    pub(super) cores: Vec<usize>,
}

impl Placement {
    pub(super) fn of_this_process() -> Result<Self, LoadError> {
        let allowed = sched_getaffinity(None)?;
        Ok(Self { cores: (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect() })
    }

    /// The core of floods; `None` if there is only one.
    pub(super) fn flood_core(&self) -> Option<usize> {
        self.cores.last().copied().filter(|_| self.cores.len() > 1)
    }

    /// The cores of the victim's clients.
    pub(super) fn victim_cores(&self) -> &[usize] {
        match self.cores.split_last() {
            Some((_, others)) if !others.is_empty() => others,
            _ => &self.cores,
        }
    }
}

/// Runs this thread, and the processes that it starts, on these cores only.
pub(super) fn pin(cores: &[usize]) -> Result<(), LoadError> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_and_victim_share_no_core_if_there_are_two() {
        let placement = |cores: &[usize]| Placement { cores: cores.to_vec() };
        assert_eq!(placement(&[2, 3]).flood_core(), Some(3));
        assert_eq!(placement(&[2, 3]).victim_cores(), [2]);
        assert_eq!(placement(&[5]).flood_core(), None);
        assert_eq!(placement(&[5]).victim_cores(), [5]);
        assert!(!Placement::of_this_process().unwrap().cores.is_empty());
    }
}
