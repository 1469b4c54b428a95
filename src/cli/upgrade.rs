//! `memgate upgrade`: asks the running `memgate up` to go on as the program on disk, and waits until it does.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::up::{self, LockHolder};
use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::{self, CliError};
use crate::{health_check, role};

/// Long enough to build a new image of memcached, and for roles that wait for the store.
const TIMEOUT: Duration = Duration::from_secs(600);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Hand over to the program on disk, with the settings as they are now; applications notice nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  memgate upgrade
  memgate upgrade --data /var/lib/memgate --json

Install the new program in the place of the one that `memgate up` was started from, or change settings, then run this.
The new program is first asked whether it can work with the settings and the store: if not, nothing changes, and you are
told why. Then a new proxy takes over the listening sockets and all plaintext connections, between two of their requests.
TLS connections stay with the old one until they end or proxy.drain (1 hour) has passed. The provisioner and the web UI
restart; their clients wait for a moment.

`systemctl reload memgate` does the same. Exit status: 0 once all roles run as the new program.")]
pub(crate) struct Upgrade {}

#[derive(Debug, Serialize)]
struct Upgraded {
    from: Option<String>,
    to: Option<String>,
    seconds: f64,
}

impl Upgrade {
    pub(crate) fn run(&self, global: &GlobalArgs) -> Result<(), CliError> {
        let data_dir = DataDir::of(global);
        let holder = running(&data_dir)?;
        let Some(before) = holder.upgrade.clone() else {
            let what = format!("the `memgate up` that runs as process {} can't hand over", holder.pid);
            return Err(CliError::new(what, "stop it, and start the new program"));
        };
        let from = version(&holder)?;
        let started = Instant::now();
        let pid = Pid::from_raw(holder.pid);
        pid.map_or(Ok(()), |pid| kill_process(pid, Signal::USR2)).map_err(|error| {
            let what = format!("can't tell process {} ({error})", holder.pid);
            CliError::new(what, "run this as the user who runs `memgate up`, usually root")
        })?;
        loop {
            let now = running(&data_dir)?;
            let upgrade = now.upgrade.clone().unwrap_or_default();
            if upgrade.number > before.number {
                if let Some(failure) = upgrade.failure {
                    return Err(CliError::new(failure, "see the log of `memgate up`"));
                }
                let upgraded =
                    Upgraded { from, to: version(&now)?, seconds: started.elapsed().as_secs_f64() };
                return output::print(global.json, &upgraded, || upgraded.text());
            }
            if started.elapsed() > TIMEOUT {
                let what = format!("the upgrade isn't done after {TIMEOUT:?}");
                return Err(CliError::new(what, "see the log of `memgate up`, and `memgate status`"));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Upgraded {
    fn text(&self) -> String {
        let unknown = || "an unknown version".to_owned();
        let [from, to] = [&self.from, &self.to].map(|version| version.clone().unwrap_or_else(unknown));
        format!("upgraded from {from} to {to} in {:.1} s\n", self.seconds)
    }
}

fn running(data_dir: &DataDir) -> Result<LockHolder, CliError> {
    up::lock_holder(data_dir)?.ok_or_else(|| {
        let what = format!("no `memgate up` runs with the data in {}", data_dir.path().display());
        CliError::new(what, "start it with `memgate up`, or name its data with --data DIR")
    })
}

/// The version of the proxy, if it answers.
fn version(holder: &LockHolder) -> Result<Option<String>, CliError> {
    let proxy = holder.health.iter().find(|(role, _)| *role == role::Role::Proxy);
    let Some((_, health)) = proxy else { return Ok(None) };
    let report = role::runtime()?.block_on(health_check::ask(*health)).ok();
    Ok(report.map(|report| report.process.version))
}
