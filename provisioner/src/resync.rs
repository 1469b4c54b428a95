//! The full resync: reads everything once, repairs what all instances share, removes orphans, and lists the
//! instances that need work.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use store::{Instance, Operation, ReadyInstance, StoreError, now};
use tokio::time::{Instant, timeout};

use crate::docker::Foreign;
use crate::error::Error;
use crate::execute::Executor;
use crate::firewall::{self, Checked};
use crate::plan::{
    Action, Container, ContainerState, Orphan, Snapshot, WrongStore, only_probes, orphans, plan,
};

/// Health checks in parallel.
const PROBES_MAX: usize = 32;
/// Containers that a resync inspects for changed limits, and how many in parallel. Docker tells of changes; this finds
/// what was changed while the provisioner was down.
const INSPECTED_MAX: usize = 256;
const INSPECTIONS_MAX: usize = 16;
/// Time limits of a resync: in any case, and for each instance.
const RESYNC_TIMEOUT: Duration = Duration::from_secs(60);
const INSTANCE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time limit of what a resync does about ready instances, which nobody waits for. A memcached that is silent takes 4 s of it.
const POOL_TIMEOUT: Duration = Duration::from_secs(10);
/// The same while instances need work.
const POOL_TIMEOUT_BUSY: Duration = Duration::from_secs(1);

/// The result of a resync.
#[derive(Debug, Default)]
pub(crate) struct ResyncReport {
    /// Ids of the instances that need work.
    pub(crate) work: Vec<String>,
    /// Ids of instances by the ids of their containers.
    pub(crate) instance_by_container: HashMap<String, String>,
    /// The parts that all instances share, each with its error, if any.
    pub(crate) conditions: Vec<(&'static str, Option<Error>)>,
    /// What claims to be the installation's and isn't; only a full pass looks for it.
    pub(crate) foreign: Option<BTreeSet<Foreign>>,
    /// How many rows of instances can't be read.
    pub(crate) unreadable: usize,
    /// Why only containers that exist could be checked: the store is away.
    pub(crate) incomplete: Option<Error>,
}

/// Everything that is read at the beginning.
struct Read {
    /// When it began: what is newer may be missing here.
    started: Instant,
    instances: Vec<Instance>,
    /// Unfinished operations, by cache.
    asked: HashMap<String, Vec<Operation>>,
    /// Ids of all instances, unless there are too many.
    known: Result<HashSet<String>, StoreError>,
    /// Those that were made ahead.
    ready: Vec<ReadyInstance>,
    snapshot: Snapshot,
}

/// Fails only if Docker, or the store for the first time, can't be read; then nothing is removed. One that isn't full asks
/// Docker for its containers only, and not for what else there is: that has changed without need.
pub(crate) async fn resync(executor: &Executor, full: bool) -> Result<ResyncReport, Error> {
    let started = Instant::now();
    let read = within(RESYNC_TIMEOUT, read(executor, full, started)).await;
    let read = match read {
        Err(error @ Error::Store(_)) => return check_without_store(executor, error).await,
        read => read?,
    };
    let count = u32::try_from(read.instances.len()).unwrap_or(u32::MAX);
    let limit = RESYNC_TIMEOUT.saturating_add(INSTANCE_TIMEOUT.saturating_mul(count));
    let report = within(limit, repair(executor, read, full)).await?;
    if report.conditions.iter().any(|(_, error)| error.is_some()) {
        executor.observations.want_full_pass();
    }
    executor.metrics.resync.observe(started.elapsed().as_secs_f64());
    executor.metrics.last_resync.set_now();
    Ok(report)
}

pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Error::ResyncLate(limit.as_secs())))
}

