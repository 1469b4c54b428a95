//! The installation's Docker networks and the addresses on them: as many as the instances need, each on a
//! subnet that nothing else uses, recreated if removed, and watched on this host.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use store::{InstanceNetworks, Lease, Network, Store};
use tokio::sync::Mutex;

use crate::config::Settings;
use crate::docker::Docker;
use crate::error::Error;
use crate::names::Names;
use crate::plan::Resource;
use crate::subnet::{self, Subnet};

/// Subnets tried in a row: another installation may take one between the check and the request.
const ATTEMPTS_MAX: u32 = 16;
/// The kernel's routing table.
const ROUTES: &str = "/proc/net/route";

/// The networks of one installation.
#[derive(Debug)]
pub(crate) struct Networks {
    names: Names,
    docker: Arc<Docker>,
    store: Store,
    pool: Subnet,
    instance_networks: InstanceNetworks,
    address_cooldown: Duration,
    /// Held while networks are created.
    network_lock: Mutex<()>,
    /// The valid networks of the store, as of the last look.
    recorded: StdMutex<Vec<Network>>,
}

impl Networks {
    pub(crate) fn new(names: Names, docker: Arc<Docker>, store: Store, settings: &Settings) -> Self {
        let Settings { pool, instance_networks, address_cooldown, .. } = *settings;
        let (network_lock, recorded) = (Mutex::new(()), StdMutex::default());
        Self { names, docker, store, pool, instance_networks, address_cooldown, network_lock, recorded }
    }

    /// Makes sure that Docker has every network of the store, and that there is at least one.
    pub(crate) async fn ensure(&self, existing: &[Resource]) -> Result<(), Error> {
        let _lock = self.network_lock.lock().await;
        let recorded = self.store.networks().await?;
        let existing: HashSet<&str> = existing.iter().map(|network| network.name.as_str()).collect();
        // One is reported, with the resync: there may be any number of them.
        let mut failure = None;
        for network in recorded.iter().filter(|network| !existing.contains(network.name.as_str())) {
            if let Err(error) = self.check(network) {
                failure = Some(error);
                continue;
            }
            tracing::warn!(network = network.name, "a network is missing: creating it again");
            match self.create(network).await {
                Ok(()) => {}
                Err(error) if error.is_docker_down() => return Err(error),
                // The others are created all the same.
                Err(error) => failure = Some(error),
            }
        }
        if recorded.is_empty() {
            return self.add().await;
        }
        self.keep(recorded);
        failure.map_or(Ok(()), Err)
    }

    /// The networks whose bridges were removed, shut down or stripped of their addresses on this host.
    pub(crate) fn broken(&self) -> Vec<Network> {
        let table = routing_table();
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.iter().filter(|network| !is_up(&table, network)).cloned().collect()
    }

    pub(crate) fn is_broken(&self, network: &Network) -> bool {
        !is_up(&routing_table(), network)
    }

    /// Whether the network of an address is broken.
    pub(crate) fn is_broken_at(&self, address: &str) -> bool {
        self.find(address).is_some_and(|network| self.is_broken(&network))
    }

    /// The name of the network that an address is on.
    pub(crate) fn network_of(&self, address: &str) -> Option<String> {
        self.find(address).map(|network| network.name)
    }

    /// Whether an instance can have an address: a broken role may write any into the store.
    pub(crate) fn can_have_instance(&self, address: IpAddr) -> bool {
        self.instance_networks.contains(address)
    }

    /// The network that an address is on.
    pub(crate) fn find(&self, address: &str) -> Option<Network> {
        let contains =
            |network: &Network| network.subnet.parse().is_ok_and(|subnet: Subnet| subnet.contains(address));
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.iter().find(|network| contains(network)).cloned()
    }

    fn keep(&self, networks: Vec<Network>) {
        let valid = networks.into_iter().filter(|network| self.check(network).is_ok()).collect();
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = valid;
    }

    /// Leases an address to an instance, or returns the lease that it has. Adds a network if all are full.
    pub(crate) async fn lease(&self, instance: &str) -> Result<Lease, Error> {
        if let Some(lease) = self.find_lease(instance).await? {
            return Ok(lease);
        }
        let _lock = self.network_lock.lock().await;
        // The previous holder of the lock may have added a network already.
        if let Some(lease) = self.find_lease(instance).await? {
            return Ok(lease);
        }
        self.add().await?;
        let lease = self.find_lease(instance).await?;
        lease.ok_or_else(|| Error::NoSubnet(self.pool.to_string()))
    }

