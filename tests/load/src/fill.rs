//! Whether a cache that is filled for minutes stays within its container's memory (docs/security.md, R-25): items of a byte, of
//! 1 KB, and as large as they may be, then all of them, through the proxy. Its statistics must equal memcached's own.

mod row;
mod statistics;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use store::{Instance, LaneKey, Store};

use crate::account::{Account, account};
use crate::cgroup;
use crate::command::docker;
use crate::direct::DirectConnection;
use crate::error::LoadError;
use crate::filler::{FillOptions, Filler};
use crate::installation::Installation;
use crate::interrupt;
use row::Row;
use statistics::{Figures, Statistics};

/// A pool of networks that neither the default nor the tests use.
const SUBNETS: &str = "10.219.0.0/16";
const MEMORY_MB_MAX: u32 = 16_384;
const SECONDS_MAX: u64 = 3_600;
/// A large item with its key and memcached's own header is as large as a plan allows by default.
const LARGE: usize = (1 << 20) - 128;
/// Names of the phases, and the sizes of their values.
const PHASES: [(&str, &[usize]); 4] =
    [("1 B", &[1]), ("1 KB", &[1_000]), ("1 MiB", &[LARGE]), ("mixed", &[1, 1_000, LARGE])];
/// As many as make the proxy open all of its lanes, and dedicated ones for large values.
const CONNECTIONS: usize = 64;
const BATCH_BYTES: usize = 64 << 10;
/// Between two readings of memcached's statistics.
const READ_INTERVAL: Duration = Duration::from_millis(250);
/// Until a cache is full.
const FULL_TIMEOUT: Duration = Duration::from_mins(15);

/// Measure the memory of caches that are filled for minutes; prints a table
#[derive(Debug, clap::Args)]
pub(crate) struct Fill {
    /// Sizes of caches in MB
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256, 1024])]
    memory_mb: Vec<u32>,
    /// Seconds for which a full cache is filled with items of each size, and with all of them
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Warm caches, which keep their contents over restarts; only those of 64 MB or more
    #[arg(long)]
    warm: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
}

/// A cache that is filled.
struct Cache<'a> {
    installation: &'a Installation,
    account: Account,
    container: String,
    /// What Docker says of the container as long as it is the same, and hasn't been restarted or killed.
    state: String,
    statistics: Statistics<'a>,
}

impl Fill {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        let sizes_fit = self.memory_mb.iter().all(|memory_mb| (2..=MEMORY_MB_MAX).contains(memory_mb));
        if !sizes_fit || !(1..=SECONDS_MAX).contains(&self.seconds) {
            let fix = format!("2 to {MEMORY_MB_MAX} MB, 1 to {SECONDS_MAX} seconds");
            return Err(LoadError::new("an argument is out of range", fix));
        }
        let rows = interrupt::block_on(self.measure())?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            println!("{}", Row::HEAD);
            rows.iter().for_each(|row| println!("{}", row.text()));
        }
        if rows.iter().all(|row| row.failures.is_empty()) {
            return Ok(());
        }
        Err(LoadError::new("a promise doesn't hold", "see the lines FAILED, or `failures` in JSON"))
    }

    async fn measure(&self) -> Result<Vec<Row>, LoadError> {
        let folder = tempfile::tempdir()?;
        let settings = vec![
            ("PROVISIONER__SUBNETS", SUBNETS.to_owned()),
            // Whether the machine has the memory is up to who measures.
            ("PROVISIONER__OVERCOMMIT", "100".to_owned()),
        ];
        eprintln!("starting memgate ...");
        let installation = Installation::start(&self.memgate, folder.path(), settings).await?;
        let (store, key) = (installation.open_store().await?, installation.lane_key()?);
        let mut rows = Vec::new();
        for memory_mb in &self.memory_mb {
            if self.warm && i64::from(*memory_mb) < store::WARM_MB_MIN {
                eprintln!("{memory_mb} MB: no cache of this size is warm");
                continue;
            }
            let row = self.measure_one(*memory_mb, &installation, (&store, &key)).await?;
            eprintln!("{}\n{}", Row::HEAD, row.text());
            rows.push(row);
        }
        store.close().await;
        Ok(rows)
    }

    async fn measure_one(
        &self,
        memory_mb: u32,
        installation: &Installation,
        (store, key): (&Store, &LaneKey),
    ) -> Result<Row, LoadError> {
        let (plan, email) = (format!("fill-{memory_mb}"), format!("fill-{memory_mb}@example.org"));
        let (memory, warm) = (memory_mb.to_string(), self.warm.to_string());
        installation.json(&["plan", "create", &plan, "--memory-mb", &memory, "--warm", &warm])?;
        let account = account(&installation.json(&["user", "add", &email, "--plan", &plan])?)?;
        let shown = installation.json(&["instance", "show", &email])?;
        let id = shown["id"].as_str().unwrap_or_default();
        let instance = store.instance(id).await.map_err(LoadError::unexpected)?;
        let instance = instance.ok_or_else(|| LoadError::invalid_run("a user has no cache"))?;
        let mut cache = Cache::new(installation, account, &instance, (store, key)).await?;
        let mut row = Row::new(memory_mb, self.warm);
        for (number, (name, sizes)) in PHASES.iter().enumerate() {
            eprintln!("{memory_mb} MB: {name} ...");
            let options = FillOptions {
                name: format!("p{number}"),
                sizes: sizes.to_vec(),
                connections: CONNECTIONS,
                batch_bytes: BATCH_BYTES,
                reads: true,
            };
            cache.fill(&options, Duration::from_secs(self.seconds), &mut row).await?;
            cache.check(name, &mut row).await?;
        }
        // Its memory is needed for the next one.
        installation.json(&["user", "delete", &email, "--yes"])?;
        Ok(row)
    }
}

