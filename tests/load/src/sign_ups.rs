//! How long many sign-ups at once wait for their caches, and what lists and an idle pass cost with as many. Starts an
//! installation of its own, and removes it at the end. The sign-ups are rows in its store, as the web UI writes them:
//! hashing passwords takes as long as it takes, and is measured with the floods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use store::{Instance, InstanceState, Store, TokenKey};
use tokio::task::JoinSet;

use crate::account::sign_up;
use crate::cpu::{self, Watched};
use crate::error::LoadError;
use crate::http::http_get;
use crate::installation::Installation;
use crate::interrupt;

const USERS_MAX: usize = 2_000;
/// A pool of networks that neither the default nor the tests use: three networks for 2,000 caches.
const SUBNETS: &str = "10.216.0.0/16";
/// Between two looks at the instances.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Time limit of all starts together, for each user.
const START_TIMEOUT: Duration = Duration::from_secs(3);
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Runs of a list, of which the fastest counts.
const LIST_RUNS: usize = 3;
/// Idle time in which passes are measured: two of them, at the default interval.
const IDLE: Duration = Duration::from_secs(61);

/// Measure sign-ups at once; prints a table
#[derive(Debug, clap::Args)]
pub(crate) struct SignUps {
    /// Sign-ups at once
    #[arg(long, default_value_t = 50)]
    users: usize,
    /// Sign-ups before, which are waited for and not measured
    #[arg(long, default_value_t = 0)]
    before: usize,
    /// Value of provisioner.ready_instances; without one, the default
    #[arg(long)]
    ready: Option<usize>,
    /// Measure `status`, `instance list` and the passes of an idle minute afterwards
    #[arg(long)]
    lists: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
}

#[derive(Debug, Serialize)]
struct Row {
    users: usize,
    before: usize,
    ready: usize,
    running: usize,
    /// From the sign-up to the running cache.
    p50_s: f64,
    p99_s: f64,
    max_s: f64,
    /// From the first sign-up to the last running cache.
    all_s: f64,
    /// CPU time of the provisioner, and of all processes of the machine, for each cache.
    provisioner_cpu_ms: f64,
    machine_cpu_ms: f64,
    /// Memory of the machine, for each cache.
    memory_mb: f64,
    lists: Option<Lists>,
}

/// With all caches running.
#[derive(Debug, Serialize)]
struct Lists {
    status_s: f64,
    instance_list_s: f64,
    /// Of one pass.
    pass_s: f64,
    /// In an idle minute.
    provisioner_cpu_s: f64,
    machine_cpu_s: f64,
}

