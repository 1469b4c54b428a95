//! CPU time and memory of processes, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr;

use crate::error::LoadError;

/// The kernel reports CPU time in hundredths of a second (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to measure, and the name under which its CPU time is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// CPU time in seconds, in user space and in the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) sys: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user + self.sys
    }
}

impl FromStr for Watched {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, pid) = text.split_once('=').ok_or("write NAME=PID")?;
        Ok(Self { name: name.into(), pid: pid.parse().map_err(|_| "the process id is not a number")? })
    }
}

/// The CPU time that each name's processes have used so far.
pub(crate) fn sample(watched: &[Watched]) -> Result<BTreeMap<String, Cpu>, LoadError> {
    let mut sums: BTreeMap<String, Cpu> = BTreeMap::new();
    for Watched { name, pid } in watched {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let cpu = parse(&stat)
            .ok_or_else(|| LoadError::invalid_run(format!("{name} (process {pid}) has ended")))?;
        let sum = sums.entry(name.clone()).or_default();
        sum.user += cpu.user;
        sum.sys += cpu.sys;
    }
    Ok(sums)
}

/// Parses /proc/PID/stat, see proc(5). The command's name may contain anything; utime and stime are the 12th
/// and 13th field after its closing parenthesis.
fn parse(stat: &str) -> Option<Cpu> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(Cpu { user: seconds()?, sys: seconds()? })
}

/// CPU time of all processes of the machine, in seconds.
pub(crate) fn of_machine() -> Result<f64, LoadError> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy_seconds(&stat).ok_or_else(|| LoadError::invalid_run("no CPU time in /proc/stat"))
}

/// Of the first line: user, nice, system, idle, iowait, irq, softirq and steal, see proc(5).
fn busy_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let busy = fields.iter().enumerate().filter(|(number, _)| matches!(number, 0..=2 | 5 | 6));
    (fields.len() > 6).then(|| busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_SECOND)
}

/// Bytes of a process's private memory, without shared pages.
pub(crate) fn private_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    Some(lines.filter_map(kib).sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_command_name() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 75 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse(stat), Some(Cpu { user: 2.5, sys: 0.75 }));
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn cpu_time_of_the_machine_leaves_out_idle_and_waiting() {
        assert_eq!(busy_seconds("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 1 1"), Some(0.31));
        assert_eq!(busy_seconds("cpu"), None);
        assert!(of_machine().unwrap() > 0.0);
    }

    #[test]
    fn this_process_can_be_measured() {
        let own = Watched { name: "self".into(), pid: std::process::id() };
        assert!(sample(&[own]).unwrap().contains_key("self"));
        assert!(private_memory(std::process::id()).unwrap() > 0);
    }
}
