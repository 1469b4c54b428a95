//! Our networks: as many as the instances need, each where nothing else is, and back when they are lost.

use std::collections::HashSet;

use store::Network;

use super::Worker;
use crate::Error;
use crate::plan::Thing;
use crate::subnet::{self, Subnet};

/// Subnets tried in a row: between our look and our request another installation may take some.
const TRIES: u32 = 16;
/// The kernel's routes.
const ROUTES: &str = "/proc/net/route";

impl Worker {
    /// Sees to it that Docker has every network of the store, and that there is at least one.
    pub(crate) async fn ensure_networks(&self, seen: &[Thing]) -> Result<(), Error> {
        let _turn = self.shared.growing.lock().await;
        let recorded = self.store.networks().await?;
        let seen: HashSet<&str> = seen.iter().map(|network| network.name.as_str()).collect();
        for network in recorded.iter().filter(|network| !seen.contains(network.name.as_str())) {
            tracing::warn!(network = network.name, "a network is gone: making it again");
            match self.engine.create_network(network).await {
                // Made a moment ago by another task that missed it too.
                Err(Error::Engine { status: Some(403 | 409), .. }) if self.has_network(network).await? => {}
                made => made?,
            }
        }
        if recorded.is_empty() {
            self.add_network().await?;
        }
        Ok(())
    }

    /// Makes one more network and its addresses. The caller has the turn at growing.
    pub(super) async fn add_network(&self) -> Result<(), Error> {
        let recorded = self.store.networks().await?;
        let (mut used, bridges) = self.engine.networks_in_use().await?;
        used.extend(recorded.iter().filter_map(|network| network.subnet.parse::<Subnet>().ok()));
        used.extend(subnet::routes(&std::fs::read_to_string(ROUTES).unwrap_or_default()));
        let names = &self.names;
        let taken = recorded.iter().map(|network| &network.bridge).chain(&bridges);
        let first = taken.filter_map(|bridge| names.bridge_number(bridge)).max().map_or(0, |n| n + 1);
        for (subnet, number) in self.settings.pool.free(&used).zip(first..first.saturating_add(TRIES)) {
            let network = Network {
                name: names.network(number),
                bridge: names.bridge(number),
                subnet: subnet.to_string(),
                gateway: subnet.gateway().to_string(),
            };
            match self.engine.create_network(&network).await {
                Ok(()) => {
                    self.store.add_network(&network, &subnet.addresses()).await?;
                    tracing::info!(network = network.name, subnet = network.subnet, "network added");
                    return Ok(());
                }
                Err(Error::Engine { status: Some(403 | 409), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoSubnet(self.settings.pool.to_string()))
    }

    async fn has_network(&self, network: &Network) -> Result<bool, Error> {
        Ok(self.engine.networks().await?.iter().any(|seen| seen.name == network.name))
    }
}
