//! Ways to share out the CPUs to caches: a hard limit (quota), weights, or CPUs of their own (cpuset), with as many threads
//! of memcached or not. Measures a busy cache alone, and a quiet one beside busy ones, each in a container of memgate's
//! image that this starts with Docker's command line, and removes at the end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::cgroup;
use crate::command::docker;
use crate::error::LoadError;
use crate::installation::Installation;
use crate::interrupt;
use crate::outcome::Outcome;

/// A pool of networks that neither the default nor the tests use.
const SUBNETS: &str = "10.217.0.0/16";
const MEMCACHED_PORT: u16 = 11211;
const BUSY_MAX: usize = 8;
const SECONDS_MAX: f64 = 60.0;
const START_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_INTERVAL: Duration = Duration::from_millis(20);
/// Sixteen clients that send 16 requests at a time keep a memcached as busy as they can.
const BUSY: [&str; 4] = ["--connections", "16", "--pipeline", "16"];
/// An application with few requests: latency counts from the time at which each was due.
const QUIET: [&str; 6] = ["--connections", "4", "--pipeline", "8", "--rate", "500"];

/// Measure ways to share out the CPUs; prints a table
#[derive(Debug, clap::Args)]
pub(crate) struct Cpus {
    /// Busy caches beside the quiet one
    #[arg(long, default_value_t = 2)]
    busy: usize,
    /// Seconds of each measurement; there are two for each way
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Only ways whose names contain this (`--only quota`); may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
}

/// How the containers of busy caches and of the quiet one share the CPUs.
#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    threads: u32,
    busy: &'static [&'static str],
    quiet: &'static [&'static str],
}

/// The cpusets need a machine with two CPUs at least.
const WAYS: [Way; 11] = [
    way("quota 1, -t 1", 1, &["--cpus", "1"]),
    way("quota 1, -t 2", 2, &["--cpus", "1"]),
    way("quota 1, -t 4", 4, &["--cpus", "1"]),
    way("quota 0.5, -t 1", 1, &["--cpus", "0.5"]),
    way("quota 0.5, -t 2", 2, &["--cpus", "0.5"]),
    way("weights, -t 1", 1, &[]),
    way("weights, -t 2", 2, &[]),
    way("weights, -t 4", 4, &[]),
    Way { quiet: &["--cpu-shares", "4096"], ..way("weights 100:400, -t 2", 2, &["--cpu-shares", "1024"]) },
    Way { quiet: &["--cpuset-cpus", "1"], ..way("cpuset, -t 1", 1, &["--cpuset-cpus", "0"]) },
    Way { quiet: &["--cpuset-cpus", "1"], ..way("cpuset, -t 2", 2, &["--cpuset-cpus", "0"]) },
];

