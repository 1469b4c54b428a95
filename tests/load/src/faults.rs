//! What a checking client sees while each known fault is injected, whether everything recovers, whether nothing was replaced
//! that need not be, and whether status and readiness tell the truth. Starts an installation of its own on a small file
//! system of its own, and removes both at the end, also on Ctrl-C and on failure.

mod certificate;
mod checker;
mod disk;
mod fault;
mod fleet;
mod inject;
mod own_docker;
mod postgres;
mod relay;
mod row;
mod scene;
mod table;
mod testbed;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use serde::Serialize;

use crate::error::LoadError;
use crate::interrupt;
use checker::Checker;
use fault::Fault;
use row::Row;
use scene::Scene;
use testbed::{KEPT_KEYS, Surroundings, Testbed};
use watch::Watch;

/// Time limit for everything to be ready again, from the fault's end.
const READY_TIMEOUT: f64 = 90.0;
/// No caller has seen an error for this time.
const QUIET: Duration = Duration::from_millis(1500);
/// Before a fault is injected, so that the watch has seen that all is well.
const CALM_SECONDS: f64 = 1.5;

/// Injects known faults under a checking client; prints a table.
#[derive(Debug, clap::Args)]
pub(crate) struct Faults {
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Only faults whose names contain this (`--only docker-kill`); may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// List the faults, and inject none
    #[arg(long)]
    list: bool,
    /// Caches, each with a text and a binary connection
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(2..=50))]
    caches: u8,
    /// The memgate binary
    #[arg(long, default_value = "target/debug/memgate")]
    memgate: PathBuf,
}

#[derive(Serialize)]
struct Output<'a> {
    caches: u8,
    rows: &'a [Row],
}

