//! Hands: takes the plan's steps for one instance, and records what came of them.

mod network;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use store::{Instance, InstanceState, LaneKey, Lease, Observed, Store};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::engine::{Engine, NewContainer};
use crate::error::chain;
use crate::image::Image;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::plan::{Action, Container, only_probes, plan};
use crate::spec::{PORT, Spec};
use crate::subnet::Subnet;
use crate::{Error, probe};

/// Instances that are worked on in Docker at a time; more only makes each slower.
const PARALLEL: usize = 8;
/// Looks into Docker at a time.
const LOOKS: usize = 16;
/// A container that runs answers at once; a busy host gets this long.
const PROBE: Duration = Duration::from_secs(3);
/// After so many failures in a row the owner is told, until it works.
const STRIKES_TO_FAIL: u32 = 3;
/// An image that couldn't be had isn't asked for again for this long.
const IMAGE_RETRY: Duration = Duration::from_secs(10);

/// What the work needs. Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) names: Names,
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    pub(crate) lane_key: LaneKey,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
    pub(crate) shared: Shared,
}

/// The configuration, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) image: Option<String>,
    pub(crate) address_rest: Duration,
    pub(crate) pool: Subnet,
    pub(crate) cpus: f64,
}

/// What tasks take turns at.
#[derive(Debug)]
pub(crate) struct Shared {
    hands: Semaphore,
    looks: Semaphore,
    image: Mutex<Had>,
    growing: Mutex<()>,
}

#[derive(Debug)]
enum Had {
    Unknown,
    Image(Image),
    /// Why not, and when that was found.
    Not(String, Instant),
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            hands: Semaphore::new(PARALLEL),
            looks: Semaphore::new(LOOKS),
            image: Mutex::new(Had::Unknown),
            growing: Mutex::new(()),
        }
    }
}

impl Worker {
    /// Brings one instance to what is wanted. `strikes`: how often in a row that has failed.
    pub(crate) async fn attend(&self, id: &str, strikes: u32) -> Result<(), Error> {
        let started = Instant::now();
        let done = self.bring(id, strikes).await;
        self.metrics.attend.observe(started.elapsed().as_secs_f64());
        if let Err(error) = &done {
            self.report(id, error, strikes).await?;
        }
        done
    }

    async fn bring(&self, id: &str, strikes: u32) -> Result<(), Error> {
        let Some((mut wanted, mut actions)) = self.look(id, strikes).await? else { return Ok(()) };
        let mut hand = None;
        if !only_probes(&actions) {
            hand = self.shared.hands.try_acquire().ok();
            if hand.is_none() {
                // Proxies learn it before the turn comes; then things may look different.
                for action in actions.iter().filter(|action| matches!(action, Action::Mark(..))) {
                    self.take(&wanted, action).await?;
                }
                hand = self.shared.hands.acquire().await.ok();
                let Some(again) = self.look(id, strikes).await? else { return Ok(()) };
                (wanted, actions) = again;
            }
        }
        for action in &actions {
            let taken = self.take(&wanted, action).await;
            self.metrics.taken(action, taken.is_ok());
            taken?;
        }
        drop(hand);
        Ok(())
    }

    async fn look(&self, id: &str, strikes: u32) -> Result<Option<(Instance, Vec<Action>)>, Error> {
        // Without a row it is nobody's: the full pass decides that, with patience.
        let Some(wanted) = self.store.instance(id).await? else { return Ok(None) };
        let _turn = self.shared.looks.acquire().await;
        let seen = self.engine.containers_of(id).await?;
        let actions = plan(&wanted, &seen, strikes);
        Ok(Some((wanted, actions)))
    }

    async fn take(&self, wanted: &Instance, action: &Action) -> Result<(), Error> {
        match action {
            Action::Mark(state, message) => self.mark(wanted, *state, *message).await,
            Action::Probe(container) => self.adopt(wanted, container).await,
            Action::Start(container) => self.engine.start(&container.id).await,
            Action::Unpause(container) => self.engine.unpause(&container.id).await,
            Action::Remove(container) => self.engine.remove_container(container).await.map(drop),
            Action::Create { generation } => self.create(wanted, *generation).await,
            Action::Retire(state) => self.retire(wanted, *state).await,
        }
    }

