//! The benchmark: memgate and its peers by turns (A B C A B C), with ratios to a memcached that is asked
//! directly in the same round. Whatever it starts it stops, also on Ctrl-C and on failure.

mod contenders;
mod memory;
mod peer;
mod plot;
mod product;
mod rig;
mod rows;
mod summary;
mod table;

use std::path::PathBuf;
use std::process::Stdio;

use daemon::Shutdown;

use crate::failure::Failure;
use crate::outcome::Outcome;
use contenders::Contender;
use rig::Rig;
use rows::{Kind, Row};
use summary::Point;

/// memgate and its peers by turns; prints a table.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Fewer rows, fewer and shorter runs: to see whether something has changed much
    #[arg(long)]
    quick: bool,
    /// Print a JSON list instead of the table
    #[arg(long)]
    json: bool,
    /// Also write bench.md, bench.json and bench.svg to this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Runs of each point [default: 5, with --quick 2]
    #[arg(long)]
    runs: Option<usize>,
    /// Measured seconds of each run [default: 4, with --quick 1.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Only rows whose names hold one of these (`--only 100B/256`); may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Only these targets, and direct; may be repeated
    #[arg(long = "target")]
    targets: Vec<String>,
    /// Users of the row with many of them, a cache each; 0 leaves it out [default: 200, with --quick 0]
    #[arg(long)]
    users: Option<usize>,
    /// The product
    #[arg(long, default_value = "target/release/memgate")]
    memgate: PathBuf,
    /// A memcached that was unpacked, not installed: the folder that holds its `usr`
    #[arg(long, default_value = "target/bench/memcached")]
    memcached: PathBuf,
}

/// How long, how often.
#[derive(Debug, Clone, Copy)]
struct Effort {
    runs: usize,
    seconds: f64,
    warm_up: f64,
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::on_signals()?;
            tokio::select! {
                points = self.measure() => self.print(&points?),
                () = shutdown.begun() => Err(Failure::new("interrupted", "all that was started has been stopped")),
            }
        })
    }

    async fn measure(&self) -> Result<Vec<Point>, Failure> {
        let effort = Effort {
            runs: self.runs.unwrap_or(if self.quick { 2 } else { 5 }),
            seconds: self.seconds.unwrap_or(if self.quick { 1.5 } else { 4.0 }),
            warm_up: if self.quick { 0.5 } else { 1.0 },
        };
        let users = self.users.unwrap_or(if self.quick { 0 } else { 200 });
        let rig = Rig::start(&self.memgate, &self.memcached, users).await?;
        let mut points: Vec<Point> = Vec::new();
        for row in rows::all(self.quick, users).into_iter().filter(|row| self.wants(&row.name())) {
            let row = summary::at_rate(row, &points);
            let contenders = contenders::of(&rig, &row).into_iter().filter(|c| self.takes(c)).collect();
            let measured = by_turns(&row, contenders, effort).await?;
            measured.iter().for_each(|point| eprintln!("{}", table::line(point)));
            points.extend(measured);
        }
        if self.wants("memory") {
            points.extend(memory::measure(&rig, if self.quick { 2_000 } else { 10_000 }).await?);
        }
        Ok(points)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn takes(&self, contender: &Contender) -> bool {
        self.targets.is_empty()
            || contender.name == "direct"
            || self.targets.iter().any(|name| *name == contender.name)
    }

    fn print(&self, points: &[Point]) -> Result<(), Failure> {
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

/// A B C A B C: what disturbs the machine disturbs all alike.
async fn by_turns(row: &Row, contenders: Vec<Contender>, effort: Effort) -> Result<Vec<Point>, Failure> {
    let mut runs: Vec<Vec<Result<Outcome, String>>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..effort.runs {
        for (contender, runs) in contenders.iter().zip(&mut runs) {
            runs.push(one_run(row, contender, effort).await?);
        }
    }
    Ok(summary::points(row, &contenders, &runs))
}

/// One run of the generator, as a process of its own. A void run is a result, too.
async fn one_run(
    row: &Row,
    contender: &Contender,
    effort: Effort,
) -> Result<Result<Outcome, String>, Failure> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg("run").args(row.arguments()).args(contender.arguments());
    command.args(["--seconds", &effort.seconds.to_string(), "--warm-up", &effort.warm_up.to_string()]);
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    let output = command.output().await?;
    if !output.status.success() {
        return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}
