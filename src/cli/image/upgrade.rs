//! `memgate image upgrade`: asks for an upgrade of all instances, and waits for it.

use std::time::Duration;

use store::{ImageUpgrade, Store, StoreError, UPGRADE_PARALLEL_MAX, UpgradeState, UpgradeWanted};

use crate::cli::context::Context;
use crate::cli::number;
use crate::output::{self, CliError};

/// How long it waits for further progress.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);
const PARALLEL: i64 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Upgrade {
    /// Instances to restart at a time [default: 2]
    #[arg(long, value_name = "N", value_parser = number::between(1, UPGRADE_PARALLEL_MAX))]
    parallel: Option<i64>,
    /// Begin no further instance until it is resumed
    #[arg(long, conflicts_with_all = ["resume", "abort", "parallel"])]
    pause: bool,
    /// Go on with one that was paused, or that has stopped
    #[arg(long, conflicts_with = "abort")]
    resume: bool,
    /// End it where it is
    #[arg(long, conflicts_with = "parallel")]
    abort: bool,
    /// Don't wait until it is done
    #[arg(long)]
    no_wait: bool,
}

impl Upgrade {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        match (self.pause, self.resume, self.abort) {
            (true, ..) => set(store, UpgradeWanted::Paused, None).await?,
            (_, true, _) => set(store, UpgradeWanted::Running, self.parallel).await?,
            (.., true) => set(store, UpgradeWanted::Aborted, None).await?,
            _ => start(store, self.parallel).await?,
        }
        let waits = !(self.no_wait || self.pause || self.abort);
        let upgrade = if waits { wait(store).await? } else { read(store).await? };
        context.print(&upgrade, || text(&upgrade))?;
        if waits { into_result(&upgrade) } else { Ok(()) }
    }
}

/// Starts one, or joins the one that goes on.
async fn start(store: &Store, parallel: Option<i64>) -> Result<(), CliError> {
    match store.start_image_upgrade(parallel.unwrap_or(PARALLEL)).await {
        Err(StoreError::AlreadyExists(_)) => {}
        started => return Ok(started?),
    }
    let upgrade = read(store).await?;
    if upgrade.is_at_rest() {
        let state = upgrade.progress.state.as_str();
        let fix = "go on with `memgate image upgrade --resume`, or end it with --abort first";
        return Err(CliError::new(format!("the last upgrade is {state}"), fix));
    }
    if parallel.is_some_and(|parallel| parallel != upgrade.parallel) {
        let fix = "wait for it without --parallel, or pause it and give --resume --parallel";
        return Err(CliError::new("an upgrade goes on, with another number at a time", fix));
    }
    Ok(())
}

async fn set(store: &Store, wanted: UpgradeWanted, parallel: Option<i64>) -> Result<(), CliError> {
    store.set_image_upgrade(wanted, parallel).await.map_err(|error| match error {
        StoreError::NotFound(_) => CliError::new(
            "no upgrade goes on",
            "`memgate image upgrade` starts one; see `memgate image show`",
        ),
        error => error.into(),
    })
}

async fn read(store: &Store) -> Result<ImageUpgrade, CliError> {
    let found = store.image_upgrade().await?;
    found.ok_or_else(|| CliError::new("there was no upgrade", "`memgate image upgrade` starts one"))
}

/// Waits until it is at rest, with its progress on stderr, for as long as there is progress.
async fn wait(store: &Store) -> Result<ImageUpgrade, CliError> {
    let mut feed = store.feed().await?;
    let mut told = String::new();
    let mut deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
    loop {
        let upgrade = read(store).await?;
        if upgrade.is_at_rest() {
            return Ok(upgrade);
        }
        let progress = text(&upgrade);
        if progress != told {
            eprintln!("{}", output::escape_controls(&progress));
            told = progress;
            deadline = tokio::time::Instant::now() + WAIT_TIMEOUT;
        }
        match tokio::time::timeout_at(deadline, feed.next()).await {
            Ok(changed) => drop(changed?),
            Err(_) => return Ok(upgrade),
        }
    }
}

/// One line: where it stands.
pub(super) fn text(upgrade: &ImageUpgrade) -> String {
    let it = &upgrade.progress;
    let failed = if it.failed > 0 { format!(", {} failed", it.failed) } else { String::new() };
    let message = it.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    let state = match (it.state, upgrade.wanted) {
        (UpgradeState::Running, UpgradeWanted::Paused) => "pausing",
        (state, _) => state.as_str(),
    };
    format!("image upgrade {state}: {} of {} instances{failed}{message}", it.done, it.total)
}

/// # Errors
/// If it has stopped, or was paused or aborted; or goes on (exit status 3).
fn into_result(upgrade: &ImageUpgrade) -> Result<(), CliError> {
    match upgrade.progress.state {
        UpgradeState::Done => Ok(()),
        UpgradeState::Stopped => {
            let message = upgrade.progress.message.as_deref().unwrap_or("restarts have failed: see the log");
            let (what, fix) = message.split_once(": ").unwrap_or((message, "see the log"));
            Err(CliError::new(format!("the image upgrade has stopped ({what})"), fix))
        }
        UpgradeState::Paused => {
            let fix = "`memgate image upgrade --resume` goes on";
            Err(CliError::new("the image upgrade was paused meanwhile", fix))
        }
        UpgradeState::Aborted => {
            let fix = "`memgate image upgrade` starts another";
            Err(CliError::new("the image upgrade was aborted meanwhile", fix))
        }
        UpgradeState::Running => {
            let what = format!("nothing has changed for {} s", WAIT_TIMEOUT.as_secs());
            Err(CliError::pending(what, "it goes on by itself; see `memgate image show`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use store::{Timestamp, UpgradeProgress};

    use super::*;

    fn upgrade(state: UpgradeState, wanted: UpgradeWanted, message: Option<&str>) -> ImageUpgrade {
        let message = message.map(str::to_owned);
        let progress = UpgradeProgress { state, total: 9, done: 3, failed: 2, failures_in_row: 2, message };
        let (id, requested_by) = ("one".to_owned(), "operator".to_owned());
        ImageUpgrade {
            id,
            wanted,
            parallel: 2,
            attempt: 1,
            requested_by,
            created_at: Timestamp::EPOCH,
            counted_at: None,
            progress,
        }
    }

    //
    #[test]
    fn every_end_of_an_upgrade_names_the_next_step() {
        let ended = |state, message| into_result(&upgrade(state, UpgradeWanted::Running, message));
        assert!(ended(UpgradeState::Done, None).is_ok());
        let error =
            ended(UpgradeState::Stopped, Some("restarts fail (x, cache a): build another")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the image upgrade has stopped (restarts fail (x, cache a)): build another"
        );
        let error = ended(UpgradeState::Running, None).unwrap_err();
        assert_eq!(format!("{:?}", error.report(false)), format!("{:?}", std::process::ExitCode::from(3)));
        for state in [UpgradeState::Paused, UpgradeState::Aborted] {
            let error = ended(state, None).unwrap_err();
            let status = format!("{:?}", error.report(false));
            assert_eq!(status, format!("{:?}", std::process::ExitCode::from(1)), "it doesn't go on");
        }
        let shown = text(&upgrade(UpgradeState::Running, UpgradeWanted::Paused, None));
        assert_eq!(shown, "image upgrade pausing: 3 of 9 instances, 2 failed");
    }
}
