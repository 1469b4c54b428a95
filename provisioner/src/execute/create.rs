//! New containers: at an address of their own, which is left if something else has it.

use store::{EventCause, Instance, InstanceState, Observed};

use super::{Executor, Situation};
use crate::docker::NewContainer;
use crate::error::Error;
use crate::liveness::Health;
use crate::names::MemorySlot;
use crate::plan::Container;
use crate::spec::Spec;

/// What holds an address on which another memcached answers and that Docker gave to nothing else.
const UNKNOWN_HOLDER: &str = "something that isn't a container of memgate's";

/// A new container that answers.
pub(super) struct Made {
    id: String,
    pub(super) address: String,
    /// memcached's version.
    version: String,
}

impl Executor {
    pub(super) async fn create(&self, situation: &Situation, generation: i64) -> Result<(), Error> {
        let instance = &situation.instance;
        let memory = self.prepare_memory(situation).await?;
        let Made { id, address, version } =
            self.make(instance, generation, memory, (situation.failures, false)).await?;
        // Copying a warm cache's contents may have taken more.
        self.capacity.settle(&instance.id, Spec::of(instance).ok().map(|spec| spec.memory_limit()));
        self.history.complete(&instance.id, &id);
        let observed = Observed {
            state: InstanceState::Running,
            generation,
            address: Some(address),
            container: Some(id),
            version: Some(version),
            message: None,
        };
        self.record(instance, &observed).await
    }

    /// Makes a container for an instance, with the memory that was prepared if it is warm: `failures` counts those in a row,
    /// and `made_ahead` says whether there is no such instance yet.
    pub(super) async fn make(
        &self,
        instance: &Instance,
        generation: i64,
        memory: Option<MemorySlot>,
        (failures, made_ahead): (u32, bool),
    ) -> Result<Made, Error> {
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
            memory,
            threads: self.threads,
            made_ahead,
        };
        let id = match self.create_and_start(&new).await {
            Ok(id) => id,
            Err(error) if error.is_not_found() => {
                self.restore_dependencies().await?;
                return Err(error);
            }
            Err(error) if error.is_address_in_use() => {
                let taken = (lease.network.as_str(), lease.address.as_str());
                return Err(self.release_taken_address((instance, failures), taken, error).await?);
            }
            Err(error) => return Err(error),
        };
        let version = match self.check_new(instance, &new, &id).await {
            // Its secret was written just now.
            Err(Error::WrongSecret { address }) => {
                self.remove(&id).await?;
                self.store.release_address(&instance.id).await?;
                let taken = Error::AddressTaken { address, holder: UNKNOWN_HOLDER.into() };
                self.record_cause(instance, EventCause::AddressTaken, &taken);
                // It has run on a warm cache's memory.
                self.history.lose_contents(&instance.id);
                return Err(taken);
            }
            checked => checked?,
        };
        Ok(Made { id, address: lease.address, version })
    }

    /// Makes a container again that was removed while the store can't be written: with the recorded generation and
    /// address, so that the recorded route leads to it. Nothing else has that address: it is leased to the instance.
    pub(super) async fn make_again(&self, situation: &Situation) -> Result<(), Error> {
        let instance = &situation.instance;
        // A holder may keep what it had.
        for being_removed in situation.containers.iter().filter(|it| !it.is_holder) {
            self.remove(&being_removed.id).await?;
        }
        let spec = Spec::of(instance).map_err(Error::InvalidInstance)?;
        let route = instance.route.clone().ok_or(Error::InvalidInstance("it has no route"))?;
        let address = route.address.unwrap_or_default();
        let network =
            self.networks.network_of(&address).ok_or(Error::InvalidInstance("it has no network"))?;
        let image = self.images.get().await?;
        let memory = self.prepare_memory(situation).await?;
        let new = NewContainer {
            instance: &instance.id,
            generation: route.generation,
            spec: &spec,
            image: &image.id,
            command: image.command,
            network: &network,
            address: &address,
            cpus: self.cpus,
            memory,
            threads: self.threads,
            made_ahead: false,
        };
        let container = self.create_and_start(&new).await?;
        let version = self.check_new(instance, &new, &container).await?;
        tracing::warn!(
            instance = instance.id,
            "the store can't be written: the container was made again as it was recorded"
        );
        self.history.complete(&instance.id, &container);
        let observed = Observed {
            state: InstanceState::Running,
            generation: route.generation,
            address: Some(address),
            container: Some(container),
            version: Some(version),
            message: None,
        };
        self.record(instance, &observed).await
    }

    /// Checks the health of a container that was just created; returns memcached's version.
    async fn check_new(
        &self,
        instance: &Instance,
        new: &NewContainer<'_>,
        container: &str,
    ) -> Result<String, Error> {
        let address = || new.address.to_owned();
        match self.check_container(&instance.id, (container, new.generation, new.address)).await {
            Health::Healthy(version) => Ok(version),
            Health::Unreachable => Err(Error::Unreachable { address: address() }),
            Health::Wrong => Err(Error::WrongSecret { address: address() }),
            Health::Silent => Err(self.silence_of((&instance.id, container), address()).await),
            Health::Full => Err(Error::NoAnswer { address: address() }),
        }
    }

    /// Creates a container, uploads its secret and starts it. Removes it if it can't be started.
    async fn create_and_start(&self, new: &NewContainer<'_>) -> Result<String, Error> {
        let id = self.docker.create_container(new).await?;
        let credential = self.lane_key.credential(new.instance, new.generation);
        let started = async {
            self.docker.upload_secret(&id, &credential).await?;
            self.docker.start(&id).await
        };
        match started.await {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(&id).await?;
                Err(error)
            }
        }
    }

    /// Gives up the address of a container that can't be started there.
    pub(super) async fn release_address_of(
        &self,
        situation: &Situation,
        container: &Container,
        error: Error,
    ) -> Result<Error, Error> {
        match self.networks.network_of(&container.address) {
            Some(network) => {
                let instance = (&situation.instance, situation.failures);
                self.release_taken_address(instance, (&network, &container.address), error).await
            }
            None => Ok(error),
        }
    }

    /// Gives up an address, `(network, address)`, that Docker says is in use, so that the next attempt gets another: at
    /// once if a foreign container has it, and otherwise the second time, since Docker may just be removing our own.
    async fn release_taken_address(
        &self,
        (instance, failures): (&Instance, u32),
        (network, address): (&str, &str),
        error: Error,
    ) -> Result<Error, Error> {
        let holder = match self.docker.foreign_holder(network, address).await? {
            Some(holder) => format!("the container {holder}"),
            None if failures > 0 => UNKNOWN_HOLDER.to_owned(),
            None => return Ok(error),
        };
        self.store.release_address(&instance.id).await?;
        let taken = Error::AddressTaken { address: address.to_owned(), holder };
        self.record_cause(instance, EventCause::AddressTaken, &taken);
        Ok(taken)
    }

    pub(super) async fn tear_down(&self, instance: &Instance, state: InstanceState) -> Result<(), Error> {
        self.docker.remove_volumes_of(&instance.id).await?;
        self.store.release_address(&instance.id).await?;
        self.capacity.release(&instance.id);
        self.history.discard(&instance.id);
        let generation = instance.route.as_ref().map_or(0, |route| route.generation);
        let observed =
            Observed { state, generation, address: None, container: None, version: None, message: None };
        self.record(instance, &observed).await
    }
}
