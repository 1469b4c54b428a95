//! `memgate plan`: resource limits of caches.

mod limits;

use std::time::Duration;

use clap::builder::ValueParser;
use identity::plan_limits;
use serde::Serialize;
use store::{ExistingCaches, OperationError, Plan, PlanUpdate, Store, StoreError};

use super::confirmation::Confirmation;
use super::context::{self, Context};
use super::lookup::plan_error;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{self, CliError};
use limits::LimitArgs;

/// After a command's examples. A macro, because `concat!` takes literals only.
macro_rules! units {
    () => {
        "

A plan limits each cache that has it:
  memory                   MB (of 1,048,576 bytes) for items; the container may use a quarter and about 60 MB more
  connections              of clients, counted by each proxy. Whatever the plan says, a cache gets at most a quarter of
                           proxy.connections, and less while few are free
  item size                bytes of a key with its value, at most 128 MB
  operations and bytes     per second and proxy; each key of a multi-get counts, and bytes of requests and replies
  warm                     whether a cache keeps its contents over restarts and sleep: its memory stays reserved, needs 64 MB
                           or more, and changes with a restart: more keeps the contents, less empties the cache. Applies when
                           a cache is started next
  sleep after              time without a command after which a cache is stopped until the next one, which waits for a moment
                           (`proxy.hold_wake`). It loses its contents unless it is warm; its memory is free for others
  CPU weight               the share of the CPUs while others want them too: 200 gets twice as much as 100, the default
  caches per user          of a user with this plan; without a number, the setting limits.caches_per_user counts
  price label              a text for users, such as \"5 EUR a month\"; nothing is charged"
    };
}

/// Manage plans (resource limits)
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PlanCommand {
    /// List all plans
    #[command(after_help = concat!("\
Example:
  memgate plan list", units!()))]
    List,
    /// Create a plan; limits that aren't given are those of the default plan
    #[command(after_help = concat!("\
Examples:
  memgate plan create small --memory-mb 32 --connections 500 --operations-per-second 2000
  memgate plan create steady --memory-mb 256 --warm true --sleep-after 12h
  memgate user add ada@example.org --plan small
  memgate user update ada@example.org --plan small", units!()))]
    Create {
        /// The plan's name
        #[arg(value_parser = ValueParser::new(plan_limits::parse_name))]
        name: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Change limits of a plan; those that aren't given stay. New rates and another CPU weight apply at once to all caches
    /// with this plan. Those that have its memory are resized to another one; connections and item size apply to caches
    /// created from now on
    #[command(after_help = concat!("\
Examples:
  memgate plan update default --operations-per-second 50000 --bytes-per-second 20000000
  memgate plan update default --operations-per-second none
  memgate plan update default --memory-mb 128
  memgate plan update default --memory-mb 128 --new-caches-only

Caches are resized while they run, and `memgate cache show EMAIL` shows how far that is. A memory that the machine can't hold
is refused, and so is one below what a cache holds now: --force lets the oldest items go. Warm caches are restarted for it,
one after the other. More memory keeps their contents. Less memory empties them, and so does any other memory together with
--warm false: both are refused without --force. Caches that have another memory than the plan had keep it; `memgate user
update` with the same plan gives a user's caches its memory, `memgate cache resize` one cache any. The command says how many
keep another memory, item size or number of connections. To change item size or connections of an existing cache, delete it
and create it again.", units!()))]
    Update {
        /// The plan's name
        name: String,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        existing: ExistingArgs,
    },
    /// Delete a plan that no user and no cache has
    #[command(after_help = "\
Example:
  memgate plan delete small --yes

Give the plan's users another plan first: `memgate user update EMAIL --plan PLAN`.")]
    Delete {
        /// The plan's name
        name: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// What becomes of the caches of a plan whose memory changes.
#[derive(Debug, clap::Args)]
pub(crate) struct ExistingArgs {
    /// Leave the memory of existing caches as it is
    #[arg(long, conflicts_with = "force")]
    new_caches_only: bool,
    /// Also shrink caches that hold more: their oldest items go, and those of warm caches all
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct PlanList {
    plans: Vec<Plan>,
}

#[derive(Debug, Serialize)]
struct Updated {
    #[serde(flatten)]
    plan: Plan,
    /// How many caches get the plan's memory now.
    caches_resized: usize,
    /// How many caches keep another memory, item size or number of connections.
    caches_of_other_size: usize,
}

#[derive(Debug, Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

impl PlanCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::List => {
                    let list = PlanList { plans: store.plans().await? };
                    list.plans.iter().for_each(|plan| warn_of_connections(context, plan));
                    context.print(&list, || rows(&list.plans))
                }
                Self::Create { name, limits } => {
                    let default = store.plan("default").await?.ok_or(StoreError::NotFound("plan"))?;
                    let mut plan = Plan { name, ..default };
                    limits.apply(&mut plan);
                    check_warm(&plan)?;
                    store.create_plan(&plan).await.map_err(|error| create_error(error, &plan.name))?;
                    warn_of_connections(context, &plan);
                    context.print(&plan, || details(&plan))
                }
                Self::Update { name, limits, existing } => {
                    let updated = update(store, &name, &limits, &existing).await?;
                    warn_of_connections(context, &updated.plan);
                    context.print(&updated, || updated.text())
                }
                Self::Delete { name, confirmation } => delete(context, name, &confirmation).await,
            }
        })
    }
}

