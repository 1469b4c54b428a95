//! `memgate instance`: the containers that run caches, for operators: desired and actual state.

mod events;
mod isolation;

use std::collections::HashMap;
use std::time::Duration;

use provisioner::statistics::{self, Statistics};
use serde::Serialize;
use store::{
    DesiredState, Instance, InstanceState, InstanceUsage, Store, Timestamp, User, hits_per_thousand,
    latency_quantile_us,
};

use self::events::Events;
use self::isolation::Isolation;
use super::context::{self, Context};
use super::lookup::{CacheArg, find_user};
use crate::global_args::GlobalArgs;
use crate::output::CliError;
use crate::output::table::{self, table};
use crate::output::time;

/// Events that `show` prints; `events` prints all.
const SHOWN_EVENTS: i64 = 5;
const ALL_EVENTS: i64 = 1_000;

/// Show the containers that run caches
#[derive(Debug, clap::Subcommand)]
pub(crate) enum InstanceCommand {
    /// List all instances and their usage, oldest first
    #[command(after_help = "\
Example:
  memgate instance list")]
    List,
    /// Show the instance of a user's cache, its usage, isolation and last repairs, and what its memcached says: memory,
    /// items, evictions
    #[command(after_help = "\
Examples:
  memgate instance show ada@example.org
  memgate instance show ada@example.org --cache shop --json

memcached's own figures need a running instance on this machine, and root.
The isolation check is dated; each instance is checked at least every provisioner.isolation_check_seconds: no published
port, all restrictions, nothing reachable from its network, login required, and its image.")]
    Show {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
    /// Show what happened to the instance of a user's cache, and what was done about it, newest first
    #[command(after_help = "\
Example:
  memgate instance events ada@example.org --json")]
    Events {
        /// The user's e-mail address
        email: String,
        #[command(flatten)]
        cache: CacheArg,
    },
}

/// Characters of a container's id that Docker's own lists show.
const CONTAINER_ID_LEN: usize = 12;

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
    /// What its memcached says, if it can be reached from here.
    memcached: Option<Statistics>,
    #[serde(flatten)]
    isolation: Isolation,
    /// The last ones.
    #[serde(flatten)]
    events: Events,
}

#[derive(Debug, Serialize)]
struct InstanceWithUsage {
    #[serde(flatten)]
    instance: InstanceView,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct InstanceList {
    instances: Vec<InstanceWithUsage>,
}

impl InstanceCommand {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        context::with_store(global, async |context: &Context| {
            let store = &context.store;
            match self {
                Self::List => {
                    let mut list = InstanceList { instances: Vec::new() };
                    let users = store.users().await?.into_iter().map(|user| (user.id, user.email));
                    let emails: HashMap<String, String> = users.collect();
                    let mut usages = store.usage_of_all().await?;
                    for instance in store.instances().await?.into_iter().filter(|it| !it.is_gone()) {
                        let usage = Usage::of(usages.remove(&instance.id).unwrap_or_default());
                        let email = emails.get(&instance.user_id).cloned().unwrap_or_default();
                        let instance = InstanceView::of(instance, email);
                        list.instances.push(InstanceWithUsage { instance, usage });
                    }
                    context.print(&list, || rows(&list.instances))
                }
                Self::Show { email, cache } => {
                    let user = find_user(store, &email).await?;
                    let instance = find_instance(store, &user, &cache).await?;
                    let usage = Usage::read(store, &instance.id).await?;
                    let memcached = ask_memcached(context, &instance).await;
                    let events = Events::read(store, &instance.id, SHOWN_EVENTS).await?;
                    let isolation = Isolation::read(store, &instance.id).await?;
                    let instance = InstanceView::of(instance, user.email);
                    let shown = InstanceDetails { instance, usage, memcached, isolation, events };
                    context.print(&shown, || shown.text() + &shown.events.lines())
                }
                Self::Events { email, cache } => {
                    let user = find_user(store, &email).await?;
                    let instance = find_instance(store, &user, &cache).await?;
                    let events = Events::read(store, &instance.id, ALL_EVENTS).await?;
                    context.print(&events, || events.text())
                }
            }
        })
    }
}

async fn find_instance(store: &Store, user: &User, cache: &CacheArg) -> Result<Instance, CliError> {
    let cache = cache.find(store, user).await?;
    store.instance_of_cache(&cache.id).await?.ok_or_else(|| {
        let fix = "`memgate instance list` shows all instances";
        CliError::new(format!("cache {} has no instance", cache.name), fix)
    })
}

