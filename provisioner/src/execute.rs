//! The executor: carries out the plan for one instance, and records the observed state.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use store::{Instance, InstanceState, LaneKey, Observed, Store};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::capacity::{Capacity, memory_of};
use crate::docker::{Docker, NewContainer};
use crate::error::{Error, chain};
use crate::firewall::Firewall;
use crate::health_check;
use crate::image::ImageCache;
use crate::liveness::{Health, Silence};
use crate::metrics::Metrics;
use crate::names::{Names, is_instance_id};
use crate::networks::Networks;
use crate::plan::{Action, Container, only_probes, plan};
use crate::spec::{PORT, Spec};

/// Instances that are changed in Docker at a time; with more, each is slower.
const WRITES_MAX: usize = 8;
/// Instances that are read from Docker at a time.
const READS_MAX: usize = 16;
/// Time limit of a probe. A running container answers at once; a busy host may need longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// After this many failures in a row a container that can't be reached gets a new interface.
const FAILURES_TO_REATTACH: u32 = 2;
/// After this many failures in a row the instance is failed, until an attempt succeeds.
const FAILURES_TO_FAIL: u32 = 3;

/// Carries out plans. Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) names: Names,
    pub(crate) docker: Arc<Docker>,
    pub(crate) store: Store,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Metrics,
    pub(crate) images: ImageCache,
    pub(crate) networks: Networks,
    pub(crate) firewall: Firewall,
    pub(crate) address_cooldown: Duration,
    /// CPUs of one instance.
    pub(crate) cpus: f64,
    pub(crate) concurrency: Concurrency,
    pub(crate) capacity: Capacity,
    /// Health checks without an answer, by container.
    pub(crate) silences: Mutex<HashMap<String, Silence>>,
}

/// Limits how many tasks use Docker at a time.
#[derive(Debug)]
pub(crate) struct Concurrency {
    write_permits: Semaphore,
    read_permits: Semaphore,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self { write_permits: Semaphore::new(WRITES_MAX), read_permits: Semaphore::new(READS_MAX) }
    }
}

impl Executor {
    /// Brings one instance to its desired state. `failures`: how many times in a row that has failed.
    pub(crate) async fn reconcile_one(&self, id: &str, failures: u32) -> Result<(), Error> {
        let started = Instant::now();
        let result = self.converge(id, failures).await;
        self.metrics.reconcile.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &result {
            self.record_failure(id, error, failures).await?;
        }
        result
    }

    async fn converge(&self, id: &str, failures: u32) -> Result<(), Error> {
        let Some((mut instance, mut actions)) = self.observe(id, failures).await? else { return Ok(()) };
        self.reserve_memory(&instance, &actions).await?;
        let mut permit = None;
        if !only_probes(&actions) {
            permit = self.concurrency.write_permits.try_acquire().ok();
            if permit.is_none() {
                // Proxies learn the new state while this waits; afterwards the plan may be another.
                for action in actions.iter().filter(|action| matches!(action, Action::SetState(..))) {
                    self.execute(&instance, action).await?;
                }
                permit = self.concurrency.write_permits.acquire().await.ok();
                let Some(observed) = self.observe(id, failures).await? else { return Ok(()) };
                (instance, actions) = observed;
                self.reserve_memory(&instance, &actions).await?;
            }
        }
        for action in &actions {
            let result = self.execute(&instance, action).await;
            self.metrics.count_action(action, result.is_ok());
            if let (Action::Probe(container), Err(Error::Unreachable { .. })) = (action, &result) {
                self.reattach(container, failures).await;
            }
            result?;
        }
        drop(permit);
        Ok(())
    }

    /// Reserves memory for the container that a plan creates, before the plan changes anything. With a plan that
    /// creates none, the instance has what its container has, and waits for nothing.
    async fn reserve_memory(&self, instance: &Instance, actions: &[Action]) -> Result<(), Error> {
        if !actions.iter().any(|action| matches!(action, Action::Create { .. })) {
            let kept = actions.iter().find_map(|action| match action {
                Action::Probe(container) => Spec::from_label(&container.spec),
                _ => None,
            });
            self.capacity.settle(&instance.id, kept.map(|spec| spec.memory_limit()));
            return Ok(());
        }
        let spec = Spec::of(instance).map_err(Error::InvalidInstance)?;
        let in_use = async { Ok(memory_of(&self.docker.containers().await?)) };
        self.capacity.count_existing(in_use).await?;
        self.capacity.reserve(&instance.id, spec.memory_limit())
    }