    async fn mark(
        &self,
        wanted: &Instance,
        state: InstanceState,
        message: Option<&str>,
    ) -> Result<(), Error> {
        let route = wanted.route.clone();
        let seen = Observed {
            state,
            generation: route.as_ref().map_or(0, |r| r.generation),
            address: route.as_ref().and_then(|r| r.address.clone()),
            container: route.as_ref().and_then(|r| r.container.clone()),
            version: route.and_then(|r| r.version),
            message: message.map(str::to_owned),
        };
        self.record(wanted, &seen).await
    }

    /// Takes a running container as this instance's, if it answers and has the address that is leased to it.
    async fn adopt(&self, wanted: &Instance, container: &Container) -> Result<(), Error> {
        let recorded = wanted.route.as_ref().and_then(|route| route.address.as_ref());
        if recorded != Some(&container.address) {
            let lease = self.store.lease_address(&wanted.id, self.settings.address_rest).await?;
            if lease.is_none_or(|lease| lease.address != container.address) {
                self.engine.remove_container(&container.id).await?;
                return Err(Error::WrongSecret { address: container.address.clone() });
            }
        }
        let version = match self.ask(&wanted.id, container.generation, &container.address).await {
            Err(error @ Error::WrongSecret { .. }) => {
                self.engine.remove_container(&container.id).await?;
                return Err(error);
            }
            asked => asked?,
        };
        let seen = Observed {
            state: InstanceState::Running,
            generation: container.generation,
            address: Some(container.address.clone()),
            container: Some(container.id.clone()),
            version: Some(version),
            message: None,
        };
        self.record(wanted, &seen).await
    }

    /// Whether all is as recorded: asked at every pass, changes nothing.
    pub(crate) async fn is_well(&self, wanted: &Instance, container: &Container) -> bool {
        let Some(route) = &wanted.route else { return false };
        let as_recorded = route.state == InstanceState::Running
            && route.generation == container.generation
            && route.container.as_ref() == Some(&container.id)
            && route.address.as_ref() == Some(&container.address);
        as_recorded && self.ask(&wanted.id, container.generation, &container.address).await.is_ok()
    }