impl InstanceView {
    fn of(instance: Instance, email: String) -> Self {
        let state = instance.state();
        let route = instance.route;
        Self {
            id: instance.id,
            email,
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
        let mut pairs = vec![
            ("instance", self.id.clone()),
            ("email", self.email.clone()),
            ("cache", self.cache.clone()),
            ("state", self.state.as_str().to_owned()),
            ("memory limit", format!("{} MB", self.memory_mb)),
            ("connection limit", self.connections.to_string()),
            ("item size limit", format!("{} bytes", self.item_size_max)),
            ("address", text(&self.address)),
            ("container", text(&self.container).chars().take(CONTAINER_ID_LEN).collect()),
            ("memcached", text(&self.version)),
            ("generation", self.generation.to_string()),
            ("created", time::past(self.created_at)),
        ];
        pairs.extend(self.message.clone().map(|message| ("message", message)));
        table::pairs(&pairs)
    }
}

impl InstanceDetails {
    fn text(&self) -> String {
        let memcached = match &self.memcached {
            Some(it) => table::pairs(&[
                ("memory used", format!("{} of {}", megabytes(it.bytes), megabytes(it.limit_maxbytes))),
                ("items", it.curr_items.to_string()),
                ("evictions", it.evictions.to_string()),
                ("running for", identity::time_text::duration(Duration::from_secs(it.uptime))),
            ]),
            None => "memcached's own figures can't be read from here\n".to_owned(),
        };
        let (instance, usage, isolation) = (self.instance.text(), self.usage.text(), self.isolation.lines());
        format!("{instance}\n{usage}\n{memcached}\n{isolation}")
    }
}

/// What its memcached says; `None` if it doesn't run, or can't be reached from here by this user.
async fn ask_memcached(context: &Context, instance: &Instance) -> Option<Statistics> {
    let route = instance.route.as_ref()?;
    let address = route.address.as_ref()?.parse().ok()?;
    // The lane secret goes to no address that somebody else may have written.
    let networks: store::InstanceNetworks = context.settings.provisioner.subnets.parse().ok()?;
    if !networks.contains(address) {
        return None;
    }
    let key = context.data_dir.lane_key(&context.store).await.ok()?;
    statistics::read(address, &key.credential(&instance.id, route.generation)).await.ok()
}

/// Bytes as megabytes with one decimal.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

impl Usage {
    pub(super) async fn read(store: &Store, instance_id: &str) -> Result<Self, CliError> {
        Ok(Self::of(InstanceUsage {
            usage: store.usage(instance_id).await?,
            latency: store.latency(instance_id).await?,
            connections: store.connections(instance_id).await?,
        }))
    }

    fn of(InstanceUsage { usage, latency, connections }: InstanceUsage) -> Self {
        Self {
            open_connections: connections,
            counters: usage,
            p50_us: latency_quantile_us(&latency, 500),
            p99_us: latency_quantile_us(&latency, 990),
        }
    }

    /// The share of reads that were hits, in percent.
    fn hit_rate(&self) -> String {
        let store::Usage { hits, misses, .. } = self.counters;
        hits_per_thousand(hits, misses).map_or_else(|| "-".to_owned(), |share| format!("{} %", share / 10))
    }

    /// Formats the usage as names and values.
    pub(super) fn text(&self) -> String {
        let store::Usage { hits, misses, stores, deletes, arithmetic, touches, others, .. } = self.counters;
        // A broken proxy may have written any numbers.
        let writes = [deletes, arithmetic, touches].into_iter().fold(stores, i64::saturating_add);
        let bound = |us: Option<i64>| us.map_or_else(|| "-".to_owned(), |us| format!("under {us} us"));
        table::pairs(&[
            ("open connections", self.open_connections.to_string()),
            ("reads", format!("{} ({hits} hits, {misses} misses)", hits.saturating_add(misses))),
            ("hit rate", self.hit_rate()),
            ("writes", writes.to_string()),
            ("other", others.to_string()),
            ("errors", self.counters.errors.to_string()),
            ("bytes in, out", format!("{}, {}", self.counters.bytes_in, self.counters.bytes_out)),
            ("p50, p99", format!("{}, {}", bound(self.p50_us), bound(self.p99_us))),
        ])
    }
}

fn rows(instances: &[InstanceWithUsage]) -> String {
    let row = |it: &InstanceWithUsage| {
        let InstanceWithUsage { instance, usage } = it;
        [
            instance.email.clone(),
            instance.cache.clone(),
            instance.state.as_str().to_owned(),
            format!("{} MB", instance.memory_mb),
            format!("{} of {}", usage.open_connections, instance.connections),
            usage.hit_rate(),
            instance.address.clone().unwrap_or_default(),
            instance.message.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = instances.iter().map(row).collect();
    table(["EMAIL", "CACHE", "STATE", "MEMORY", "CONNECTIONS", "HITS", "ADDRESS", "MESSAGE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn absurd_numbers_of_the_store_are_printed() {
        let (max, min) = (i64::MAX, i64::MIN);
        for (number, misses) in [(max, max), (min, min), (min, max)] {
            let counters = store::Usage {
                hits: number,
                misses,
                stores: number,
                deletes: number,
                arithmetic: number,
                touches: number,
                ..store::Usage::default()
            };
            let usage = Usage { open_connections: number, counters, p50_us: Some(number), p99_us: None };
            // The last are -1 reads.
            assert!(usage.text().contains(&number.to_string()), "{}", usage.text());
        }
    }

    #[test]
    fn memory_has_one_decimal() {
        for (bytes, text) in
            [(0, "0.0 MB"), (64 << 20, "64.0 MB"), (13_002_343, "12.4 MB"), (u64::MAX, "1759218604441.5 MB")]
        {
            assert_eq!(megabytes(bytes), text);
        }
    }
}
