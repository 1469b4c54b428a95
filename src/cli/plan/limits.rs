//! The limits of a plan as arguments.

use clap::builder::ValueParser;
use identity::plan_limits;
use store::{CPU_WEIGHTS, Plan};

use crate::cli::number;

#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct LimitArgs {
    /// Memory for items, in MB
    #[arg(long, value_name = "MB", value_parser = number::within(&plan_limits::MEMORY_MB))]
    memory_mb: Option<i64>,
    /// Maximum number of client connections, at most a quarter of proxy.connections
    #[arg(long, value_name = "N", value_parser = number::within(&plan_limits::CONNECTIONS))]
    connections: Option<i64>,
    /// Maximum item size in bytes, 1 KB to 128 MB
    #[arg(long, value_name = "BYTES", value_parser = number::within(&plan_limits::ITEM_SIZE_MAX))]
    item_size_max: Option<i64>,
    /// Operations per second and proxy, where each key of a multi-get counts; none for no limit
    #[arg(long, value_name = "N|none", value_parser = ValueParser::new(parse_rate))]
    operations_per_second: Option<Limit>,
    /// Bytes of requests and replies per second and proxy; none for no limit
    #[arg(long, value_name = "N|none", value_parser = ValueParser::new(parse_rate))]
    bytes_per_second: Option<Limit>,
    /// Keep the contents of caches over restarts and sleep
    #[arg(long, value_name = "true|false")]
    warm: Option<bool>,
    /// Put a cache to sleep after this time without a command (30m, 1h, 7d), or never
    #[arg(long, value_name = "TIME|never", value_parser = ValueParser::new(parse_sleep))]
    sleep_after: Option<Limit>,
    /// Share of the CPUs while others want them too: 100 is a container's usual one
    #[arg(long, value_name = "WEIGHT", value_parser = number::within(&CPU_WEIGHTS))]
    cpu_weight: Option<i64>,
    /// Caches that a user with this plan may have; none for the setting limits.caches_per_user
    #[arg(long, value_name = "N|none", value_parser = ValueParser::new(parse_caches))]
    caches_per_user: Option<Limit>,
    /// What users are told that it costs, as free text; empty for nothing
    #[arg(long, value_name = "TEXT", value_parser = ValueParser::new(parse_price_label))]
    price_label: Option<String>,
}

/// A number, or `None` where a plan sets no limit of its own: `none`, or `never`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<i64>);

impl LimitArgs {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn apply(&self, plan: &mut Plan) {
        plan.memory_mb = self.memory_mb.unwrap_or(plan.memory_mb);
        plan.connections = self.connections.unwrap_or(plan.connections);
        plan.item_size_max = self.item_size_max.unwrap_or(plan.item_size_max);
        if let Some(Limit(rate)) = self.operations_per_second {
            plan.operations_per_second = rate;
        }
        if let Some(Limit(rate)) = self.bytes_per_second {
            plan.bytes_per_second = rate;
        }
        plan.warm = self.warm.unwrap_or(plan.warm);
        if let Some(Limit(seconds)) = self.sleep_after {
            plan.sleep_after_seconds = seconds;
        }
        plan.cpu_weight = self.cpu_weight.unwrap_or(plan.cpu_weight);
        if let Some(Limit(caches)) = self.caches_per_user {
            plan.caches_per_user = caches;
        }
        if let Some(label) = &self.price_label {
            plan.price_label = Some(label.clone()).filter(|label| !label.is_empty());
        }
    }
}

fn parse_rate(text: &str) -> Result<Limit, String> {
    plan_limits::parse_rate(text).map(Limit)
}

fn parse_caches(text: &str) -> Result<Limit, String> {
    plan_limits::parse_caches(text).map(Limit)
}

fn parse_sleep(text: &str) -> Result<Limit, String> {
    plan_limits::parse_sleep(text).map(Limit)
}

fn parse_price_label(text: &str) -> Result<String, String> {
    plan_limits::parse_price_label(text).map(Option::unwrap_or_default)
}