    async fn create(&self, wanted: &Instance, generation: i64) -> Result<(), Error> {
        let spec =
            Spec::of(wanted).map_err(|why| Error::Setting { setting: "an instance", fix: why.into() })?;
        let lease = self.lease(&wanted.id).await?;
        let image = self.image().await?;
        let new = NewContainer {
            instance: &wanted.id,
            generation,
            spec: &spec,
            image: &image.name,
            command: image.command,
            network: &lease.network,
            address: &lease.address,
            cpus: self.settings.cpus,
        };
        let container = match self.start_new(&new).await {
            Ok(container) => container,
            Err(error) if error.is_missing() => {
                self.repair().await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let version = self.ask(&wanted.id, generation, &lease.address).await?;
        let seen = Observed {
            state: InstanceState::Running,
            generation,
            address: Some(lease.address),
            container: Some(container),
            version: Some(version),
            message: None,
        };
        self.record(wanted, &seen).await
    }

    /// Makes, fills and starts a container; one that can't be started isn't left behind.
    async fn start_new(&self, new: &NewContainer<'_>) -> Result<String, Error> {
        let container = self.engine.create_container(new).await?;
        let secret = self.lane_key.secret(new.instance, new.generation);
        let started = async {
            self.engine.upload_secret(&container, &secret).await?;
            self.engine.start(&container).await
        };
        match started.await {
            Ok(()) => Ok(container),
            Err(error) => {
                self.engine.remove_container(&container).await?;
                Err(error)
            }
        }
    }

    async fn retire(&self, wanted: &Instance, state: InstanceState) -> Result<(), Error> {
        self.engine.remove_volume_of(&wanted.id).await?;
        self.store.release_address(&wanted.id).await?;
        let generation = wanted.route.as_ref().map_or(0, |route| route.generation);
        let seen =
            Observed { state, generation, address: None, container: None, version: None, message: None };
        self.record(wanted, &seen).await
    }

    /// Writes the store only if that changes anything: each write wakes every follower.
    async fn record(&self, wanted: &Instance, seen: &Observed) -> Result<(), Error> {
        if wanted.route.as_ref().is_some_and(|route| route.says(seen)) {
            // A mark of this same plan may stand in between.
            let now = self.store.instance(&wanted.id).await?.and_then(|instance| instance.route);
            if now.is_some_and(|route| route.says(seen)) {
                return Ok(());
            }
        }
        Ok(self.store.record_route(&wanted.id, seen).await?)
    }

    /// Tells the owner, and the proxies, what a failure means.
    async fn report(&self, id: &str, error: &Error, strikes: u32) -> Result<(), Error> {
        use InstanceState::{Failed, Pending, Restarting, Running};
        if matches!(error, Error::Store(_)) {
            return Ok(());
        }
        let Some(wanted) = self.store.instance(id).await? else { return Ok(()) };
        if wanted.wanted != store::DesiredState::Running {
            return Ok(());
        }
        let state = match (wanted.state(), error) {
            // It may well run on without Docker.
            (Running, Error::EngineDown(_)) => return Ok(()),
            (state, Error::EngineDown(_)) => state,
            (Pending, Error::Image(_) | Error::NoSubnet(_)) => Pending,
            _ if strikes + 1 >= STRIKES_TO_FAIL => Failed,
            (Running, _) => Restarting,
            (Restarting, _) => return Ok(()),
            _ if strikes == 0 => return Ok(()),
            (state, _) => state,
        };
        self.mark(&wanted, state, Some(error.for_owner())).await
    }

    async fn ask(&self, instance: &str, generation: i64, address: &str) -> Result<String, Error> {
        let ip: IpAddr = address.parse().map_err(|_| Error::NoAnswer { address: address.to_owned() })?;
        let secret = self.lane_key.secret(instance, generation);
        probe::version(SocketAddr::new(ip, PORT), &secret, PROBE).await
    }

    async fn image(&self) -> Result<Image, Error> {
        let mut had = self.shared.image.lock().await;
        match &*had {
            Had::Image(image) => return Ok(image.clone()),
            Had::Not(why, at) if at.elapsed() < IMAGE_RETRY => return Err(Error::Image(why.clone())),
            Had::Not(..) | Had::Unknown => {}
        }
        match Image::ready(&self.engine, self.settings.image.as_deref()).await {
            Ok(image) => {
                *had = Had::Image(image.clone());
                Ok(image)
            }
            Err(Error::Image(why)) => {
                *had = Had::Not(why.clone(), Instant::now());
                Err(Error::Image(why))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks anew whether the image is there: it may have been removed, or a newer one been made.
    pub(crate) async fn refresh_image(&self) -> Result<(), Error> {
        let mut had = self.shared.image.lock().await;
        if matches!(&*had, Had::Image(_)) {
            *had = Had::Unknown;
        }
        drop(had);
        self.image().await.map(drop)
    }

    /// Something that a container needs was missing: an image or a network was removed by hand.
    async fn repair(&self) -> Result<(), Error> {
        self.refresh_image().await?;
        let networks = self.engine.networks().await?;
        self.ensure_networks(&networks).await
    }

    async fn lease(&self, instance: &str) -> Result<Lease, Error> {
        let rest = self.settings.address_rest;
        if let Some(lease) = self.store.lease_address(instance, rest).await? {
            return Ok(lease);
        }
        let _turn = self.shared.growing.lock().await;
        // Whoever had the turn before may have made room for us too.
        if let Some(lease) = self.store.lease_address(instance, rest).await? {
            return Ok(lease);
        }
        self.add_network().await?;
        let lease = self.store.lease_address(instance, rest).await?;
        lease.ok_or_else(|| Error::NoSubnet(self.settings.pool.to_string()))
    }
}

/// Says once for each failure what it was; Docker's absence is said elsewhere, once for all.
pub(crate) fn log_failure(instance: &str, error: &Error, strikes: u32) {
    let error_chain = chain(error);
    if error.is_engine_down() {
        tracing::debug!(instance, error = error_chain, "waits for Docker");
    } else if strikes == 0 {
        // Often a race with whoever touched the container; tried again at once.
        tracing::info!(instance, error = error_chain, "trying again");
    } else {
        tracing::warn!(
            instance,
            error = error_chain,
            strikes,
            "an instance can't be brought up: trying again"
        );
    }
}