/// A proxy may allow fewer connections than a plan, as far as this machine's settings tell.
fn warn_of_connections(context: &Context, plan: &Plan) {
    let most = context.settings.proxy.connections_per_cache();
    if usize::try_from(plan.connections).is_ok_and(|connections| connections > most) {
        eprintln!(
            "warning: plan {} allows {} connections, but a proxy gives one cache at most a quarter of proxy.connections \
             ({}): {most}",
            output::escape_controls(&plan.name),
            plan.connections,
            context.settings.proxy.connections
        );
    }
}

async fn update(
    store: &Store,
    name: &str,
    limits: &LimitArgs,
    existing: &ExistingArgs,
) -> Result<Updated, CliError> {
    if limits.is_empty() {
        let fix = "name --memory-mb, --connections, --item-size-max, --operations-per-second, --bytes-per-second, \
                   --cpu-weight, --caches-per-user, --price-label, --warm or --sleep-after";
        return Err(CliError::usage("nothing to update", fix));
    }
    let mut changed =
        store.plan(name).await?.ok_or_else(|| plan_error(StoreError::NotFound("plan"), name))?;
    limits.apply(&mut changed);
    check_warm(&changed)?;
    let existing = match (existing.new_caches_only, existing.force) {
        (true, _) => ExistingCaches::Keep,
        (false, true) => ExistingCaches::ResizeAndEvict,
        (false, false) => ExistingCaches::Resize,
    };
    let updated = store.update_plan_and(name, existing, |plan| limits.apply(plan)).await;
    let PlanUpdate { plan, resized } = updated.map_err(|error| update_error(error, name))?;
    let of_other_size = store.caches_of_other_size(name).await?.len();
    Ok(Updated { plan, caches_resized: resized, caches_of_other_size: of_other_size })
}

async fn delete(context: &Context, name: String, confirmation: &Confirmation) -> Result<(), CliError> {
    let store = &context.store;
    let plan = store.plan(&name).await?;
    plan.ok_or_else(|| plan_error(StoreError::NotFound("plan"), &name))?;
    // Before the question, and for a dry run; the store checks it again.
    if name == context.settings.webui.plan && name != store::DEFAULT_PLAN {
        return Err(CliError::new(
            format!("new users get the plan {name}"),
            "set webui.plan to another one, and restart the web UI",
        ));
    }
    if store.plan_uses(&name).await? > 0 || name == store::DEFAULT_PLAN {
        return Err(delete_error(StoreError::InUse("plan"), &name));
    }
    confirmation.require(&format!("Delete plan {name}?"))?;
    if !confirmation.is_dry_run() {
        store.delete_plan(&name).await.map_err(|error| delete_error(error, &name))?;
    }
    let deleted = Deleted { name, deleted: !confirmation.is_dry_run() };
    let verb = if deleted.deleted { "deleted" } else { "would delete" };
    context.print(&deleted, || format!("{verb} plan {}", deleted.name))
}

impl Updated {
    fn text(&self) -> String {
        let Self { plan, caches_resized, caches_of_other_size } = self;
        let resized = match caches_resized {
            0 => String::new(),
            count => format!(
                "\n{count} caches get its memory now; warm ones restart: see `memgate cache show EMAIL`.\n"
            ),
        };
        let note = match caches_of_other_size {
            0 => String::new(),
            count => format!(
                "\nThe rates apply to all caches with this plan. {count} of them keep their memory, connections and item \
                 size until they are deleted and created again.\n"
            ),
        };
        format!("{}{resized}{note}", details(plan))
    }
}