impl<'a> Cache<'a> {
    async fn new(
        installation: &'a Installation,
        account: Account,
        instance: &Instance,
        (store, key): (&'a Store, &LaneKey),
    ) -> Result<Self, LoadError> {
        let direct = DirectConnection::open(instance, key).await?;
        let container = instance.route.as_ref().and_then(|route| route.container.clone()).unwrap_or_default();
        let state = state(&container)?;
        let statistics = Statistics::new(direct, store, instance.id.clone());
        Ok(Self { installation, account, container, state, statistics })
    }

    /// Fills it until it has been full for this time.
    async fn fill(
        &mut self,
        options: &FillOptions,
        length: Duration,
        row: &mut Row,
    ) -> Result<(), LoadError> {
        let begun = Instant::now();
        let evicted_or_refused = |figures: &Figures| figures.evictions + figures.out_of_memory;
        let mut last = (Instant::now(), evicted_or_refused(&self.statistics.read().await?));
        let mut filler = Filler::start(self.installation.endpoint(), &self.account, options);
        let mut full_since = None;
        let mut full_for = Duration::ZERO;
        while full_since.is_none_or(|since: Instant| since.elapsed() < length) {
            if begun.elapsed() > FULL_TIMEOUT + length {
                row.failures.push("it doesn't get full".to_owned());
                break;
            }
            if filler.has_failed() {
                row.failures.push("no connection is left that fills it".to_owned());
                break;
            }
            tokio::time::sleep(READ_INTERVAL).await;
            let now = (Instant::now(), evicted_or_refused(&self.statistics.read().await?));
            if now.1 > last.1 {
                full_since = full_since.or(Some(now.0));
                full_for += now.0 - last.0;
            }
            last = now;
        }
        let filled = filler.stop().await;
        row.seconds += begun.elapsed().as_secs_f64();
        row.full_seconds += full_for.as_secs_f64();
        row.filled.add(filled);
        Ok(())
    }

    /// Checks what is promised, while nothing is stored.
    async fn check(&mut self, phase: &str, row: &mut Row) -> Result<(), LoadError> {
        let mut failed = |what: String| row.failures.push(format!("{phase}: {what}"));
        let state = state(&self.container)?;
        if state != self.state {
            failed(format!("the container has changed from \"{}\" to \"{state}\"", self.state));
        }
        let stats = ["cache", "stats", &self.account.email, "--since", "1h"];
        let quiet = self.statistics.compare_quiet(|| self.installation.json(&stats)).await?;
        quiet.iter().for_each(|difference| failed(format!("{difference} while nothing was stored")));
        let loaded = self.statistics.take_differences();
        loaded.iter().for_each(|difference| failed(format!("{difference} while it was filled")));
        row.are_equal &= quiet.is_empty() && loaded.is_empty();
        let own = self.statistics.read().await?;
        (row.evictions, row.samples) = (own.evictions, self.statistics.compared());
        match cgroup::memory(&self.container) {
            Some(memory) => {
                if memory.oom_kills > 0 {
                    row.failures.push(format!("{phase}: {} OOM kills", memory.oom_kills));
                }
                row.memory = Some(memory);
            }
            None => row.failures.push(format!("{phase}: no memory figures of the container: in version 2 of control groups they need Linux 5.19 (memory.peak)")),
        }
        row.check_replies(phase);
        Ok(())
    }
}

/// Id, start, restarts, and whether Docker says that it was killed for its memory.
fn state(container: &str) -> Result<String, LoadError> {
    let format =
        "{{.Id}} started {{.State.StartedAt}} restarts {{.RestartCount}} OOM-killed {{.State.OOMKilled}}";
    docker(&["inspect", "-f", format, container])
}
