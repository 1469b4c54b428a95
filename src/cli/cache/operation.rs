//! `memgate cache restart`, `flush`, `resize`, `suspend`, `resume` and `delete`: ask for an operation, and wait for it.

use std::time::Duration;

use serde::Serialize;
use store::{
    Cache, NewOperation, Operation, OperationError, OperationKind, OperationState, RESIZE_MB_MAX,
    RESIZE_MB_MIN, Store, StoreError,
};

use crate::cli::context::Context;
use crate::cli::lookup::{CacheArg, find_user};
use crate::cli::number;
use crate::output::table;
use crate::output::{self, CliError, time};

const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
/// memcached gives its memory back page by page.
const RESIZE_TIMEOUT: Duration = Duration::from_mins(5);

/// Which cache, and whether to wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    cache: CacheArg,
    /// Don't wait until it is done
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resize {
    #[command(flatten)]
    target: Target,
    /// The new memory for items, in MB
    #[arg(long, value_name = "N", value_parser = number::between(RESIZE_MB_MIN, RESIZE_MB_MAX))]
    memory_mb: i64,
}

#[derive(Debug, Serialize)]
struct OperationView {
    email: String,
    cache: String,
    #[serde(flatten)]
    operation: Operation,
}

/// The newest operations of a cache, newest first.
#[derive(Debug, Serialize)]
pub(super) struct Operations {
    operations: Vec<Operation>,
}

impl Resize {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        run(context, self.target, NewOperation::Resize { memory_mb: self.memory_mb }).await
    }
}

/// Asks for an operation and shows what becomes of it.
pub(super) async fn run(context: &Context, target: Target, new: NewOperation) -> Result<(), CliError> {
    let Target { email, cache, no_wait } = target;
    let store = &context.store;
    let user = find_user(store, &email).await?;
    let cache = cache.find(store, &user).await?;
    let asked = store.request_operation(&cache.id, new).await;
    let asked = asked.map_err(|error| refusal(error, &user.email, &cache.name))?;
    let limit = if new.kind() == OperationKind::Resize { RESIZE_TIMEOUT } else { WAIT_TIMEOUT };
    let waited = if no_wait { None } else { Some(wait(store, &cache, &asked, limit).await) };
    let operation = match &waited {
        Some(Ok(operation)) => operation.clone(),
        Some(Err(_)) | None => asked,
    };
    let shown = OperationView { email: user.email, cache: cache.name, operation };
    context.print(&shown, || shown.text())?;
    match waited {
        None => Ok(()),
        Some(Ok(_)) => shown.into_result(limit),
        Some(Err(error)) => {
            let what = format!("the {} goes on, and its state can't be read ({error})", new.kind().as_str());
            Err(CliError::pending(what, shown.see()))
        }
    }
}

/// What to tell someone who has asked for what can't be done now.
fn refusal(error: StoreError, email: &str, cache: &str) -> CliError {
    let fix = match &error {
        StoreError::Operation(OperationError::Suspended) => {
            format!("resume it with `memgate cache resume {email} --cache {cache}`")
        }
        StoreError::Operation(OperationError::UserSuspended) => {
            format!("resume the user with `memgate user resume {email}`")
        }
        StoreError::Operation(OperationError::NotRunning(_)) => {
            format!("`memgate cache show {email} --cache {cache}` says why; try again when it runs")
        }
        _ => return error.into(),
    };
    let (what, _) = CliError::from(error).into_parts();
    CliError::new(what, fix)
}

/// Waits until an operation has ended; returns how far it was when that was read last.
pub(super) async fn until_ended(store: &Store, cache: &Cache, asked: &Operation) -> Operation {
    wait(store, cache, asked, WAIT_TIMEOUT).await.unwrap_or_else(|_| asked.clone())
}

/// Waits until an operation has ended, with its progress on stderr, but not longer than `limit`.
async fn wait(
    store: &Store,
    cache: &Cache,
    asked: &Operation,
    limit: Duration,
) -> Result<Operation, CliError> {
    let mut feed = store.feed().await?;
    let read = async || -> Result<Operation, CliError> {
        let found = store.operation(&cache.id, &asked.id).await?;
        found.ok_or_else(|| CliError::new("the cache was deleted meanwhile", "create another"))
    };
    let mut told = String::new();
    let ended = async {
        loop {
            let operation = read().await?;
            if operation.state.is_finished() {
                return Ok::<_, CliError>(operation);
            }
            let progress = progress(&cache.name, &operation);
            if progress != told {
                eprintln!("{}", output::escape_controls(&progress));
                told = progress;
            }
            feed.next().await?;
        }
    };
    match tokio::time::timeout(limit, ended).await {
        Ok(ended) => ended,
        Err(_) => read().await,
    }
}

