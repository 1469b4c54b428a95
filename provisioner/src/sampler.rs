//! Samples what each memcached says of itself, and the machine's capacity, into the store, for those who look at a cache.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use store::{HostCapacity, InstanceStatistics, StoreError, now};
use tokio::time::{MissedTickBehavior, interval};

use crate::error::Error;
use crate::execute::Executor;
use crate::plan::ContainerState;
use crate::statistics::{self, Statistics};

/// How often.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Instances that are asked at a time.
const READS_MAX: usize = 16;

/// Samples until it is dropped.
pub(crate) async fn run(executor: &Executor) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if executor.known.is_store_away() {
            continue;
        }
        if let Err(error) = sample(executor).await {
            tracing::debug!(%error, "statistics can't be recorded now");
        }
    }
}

async fn sample(executor: &Executor) -> Result<(), Error> {
    // Without Docker's answer none is asked; the capacity is recorded nevertheless.
    let containers = executor.recorded_containers().await.unwrap_or_default();
    let running = containers.into_iter().filter(|container| container.state == ContainerState::Running);
    let reads = running.filter_map(|container| {
        let address: IpAddr = container.address.parse().ok()?;
        let credential = executor.lane_key.credential(&container.instance, container.generation);
        executor.networks.can_have_instance(address).then_some(async move {
            let read = statistics::read(address, &credential).await.ok()?;
            Some(row(container.instance, &read))
        })
    });
    let sampled: Vec<Option<InstanceStatistics>> =
        stream::iter(reads).buffer_unordered(READS_MAX).collect().await;
    let sampled: Vec<InstanceStatistics> = sampled.into_iter().flatten().collect();
    let recorded = async {
        executor.store.set_instance_statistics(&sampled).await?;
        if let Some(capacity) = executor.capacity.figures().await {
            executor.store.set_host_capacity(&HostCapacity { changed_at: now(), ..capacity }).await?;
        }
        Ok::<(), StoreError>(())
    };
    Ok(executor.metrics.store.observe("record_statistics", recorded).await?)
}

fn row(instance_id: String, read: &Statistics) -> InstanceStatistics {
    // memcached may say anything; the store's numbers have a sign.
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    InstanceStatistics {
        instance_id,
        bytes: number(read.bytes),
        limit_bytes: number(read.limit_maxbytes),
        items: number(read.curr_items),
        hits: number(read.get_hits),
        misses: number(read.get_misses),
        evictions: number(read.evictions),
        uptime_seconds: number(read.uptime),
        sampled_at: now(),
    }
}
