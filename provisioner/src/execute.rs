//! The executor: carries out the plan for one instance, and records the observed state.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use store::{Instance, InstanceState, LaneKey, Observed, Store};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::docker::{Docker, NewContainer};
use crate::error::{Error, chain};
use crate::firewall::Firewall;
use crate::health_check;
use crate::image::ImageCache;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::networks::Networks;
use crate::plan::{Action, Container, only_probes, plan};
use crate::spec::{PORT, Spec};

/// Instances that are changed in Docker at a time; with more, each is slower.
const WRITES_MAX: usize = 8;
/// Instances that are read from Docker at a time.
const READS_MAX: usize = 16;
/// Time limit of a probe. A running container answers at once; a busy host may need longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
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
            }
        }
        for action in &actions {
            let result = self.execute(&instance, action).await;
            self.metrics.count_action(action, result.is_ok());
            result?;
        }
        drop(permit);
        Ok(())
    }

    /// Reads an instance and its containers, and plans.
    async fn observe(&self, id: &str, failures: u32) -> Result<Option<(Instance, Vec<Action>)>, Error> {
        // A container without a row is left to the resync, which removes orphans after a while.
        let Some(instance) = self.store.instance(id).await? else { return Ok(None) };
        let _permit = self.concurrency.read_permits.acquire().await;
        let containers = self.docker.containers_of(id).await?;
        let actions = plan(&instance, &containers, failures);
        Ok(Some((instance, actions)))
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
        let version = match self.probe(&instance.id, container.generation, &container.address).await {
            Err(error @ Error::WrongSecret { .. }) => {
                self.docker.remove_container(&container.id).await?;
                return Err(error);
            }
            probed => probed?,
        };
        let observed = Observed {
            state: InstanceState::Running,
            generation: container.generation,
            address: Some(container.address.clone()),
            container: Some(container.id.clone()),
            version: Some(version),
            message: None,
        };
        self.record(instance, &observed).await
    }

    /// Whether a container matches the recorded route and answers. Changes nothing.
    pub(crate) async fn is_healthy(&self, instance: &Instance, container: &Container) -> bool {
        let Some(route) = &instance.route else { return false };
        let as_recorded = route.state == InstanceState::Running
            && route.generation == container.generation
            && route.container.as_ref() == Some(&container.id)
            && route.address.as_ref() == Some(&container.address);
        as_recorded && self.probe(&instance.id, container.generation, &container.address).await.is_ok()
    }

    async fn create(&self, instance: &Instance, generation: i64) -> Result<(), Error> {
        let spec = Spec::of(instance).map_err(Error::InvalidInstance)?;
        let lease = self.networks.lease(&instance.id).await?;
        let image = self.images.get().await?;
        let new = NewContainer {
            instance: &instance.id,
            generation,
            spec: &spec,
            image: &image.name,
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
            Err(error) => return Err(error),
        };
        let version = self.probe(&instance.id, generation, &lease.address).await?;
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
        Ok(self.store.record_route(&instance.id, observed).await?)
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
            _ if failures + 1 >= FAILURES_TO_FAIL => Failed,
            (Running, _) => Restarting,
            (Restarting, _) => return Ok(()),
            _ if failures == 0 => return Ok(()),
            (state, _) => state,
        };
        self.set_state(&instance, state, Some(error.for_owner())).await
    }

    /// Returns the version of an instance's memcached.
    async fn probe(&self, instance: &str, generation: i64, address: &str) -> Result<String, Error> {
        let ip: IpAddr = address.parse().map_err(|_| Error::NoAnswer { address: address.to_owned() })?;
        let credential = self.lane_key.credential(instance, generation);
        health_check::version(SocketAddr::new(ip, PORT), &credential, PROBE_TIMEOUT).await
    }

    /// Restores the image and the networks: something that a container needs was removed by hand.
    async fn restore_dependencies(&self) -> Result<(), Error> {
        self.images.refresh().await?;
        let networks = self.docker.networks().await?;
        self.networks.ensure(&networks).await
    }
}

/// Logs a failure of one instance. That Docker is down is logged elsewhere, once for all instances.
pub(crate) fn log_failure(instance: &str, error: &Error, failures: u32) {
    let error_chain = chain(error);
    if error.is_docker_down() {
        tracing::debug!(instance, error = error_chain, "waiting for Docker");
    } else if failures == 0 {
        // Often a race with a change made by hand; the first retry comes at once.
        tracing::info!(instance, error = error_chain, "reconcile failed: retrying");
    } else {
        tracing::warn!(instance, error = error_chain, failures, "reconcile failed again: retrying");
    }
}
