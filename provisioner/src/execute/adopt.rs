//! Running containers: whether they are the instance's, and answer; and what is done about one that doesn't.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use store::{EventAction, EventCause, Instance, InstanceState, Observed};
use tokio::time::Instant;

use super::Executor;
use super::warm::is_asleep;
use crate::error::Error;
use crate::health_check;
use crate::liveness::Health;
use crate::plan::{Container, Repair};
use crate::spec::PORT;

/// Time limit of a probe. A running container answers at once; a busy host may need longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// After this many failures in a row a container that can't be reached gets a new interface.
const FAILURES_TO_REATTACH: u32 = 2;
/// Other caches that are asked before one is replaced because it rejects its secret, and the time limit.
const PEERS_ASKED_MAX: usize = 8;
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

impl Executor {
    /// Records a running container as the instance's, if it answers and has the address leased to it.
    pub(super) async fn adopt(&self, instance: &Instance, container: &Container) -> Result<(), Error> {
        let recorded = instance.route.as_ref().and_then(|route| route.address.as_ref());
        if recorded != Some(&container.address) {
            let lease = self.store.lease_address(&instance.id, self.address_cooldown).await?;
            if lease.is_none_or(|lease| lease.address != container.address) {
                self.check_secrets()?;
                self.remove(&container.id).await?;
                return Err(Error::NotLeased { address: container.address.clone() });
            }
        }
        if !is_recorded(instance, container) && !self.may_become(instance, container).await {
            return Err(self.give_up_taken(instance, container).await?);
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
            Health::Silent => return Err(self.silence_of((&instance.id, &container.id), address).await),
            Health::Unreachable => return Err(Error::Unreachable { address }),
            Health::Wrong => return Err(self.refuse(instance, container).await?),
        };
        if is_asleep(instance) {
            // It was woken before it was stopped.
            self.activity.forget(&container.id);
        }
        self.history.complete(&instance.id, &container.id);
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

    /// Whether a container that isn't the recorded one holds nothing of somebody else's: one that was made ahead carries its
    /// mark, and the first one of an instance has never been used. A restored store may offer again what is taken.
    async fn may_become(&self, instance: &Instance, container: &Container) -> bool {
        if container.made_ahead {
            self.take(container).await
        } else {
            !has_never_run(instance) || self.is_untouched(container).await
        }
    }

    /// Removes a container that somebody else has had. The next one has another generation and address,
    /// since a proxy may still look for this one there. Returns why.
    async fn give_up_taken(&self, instance: &Instance, container: &Container) -> Result<Error, Error> {
        self.check_secrets()?;
        let observed = Observed {
            state: InstanceState::Pending,
            generation: container.generation,
            address: None,
            container: None,
            version: None,
            message: None,
        };
        self.record(instance, &observed).await?;
        self.remove(&container.id).await?;
        self.store.release_address(&instance.id).await?;
        Ok(Error::TakenBefore { address: container.address.clone() })
    }

    /// Removes a container in whose place another memcached answers, unless many do, and leaves an address that a
    /// foreign container has. Returns why.
    async fn refuse(&self, instance: &Instance, container: &Container) -> Result<Error, Error> {
        let address = container.address.clone();
        let network = self.networks.network_of(&address);
        let holder = match &network {
            Some(network) => self.docker.foreign_holder(network, &address).await?,
            None => None,
        };
        let (cause, why) = if let Some(holder) = holder {
            // Something else answered.
            self.secrets.forget(&container.id);
            self.store.release_address(&instance.id).await?;
            let holder = format!("the container {holder}");
            (EventCause::AddressTaken, Error::AddressTaken { address, holder })
        } else {
            self.ask_others(&instance.id).await;
            self.check_secrets()?;
            (EventCause::WrongSecret, Error::WrongSecret { address })
        };
        self.record_cause(instance, cause, &why);
        self.history.lose_contents(&instance.id);
        self.remove(&container.id).await?;
        Ok(why)
    }

    /// Fails if too many caches reject their secrets.
    pub(super) fn check_secrets(&self) -> Result<(), Error> {
        self.secrets.mismatch(Instant::now()).map_or(Ok(()), |mismatch| Err(mismatch.into()))
    }

    /// The containers to which the lane secrets of their instances may be sent. Docker says where they are: a broken role may
    /// write any address into the store, also another cache's.
    pub(crate) async fn recorded_containers(&self) -> Result<Vec<Container>, Error> {
        let is_route_of =
            |it: &Container| self.known.get(&it.instance).is_some_and(|instance| is_recorded(&instance, it));
        let mut containers = self.docker.containers().await?;
        containers.retain(|it| it.attached && is_route_of(it));
        Ok(containers)
    }

    /// Checks some other caches, so that one that rejects its secret isn't the only one that was asked.
    async fn ask_others(&self, instance: &str) {
        let Ok(containers) = self.recorded_containers().await else { return };
        let peers = containers.into_iter().filter(|it| it.instance != instance).take(PEERS_ASKED_MAX);
        let checks = peers.filter_map(|it| Some((it.address.parse().ok()?, it))).map(|(ip, it)| async move {
            let credential = self.lane_key.credential(&it.instance, it.generation);
            let health = health_check::check(SocketAddr::new(ip, PORT), &credential, PEER_TIMEOUT).await;
            self.secrets.record(&it.id, &health, Instant::now());
        });
        join_all(checks).await;
    }

    /// Whether a container matches the recorded route and answers. Changes nothing.
    pub(crate) async fn is_healthy(&self, instance: &Instance, container: &Container) -> bool {
        let Some(route) = &instance.route else { return false };
        let as_recorded = route.state == InstanceState::Running
            && route.message.is_none()
            && is_recorded(instance, container);
        as_recorded
            && matches!(self.check(&instance.id, container).await, Health::Healthy(_))
            && self.has_its_memory(instance, container).await
    }

    /// Gives a container that can't be reached a new interface with its address, once in a row of failures.
    /// Unlike a new container, that keeps the cache's contents.
    pub(super) async fn reattach(&self, container: &Container, failures: u32) {
        // With a broken network, all would lose their interfaces: that is repaired for all at once.
        if failures != FAILURES_TO_REATTACH || self.networks.is_broken_at(&container.address) {
            return;
        }
        let instance = &container.instance;
        let reattached = async {
            let lease = self.store.lease_address(instance, self.address_cooldown).await?;
            match lease.filter(|lease| lease.address == container.address) {
                Some(lease) => {
                    self.docker.reattach(&container.id, &lease.network, &lease.address).await?;
                    Ok::<bool, Error>(true)
                }
                None => Ok(false),
            }
        };
        match reattached.await {
            Ok(true) => {
                let (cause, action) = (EventCause::Unreachable, EventAction::Reattached);
                let repair = Repair { cause, action, contents_lost: false };
                self.history.begin(instance, repair, String::new());
            }
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

    /// Checks the health of a container, given as `(id, generation, address)`, and remembers the result.
    pub(crate) async fn check_container(&self, instance: &str, target: (&str, i64, &str)) -> Health {
        let (id, generation, address) = target;
        let Ok(ip) = address.parse::<IpAddr>() else { return Health::Unreachable };
        // Something elsewhere may answer at its address.
        if self.networks.is_broken_at(address) {
            return Health::Unreachable;
        }
        let credential = self.lane_key.credential(instance, generation);
        let health = health_check::check(SocketAddr::new(ip, PORT), &credential, PROBE_TIMEOUT).await;
        let now = Instant::now();
        self.secrets.record(id, &health, now);
        let mut silences = self.observations.silences.lock().await;
        let silence = silences.entry(id.to_owned()).or_default();
        silence.record(&health, now);
        if silence.is_empty() {
            silences.remove(id);
        }
        health
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

/// Whether no container was ever recorded for an instance.
fn has_never_run(instance: &Instance) -> bool {
    instance.route.as_ref().is_none_or(|route| route.generation == 0)
}