impl SignUps {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        if !(1..=USERS_MAX).contains(&self.users) || self.before > USERS_MAX {
            return Err(LoadError::new("a number of users is out of range", format!("1 to {USERS_MAX}")));
        }
        let row = interrupt::block_on(self.measure())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&row)?);
        } else {
            print!("{}", row.text());
        }
        if row.running == row.users {
            return Ok(());
        }
        Err(LoadError::new("not all caches run", "see the log of the provisioner"))
    }

    async fn measure(&self) -> Result<Row, LoadError> {
        let folder = tempfile::tempdir()?;
        let mut settings = vec![
            ("PROVISIONER__SUBNETS", SUBNETS.to_owned()),
            // Idle caches use a fraction of their limits.
            ("PROVISIONER__OVERCOMMIT", "100".to_owned()),
        ];
        settings.extend(self.ready.map(|ready| ("PROVISIONER__READY_INSTANCES", ready.to_string())));
        eprintln!("starting memgate ...");
        let installation = Installation::start(&self.memgate, folder.path(), settings).await?;
        let (store, key) = (installation.open_store().await?, installation.token_key()?);
        if self.before > 0 {
            eprintln!("{} sign-ups before ...", self.before);
            sign_up_all(&store, &key, "before", self.before).await?;
            until_running(&store, self.before).await?;
        }
        let ready = self.until_ready(&store).await?;
        let pid =
            installation.role_pid("provisioner").ok_or_else(|| LoadError::invalid_run("no provisioner"))?;
        eprintln!("{} sign-ups at once ...", self.users);
        let (cpu, machine, memory) = (cpu_of(pid)?, cpu::of_machine()?, available_mb()?);
        let users = self.users;
        sign_up_all(&store, &key, "user", users).await?;
        let all = until_running(&store, self.before + users).await?;
        let per_user = |value: f64| value / users as f64;
        let mut row = Row::of(&all[self.before.min(all.len())..]);
        row.before = self.before;
        row.ready = ready;
        row.provisioner_cpu_ms = per_user(cpu_of(pid)? - cpu) * 1e3;
        row.machine_cpu_ms = per_user(cpu::of_machine()? - machine) * 1e3;
        row.memory_mb = per_user(memory - available_mb()?);
        if self.lists {
            self.until_ready(&store).await?;
            row.lists = Some(lists(&installation, pid).await?);
        }
        store.close().await;
        Ok(row)
    }

    /// Waits until the pool is full, and returns how many are in it.
    async fn until_ready(&self, store: &Store) -> Result<usize, LoadError> {
        let Some(wanted) = self.ready else { return Ok(0) };
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let ready = store.ready_instances().await.map_err(LoadError::unexpected)?.len();
            if ready >= wanted {
                return Ok(ready);
            }
            if Instant::now() > deadline {
                return Err(LoadError::invalid_run(format!("only {ready} instances get ready")));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Signs users up, all at once.
async fn sign_up_all(store: &Store, key: &TokenKey, name: &str, count: usize) -> Result<(), LoadError> {
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let (store, key, email) = (store.clone(), key.clone(), format!("{name}{number}@example.org"));
        tasks.spawn(async move { sign_up(&store, &key, email).await.map(drop) });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(LoadError::unexpected)??;
    }
    Ok(())
}

/// Waits until so many instances run, and returns all, oldest first.
async fn until_running(store: &Store, count: usize) -> Result<Vec<Instance>, LoadError> {
    let deadline = Instant::now() + START_TIMEOUT * u32::try_from(count).unwrap_or(u32::MAX);
    loop {
        let all = store.instances().await.map_err(LoadError::unexpected)?;
        let running = all.iter().filter(|instance| instance.state() == InstanceState::Running).count();
        if running >= count || Instant::now() > deadline {
            return Ok(all);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// `status` exits 1 if something isn't ready, and is measured all the same.
async fn lists(installation: &Installation, pid: u32) -> Result<Lists, LoadError> {
    let fastest = |arguments: &[&str]| -> Result<f64, LoadError> {
        let mut fastest = f64::INFINITY;
        for _ in 0..LIST_RUNS {
            let started = Instant::now();
            installation.memgate(arguments).arg("--json").output()?;
            fastest = fastest.min(started.elapsed().as_secs_f64());
        }
        Ok(fastest)
    };
    let (status_s, instance_list_s) = (fastest(&["status"])?, fastest(&["instance", "list"])?);
    let (seconds, count) = passes(installation.provisioner_health())?;
    let (cpu, machine) = (cpu_of(pid)?, cpu::of_machine()?);
    tokio::time::sleep(IDLE).await;
    let (provisioner_cpu_s, machine_cpu_s) = (cpu_of(pid)? - cpu, cpu::of_machine()? - machine);
    let after = passes(installation.provisioner_health())?;
    let pass_s = (after.0 - seconds) / (after.1 - count).max(1.0);
    Ok(Lists { status_s, instance_list_s, pass_s, provisioner_cpu_s, machine_cpu_s })
}

/// The seconds that all passes took, and how many there were.
fn passes(health: SocketAddr) -> Result<(f64, f64), LoadError> {
    let (_, page) = http_get(health, "/metrics")?;
    let value = |kind: &str| {
        let name = format!("memgate_provisioner_resync_duration_seconds_{kind} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0.0)
    };
    Ok((value("sum"), value("count")))
}

/// CPU time of a process, in seconds.
fn cpu_of(pid: u32) -> Result<f64, LoadError> {
    let sampled = cpu::sample(&[Watched { name: "provisioner".into(), pid }])?;
    Ok(sampled.values().map(|cpu| cpu.total()).sum())
}

fn available_mb() -> Result<f64, LoadError> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| LoadError::invalid_run("no memory in /proc/meminfo"))
}

impl Row {
    fn of(instances: &[Instance]) -> Self {
        let running = instances.iter().filter(|instance| instance.state() == InstanceState::Running);
        let at =
            |instance: &Instance| instance.route.as_ref().map_or(0, |route| route.changed_at.as_millis());
        let mut waits: Vec<i64> =
            running.clone().map(|instance| at(instance) - instance.created_at.as_millis()).collect();
        waits.sort_unstable();
        let seconds = |millis: i64| millis as f64 / 1e3;
        let quantile = |percent: usize| {
            let index = (waits.len() * percent).div_ceil(100).max(1) - 1;
            waits.get(index).map_or(f64::NAN, |wait| seconds(*wait))
        };
        let first = instances.iter().map(|instance| instance.created_at.as_millis()).min();
        let all = running.map(at).max().zip(first).map_or(f64::NAN, |(last, first)| seconds(last - first));
        Self {
            users: instances.len(),
            before: 0,
            ready: 0,
            running: waits.len(),
            p50_s: quantile(50),
            p99_s: quantile(99),
            max_s: quantile(100),
            all_s: all,
            provisioner_cpu_ms: 0.0,
            machine_cpu_ms: 0.0,
            memory_mb: 0.0,
            lists: None,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "sign-ups at once            {} (beside {} caches, {} ready)\n\
             running                     {}\n\
             sign-up to running          p50 {:.2} s, p99 {:.2} s, worst {:.2} s\n\
             all running after           {:.2} s ({:.1} a second)\n\
             CPU time for each           provisioner {:.0} ms, machine {:.0} ms\n\
             memory for each             {:.1} MB\n",
            self.users,
            self.before,
            self.ready,
            self.running,
            self.p50_s,
            self.p99_s,
            self.max_s,
            self.all_s,
            self.running as f64 / self.all_s,
            self.provisioner_cpu_ms,
            self.machine_cpu_ms,
            self.memory_mb,
        );
        if let Some(lists) = &self.lists {
            text.push_str(&format!(
                "memgate status              {:.2} s\n\
                 memgate instance list       {:.2} s\n\
                 a pass                      {:.2} s\n\
                 CPU time of an idle minute  provisioner {:.2} s, machine {:.2} s\n",
                lists.status_s,
                lists.instance_list_s,
                lists.pass_s,
                lists.provisioner_cpu_s,
                lists.machine_cpu_s,
            ));
        }
        text
    }
}
