//! `memgate cache`: the caches of a user.

mod operation;
mod statistics;
mod update;

use serde::Serialize;
use store::{
    Cache, CacheName, DesiredState, Instance, InstanceState, InstanceStatistics, NewCache, NewOperation,
    Operation, Store, StoreError, Timestamp, User,
};

use self::operation::{Operations, Resize, Target};
use self::statistics::Stats;
use self::update::Update;

use super::confirmation::Confirmation;
use super::context::{self, Context};
use super::instance::{Usage, megabytes};
use super::lookup::{CacheArg, find_user, plan_error};
use super::plan::sleep_text;
use super::readiness;
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::output::table::{self, table};
use crate::output::time;

/// Operations that `show` prints.
const SHOWN_OPERATIONS: i64 = 5;

/// Manage caches
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CacheCommand {
    /// List a user's caches, oldest first
    #[command(after_help = "\
Example:
  memgate cache list ada@example.org")]
    List {
        /// The user's e-mail address
        email: String,
    },
    /// Show a cache, how full it is, its usage, and the last operations on it
    #[command(after_help = "\
Examples:
  memgate cache show ada@example.org
  memgate cache show ada@example.org --cache sessions --json")]
    Show {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
    /// Show how a cache has been used over time: hits, rates, evictions, memory, CPU
    #[command(after_help = "\
Examples:
  memgate cache stats ada@example.org
  memgate cache stats ada@example.org --cache sessions --since 1h
  memgate cache stats ada@example.org --since 30d --json

HITS is the share of reads that found their key, EVICTED counts items that were removed to make room, UNREAD those of them
that nobody had read, NO ROOM stores that failed for lack of memory. USED is what items use, CONTAINER all that the container
uses. --json prints each interval, and the newest figures per size of items.")]
    Stats(Stats),
    /// Create a cache, and wait until it is running. It has no tokens yet
    #[command(after_help = "\
Example:
  memgate cache create ada@example.org --cache sessions --plan small
  memgate token create ada@example.org --cache sessions

The plan of the user (`--caches-per-user`), or the setting limits.caches_per_user, limits the number of caches.
Exit status 3: the cache is created, but isn't running yet.")]
    Create(Create),
    /// Stop and start a cache's memcached. Address and tokens stay; so do the contents if the plan is warm
    #[command(after_help = "\
Example:
  memgate cache restart ada@example.org --cache sessions

While it restarts, the proxy holds requests for a moment. Asking again meanwhile waits for the same restart. The command
says whether the contents were kept.
Exit status 3: it isn't done yet, and goes on.")]
    Restart(Target),
    /// Remove all items of a cache
    #[command(after_help = "\
Example:
  memgate cache flush ada@example.org --cache sessions

Exit status 3: it isn't done yet, and goes on.")]
    Flush(Target),
    /// Give a cache more or less memory: without a restart, unless its plan is warm. Less memory empties a warm cache
    #[command(after_help = "\
Examples:
  memgate cache resize ada@example.org --memory-mb 256
  memgate cache resize ada@example.org --cache sessions --memory-mb 32 --no-wait

A larger cache keeps all of its items. A smaller one keeps what fits: memcached gives memory back page by page, and the
command says how many items were evicted.
A warm cache is restarted for another size, while the proxy holds requests. With more memory it keeps its contents. Less memory
empties a warm cache: memcached can't give back a part of memory that it keeps over restarts. The command says what became of
the contents.
The size stays until the next resize, or until the user gets another plan.
Exit status 3: it isn't done yet, and goes on.")]
    Resize(Resize),
    /// Change when a cache sleeps: as its plan says, or earlier
    #[command(after_help = "\
Examples:
  memgate cache update ada@example.org --cache sessions --sleep-after 1h
  memgate cache update ada@example.org --sleep-after plan

A cache never sleeps later than its plan says, also if the plan is changed afterwards.")]
    Update(Update),
    /// Stop a cache until it is resumed: its tokens are refused, its contents are lost
    #[command(after_help = "\
Example:
  memgate cache suspend ada@example.org --cache sessions

Connections close within a second, and the cache's memory is free for others. It stays suspended whatever becomes of its
user. Exit status 3: it isn't stopped yet, and its tokens are refused.")]
    Suspend(Target),
    /// Start a suspended cache again, empty
    #[command(after_help = "\
Example:
  memgate cache resume ada@example.org --cache sessions

Exit status 3: it doesn't run yet, and starts by itself.")]
    Resume(Target),
    /// Delete a cache with its contents and all of its tokens
    #[command(after_help = "\
Examples:
  memgate cache delete ada@example.org --cache sessions --dry-run
  memgate cache delete ada@example.org --cache sessions --yes

Its tokens and its name are gone at once. Exit status 3: its container isn't removed yet, which goes on.")]
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The user's e-mail address
    email: String,
    /// The new cache's name: lower-case letters, digits and hyphens
    #[arg(long = "cache", value_name = "NAME", default_value = "default")]
    name: CacheName,
    /// The cache's plan, as `memgate plan list` shows it [default: the user's plan]
    #[arg(long)]
    plan: Option<String>,
    /// Don't wait until the cache is running
    #[arg(long)]
    no_wait: bool,
}

/// A cache as users see it: without the address of its instance.
#[derive(Debug, Serialize)]
pub(super) struct CacheView {
    email: String,
    cache: String,
    id: String,
    plan: String,
    endpoint: String,
    state: InstanceState,
    desired: Option<DesiredState>,
    message: Option<String>,
    memory_mb: Option<i64>,
    connections: Option<i64>,
    item_size_max: Option<i64>,
    /// Whether its plan keeps its contents while it is stopped on purpose.
    warm: Option<bool>,
    /// The time without a command that its user has chosen; `null`: the plan's time.
    sleep_after_seconds: Option<i64>,
    /// The shorter one of that and the plan's; `null`: it never sleeps.
    sleep_after_seconds_in_effect: Option<i64>,
    created_at: Timestamp,
}

#[derive(Debug, Serialize)]
struct CacheDetails {
    #[serde(flatten)]
    cache: CacheView,
    usage: Option<Usage>,
    /// What its memcached said last, while it runs.
    statistics: Option<InstanceStatistics>,
    /// The newest ones.
    #[serde(flatten)]
    operations: Operations,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// The user's e-mail address
    email: String,
    #[command(flatten)]
    cache: CacheArg,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Don't wait until the container is removed
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Serialize)]
struct CacheList {
    caches: Vec<CacheView>,
}