async fn read(executor: &Executor, full: bool, started: Instant) -> Result<Read, Error> {
    // Containers may be newer than this read of the store: they count as orphans only after a while.
    if executor.known.is_store_away() {
        return Err(Error::Store(StoreError::Timeout));
    }
    // Before the instances: one that is taken meanwhile is in both.
    let ready = executor.store.ready_instances().await?;
    let known: Result<HashSet<String>, StoreError> = match executor.store.instance_ids().await {
        Ok(ids) => Ok(ids.into_iter().collect()),
        Err(error @ StoreError::TooMany(_)) => Err(error),
        Err(error) => return Err(error.into()),
    };
    let instances = executor.metrics.store.observe("read_instances", executor.store.instances()).await?;
    let mut asked: HashMap<String, Vec<Operation>> = HashMap::new();
    for operation in executor.store.open_operations().await? {
        asked.entry(operation.cache_id.clone()).or_default().push(operation);
    }
    executor.known.replace(&instances, started);
    executor.metrics.count_instances(&instances);
    let docker = &executor.docker;
    let mut snapshot = Snapshot::default();
    if full {
        (snapshot.containers, snapshot.volumes, snapshot.networks) =
            tokio::try_join!(docker.containers(), docker.volumes(), docker.networks())?;
    } else {
        snapshot.containers = docker.containers().await?;
    }
    if full || !executor.capacity.is_counted().await {
        // The others have the limits that they were created with.
        inspect_some(executor, &mut snapshot.containers, |container| is_resized(executor, container)).await;
    }
    executor.capacity.count_existing(async { Ok(executor.memory_in_use(&snapshot.containers)) }).await?;
    Ok(Read { started, instances, asked, known, ready, snapshot })
}

async fn repair(executor: &Executor, read: Read, full: bool) -> Result<ResyncReport, Error> {
    let Read { started, instances, asked, known, ready, mut snapshot } = read;
    let mut conditions = ensure_shared(executor, full.then_some(&snapshot)).await;
    let existing: HashSet<&str> = snapshot.containers.iter().map(|c| c.id.as_str()).collect();
    let with_ready = |known: &HashSet<String>| -> HashSet<String> {
        known.iter().chain(ready.iter().map(|ready| &ready.id)).cloned().collect()
    };
    if let Ok(known) = &known {
        let recorded = instances.iter().filter_map(|it| it.route.as_ref()?.container.as_deref()).collect();
        executor.forget_removed(&with_ready(known), &existing, &recorded, started).await;
    }
    if full {
        inspect_some(executor, &mut snapshot.containers, |container| container.limits.is_none()).await;
    }
    executor.assess(&mut snapshot.containers, |container| executor.spec_of(container)).await;
    let work = find_work(executor, &instances, &asked, &snapshot.containers).await;
    let mismatch = executor.secrets.mismatch(Instant::now());
    if full {
        let orphans = match &known {
            Ok(known) if mismatch.is_none() => remove_orphans(executor, &with_ready(known), &snapshot).await,
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::TooMany("instances").into()),
        };
        conditions.push(("orphans", orphans.err()));
    }
    if mismatch.is_none() {
        let limit = if work.is_empty() { POOL_TIMEOUT } else { POOL_TIMEOUT_BUSY };
        check_pool(executor, &ready, &snapshot.containers, limit).await;
    }
    conditions.push(("secrets", mismatch.map(Error::from)));
    let foreign = if full { list_foreign(executor).await } else { None };
    foreign.iter().for_each(|foreign| executor.metrics.count_foreign(foreign));
    let unreadable = known.map_or(0, |known| count_unreadable(&known, &instances));
    Ok(ResyncReport {
        work,
        instance_by_container: by_container(&snapshot.containers),
        conditions,
        foreign,
        unreadable,
        incomplete: None,
    })
}

/// Withdraws ready instances that aren't well. The work that was found must not wait long for that, nor for the store (F-20).
async fn check_pool(executor: &Executor, ready: &[ReadyInstance], containers: &[Container], limit: Duration) {
    if let Err(error) = within(limit, executor.check_pool(ready, containers)).await {
        tracing::debug!(%error, "ready instances can't be checked now: trying again at the next resync");
    }
}

/// What claims to be the installation's and isn't, unless Docker can't say.
async fn list_foreign(executor: &Executor) -> Option<BTreeSet<Foreign>> {
    let listed = executor.docker.foreign().await;
    let unknown = |error: &Error| {
        executor.observations.want_full_pass();
        tracing::debug!(%error, "Docker can't list what isn't the installation's: trying again at the next resync");
    };
    listed.inspect_err(unknown).ok()
}

/// How many rows of instances have no readable instance. New instances may have been added since the ids were read.
fn count_unreadable(known: &HashSet<String>, instances: &[Instance]) -> usize {
    let readable: HashSet<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    known.iter().filter(|id| !readable.contains(id.as_str())).count()
}