    /// Reads an instance and its containers, and plans.
    async fn observe(&self, id: &str, failures: u32) -> Result<Option<(Instance, Vec<Action>)>, Error> {
        // A container without a row is left to the resync, which removes orphans after a while.
        let Some(instance) = self.store.instance(id).await? else { return Ok(None) };
        if !is_instance_id(id) {
            return Err(Error::InvalidInstance("its id isn't one that memgate makes"));
        }
        let _permit = self.concurrency.read_permits.acquire().await;
        let mut containers = self.docker.containers_of(id).await?;
        self.assess(&mut containers).await;
        let actions = plan(&instance, &containers, failures);
        Ok(Some((instance, actions)))
    }

    /// Adds what is known about containers beside Docker's view.
    pub(crate) async fn assess(&self, containers: &mut [Container]) {
        let image = self.images.known_id().await;
        let (silences, now) = (self.silences.lock().await, Instant::now());
        for container in containers {
            container.outdated = image.as_ref().is_some_and(|image| *image != container.image);
            container.hung = silences.get(&container.id).is_some_and(|silence| silence.proves_hung(now));
        }
    }

    async fn execute(&self, instance: &Instance, action: &Action) -> Result<(), Error> {
        match action {
            Action::SetState(state, message) => self.set_state(instance, *state, *message).await,
            Action::Probe(container) => self.adopt(instance, container).await,
            Action::Start(container) => self.docker.start(&container.id).await,
            Action::Unpause(container) => self.docker.unpause(&container.id).await,
            Action::Remove(container) => self.docker.remove_container(container).await.map(drop),
            Action::Create { generation } => self.create(instance, *generation).await,
            Action::TearDown(state) => self.tear_down(instance, *state).await,
        }
    }

    async fn set_state(
        &self,
        instance: &Instance,
        state: InstanceState,
        message: Option<&str>,
    ) -> Result<(), Error> {
        let route = instance.route.clone();
        let observed = Observed {
            state,
            generation: route.as_ref().map_or(0, |r| r.generation),
            address: route.as_ref().and_then(|r| r.address.clone()),
            container: route.as_ref().and_then(|r| r.container.clone()),
            version: route.and_then(|r| r.version),
            message: message.map(str::to_owned),
        };
        self.record(instance, &observed).await
    }

    /// Records a running container as the instance's, if it answers and has the address leased to it.
    async fn adopt(&self, instance: &Instance, container: &Container) -> Result<(), Error> {
        let recorded = instance.route.as_ref().and_then(|route| route.address.as_ref());
        if recorded != Some(&container.address) {
            let lease = self.store.lease_address(&instance.id, self.address_cooldown).await?;
            if lease.is_none_or(|lease| lease.address != container.address) {
                self.docker.remove_container(&container.id).await?;
                return Err(Error::WrongSecret { address: container.address.clone() });
            }
        }
        let health = self.check(&instance.id, container).await;
        let (state, address) = (InstanceState::Running, container.address.clone());
        let (version, message) = match health {
            Health::Healthy(version) => (Some(version), None),
            // It answers, so lanes that are open go on; they have logged in.
            Health::Full if is_recorded(instance, container) => {
                let full = Error::Full { address: address.clone() };
                tracing::warn!(instance = instance.id, "{full}");
                let version = instance.route.as_ref().and_then(|route| route.version.clone());
                (version, Some(full.for_owner().to_owned()))
            }
            Health::Full => return Err(Error::Full { address }),
            Health::Silent => return Err(Error::NoAnswer { address }),
            Health::Unreachable => return Err(Error::Unreachable { address }),
            Health::Wrong => {
                self.docker.remove_container(&container.id).await?;
                return Err(Error::WrongSecret { address });
            }
        };
        let observed = Observed {
            state,
            generation: container.generation,
            address: Some(address),
            container: Some(container.id.clone()),
            version,
            message,
        };
        self.record(instance, &observed).await
    }