#[derive(Debug, Serialize)]
struct Deleted {
    email: String,
    cache: String,
    id: String,
    tokens_revoked: usize,
    deleted: bool,
    /// The removal of its container.
    operation: Option<Operation>,
}

impl CacheCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| match self {
            Self::List { email } => {
                let user = find_user(&context.store, &email).await?;
                let list = CacheList { caches: CacheView::all_of(context, &user).await? };
                context.print(&list, || rows(&list.caches))
            }
            Self::Show { email, cache } => {
                let user = find_user(&context.store, &email).await?;
                let cache = cache.find(&context.store, &user).await?;
                show(context, &user, cache).await
            }
            Self::Stats(stats) => stats.run(context).await,
            Self::Create(create) => create.run(context).await,
            Self::Restart(target) => operation::run(context, target, NewOperation::Restart).await,
            Self::Flush(target) => operation::run(context, target, NewOperation::Flush).await,
            Self::Resize(resize) => resize.run(context).await,
            Self::Update(update) => update.run(context).await,
            Self::Suspend(target) => operation::run(context, target, NewOperation::Suspend).await,
            Self::Resume(target) => operation::run(context, target, NewOperation::Resume).await,
            Self::Delete(delete) => delete.run(context).await,
        })
    }
}

impl Create {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let store = &context.store;
        let user = find_user(store, &self.email).await?;
        let new = NewCache { user_id: &user.id, name: &self.name, plan: self.plan.as_deref() };
        let created = store.create_cache(&new, context.settings.limits.caches_per_user).await;
        let cache = created.map_err(|error| create_error(error, &self.name, self.plan.as_deref(), &user))?;
        let readiness =
            if self.no_wait { None } else { Some(readiness::wait(store, &cache, &user.email).await) };
        let instance = store.instance_of_cache(&cache.id).await?;
        let view = CacheView::new(context, &user, cache, instance);
        context.print(&view, || view.text())?;
        readiness.map_or(Ok(()), |readiness| readiness.into_result("the cache is created"))
    }
}

