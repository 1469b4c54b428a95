//! The full resync: reads everything once, repairs what all instances share, removes orphans, and lists the
//! instances that need work.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::StreamExt;
use futures_util::stream;
use store::{Instance, now};
use tokio::time::Instant;

use crate::capacity::memory_of;
use crate::docker::Foreign;
use crate::error::Error;
use crate::execute::Executor;
use crate::firewall::{self, Checked};
use crate::plan::{Action, Container, Orphan, Snapshot, only_probes, orphans, plan};

/// Health checks in parallel.
const PROBES_MAX: usize = 32;

/// The result of a resync.
#[derive(Debug, Default)]
pub(crate) struct ResyncReport {
    /// Ids of the instances that need work.
    pub(crate) work: Vec<String>,
    /// Ids of instances by the ids of their containers.
    pub(crate) instance_by_container: HashMap<String, String>,
    /// The parts that all instances share, each with its error, if any.
    pub(crate) conditions: Vec<(&'static str, Option<Error>)>,
    /// What claims to be the installation's and isn't.
    pub(crate) foreign: BTreeSet<Foreign>,
}

/// Fails only if the store or Docker can't be read; then nothing is removed.
pub(crate) async fn resync(executor: &Executor) -> Result<ResyncReport, Error> {
    let started = Instant::now();
    // Containers may be newer than this read of the store: they count as orphans only after a while.
    let instances = executor.metrics.store.observe("read_instances", executor.store.instances()).await?;
    let known: HashSet<String> = executor.store.instance_ids().await?.into_iter().collect();
    executor.metrics.count_instances(&instances);
    let docker = &executor.docker;
    let (containers, volumes, networks) =
        tokio::try_join!(docker.containers(), docker.volumes(), docker.networks())?;
    let mut snapshot = Snapshot { containers, volumes, networks };
    executor.capacity.count_existing(async { Ok(memory_of(&snapshot.containers)) }).await?;
    let conditions = ensure_shared(executor, &snapshot).await;
    remove_orphans(executor, &known, &snapshot).await?;
    forget_removed(executor, &known, &snapshot).await;
    executor.assess(&mut snapshot.containers).await;
    let foreign = docker.foreign().await?;
    executor.metrics.count_foreign(&foreign);
    let by_container = |c: &Container| (c.id.clone(), c.instance.clone());
    let report = ResyncReport {
        work: find_work(executor, &instances, &snapshot).await,
        instance_by_container: snapshot.containers.iter().map(by_container).collect(),
        conditions,
        foreign,
    };
    executor.metrics.resync.observe(started.elapsed().as_secs_f64());
    executor.metrics.last_resync.set_now();
    Ok(report)
}

/// The firewall comes first, so that no container starts on a bridge that it doesn't cover.
async fn ensure_shared(executor: &Executor, snapshot: &Snapshot) -> Vec<(&'static str, Option<Error>)> {
    let firewall = executor.firewall.ensure().await.inspect(|checked| {
        if *checked != Checked::Complete {
            tracing::info!(table = executor.names.table(), "firewall rules installed");
        }
    });
    let networks = executor.networks.ensure(&snapshot.networks).await;
    let bridges = if networks.is_ok() { firewall::ensure_bridge_filter().err() } else { None };
    let image = executor.images.refresh().await;
    vec![
        ("firewall", firewall.err()),
        ("network", networks.err()),
        ("bridge", bridges),
        ("image", image.err()),
    ]
}

async fn remove_orphans(
    executor: &Executor,
    known: &HashSet<String>,
    snapshot: &Snapshot,
) -> Result<(), Error> {
    let networks = executor.store.networks().await?.into_iter().map(|network| network.name).collect();
    for orphan in orphans(known, &networks, snapshot, now()) {
        tracing::info!(%orphan, "removing an orphan");
        let removed = match &orphan {
            Orphan::Container { id, instance } => remove_container(executor, id, instance).await,
            Orphan::Volume(name) => executor.docker.remove_volume(name).await.map(drop),
            Orphan::Network(name) => executor.docker.remove_network(name).await.map(drop),
        };
        if let Err(error) = removed {
            tracing::warn!(%orphan, %error, "can't remove an orphan: retrying at the next resync");
        }
    }
    Ok(())
}

async fn forget_removed(executor: &Executor, known: &HashSet<String>, snapshot: &Snapshot) {
    executor.capacity.retain(known);
    let existing: HashSet<&str> = snapshot.containers.iter().map(|c| c.id.as_str()).collect();
    executor.silences.lock().await.retain(|id, _| existing.contains(id.as_str()));
}

async fn remove_container(executor: &Executor, container: &str, instance: &str) -> Result<(), Error> {
    executor.docker.remove_container(container).await?;
    executor.docker.remove_volume_of(instance).await?;
    Ok(executor.store.release_address(instance).await?)
}

/// The instances whose plan is more than a probe, and those whose probe fails.
async fn find_work(executor: &Executor, instances: &[Instance], snapshot: &Snapshot) -> Vec<String> {
    let mut containers: HashMap<&str, Vec<Container>> = HashMap::new();
    for container in &snapshot.containers {
        containers.entry(&container.instance).or_default().push(container.clone());
    }
    let mut work = Vec::new();
    let mut to_probe = Vec::new();
    for instance in instances {
        let own = containers.remove(instance.id.as_str()).unwrap_or_default();
        let actions = plan(instance, &own, 0);
        if !only_probes(&actions) {
            work.push(instance.id.clone());
        } else if let Some(Action::Probe(container)) = actions.into_iter().next() {
            to_probe.push((instance.clone(), container));
        }
    }
    let mut probes = stream::iter(to_probe)
        .map(|(instance, container)| async move {
            (executor.is_healthy(&instance, &container).await, instance.id)
        })
        .buffer_unordered(PROBES_MAX);
    while let Some((healthy, id)) = probes.next().await {
        if !healthy {
            work.push(id);
        }
    }
    work
}
