//! `memgate plan`: what caches may use.

use clap::builder::ValueParser;
use serde::Serialize;
use store::{Plan, StoreError};

use crate::data_dir::DataDir;
use crate::global_args::GlobalArgs;
use crate::output::table::{self, table};
use crate::output::{self, CliError};
use crate::role::runtime;
use crate::settings::Settings;

/// In a list, and on the command line.
const LONGEST_NAME: usize = 40;

/// Plans: what caches may use
#[derive(Debug, clap::Subcommand)]
pub(crate) enum PlanCommand {
    /// All plans
    List,
    /// Make a plan: what isn't named is as in the default plan
    #[command(after_help = "\
Example:
  memgate plan create small --memory-mb 32 --connections 500 --operations-per-second 2000
  memgate user add ada@example.org --plan small")]
    Create {
        /// What to call it
        #[arg(value_parser = ValueParser::new(name))]
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change a plan; what isn't named stays. What it allows each second is in force at once for all who have
    /// it; memory, connections and item size are for caches made from now on
    #[command(after_help = "\
Examples:
  memgate plan change default --operations-per-second 50000 --bytes-per-second 20000000
  memgate plan change default --operations-per-second none")]
    Change {
        /// Which
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    /// Memory for items, in MB
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(i64).range(1..=1_048_576))]
    memory_mb: Option<i64>,
    /// Connections of clients at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    connections: Option<i64>,
    /// The largest item, in bytes: 1 KB to 128 MB
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(1024..=134_217_728))]
    item_size_max: Option<i64>,
    /// Operations that each proxy forwards in a second, each key of a multi-get one; or none for no limit
    #[arg(long, value_name = "N|none", value_parser = ValueParser::new(rate))]
    operations_per_second: Option<Rate>,
    /// Bytes of requests and replies that each proxy forwards in a second; or none for no limit
    #[arg(long, value_name = "N|none", value_parser = ValueParser::new(rate))]
    bytes_per_second: Option<Rate>,
}

/// A limit, or that there is none.
#[derive(Debug, Clone, Copy)]
struct Rate(Option<i64>);

#[derive(Debug, Serialize)]
struct Plans {
    plans: Vec<Plan>,
}

fn name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("1 to {LONGEST_NAME} lower-case letters, digits and hyphens"))
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate(None));
    }
    match text.parse() {
        Ok(rate) if rate > 0 => Ok(Rate(Some(rate))),
        _ => Err("a whole number above 0, or none".to_owned()),
    }
}

impl Limits {
    fn apply(&self, plan: &mut Plan) {
        plan.memory_mb = self.memory_mb.unwrap_or(plan.memory_mb);
        plan.connections = self.connections.unwrap_or(plan.connections);
        plan.item_size_max = self.item_size_max.unwrap_or(plan.item_size_max);
        if let Some(Rate(rate)) = self.operations_per_second {
            plan.operations_per_second = rate;
        }
        if let Some(Rate(rate)) = self.bytes_per_second {
            plan.bytes_per_second = rate;
        }
    }
}

impl PlanCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        let settings = Settings::load(global)?;
        let folder = DataDir::of(global);
        runtime()?.block_on(async {
            let store = folder.open_store(&settings).await?;
            match self {
                Self::List => {
                    let list = Plans { plans: store.plans().await? };
                    output::print(global.json, &list, || rows(&list.plans))
                }
                Self::Create { name, limits } => {
                    let default = store.plan("default").await?.ok_or(StoreError::NotFound("plan"))?;
                    let mut plan = Plan { name, ..default };
                    limits.apply(&mut plan);
                    store.create_plan(&plan).await.map_err(|error| taken(error, &plan.name))?;
                    output::print(global.json, &plan, || details(&plan))
                }
                Self::Change { name, limits } => {
                    let changed = store.update_plan(&name, |plan| limits.apply(plan)).await;
                    let plan = changed.map_err(|error| missing(error, &name))?;
                    output::print(global.json, &plan, || details(&plan))
                }
            }
        })
    }
}

fn taken(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::AlreadyExists(_) => CliError::new(
            format!("there is a plan {name} already"),
            format!("change it with `memgate plan change {name}`, or choose another name"),
        ),
        other => other.into(),
    }
}

fn missing(error: StoreError, name: &str) -> CliError {
    match error {
        StoreError::NotFound("plan") => {
            CliError::new(format!("there is no plan {name}"), "memgate plan list shows them all")
        }
        other => other.into(),
    }
}

fn limit(limit: Option<i64>) -> String {
    limit.map_or("no limit".to_owned(), |limit| limit.to_string())
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
        ]
    };
    let headings = ["PLAN", "MEMORY", "CONNECTIONS", "ITEM BYTES", "OPERATIONS/S", "BYTES/S"];
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
    ])
}