/// One line of progress.
fn progress(cache: &str, operation: &Operation) -> String {
    let kind = match operation.kind {
        OperationKind::Restart => "restarting",
        OperationKind::Flush => "flushing",
        OperationKind::Resize => "resizing",
        OperationKind::Suspend => "suspending",
        OperationKind::Resume => "resuming",
        OperationKind::Delete => "deleting",
    };
    let message = operation.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
    let percent = if operation.progress > 0 { format!(" {} %", operation.progress) } else { String::new() };
    format!("{kind} cache {cache} ...{percent}{message}")
}

impl OperationView {
    fn text(&self) -> String {
        let Operation { kind, state, message, .. } = &self.operation;
        let message = message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        format!("{} of cache {}: {}{message}", kind.as_str(), self.cache, state.as_str())
    }

    fn see(&self) -> String {
        format!("it goes on by itself; see `memgate cache show {} --cache {}`", self.email, self.cache)
    }

    /// # Errors
    /// If the operation has failed, or goes on (exit status 3).
    fn into_result(self, limit: Duration) -> Result<(), CliError> {
        let kind = self.operation.kind.as_str();
        match self.operation.state {
            OperationState::Done => Ok(()),
            OperationState::Failed => {
                let message = self.operation.message.as_deref().unwrap_or("it failed: see the log");
                let (what, fix) = message.split_once(": ").unwrap_or((message, "see the log"));
                Err(CliError::new(format!("the {kind} has failed ({what})"), fix))
            }
            OperationState::Pending | OperationState::Running => {
                let reason =
                    self.operation.message.as_ref().map_or_else(String::new, |it| format!(" ({it})"));
                let what = format!("the {kind} isn't done after {} s{reason}", limit.as_secs());
                Err(CliError::pending(what, self.see()))
            }
        }
    }
}

impl Operations {
    pub(super) async fn read(store: &Store, cache_id: &str, limit: i64) -> Result<Self, CliError> {
        Ok(Self { operations: store.operations_of(cache_id, limit).await? })
    }

    /// A line for each.
    pub(super) fn lines(&self) -> String {
        let line = |it: &Operation| {
            let size = it.memory_mb.map_or_else(String::new, |memory| format!(" to {memory} MB"));
            let progress = if it.state == OperationState::Running {
                format!(" {} %", it.progress)
            } else {
                String::new()
            };
            let message = it.message.as_ref().map_or_else(String::new, |message| format!(" ({message})"));
            let (kind, state) = (it.kind.as_str(), it.state.as_str());
            let when = time::past(it.finished_at.unwrap_or(it.created_at));
            ("operation", format!("{when}: {kind}{size}: {state}{progress}{message}"))
        };
        table::pairs(&self.operations.iter().map(line).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use store::Timestamp;

    use super::*;

    fn asked(state: OperationState, message: Option<&str>) -> OperationView {
        let operation = Operation {
            id: "one".into(),
            cache_id: "two".into(),
            kind: OperationKind::Resize,
            memory_mb: Some(32),
            requested_by: "operator".into(),
            state,
            progress: 40,
            message: message.map(str::to_owned),
            checkpoint: None,
            created_at: Timestamp::EPOCH,
            started_at: None,
            finished_at: None,
        };
        OperationView { email: "ada@example.org".into(), cache: "shop".into(), operation }
    }

    #[test]
    fn every_end_of_an_operation_names_the_next_step() {
        let result = |state, message| asked(state, message).into_result(WAIT_TIMEOUT);
        assert!(result(OperationState::Done, None).is_ok());
        let error = result(OperationState::Failed, Some("no room: ask for less")).unwrap_err();
        assert_eq!(error.to_string(), "the resize has failed (no room): ask for less");
        let error = result(OperationState::Running, Some("9 MB are left")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the resize isn't done after 60 s (9 MB are left): it goes on by itself; see `memgate cache show \
             ada@example.org --cache shop`"
        );
        assert_eq!(format!("{:?}", error.report(false)), format!("{:?}", std::process::ExitCode::from(3)));
    }

    #[test]
    fn operations_are_shown_with_their_progress() {
        let OperationView { operation, .. } = asked(OperationState::Running, Some("9 MB are left"));
        assert_eq!(progress("shop", &operation), "resizing cache shop ... 40 %: 9 MB are left");
        let lines = Operations { operations: vec![operation] }.lines();
        assert!(lines.contains("resize to 32 MB: running 40 % (9 MB are left)"), "{lines}");
    }
}
