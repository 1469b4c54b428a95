//! `memgate cache update`: when a cache sleeps.

use identity::sleep::parse_sleep_after;
use store::StoreError;

use super::CacheView;
use crate::cli::context::Context;
use crate::cli::lookup::{CacheArg, find_user};
use crate::cli::plan::sleep_text;
use crate::output::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    cache: CacheArg,
    /// Put it to sleep after this time without a command: 1m to 365d, like 30m, 1h or 7d, no later than its plan says; `plan`:
    /// the plan's time
    #[arg(long, value_name = "TIME", value_parser = parse_arg)]
    sleep_after: SleepAfter,
}

/// Seconds; `None`: the plan's time.
#[derive(Debug, Clone, Copy)]
struct SleepAfter(Option<i64>);

fn parse_arg(text: &str) -> Result<SleepAfter, String> {
    parse_sleep_after(text).map(SleepAfter)
}

impl Update {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let Self { email, cache, sleep_after: SleepAfter(seconds) } = self;
        let store = &context.store;
        let user = find_user(store, &email).await?;
        let cache = cache.find(store, &user).await?;
        store.set_sleep_after(&cache.id, seconds).await.map_err(|error| match error {
            StoreError::SleepsEarlier { max } => CliError::new(
                format!("plan {} puts caches to sleep after {}", cache.plan, sleep_text(Some(max))),
                "give a shorter time, or `--sleep-after plan`",
            ),
            error => error.into(),
        })?;
        let found = store.cache(&cache.id).await?.ok_or(StoreError::NotFound("cache"))?;
        let instance = store.instance_of_cache(&cache.id).await?;
        let view = CacheView::new(context, &user, found, instance);
        context.print(&view, || view.text())
    }
}