impl CacheView {
    /// All caches of a user, oldest first.
    pub(super) async fn all_of(context: &Context, user: &User) -> Result<Vec<Self>, CliError> {
        let mut views = Vec::new();
        for cache in context.store.caches_of(&user.id).await? {
            let instance = context.store.instance_of_cache(&cache.id).await?;
            views.push(Self::new(context, user, cache, instance));
        }
        Ok(views)
    }

    fn new(context: &Context, user: &User, cache: Cache, instance: Option<Instance>) -> Self {
        let limit = |value: fn(&Instance) -> i64| instance.as_ref().map(value);
        Self {
            email: user.email.clone(),
            cache: cache.name,
            id: cache.id,
            plan: cache.plan,
            endpoint: context.endpoint().to_owned(),
            state: instance.as_ref().map_or(InstanceState::Pending, Instance::state),
            desired: instance.as_ref().map(|instance| instance.desired),
            memory_mb: limit(|instance| instance.memory_mb),
            connections: limit(|instance| instance.connections),
            item_size_max: limit(|instance| instance.item_size_max),
            warm: instance.as_ref().map(|instance| instance.warm),
            sleep_after_seconds: cache.sleep_after_seconds,
            sleep_after_seconds_in_effect: instance
                .as_ref()
                .and_then(|instance| instance.effective_sleep_after_seconds),
            message: instance.and_then(|instance| instance.route?.message),
            created_at: cache.created_at,
        }
    }

    /// Formats the cache as names and values.
    pub(super) fn text(&self) -> String {
        let number =
            |value: Option<i64>, unit: &str| value.map_or_else(String::new, |value| format!("{value}{unit}"));
        let mut pairs = vec![
            ("cache", self.cache.clone()),
            ("id", self.id.clone()),
            ("email", self.email.clone()),
            ("endpoint", self.endpoint.clone()),
            ("plan", self.plan.clone()),
            ("state", self.state.as_str().to_owned()),
            ("memory", number(self.memory_mb, " MB")),
            ("connections", number(self.connections, "")),
            ("item size", number(self.item_size_max, " bytes")),
            ("warm", if self.warm == Some(true) { "yes" } else { "no" }.to_owned()),
            ("sleeps after", sleep_text(self.sleep_after_seconds_in_effect)),
            ("created", time::past(self.created_at)),
        ];
        // Only a cache that isn't running has a message.
        pairs.extend(self.message.clone().map(|message| ("message", message)));
        table::pairs(&pairs)
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let Self { email, cache, confirmation, no_wait } = self;
        let store = &context.store;
        let user = find_user(store, &email).await?;
        let cache = cache.find(store, &user).await?;
        let name = cache.name.clone();
        confirmation
            .require(&format!("Delete cache {name} of {email} with its contents and all of its tokens?"))?;
        if confirmation.is_dry_run() {
            let tokens = store.tokens_of_cache(&cache.id).await?;
            let tokens_revoked = tokens.iter().filter(|token| token.revoked_at.is_none()).count();
            let (deleted, operation) = (false, None);
            let kept = Deleted { email, cache: name, id: cache.id, tokens_revoked, deleted, operation };
            return context.print(&kept, || {
                format!("would delete cache {} and revoke {tokens_revoked} tokens", kept.cache)
            });
        }
        let tokens_revoked = store.delete_cache(&cache.id).await?;
        let asked = store.operations_of(&cache.id, 1).await?.pop();
        let removal = match asked {
            Some(asked) if !no_wait => Some(operation::until_ended(store, &cache, &asked).await),
            asked => asked,
        };
        let is_pending = !no_wait && removal.as_ref().is_some_and(|removal| !removal.state.is_finished());
        let deleted =
            Deleted { email, cache: name, id: cache.id, tokens_revoked, deleted: true, operation: removal };
        context.print(&deleted, || {
            format!("cache {} is deleted, {tokens_revoked} tokens revoked", deleted.cache)
        })?;
        if is_pending {
            let what = "the cache is deleted, but its container isn't removed yet";
            return Err(CliError::pending(what, "that goes on by itself; see `memgate status`"));
        }
        Ok(())
    }
}