impl Faults {
    pub(crate) fn run(self) -> Result<(), LoadError> {
        let wanted = |fault: &&'static Fault| self.wants(fault.name);
        let faults = [
            (Surroundings::Sqlite, inject::with_sqlite().filter(wanted).collect::<Vec<_>>()),
            (Surroundings::Fleet, inject::with_fleet().filter(wanted).collect()),
            (Surroundings::OwnDocker, inject::with_own_docker().filter(wanted).collect()),
        ];
        if self.list {
            for fault in faults.iter().flat_map(|(_, faults)| faults) {
                println!("{:28} {}", fault.name, fault.does);
            }
            return Ok(());
        }
        if faults.iter().all(|(_, faults)| faults.is_empty()) {
            return Err(LoadError::new("no fault has such a name", "`--list` shows the names"));
        }
        let (json, caches) = (self.json, self.caches);
        let interrupted = Arc::new(AtomicBool::new(false));
        let (ended, end) = tokio::sync::oneshot::channel();
        let stop = Arc::clone(&interrupted);
        // Everything that is started ends with this thread.
        let thread = std::thread::spawn(move || {
            let _ = ended.send(self.measure_all(faults, &stop));
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let rows = runtime.block_on(async {
            let shutdown = Shutdown::on_signals("load")?;
            let stop = async {
                shutdown.begun().await;
                interrupted.store(true, Ordering::Relaxed);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                rows = end => rows.unwrap_or_else(|_| Err(LoadError::new("the measurement panicked", "report this"))),
                () = stop => unreachable!("it waits for ever"),
            }
        });
        let _ = thread.join();
        let rows = rows?;
        if json {
            println!("{}", serde_json::to_string_pretty(&Output { caches, rows: &rows })?);
        } else {
            print!("{}", table::all(&rows));
        }
        match rows.iter().filter(|row| !row.holds()).count() {
            0 => Ok(()),
            count => Err(LoadError::new(
                format!("{count} of {} promises don't hold", rows.len()),
                "see the last column",
            )),
        }
    }

    fn measure_all(
        &self,
        faults: [(Surroundings, Vec<&'static Fault>); 3],
        interrupted: &AtomicBool,
    ) -> Result<Vec<Row>, LoadError> {
        eprint!("{}", table::HEAD);
        let mut rows = Vec::new();
        for (surroundings, faults) in faults.iter().filter(|(_, faults)| !faults.is_empty()) {
            let bed = Testbed::start(&self.memgate, usize::from(self.caches), *surroundings)?;
            rows.extend(Self::measure(bed, faults, interrupted)?);
        }
        Ok(rows)
    }

    fn measure(
        mut bed: Testbed,
        faults: &[&'static Fault],
        interrupted: &AtomicBool,
    ) -> Result<Vec<Row>, LoadError> {
        let checker = Checker::start(bed.endpoint(), &bed.accounts)?;
        let watch = bed.watch();
        bed.store_kept()?;
        let mut rows = Vec::new();
        for fault in faults {
            let row = measure_one(fault, &mut bed, (&checker, &watch), interrupted)?;
            eprintln!("{}", table::line(&row));
            if row.ready_after.is_none() {
                keep_log(&bed, fault.name);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Injects one fault, waits until all is well again, and compares with what was promised.
fn measure_one(
    fault: &'static Fault,
    bed: &mut Testbed,
    (checker, watch): (&Checker, &Watch),
    interrupted: &AtomicBool,
) -> Result<Row, LoadError> {
    let caches = bed.accounts.len();
    let before = bed.instances()?;
    checker.record.restart();
    watch.restart();
    let mut scene = Scene {
        bed,
        checker,
        interrupted,
        begun: None,
        ended: None,
        notes: Vec::new(),
        failures: Vec::new(),
    };
    scene.wait(CALM_SECONDS)?;
    let injected = (fault.inject)(&mut scene);
    if interrupted.load(Ordering::Relaxed) {
        return Err(interrupt::interrupted());
    }
    if let Err(error) = injected {
        scene.failures.push(format!("not injected: {error}"));
    }
    let begun = scene.begun.unwrap_or_else(Instant::now);
    let ended = scene.ended.unwrap_or(begun);
    let injected_at = Instant::now();
    let is_well = || {
        let quiet_since = Instant::now().checked_sub(QUIET).unwrap_or(begun);
        let is_quiet = checker.record.last_error().is_none_or(|at| at < quiet_since);
        Ok(is_quiet
            && quiet_since > injected_at
            && checker.record.all_answered_since(quiet_since, caches)
            && watch.all_ready_since(injected_at))
    };
    let is_ready = scene.wait_for(READY_TIMEOUT, is_well)?;
    let (seen, last_error, answers) = (checker.record.seen(), checker.record.last_error(), watch.answers());
    let Scene { bed, notes, failures, .. } = scene;
    let after = bed.instances().unwrap_or_default();
    let kept = bed.count_kept().ok();
    if kept.as_ref().is_none_or(|kept| kept.iter().any(|kept| *kept < KEPT_KEYS)) {
        bed.store_kept()?;
    }
    let last_not_ready = answers.iter().rev().find(|answer| !answer.is_ready).map(|answer| answer.at);
    let since = |at: Instant, from: Instant| at.saturating_duration_since(from).as_secs_f64();
    let mut row = Row {
        name: fault.name,
        fault,
        seen,
        last_error: last_error.map(|at| [since(at, begun), since(at, ended)]),
        stood_for: since(ended, begun),
        ready_after: is_ready.then(|| last_not_ready.map_or(0.0, |at| since(at, ended))),
        replaced: before
            .iter()
            .enumerate()
            .filter(|(number, old)| after.get(*number).is_none_or(|new| new.container != old.container))
            .map(|(number, _)| number)
            .collect(),
        kept,
        not_ready: watch::summary(&answers, begun),
        warnings: BTreeMap::new(),
        notes,
        failures,
    };
    row.judge(&answers, begun);
    Ok(row)
}

fn keep_log(bed: &Testbed, fault: &str) {
    let copy = std::env::temp_dir().join(format!("memgate-faults-{fault}.log"));
    if std::fs::copy(bed.installation.log_path(), &copy).is_ok() {
        eprintln!("not recovered: the log is kept in {}", copy.display());
    }
}
