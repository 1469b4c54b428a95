//! One process of a flood: reads its job from stdin and runs it until stdin ends.

mod burner;
mod half_open;
mod health;
mod local_process;
mod logins;
mod over_rate;
mod pool;
mod unfinished;
mod web;

use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::job::{Job, Tally};
use super::kind::Kind;
use super::placement;
use crate::error::LoadError;
use crate::local_only;

/// Runs one process of a flood; `load floods` starts it.
#[derive(Debug, clap::Args)]
pub(crate) struct Attack {}

impl Attack {
    pub(crate) fn run(&self) -> Result<(), LoadError> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let job: Job = serde_json::from_str(&line)?;
        local_only::check(job.target)?;
        if let Some(core) = job.core {
            placement::pin(&[core])?;
        }
        raise_file_limit()?;
        if job.kind == Kind::ContainerPort {
            local_process::drop_privileges()?;
        }
        let tally = Arc::new(Tally::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::select! {
                done = run(&job, &tally) => done?,
                () = end_of_stdin() => {}
                () = tokio::time::sleep(Duration::from_secs_f64(job.seconds_max)) => {}
            }
            println!("{}", serde_json::to_string(&tally.report())?);
            Ok(())
        })
    }
}

/// Runs a flood. Ends only on an error, or when it is dropped, which closes its connections.
async fn run(job: &Job, tally: &Arc<Tally>) -> Result<(), LoadError> {
    match job.kind {
        Kind::WebUnread => web::never_read(job, tally).await,
        Kind::SignInSpray => web::spray(job, tally, |_| pool::ATTACKER).await,
        Kind::SignInSpraySources => web::spray(job, tally, web::source).await,
        Kind::SignInsAtOnce => web::spray(job, tally, web::own_source).await,
        Kind::HalfOpenNetworks => half_open::networks(job, tally, b"").await,
        Kind::HalfOpenByte => half_open::networks(job, tally, b"s").await,
        Kind::HalfOpenNeighbour => half_open::neighbour(job, tally).await,
        Kind::HealthProxy | Kind::HealthProvisioner | Kind::HealthWebui => health::idle(job, tally).await,
        Kind::UnfinishedSets => unfinished::sets(job, tally).await,
        Kind::UnfinishedUnread => unfinished::sets_with_unread_replies(job, tally).await,
        Kind::OverRateMn => over_rate::repeat(job, tally, b"mn\r\n").await,
        Kind::OverRateBogus => over_rate::repeat(job, tally, b"bogus\r\n").await,
        Kind::OverRateNoop => over_rate::repeat(job, tally, over_rate::NOOP).await,
        Kind::OverRateGet => over_rate::repeat(job, tally, b"get k\r\n").await,
        Kind::ContainerPort => local_process::dial(job, tally).await,
        Kind::WrongLogins => logins::wrong(job, tally).await,
        Kind::CpuOnly => burner::burn(job.cpu_share).await,
    }
}

/// Returns when the parent process has closed this stdin, or has ended.
async fn end_of_stdin() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let _ = end.await;
}

fn raise_file_limit() -> Result<(), LoadError> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

#[cfg(test)]
mod tests;
