//! The processes of a running flood, seen from the program that measures.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::job::{Job, Report};
use crate::cpu::{self, Watched};
use crate::error::LoadError;

/// Connections of one process: below the usual limits of open files.
const CONNECTIONS_PER_PROCESS: usize = 8_000;
/// A process that doesn't end by itself within this time is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Killed on drop.
pub(super) struct Flood {
    children: Vec<Child>,
    started: Instant,
    watched: Vec<Watched>,
}

impl Flood {
    /// Starts as many processes as the flood's connections need.
    pub(super) async fn start(job: &Job) -> Result<Self, LoadError> {
        let connections = job.kind.connections() as f64 * job.scale;
        let shards = (connections.ceil() as usize).div_ceil(CONNECTIONS_PER_PROCESS).max(1);
        let mut flood = Self { children: Vec::new(), started: Instant::now(), watched: Vec::new() };
        for shard in 0..shards {
            let job = Job { shard, shards, ..job.clone() };
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("attack").stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.kill_on_drop(true).process_group(0).spawn()?;
            let line = serde_json::to_string(&job)? + "\n";
            if let Some(stdin) = &mut child.stdin {
                stdin.write_all(line.as_bytes()).await?;
            }
            let pid = child.id().unwrap_or_default();
            flood.watched.push(Watched { name: job.kind.name(), pid });
            flood.children.push(child);
        }
        Ok(flood)
    }

    /// The flood's use of CPU time so far, as a share of one core.
    pub(super) fn cpu_share(&self) -> Result<f64, LoadError> {
        let used: f64 = cpu::sample(&self.watched)?.values().map(|cpu| cpu.total()).sum();
        Ok(used / self.started.elapsed().as_secs_f64())
    }

    /// Ends the flood, which closes its connections.
    pub(super) async fn stop(mut self) -> Result<Report, LoadError> {
        for child in &mut self.children {
            drop(child.stdin.take());
        }
        let mut report = Report::default();
        for child in std::mem::take(&mut self.children) {
            let output = tokio::time::timeout(STOP_TIMEOUT, child.wait_with_output()).await;
            let output = output.map_err(|_| LoadError::invalid_run("a flood's process doesn't end"))??;
            let of_one = serde_json::from_slice(&output.stdout)
                .map_err(|_| LoadError::invalid_run("a flood's process failed"))?;
            report.add(of_one);
        }
        Ok(report)
    }
}
