//! What another tenant feels while each known flood runs. Starts an installation of its own, and removes it at the end,
//! also on Ctrl-C and on failure. Floods go to loopback addresses and to the installation's own containers only.

mod attack;
mod connect;
mod http;
mod job;
mod kind;
mod placement;
mod process;
mod row;
mod table;
mod testbed;
mod usage;
mod victim;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

pub(crate) use attack::Attack;

use crate::error::LoadError;
use crate::interrupt;
use job::Job;
use kind::Kind;
use placement::Placement;
use process::Flood;
use row::Row;
use testbed::Testbed;
use usage::Sampler;
use victim::Victim;

/// Time between two attempts to read the victim's keys after a flood.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(500);
/// Time limit for those attempts.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// The victim's clients stand for another machine: they never wait for the CPU. A niceness wouldn't do, since the kernel may
/// schedule each session as a group, in which alone it counts. What this process starts is scheduled as usual.
const VICTIM_SCHEDULING: [&str; 5] = ["--all-tasks", "--reset-on-fork", "--fifo", "--pid", "1"];

/// Measures what another tenant feels while each known flood runs; prints a table.
#[derive(Debug, clap::Args)]
pub(crate) struct Floods {
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Seconds of each window: quiet, the flood, and its CPU time alone
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Seconds between two windows
    #[arg(long, default_value_t = 3.0)]
    pause: f64,
    /// Only floods whose names contain this (`--only half-open`); may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Share of each flood's connections and rate
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// The victim's logins per second
    #[arg(long, default_value_t = 50.0)]
    logins: f64,
    /// The victim's requests per second
    #[arg(long, default_value_t = 500.0)]
    requests: f64,
    /// Open files that memgate may have, if the system's limit allows as many
    #[arg(long, default_value_t = 131_072)]
    files: u64,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
}

#[derive(Serialize)]
struct Output<'a> {
    conditions: &'a Conditions,
    rows: &'a [Row],
}

/// What the figures depend on.
#[derive(Debug, Serialize)]
struct Conditions {
    /// The cores of this machine, of floods, and of the victim's clients. memgate uses all.
    cores: usize,
    flood_core: Option<usize>,
    victim_cores: Vec<usize>,
    files: u64,
    seconds: f64,
    scale: f64,
}

impl Floods {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        self.check()?;
        let placement = Placement::of_this_process()?;
        let conditions = Conditions {
            cores: placement.cores.len(),
            flood_core: placement.flood_core(),
            victim_cores: placement.victim_cores().to_vec(),
            files: limit_files(self.files)?,
            seconds: self.seconds,
            scale: self.scale,
        };
        let rows = interrupt::block_on(self.measure(&conditions))?;
        if self.json {
            let result = Output { conditions: &conditions, rows: &rows };
            println!("{}", serde_json::to_string_pretty(&result)?);
        } else {
            print!("{}", table::all(&rows, &conditions.text()));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), LoadError> {
        let within = |value: f64, least: f64, most: f64| (least..=most).contains(&value);
        if within(self.seconds, 1.0, 120.0)
            && within(self.pause, 0.0, 120.0)
            && within(self.scale, 0.001, 1.0)
            && within(self.logins, 1.0, 200.0)
            && within(self.requests, 1.0, 10_000.0)
        {
            return Ok(());
        }
        Err(LoadError::new(
            "a setting is out of range",
            "1 to 120 seconds, a scale of 0.001 to 1, 1 to 200 logins, 1 to 10000 requests a second",
        ))
    }