    /// The lease that an instance has, or a new one, of an address on one of our networks.
    async fn find_lease(&self, instance: &str) -> Result<Option<Lease>, Error> {
        let lease = self.store.lease_address(instance, self.address_cooldown).await?;
        let Some(lease) = lease else { return Ok(None) };
        // The address decides where the route leads.
        let is_known = || self.network_of(&lease.address).as_ref() == Some(&lease.network);
        if !is_known() {
            // Nothing has read the networks yet, or another process has added this one.
            self.keep(self.store.networks().await?);
        }
        if is_known() { Ok(Some(lease)) } else { Err(Error::InvalidNetwork(lease.network)) }
    }

    /// A row of the store must not choose a bridge without firewall, or take this machine's route to another network.
    fn check(&self, network: &Network) -> Result<(), Error> {
        let subnet = network.subnet.parse::<Subnet>().ok();
        let fits = subnet
            .is_some_and(|it| it.is_network_of(&self.pool) && it.gateway().to_string() == network.gateway);
        if fits && self.names.are_network(&network.name, &network.bridge) {
            return Ok(());
        }
        Err(Error::InvalidNetwork(network.name.clone()))
    }

    /// Adds one more network and its addresses. The caller holds the network lock.
    async fn add(&self) -> Result<(), Error> {
        self.remove_unrecorded().await?;
        let recorded = self.store.networks().await?;
        let (mut used, bridges) = self.docker.subnets_and_bridges().await?;
        used.extend(recorded.iter().filter_map(|network| network.subnet.parse::<Subnet>().ok()));
        used.extend(subnet::routes(&routing_table()));
        let names = &self.names;
        let taken = recorded.iter().map(|network| &network.bridge).chain(&bridges);
        let first = taken.filter_map(|bridge| names.bridge_number(bridge)).max().map_or(0, |n| n + 1);
        for (subnet, number) in self.pool.free(&used).zip(first..first.saturating_add(ATTEMPTS_MAX)) {
            let network = Network {
                name: names.network(number),
                bridge: names.bridge(number),
                subnet: subnet.to_string(),
                gateway: subnet.gateway().to_string(),
            };
            match self.docker.create_network(&network).await {
                Ok(()) => {
                    self.store.add_network(&network, &subnet.addresses()).await?;
                    tracing::info!(network = network.name, subnet = network.subnet, "network added");
                    self.keep(recorded.into_iter().chain([network]).collect());
                    return Ok(());
                }
                Err(Error::Docker { status: Some(403 | 409), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoSubnet(self.pool.to_string()))
    }

    /// Removes a network that a crash has left before it was recorded. Nothing is removed if a container is on no recorded
    /// network: the store may be another one, or restored.
    async fn remove_unrecorded(&self) -> Result<(), Error> {
        let existing = self.docker.networks().await?;
        let names: HashSet<String> = self.store.network_names().await?.into_iter().collect();
        let left: Vec<&Resource> = existing.iter().filter(|network| !names.contains(&network.name)).collect();
        if left.is_empty() {
            return Ok(());
        }
        self.keep(self.store.networks().await?);
        let containers = self.docker.containers().await?;
        if !containers.iter().all(|container| container.is_holder || self.find(&container.address).is_some())
        {
            return Ok(());
        }
        for network in left {
            tracing::info!(network = network.name, "removing a network that was never recorded");
            if let Err(error) = self.docker.remove_network(&network.name).await {
                tracing::warn!(network = network.name, %error, "can't remove it");
            }
        }
        Ok(())
    }

    /// Removes a network that no container is on, and creates it again.
    pub(crate) async fn make_again(&self, network: &Network) -> Result<(), Error> {
        let _lock = self.network_lock.lock().await;
        self.docker.remove_network(&network.name).await?;
        self.create(network).await
    }

    async fn create(&self, network: &Network) -> Result<(), Error> {
        match self.docker.create_network(network).await {
            // Another provisioner missed it too, and was faster.
            Err(Error::Docker { status: Some(403 | 409), .. }) if self.exists(network).await? => Ok(()),
            created => created,
        }
    }

    async fn exists(&self, network: &Network) -> Result<bool, Error> {
        Ok(self.docker.networks().await?.iter().any(|existing| existing.name == network.name))
    }
}

fn routing_table() -> String {
    std::fs::read_to_string(ROUTES).unwrap_or_default()
}

fn is_up(table: &str, network: &Network) -> bool {
    network.subnet.parse().is_ok_and(|subnet| subnet::leads_to(table, &subnet, &network.bridge))
}
