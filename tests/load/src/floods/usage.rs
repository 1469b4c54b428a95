//! Memory and open files of the roles while a flood runs, read by a thread of its own.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::kind::Role;

const INTERVAL: Duration = Duration::from_millis(250);

/// What a role holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Held {
    pub(super) rss_mb: f64,
    pub(super) files: u64,
}

/// What a role held before a flood, at most while it ran, and after it.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Usage {
    pub(super) before: Held,
    pub(super) peak: Held,
    pub(super) after: Held,
}

/// Reads what roles hold until it is stopped.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    usage: Arc<Mutex<BTreeMap<Role, Usage>>>,
    pids: Vec<(Role, u32)>,
}

impl Sampler {
    pub(super) fn start(pids: Vec<(Role, u32)>) -> Self {
        let first = pids.iter().map(|(role, pid)| {
            let held = held(*pid);
            (*role, Usage { before: held, peak: held, after: held })
        });
        let usage = Arc::new(Mutex::new(first.collect()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (stop, usage, pids) = (stop.clone(), usage.clone(), pids.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    update(&usage, &pids, |usage, held| {
                        usage.peak.rss_mb = usage.peak.rss_mb.max(held.rss_mb);
                        usage.peak.files = usage.peak.files.max(held.files);
                    });
                    std::thread::sleep(INTERVAL);
                }
            }
        });
        Self { stop, thread, usage, pids }
    }

    /// Stops, and reads what is held after the flood.
    pub(super) fn finish(self) -> BTreeMap<Role, Usage> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        update(&self.usage, &self.pids, |usage, held| usage.after = held);
        self.usage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn update(usage: &Mutex<BTreeMap<Role, Usage>>, pids: &[(Role, u32)], change: impl Fn(&mut Usage, Held)) {
    for (role, pid) in pids {
        let held = held(*pid);
        let mut usage = usage.lock().unwrap_or_else(PoisonError::into_inner);
        change(usage.entry(*role).or_default(), held);
    }
}

/// Zeros if the process has ended.
fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<f64> = rss.and_then(|rss| rss.split_whitespace().next()?.parse().ok());
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Held { rss_mb: kib.unwrap_or(0.0) / 1024.0, files: files as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_kept() {
        let sampler = Sampler::start(vec![(Role::Proxy, std::process::id())]);
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        while sampler.usage.lock().unwrap()[&Role::Proxy].peak.files < 100 {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(files);
        let usage = sampler.finish()[&Role::Proxy];
        assert!(usage.peak.rss_mb > 0.0 && usage.after.files < usage.peak.files, "{usage:?}");
    }
}
