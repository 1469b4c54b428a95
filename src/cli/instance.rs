//! `memgate instance`: the containers that run caches, for operators: desired and actual state.

use serde::Serialize;
use store::{DesiredState, Instance, InstanceState, Store, Timestamp};

use super::context::{self, Context};
use super::lookup::{CacheArg, find_user};
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::output::table::{self, table};

/// Show the containers that run caches
#[derive(Debug, clap::Subcommand)]
pub(crate) enum InstanceCommand {
    /// List all instances, oldest first
    List,
    /// Show the instance of a user's cache, and its usage
    Show {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
}

/// An instance as operators see it, including its address, which users never see.
#[derive(Debug, Serialize)]
struct InstanceView {
    id: String,
    email: String,
    cache: String,
    state: InstanceState,
    desired: DesiredState,
    memory_mb: i64,
    connections: i64,
    item_size_max: i64,
    created_at: Timestamp,
    generation: i64,
    address: Option<String>,
    container: Option<String>,
    version: Option<String>,
    message: Option<String>,
    changed_at: Option<Timestamp>,
}

/// Usage of an instance by its clients.
#[derive(Debug, Serialize)]
pub(super) struct Usage {
    /// Open client connections of all proxies.
    open_connections: i64,
    #[serde(flatten)]
    counters: store::Usage,
    /// Latency quantiles in microseconds, rounded up to powers of two.
    p50_us: Option<i64>,
    p99_us: Option<i64>,
}

#[derive(Debug, Serialize)]
struct InstanceDetails {
    #[serde(flatten)]
    instance: InstanceView,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct InstanceList {
    instances: Vec<InstanceView>,
}

impl InstanceCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::List => {
                    let existing =
                        store.instances().await?.into_iter().filter(|instance| !instance.is_gone());
                    let list = InstanceList { instances: existing.map(InstanceView::of).collect() };
                    context.print(&list, || rows(&list.instances))
                }
                Self::Show { email, cache } => {
                    let user = find_user(store, &email).await?;
                    let cache = cache.find(store, &user).await?;
                    let instance = store.instance_of_cache(&cache.id).await?.ok_or_else(|| {
                        let fix = "`memgate instance list` shows all instances";
                        CliError::new(format!("cache {} has no instance", cache.name), fix)
                    })?;
                    let usage = Usage::read(store, &instance.id).await?;
                    let shown = InstanceDetails { instance: InstanceView::of(instance), usage };
                    context.print(&shown, || shown.instance.text() + &shown.usage.text())
                }
            }
        })
    }
}

impl InstanceView {
    fn of(instance: Instance) -> Self {
        let state = instance.state();
        let route = instance.route;
        Self {
            id: instance.id,
            email: instance.email,
            cache: instance.cache,
            state,
            desired: instance.desired,
            memory_mb: instance.memory_mb,
            connections: instance.connections,
            item_size_max: instance.item_size_max,
            created_at: instance.created_at,
            generation: route.as_ref().map_or(0, |route| route.generation),
            changed_at: route.as_ref().map(|route| route.changed_at),
            address: route.as_ref().and_then(|route| route.address.clone()),
            container: route.as_ref().and_then(|route| route.container.clone()),
            version: route.as_ref().and_then(|route| route.version.clone()),
            message: route.and_then(|route| route.message),
        }
    }

    fn text(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        table::pairs(&[
            ("instance", self.id.clone()),
            ("email", self.email.clone()),
            ("cache", self.cache.clone()),
            ("state", self.state.as_str().to_owned()),
            ("message", text(&self.message)),
            ("memory", format!("{} MB", self.memory_mb)),
            ("connections", self.connections.to_string()),
            ("item size", format!("{} bytes", self.item_size_max)),
            ("address", text(&self.address)),
            ("container", text(&self.container)),
            ("memcached", text(&self.version)),
            ("generation", self.generation.to_string()),
            ("created", table::time_since(self.created_at)),
        ])
    }
}

impl Usage {
    pub(super) async fn read(store: &Store, instance_id: &str) -> Result<Self, CliError> {
        let latency = store.latency(instance_id).await?;
        Ok(Self {
            open_connections: store.connections(instance_id).await?,
            counters: store.usage(instance_id).await?,
            p50_us: quantile(&latency, 50),
            p99_us: quantile(&latency, 99),
        })
    }

    /// Formats the usage as names and values.
    pub(super) fn text(&self) -> String {
        let store::Usage { hits, misses, stores, deletes, arithmetic, touches, others, .. } = self.counters;
        let bound = |us: Option<i64>| us.map_or_else(|| "-".to_owned(), |us| format!("under {us} us"));
        table::pairs(&[
            ("open connections", self.open_connections.to_string()),
            ("reads", format!("{} ({hits} hits, {misses} misses)", hits + misses)),
            ("writes", (stores + deletes + arithmetic + touches).to_string()),
            ("other", others.to_string()),
            ("errors", self.counters.errors.to_string()),
            ("bytes in, out", format!("{}, {}", self.counters.bytes_in, self.counters.bytes_out)),
            ("p50, p99", format!("{}, {}", bound(self.p50_us), bound(self.p99_us))),
        ])
    }
}

/// The upper bound in microseconds of the fastest `percent` of all requests.
fn quantile(latency: &[(i64, i64)], percent: i64) -> Option<i64> {
    let total: i64 = latency.iter().map(|(_, requests)| requests).sum();
    let mut below = 0;
    latency.iter().find_map(|(bound, requests)| {
        below += requests;
        (below * 100 >= total * percent && total > 0).then_some(*bound)
    })
}

fn rows(instances: &[InstanceView]) -> String {
    let rows: Vec<_> = instances
        .iter()
        .map(|i| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            let memory = format!("{} MB", i.memory_mb);
            [
                i.email.clone(),
                i.cache.clone(),
                i.state.as_str().to_owned(),
                memory,
                text(&i.address),
                text(&i.message),
            ]
        })
        .collect();
    table(["EMAIL", "CACHE", "STATE", "MEMORY", "ADDRESS", "MESSAGE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_upper_bounds() {
        let latency = [(64, 50), (128, 49), (1024, 1)];
        assert_eq!((quantile(&latency, 50), quantile(&latency, 99)), (Some(64), Some(128)));
        assert_eq!((quantile(&latency, 100), quantile(&[], 50)), (Some(1024), None));
    }
}
