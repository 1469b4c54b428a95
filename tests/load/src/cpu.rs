//! CPU time of processes, from /proc, and memory.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr;

use crate::failure::Failure;

/// The kernel counts in hundredths of a second on every machine that Linux runs on for users.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process and the name that its time goes under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// Seconds, in user space and in the kernel.
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

/// What each name's processes have used so far.
pub(crate) fn sample(watched: &[Watched]) -> Result<BTreeMap<String, Cpu>, Failure> {
    let mut sums: BTreeMap<String, Cpu> = BTreeMap::new();
    for Watched { name, pid } in watched {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let cpu = parse(&stat).ok_or_else(|| Failure::void(format!("{name} (process {pid}) has gone")))?;
        let sum = sums.entry(name.clone()).or_default();
        sum.user += cpu.user;
        sum.sys += cpu.sys;
    }
    Ok(sums)
}

/// proc(5): the command's name may hold anything; behind its parenthesis utime and stime are 12th and 13th.
fn parse(stat: &str) -> Option<Cpu> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? / TICKS_PER_SECOND);
    Some(Cpu { user: seconds()?, sys: seconds()? })
}

/// Bytes of a process's own memory: private pages, nothing that it shares.
pub(crate) fn own_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    Some(lines.filter_map(kib).sum::<u64>() * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 75 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse(stat), Some(Cpu { user: 2.5, sys: 0.75 }));
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_can_be_watched() {
        let own = Watched { name: "me".into(), pid: std::process::id() };
        assert!(sample(&[own]).unwrap().contains_key("me"));
        assert!(own_memory(std::process::id()).unwrap() > 0);
    }
}