    /// Whether a container matches the recorded route and answers. Changes nothing.
    pub(crate) async fn is_healthy(&self, instance: &Instance, container: &Container) -> bool {
        let Some(route) = &instance.route else { return false };
        let as_recorded = route.state == InstanceState::Running
            && route.message.is_none()
            && is_recorded(instance, container);
        as_recorded && matches!(self.check(&instance.id, container).await, Health::Healthy(_))
    }

    async fn create(&self, instance: &Instance, generation: i64) -> Result<(), Error> {
        let spec = Spec::of(instance).map_err(Error::InvalidInstance)?;
        let lease = self.networks.lease(&instance.id).await?;
        let image = self.images.get().await?;
        let new = NewContainer {
            instance: &instance.id,
            generation,
            spec: &spec,
            image: &image.id,
            command: image.command,
            network: &lease.network,
            address: &lease.address,
            cpus: self.cpus,
        };
        let container = match self.create_and_start(&new).await {
            Ok(container) => container,
            Err(error) if error.is_not_found() => {
                self.restore_dependencies().await?;
                return Err(error);
            }
            Err(error) if error.is_address_in_use() => return Err(self.leave_address(&new, error).await?),
            Err(error) => return Err(error),
        };
        let address = || lease.address.clone();
        let target = (container.as_str(), generation, lease.address.as_str());
        let version = match self.check_container(&instance.id, target).await {
            Health::Healthy(version) => version,
            Health::Unreachable => return Err(Error::Unreachable { address: address() }),
            Health::Wrong => return Err(Error::WrongSecret { address: address() }),
            Health::Full | Health::Silent => return Err(Error::NoAnswer { address: address() }),
        };
        let observed = Observed {
            state: InstanceState::Running,
            generation,
            address: Some(lease.address),
            container: Some(container),
            version: Some(version),
            message: None,
        };
        self.record(instance, &observed).await
    }

    /// Creates a container, uploads its secret and starts it. Removes it if it can't be started.
    async fn create_and_start(&self, new: &NewContainer<'_>) -> Result<String, Error> {
        let container = self.docker.create_container(new).await?;
        let credential = self.lane_key.credential(new.instance, new.generation);
        let started = async {
            self.docker.upload_secret(&container, &credential).await?;
            self.docker.start(&container).await
        };
        match started.await {
            Ok(()) => Ok(container),
            Err(error) => {
                self.docker.remove_container(&container).await?;
                Err(error)
            }
        }
    }

    async fn tear_down(&self, instance: &Instance, state: InstanceState) -> Result<(), Error> {
        self.docker.remove_volume_of(&instance.id).await?;
        self.store.release_address(&instance.id).await?;
        self.capacity.release(&instance.id);
        let generation = instance.route.as_ref().map_or(0, |route| route.generation);
        let observed =
            Observed { state, generation, address: None, container: None, version: None, message: None };
        self.record(instance, &observed).await
    }

    /// Writes to the store only if that changes the route: each write wakes every follower.
    async fn record(&self, instance: &Instance, observed: &Observed) -> Result<(), Error> {
        if instance.route.as_ref().is_some_and(|route| route.matches(observed)) {
            // An earlier action of the same plan may have set another state since.
            let current = self.store.instance(&instance.id).await?.and_then(|instance| instance.route);
            if current.is_some_and(|route| route.matches(observed)) {
                return Ok(());
            }
        }
        let recorded = self.store.record_route(&instance.id, observed);
        Ok(self.metrics.store.observe("record_route", recorded).await?)
    }