    async fn measure(&self, conditions: &Conditions) -> Result<Vec<Row>, LoadError> {
        let testbed = Testbed::start(self).await?;
        // memgate has started, and keeps all cores.
        placement::pin(&conditions.victim_cores)?;
        if !puts_victim_first() {
            eprintln!("can't give the victim the CPU first (chrt): its figures include waiting for the CPU");
        }
        testbed.victim.store_kept().await?;
        // The first requests of a new installation are slower.
        testbed.victim.measure(self.pause()).await;
        let mut rows = Vec::new();
        eprint!("{}", table::HEAD);
        for kind in Kind::all().filter(|kind| self.wants(&kind.name())) {
            let row = self.measure_one(&testbed, kind, conditions.flood_core).await?;
            eprintln!("{}", table::line(&row));
            rows.push(row);
        }
        Ok(rows)
    }

    /// Quiet, the flood, a pause, for some floods once more quiet, and the flood's CPU time alone.
    async fn measure_one(
        &self,
        testbed: &Testbed,
        kind: Kind,
        core: Option<usize>,
    ) -> Result<Row, LoadError> {
        let (victim, length) =
            (&testbed.victim, Duration::from_secs_f64(self.seconds).max(kind.duration_min()));
        let quiet = victim.measure(length).await;
        let job = Job { core, ..testbed.job(kind, self)? };
        let (generation, pids) = (testbed.generation()?, testbed.pids());
        let sampler = Sampler::start(pids.clone());
        let flood = Flood::start(&job).await?;
        let during = victim.measure(length).await;
        let flood_cpu_share = flood.cpu_share()?;
        let report = flood.stop().await?;
        tokio::time::sleep(self.pause()).await;
        let usage = sampler.finish();
        let kept = count_kept(victim).await;
        let generations = [generation, testbed.generation()?];
        if kept != Some(victim::KEPT_KEYS) {
            victim.store_kept().await?;
        }
        let after = if kind.is_measured_after() { Some(victim.measure(length).await) } else { None };
        let burner = Job { kind: Kind::CpuOnly, cpu_share: flood_cpu_share, ..job };
        let burner = Flood::start(&burner).await?;
        let cpu_only = victim.measure(length).await;
        burner.stop().await?;
        tokio::time::sleep(self.pause()).await;
        let now = testbed.pids();
        let restarted = pids.iter().filter(|pid| !now.contains(pid)).map(|(role, _)| *role).collect();
        Ok(Row {
            flood: kind,
            quiet,
            during,
            after,
            cpu_only,
            flood_cpu_share,
            report,
            generations,
            kept,
            usage,
            restarted,
        })
    }

    fn pause(&self) -> Duration {
        Duration::from_secs_f64(self.pause)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

impl Conditions {
    fn text(&self) -> String {
        let Self { cores, files, seconds, scale, .. } = self;
        let placed = match self.flood_core {
            Some(core) => {
                format!("{cores} cores, floods run on core {core} and the victim's clients on the others")
            }
            None => "floods and the victim's clients share the only core".to_owned(),
        };
        format!("Windows of {seconds} s; {placed}; memgate may open {files} files; {scale} of each flood.")
    }
}

/// Gives the threads of this process the CPU before all others. Returns whether that is allowed.
fn puts_victim_first() -> bool {
    let pid = std::process::id().to_string();
    let chrt = Command::new("chrt").args(VICTIM_SCHEDULING).arg(&pid).status();
    chrt.is_ok_and(|status| status.success())
}

/// Reads the victim's keys once it is served again. `None` if that doesn't happen in time.
async fn count_kept(victim: &Victim) -> Option<usize> {
    let attempts = async {
        loop {
            match victim.count_kept().await {
                Ok(kept) => return kept,
                Err(_) => tokio::time::sleep(RECOVERY_INTERVAL).await,
            }
        }
    };
    tokio::time::timeout(RECOVERY_TIMEOUT, attempts).await.ok()
}

/// Sets the limit of open files for memgate, as far as the system allows. Returns it.
fn limit_files(wanted: u64) -> Result<u64, LoadError> {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let limit = |files| setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) });
    if limit(wanted).is_ok() {
        return Ok(wanted);
    }
    limit(maximum)?;
    Ok(maximum)
}