async fn show(context: &Context, user: &User, cache: Cache) -> Result<(), CliError> {
    let store: &Store = &context.store;
    let instance = store.instance_of_cache(&cache.id).await?;
    let (mut usage, mut statistics) = (None, None);
    if let Some(instance) = &instance {
        usage = Some(Usage::read(store, &instance.id).await?);
        if instance.state() == InstanceState::Running {
            statistics = store.instance_statistics(&instance.id).await?;
        }
    }
    let operations = Operations::read(store, &cache.id, SHOWN_OPERATIONS).await?;
    let cache = CacheView::new(context, user, cache, instance);
    let details = CacheDetails { cache, usage, statistics, operations };
    context.print(&details, || {
        let usage = details.usage.as_ref().map(Usage::text).unwrap_or_default();
        let fullness = details.statistics.as_ref().map(fullness).unwrap_or_default();
        details.cache.text() + &fullness + &usage + &details.operations.lines()
    })
}

/// How full a cache is, as names and values.
fn fullness(it: &InstanceStatistics) -> String {
    let mb = |bytes: i64| megabytes(u64::try_from(bytes).unwrap_or(0));
    let (has, counted) = (&it.gauges, &it.counters);
    let percent = has.bytes.saturating_mul(100).checked_div(has.limit_bytes).unwrap_or(0);
    table::pairs(&[
        ("memory used", format!("{} of {} ({percent} %)", mb(has.bytes), mb(has.limit_bytes))),
        ("items", format!("{}, {} evicted", has.items, counted.evictions)),
        ("memcached", format!("{} hits, {} misses", counted.hits, counted.misses)),
        ("as of", time::past(it.sampled_at)),
    ])
}

fn create_error(error: StoreError, name: &CacheName, plan: Option<&str>, user: &User) -> CliError {
    let email = &user.email;
    match error {
        StoreError::AlreadyExists(_) => CliError::new(
            format!("{email} already has a cache {}", name.as_str()),
            "choose another name with --cache NAME",
        ),
        StoreError::LimitReached("cache") => CliError::new(
            format!("{email} has reached the limit of caches per user"),
            "delete a cache first, or raise the setting limits.caches_per_user or the plan's --caches-per-user",
        ),
        error => plan_error(error, plan.unwrap_or(&user.plan)),
    }
}

fn rows(caches: &[CacheView]) -> String {
    let row = |it: &CacheView| {
        let memory = it.memory_mb.map_or_else(String::new, |memory| format!("{memory} MB"));
        let (state, created) = (it.state.as_str().to_owned(), table::time_since(it.created_at));
        [it.cache.clone(), it.plan.clone(), state, memory, created]
    };
    let rows: Vec<_> = caches.iter().map(row).collect();
    table(["CACHE", "PLAN", "STATE", "MEMORY", "CREATED"], &rows)
}
