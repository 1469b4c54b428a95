//! Processes that this program starts and stops, and free ports for them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The same command in its own process group; the kernel stops it when the benchmark ends.
pub(crate) fn bound_to_parent(command: &Command) -> Command {
    let mut bound_to_parent = Command::new("setpriv");
    bound_to_parent.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound_to_parent.env(key, value),
            None => bound_to_parent.env_remove(key),
        };
    }
    bound_to_parent.process_group(0);
    bound_to_parent
}

/// Signals a child and waits; kills it after the time limit. Returns whether it ended without being killed.
pub(crate) fn stop(child: &mut Child, signal: &str, timeout: Duration) -> bool {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return true;
    }
    let _ = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Free ports on loopback, below the system's ephemeral ports.
pub(crate) fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let mut next = 12_000 + u16::try_from(std::process::id() % 7_000).unwrap_or(0);
    std::array::from_fn(|_| {
        loop {
            next += 1;
            let address = SocketAddr::from(([127, 0, 0, 1], next));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    })
}