/// Finds containers that have to be started although the store is away, among the instances that were read last.
async fn check_without_store(executor: &Executor, error: Error) -> Result<ResyncReport, Error> {
    let instances = executor.known.all_alone();
    if instances.is_empty() {
        return Err(error);
    }
    let check = async {
        let mut containers = executor.docker.containers().await?;
        executor.assess(&mut containers, |container| executor.spec_of(container)).await;
        let work = find_work(executor, &instances, &HashMap::new(), &containers).await;
        Ok(ResyncReport { work, instance_by_container: by_container(&containers), ..ResyncReport::default() })
    };
    let report = within(RESYNC_TIMEOUT, check).await?;
    Ok(ResyncReport { incomplete: Some(error), ..report })
}

fn by_container(containers: &[Container]) -> HashMap<String, String> {
    containers.iter().map(|c| (c.id.clone(), c.instance.clone())).collect()
}

/// Whether a container was created with other limits than its instance is to have.
fn is_resized(executor: &Executor, container: &Container) -> bool {
    executor.spec_of(container).is_some_and(|spec| spec.label() != container.spec)
}

/// Inspects running containers for changed limits, others each time.
async fn inspect_some(
    executor: &Executor,
    containers: &mut [Container],
    matches: impl Fn(&Container) -> bool,
) {
    let running = containers.iter().enumerate();
    // Nothing asks for a holder's limits, and Docker doesn't answer for one whose memory is being copied.
    let running = running.filter(|(_, c)| c.state == ContainerState::Running && !c.is_holder && matches(c));
    let mut running: Vec<(usize, Container)> = running.map(|(number, c)| (number, c.clone())).collect();
    let next = executor.observations.next_inspected(running.len(), INSPECTED_MAX);
    running.rotate_left(next);
    let inspections = running
        .into_iter()
        .take(INSPECTED_MAX)
        .map(|(number, container)| async move { (number, executor.docker.inspect(&container).await) });
    let mut inspections = stream::iter(inspections).buffer_unordered(INSPECTIONS_MAX);
    while let Some((number, inspected)) = inspections.next().await {
        if let (Some(container), Ok(inspected)) = (containers.get_mut(number), inspected) {
            *container = inspected;
        }
    }
}

/// The firewall comes first, so that no container starts on a bridge that it doesn't cover. Without a snapshot of all that
/// there is, it is all that is checked.
async fn ensure_shared(
    executor: &Executor,
    snapshot: Option<&Snapshot>,
) -> Vec<(&'static str, Option<Error>)> {
    let firewall = executor.firewall.ensure().await.inspect(|checked| {
        if *checked != Checked::Complete {
            tracing::info!(table = executor.names.table(), "firewall rules installed");
        }
    });
    let Some(snapshot) = snapshot else { return vec![("firewall", firewall.err())] };
    let networks = executor.networks.ensure(&snapshot.networks).await;
    let bridges = if networks.is_ok() { firewall::ensure_bridge_filter().err() } else { None };
    vec![("firewall", firewall.err()), ("network", networks.err()), ("bridge_filter", bridges)]
}

async fn remove_orphans(
    executor: &Executor,
    known: &HashSet<String>,
    snapshot: &Snapshot,
) -> Result<(), Error> {
    let networks = executor.store.network_names().await?.into_iter().collect();
    let orphans = orphans(known, &networks, snapshot, now());
    let orphans = orphans.map_err(|WrongStore { unknown, known }| Error::WrongStore { unknown, known })?;
    for orphan in orphans {
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

async fn remove_container(executor: &Executor, container: &str, instance: &str) -> Result<(), Error> {
    executor.docker.remove_container(container).await?;
    executor.docker.remove_volumes_of(instance).await?;
    Ok(executor.store.release_address(instance).await?)
}

/// The instances whose plan is more than a probe, and those whose probe fails.
async fn find_work(
    executor: &Executor,
    instances: &[Instance],
    asked: &HashMap<String, Vec<Operation>>,
    all: &[Container],
) -> Vec<String> {
    let mut containers: HashMap<&str, Vec<Container>> = HashMap::new();
    for container in all {
        containers.entry(&container.instance).or_default().push(container.clone());
    }
    let mut work = Vec::new();
    let mut to_probe = Vec::new();
    for instance in instances {
        let own = containers.remove(instance.id.as_str()).unwrap_or_default();
        let asked = asked.get(&instance.cache_id).map(Vec::as_slice).unwrap_or_default();
        let actions = plan(instance, asked, &own, 0);
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