fn update_error(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::PlanHolds { caches, memory_mb, most_mb } => CliError::new(
            format!("{caches} caches with the plan {name} hold more than {memory_mb} MB now"),
            format!(
                "give it {most_mb} MB or more, let their oldest items go with --force, or leave existing caches as they are \
                 with --new-caches-only"
            ),
        ),
        StoreError::PlanEmpties { caches } => CliError::new(
            format!("this empties the warm caches with the plan {name}: {caches} of them"),
            "empty them with --force, or leave existing caches as they are with --new-caches-only",
        ),
        StoreError::Operation(error @ OperationError::NoRoom { .. }) => {
            let (what, _) = CliError::from(StoreError::from(error)).into_parts();
            let fix = "give less, add --new-caches-only, delete caches, or raise provisioner.overcommit";
            CliError::new(what, format!("{fix} (see `memgate status`)"))
        }
        other => plan_error(other, name),
    }
}

/// After which time a cache is put to sleep.
pub(super) fn sleep_text(seconds: Option<i64>) -> String {
    let time = |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    seconds.map_or_else(|| "never".to_owned(), |seconds| identity::time_text::duration(time(seconds)))
}

/// Refuses a warm plan whose caches would have too little memory for that.
fn check_warm(plan: &Plan) -> Result<(), CliError> {
    plan_limits::check_warm(plan).map_err(|min| {
        CliError::new(
            format!("a warm plan needs at least {min} MB"),
            format!("add --memory-mb {min}, or --warm false"),
        )
    })
}

fn create_error(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::AlreadyExists(_) => CliError::new(
            format!("plan {name} already exists"),
            format!("change it with `memgate plan update {name}`, or choose another name"),
        ),
        other => other.into(),
    }
}

fn delete_error(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::InUse(_) if name == store::DEFAULT_PLAN => CliError::new(
            "the default plan can't be deleted",
            format!("new users get it; change it with `memgate plan update {name}`"),
        ),
        StoreError::InUse(_) => CliError::new(
            format!("users or caches have the plan {name}"),
            "see `memgate user list` and `memgate cache list EMAIL`, and give the users another plan with \
             `memgate user update EMAIL --plan PLAN`",
        ),
        other => plan_error(other, name),
    }
}

fn limit(limit: Option<i64>) -> String {
    limit.map_or("no limit".to_owned(), |limit| limit.to_string())
}

fn caches(plan: &Plan) -> String {
    plan.caches_per_user.map_or("as the setting says".to_owned(), |caches| caches.to_string())
}

fn rows(plans: &[Plan]) -> String {
    let row = |plan: &Plan| {
        [
            plan.name.clone(),
            format!("{} MB", plan.memory_mb),
            plan.connections.to_string(),
            plan.item_size_max.to_string(),
            limit(plan.operations_per_second),
            limit(plan.bytes_per_second),
            if plan.warm { "yes" } else { "no" }.to_owned(),
            sleep_text(plan.sleep_after_seconds),
            plan.cpu_weight.to_string(),
            caches(plan),
            plan.price_label.clone().unwrap_or_default(),
        ]
    };
    let headings = [
        "PLAN",
        "MEMORY",
        "CONNECTIONS",
        "ITEM BYTES",
        "OPERATIONS/S",
        "BYTES/S",
        "WARM",
        "SLEEPS AFTER",
        "CPU WEIGHT",
        "CACHES",
        "PRICE",
    ];
    table(headings, &plans.iter().map(row).collect::<Vec<_>>())
}

fn details(plan: &Plan) -> String {
    table::pairs(&[
        ("plan", plan.name.clone()),
        ("memory", format!("{} MB", plan.memory_mb)),
        ("connections", plan.connections.to_string()),
        ("item size", format!("{} bytes", plan.item_size_max)),
        ("operations/s", limit(plan.operations_per_second)),
        ("bytes/s", limit(plan.bytes_per_second)),
        ("warm", if plan.warm { "yes" } else { "no" }.to_owned()),
        ("sleeps after", sleep_text(plan.sleep_after_seconds)),
        ("CPU weight", plan.cpu_weight.to_string()),
        ("caches per user", caches(plan)),
        ("price", plan.price_label.clone().unwrap_or_default()),
    ])
}