    /// Shows a failure to the instance's owner and to the proxies.
    async fn record_failure(&self, id: &str, error: &Error, failures: u32) -> Result<(), Error> {
        use InstanceState::{Failed, Pending, Restarting, Running};
        if matches!(error, Error::Store(_)) {
            return Ok(());
        }
        let Some(instance) = self.store.instance(id).await? else { return Ok(()) };
        if instance.desired != store::DesiredState::Running {
            return Ok(());
        }
        let state = match (instance.state(), error) {
            // A container keeps running without Docker.
            (Running, Error::DockerDown(_)) => return Ok(()),
            (state, Error::DockerDown(_)) => state,
            (Pending, Error::Image(_) | Error::NoSubnet(_)) => Pending,
            // A cache that runs keeps its container, and so its old size.
            (state, Error::NoMemory) => state,
            _ if failures + 1 >= FAILURES_TO_FAIL => Failed,
            (Running, _) => Restarting,
            (Restarting, _) => return Ok(()),
            _ if failures == 0 => return Ok(()),
            (state, _) => state,
        };
        self.set_state(&instance, state, Some(error.for_owner())).await
    }

    /// Gives up the address of a new container if a foreign one has it, so that the next attempt gets another.
    async fn leave_address(&self, new: &NewContainer<'_>, error: Error) -> Result<Error, Error> {
        let Some(holder) = self.docker.foreign_holder(new.network, new.address).await? else {
            return Ok(error);
        };
        self.store.release_address(new.instance).await?;
        Ok(Error::AddressTaken { address: new.address.to_owned(), holder })
    }

    /// Gives a container that can't be reached a new interface with its address, once in a row of failures.
    /// Unlike a new container, that keeps the cache's contents.
    async fn reattach(&self, container: &Container, failures: u32) {
        if failures != FAILURES_TO_REATTACH {
            return;
        }
        let reattached = async {
            let lease = self.store.lease_address(&container.instance, self.address_cooldown).await?;
            match lease.filter(|lease| lease.address == container.address) {
                Some(lease) => {
                    self.docker.reattach(&container.id, &lease.network, &lease.address).await?;
                    Ok::<bool, Error>(true)
                }
                None => Ok(false),
            }
        };
        let instance = &container.instance;
        match reattached.await {
            Ok(true) => tracing::warn!(instance, "unreachable: attached to its network again"),
            Ok(false) => {
                tracing::warn!(instance, "unreachable, and another address is leased to it: left alone");
            }
            Err(error) => {
                tracing::warn!(instance, %error, "unreachable, and can't be attached to its network again");
            }
        }
    }

    async fn check(&self, instance: &str, container: &Container) -> Health {
        self.check_container(instance, (&container.id, container.generation, &container.address)).await
    }

    /// Checks the health of a container, given as `(id, generation, address)`, and remembers silence.
    async fn check_container(&self, instance: &str, target: (&str, i64, &str)) -> Health {
        let (id, generation, address) = target;
        let Ok(ip) = address.parse::<IpAddr>() else { return Health::Unreachable };
        let credential = self.lane_key.credential(instance, generation);
        let health = health_check::check(SocketAddr::new(ip, PORT), &credential, PROBE_TIMEOUT).await;
        let mut silences = self.silences.lock().await;
        let silence = silences.entry(id.to_owned()).or_default();
        silence.record(&health, Instant::now());
        if silence.is_empty() {
            silences.remove(id);
        }
        health
    }

    /// Restores the image and the networks: something that a container needs was removed by hand.
    async fn restore_dependencies(&self) -> Result<(), Error> {
        self.images.refresh().await?;
        let networks = self.docker.networks().await?;
        self.networks.ensure(&networks).await
    }
}

/// Whether a container is the one of the recorded route.
fn is_recorded(instance: &Instance, container: &Container) -> bool {
    instance.route.as_ref().is_some_and(|route| {
        route.generation == container.generation
            && route.container.as_ref() == Some(&container.id)
            && route.address.as_ref() == Some(&container.address)
    })
}

/// Logs a failure of one instance. That Docker is down, or memory short, is logged elsewhere,
/// once for all instances.
pub(crate) fn log_failure(instance: &str, error: &Error, failures: u32) {
    let error_chain = chain(error);
    if error.is_docker_down() || matches!(error, Error::NoMemory) {
        tracing::debug!(instance, error = error_chain, "waiting");
    } else if failures == 0 {
        // Often a race with a change made by hand; the first retry comes at once.
        tracing::info!(instance, error = error_chain, "reconcile failed: retrying");
    } else {
        tracing::warn!(instance, error = error_chain, failures, "reconcile failed again: retrying");
    }
}