const fn way(name: &'static str, threads: u32, arguments: &'static [&'static str]) -> Way {
    Way { name, threads, busy: arguments, quiet: arguments }
}

#[derive(Debug, Serialize)]
struct Row {
    way: &'static str,
    /// One busy cache alone.
    busy_ops_per_s: f64,
    busy_p99_us: f64,
    /// The quiet one beside the busy ones, and all of those.
    quiet_p50_us: f64,
    quiet_p99_us: f64,
    quiet_p999_us: f64,
    beside_ops_per_s: f64,
    /// Periods in which the first busy cache was stopped by its quota, of those in which it ran: both measurements.
    throttled: Option<String>,
}

/// A container, removed on drop.
struct Cache {
    name: String,
    address: SocketAddr,
}

impl Cpus {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        if !(1..=BUSY_MAX).contains(&self.busy) || !(1.0..=SECONDS_MAX).contains(&self.seconds) {
            let fix = format!("1 to {BUSY_MAX} busy caches, 1 to {SECONDS_MAX} seconds");
            return Err(LoadError::new("an argument is out of range", fix));
        }
        let rows = interrupt::block_on(self.measure())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            println!("{}", Row::HEAD);
            rows.iter().for_each(|row| println!("{}", row.line()));
        }
        Ok(())
    }

    async fn measure(&self) -> Result<Vec<Row>, LoadError> {
        eprintln!("starting memgate, for its image ...");
        let folder = tempfile::tempdir()?;
        let settings = vec![("PROVISIONER__SUBNETS", SUBNETS.to_owned())];
        let installation = Installation::start(&self.memgate, folder.path(), settings).await?;
        installation.json(&["user", "add", "image@example.org"])?;
        let shown = installation.json(&["instance", "show", "image@example.org"])?;
        let container = shown["container"].as_str().unwrap_or_default();
        let image = docker(&["inspect", "-f", "{{.Image}}", container])?;
        let mut rows = Vec::new();
        eprintln!("{}", Row::HEAD);
        for way in WAYS.iter().filter(|way| self.wants(way.name)) {
            let row = self.measure_one(way, &image).await?;
            eprintln!("{}", row.line());
            rows.push(row);
        }
        Ok(rows)
    }

    async fn measure_one(&self, way: &Way, image: &str) -> Result<Row, LoadError> {
        let mut busy = Vec::new();
        for number in 0..self.busy {
            busy.push(Cache::start(&format!("busy-{number}"), image, way.threads, way.busy).await?);
        }
        let quiet = Cache::start("quiet", image, way.threads, way.quiet).await?;
        let alone = generate(busy[0].address, self.seconds, &BUSY).await?;
        let mut beside = JoinSet::new();
        for cache in &busy {
            beside.spawn(generate(cache.address, self.seconds, &BUSY));
        }
        let quiet = generate(quiet.address, self.seconds, &QUIET).await?;
        let beside = beside.join_all().await.into_iter().collect::<Result<Vec<Outcome>, LoadError>>()?;
        Ok(Row {
            way: way.name,
            busy_ops_per_s: alone.ops_per_s,
            busy_p99_us: alone.p99_us,
            quiet_p50_us: quiet.p50_us,
            quiet_p99_us: quiet.p99_us,
            quiet_p999_us: quiet.p999_us,
            beside_ops_per_s: beside.iter().map(|outcome| outcome.ops_per_s).sum(),
            throttled: throttled(&busy[0].name),
        })
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Runs the generator once, as a process.
async fn generate(
    target: SocketAddr,
    seconds: f64,
    arguments: &'static [&'static str],
) -> Result<Outcome, LoadError> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["run", "--target", &target.to_string(), "--warm-up", "1"]);
    command.args(["--seconds", &seconds.to_string()]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).process_group(0).output().await?;
    if !output.status.success() {
        return Err(LoadError::invalid_run(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Cache {
    async fn start(role: &str, image: &str, threads: u32, arguments: &[&str]) -> Result<Self, LoadError> {
        let name = format!("load-cpus-{}-{role}", std::process::id());
        // As memgate starts it, but for the login and the network.
        let run =
            ["run", "--detach", "--name", &name, "--user", "11211:11211", "--read-only", "--cap-drop", "ALL"];
        let threads = threads.to_string();
        let memcached = ["-U", "0", "-m", "64", "-t", &threads, "-R", "500"];
        let entry = ["--entrypoint", "/usr/bin/memcached", image];
        docker(&[&run[..], arguments, &entry, &memcached].concat())?;
        // From here on it is removed.
        let mut cache = Self { name, address: SocketAddr::from(([0, 0, 0, 0], MEMCACHED_PORT)) };
        let ip = docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", &cache.name])?;
        let ip: IpAddr = ip.parse().map_err(|_| LoadError::invalid_run("a container has no address"))?;
        cache.address.set_ip(ip);
        let deadline = Instant::now() + START_TIMEOUT;
        while tokio::net::TcpStream::connect(cache.address).await.is_err() {
            if Instant::now() > deadline {
                return Err(LoadError::invalid_run("memcached doesn't start"));
            }
            tokio::time::sleep(CONNECT_INTERVAL).await;
        }
        Ok(cache)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Err(error) = docker(&["rm", "--force", "--volumes", &self.name]) {
            eprintln!("{error}");
        }
    }
}

/// What the control group says of throttling, as `stopped of periods`; `None` if it can't be found.
fn throttled(container: &str) -> Option<String> {
    let id = docker(&["inspect", "-f", "{{.Id}}", container]).ok()?;
    let text = cgroup::read(&id, "cpu", &["cpu.stat"])?;
    let value = |name: &str| cgroup::figure(&text, name);
    Some(format!("{} of {}", value("nr_throttled")?, value("nr_periods")?))
}

impl Row {
    const HEAD: &str = "way                     busy alone: ops/s  p99 us   quiet: p50 us   p99 us   p99.9 us   \
                        busy beside: ops/s  throttled";

    fn line(&self) -> String {
        format!(
            "{:22}  {:17.0}  {:6.0}  {:14.0}  {:7.0}  {:9.0}  {:18.0}  {}",
            self.way,
            self.busy_ops_per_s,
            self.busy_p99_us,
            self.quiet_p50_us,
            self.quiet_p99_us,
            self.quiet_p999_us,
            self.beside_ops_per_s,
            self.throttled.as_deref().unwrap_or("-"),
        )
    }
}
