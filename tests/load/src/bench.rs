//! The benchmark: memgate and its peers in alternating rounds (A B C A B C), with ratios to direct access to
//! memcached in the same round. Everything that it starts is stopped at the end, also on Ctrl-C and on failure.

mod memgate;
mod memory;
mod peer;
mod plot;
mod rows;
mod summary;
mod table;
mod targets;
mod testbed;

use std::path::PathBuf;
use std::process::Stdio;

use crate::error::LoadError;
use crate::interrupt;
use crate::outcome::Outcome;
use rows::{Kind, Row};
use summary::Point;
use targets::Target;
use testbed::Testbed;

/// Measures memgate and its peers in alternating rounds; prints a table.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Measure fewer rows in fewer and shorter runs: enough to notice large changes
    #[arg(long)]
    quick: bool,
    /// Print a JSON list instead of the table
    #[arg(long)]
    json: bool,
    /// Also write bench.md, bench.json and bench.svg to this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Runs per row and target [default: 5, with --quick 2]
    #[arg(long)]
    runs: Option<usize>,
    /// Measured seconds per run [default: 4, with --quick 1.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Only rows whose names contain this (`--only 100B/256`); may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Only this target, and direct; may be repeated
    #[arg(long = "target")]
    targets: Vec<String>,
    /// Users of the row with one cache per user; 0 skips it [default: 200, with --quick 0]
    #[arg(long)]
    users: Option<usize>,
    /// The memgate binary
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
    /// The folder into which a memcached package was unpacked (the parent of its `usr`)
    #[arg(long, default_value = "target/bench/memcached")]
    memcached: PathBuf,
}

/// How long and how often each point is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    runs: usize,
    seconds: f64,
    warm_up: f64,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        self.print(&interrupt::block_on(self.measure())?)
    }

    async fn measure(&self) -> Result<Vec<Point>, LoadError> {
        let effort = Effort {
            runs: self.runs.unwrap_or(if self.quick { 2 } else { 5 }),
            seconds: self.seconds.unwrap_or(if self.quick { 1.5 } else { 4.0 }),
            warm_up: if self.quick { 0.5 } else { 1.0 },
        };
        let users = self.users.unwrap_or(if self.quick { 0 } else { 200 });
        let testbed = Testbed::start(&self.memgate, &self.memcached, users).await?;
        let mut points: Vec<Point> = Vec::new();
        for row in rows::all(self.quick, users).into_iter().filter(|row| self.wants(&row.name())) {
            let row = summary::at_rate(row, &points);
            let targets =
                targets::of(&testbed, &row).into_iter().filter(|target| self.wants_target(target)).collect();
            let measured = run_rounds(&row, targets, effort).await?;
            measured.iter().for_each(|point| eprintln!("{}", table::line(point)));
            points.extend(measured);
        }
        if self.wants("memory") {
            points.extend(memory::measure(&testbed, if self.quick { 2_000 } else { 10_000 }).await?);
        }
        Ok(points)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn wants_target(&self, target: &Target) -> bool {
        self.targets.is_empty()
            || target.name == "direct"
            || self.targets.iter().any(|name| *name == target.name)
    }

    fn print(&self, points: &[Point]) -> Result<(), LoadError> {
        if let Some(folder) = &self.save {
            std::fs::create_dir_all(folder)?;
            std::fs::write(folder.join("bench.json"), serde_json::to_string_pretty(points)? + "\n")?;
            std::fs::write(folder.join("bench.svg"), plot::svg(points))?;
            std::fs::write(folder.join("bench.md"), table::page(points))?;
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(points)?);
        } else {
            print!("{}", table::all(points));
        }
        Ok(())
    }
}

/// Alternates the targets (A B C A B C), so that a disturbance of the machine affects all of them.
async fn run_rounds(row: &Row, targets: Vec<Target>, effort: Effort) -> Result<Vec<Point>, LoadError> {
    let mut runs: Vec<Vec<Result<Outcome, String>>> = targets.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.runs {
        for (target, runs) in targets.iter().zip(&mut runs) {
            runs.push(one_run(row, target, effort).await?);
        }
    }
    Ok(summary::points(row, &targets, &runs))
}

/// Runs the generator once, as a process. The inner `Err` is an invalid run, with its reason.
async fn one_run(row: &Row, target: &Target, effort: Effort) -> Result<Result<Outcome, String>, LoadError> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("run").args(row.arguments()).args(target.arguments());
    command.args(["--seconds", &effort.seconds.to_string(), "--warm-up", &effort.warm_up.to_string()]);
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    let output = command.output().await?;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}
