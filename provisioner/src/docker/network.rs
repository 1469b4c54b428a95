//! Networks: internal bridges on which containers can't reach each other.

use std::collections::{HashMap, HashSet};

use bollard::models::{
    EndpointIpamConfig, EndpointResource, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions, ListNetworksOptionsBuilder};
use store::Network;

use super::{Docker, created_at, ignore_not_found};
use crate::error::Error;
use crate::plan::Resource;
use crate::subnet::Subnet;

/// The bridge driver's options.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";

impl Docker {
    /// Lists the installation's networks.
    pub(crate) async fn networks(&self) -> Result<Vec<Resource>, Error> {
        let options = ListNetworksOptionsBuilder::new().filters(&self.label_filter()).build();
        let list = self.read("list networks", self.client()?.list_networks(Some(options))).await?;
        Ok(list
            .into_iter()
            .filter_map(|network| {
                let (name, labels) = (network.name?, network.labels?);
                let owned = self.names.owns_network(&name, &labels);
                owned.then(|| Resource { created_at: created_at(&labels), name, instance: None })
            })
            .collect())
    }

    /// The names of the containers on a network that aren't the installation's.
    pub(crate) async fn foreign_on(&self, network: &str) -> Result<Vec<String>, Error> {
        let endpoints = self.endpoints(network).await?;
        let own: HashSet<String> =
            self.containers().await?.into_iter().map(|container| container.id).collect();
        let foreign = endpoints.into_iter().filter(|(id, _)| !own.contains(id));
        Ok(foreign.map(|(id, endpoint)| endpoint.name.unwrap_or(id)).collect())
    }

    /// The containers on a network, by id.
    async fn endpoints(&self, network: &str) -> Result<HashMap<String, EndpointResource>, Error> {
        let request = self.client()?.inspect_network(network, None::<InspectNetworkOptions>);
        Ok(self.read("inspect a network", request).await?.containers.unwrap_or_default())
    }

    /// The container that has an address on a network, if it isn't one of the installation's.
    pub(crate) async fn foreign_holder(&self, network: &str, address: &str) -> Result<Option<String>, Error> {
        let endpoints = self.endpoints(network).await?;
        let has_address = |ip: &str| ip.split('/').next() == Some(address);
        let holder = endpoints.into_iter().find_map(|(id, endpoint)| {
            endpoint.ipv4_address.as_deref().is_some_and(has_address).then_some((id, endpoint.name))
        });
        let Some((id, name)) = holder else { return Ok(None) };
        let owned = self.containers().await?.iter().any(|container| container.id == id);
        Ok((!owned).then(|| name.unwrap_or(id)))
    }

    /// The subnets and bridge names of all networks in Docker, including other installations'.
    pub(crate) async fn subnets_and_bridges(&self) -> Result<(Vec<Subnet>, Vec<String>), Error> {
        let request = self.client()?.list_networks(None::<ListNetworksOptions>);
        let list = self.read("list networks", request).await?;
        let bridges = list.iter().filter_map(|n| n.options.as_ref()?.get(BRIDGE_NAME).cloned()).collect();
        let configs = list.into_iter().filter_map(|n| n.ipam?.config).flatten();
        Ok((configs.filter_map(|c| c.subnet?.parse().ok()).collect(), bridges))
    }

    /// Disconnects a container from a network and connects it again, with the same address. Its processes go on.
    pub(crate) async fn reattach(&self, container: &str, network: &str, address: &str) -> Result<(), Error> {
        match self.disconnect(container, network).await {
            // It may be disconnected already.
            Ok(()) | Err(Error::Docker { .. }) => self.connect(container, network, address).await,
            failed => failed,
        }
    }

    pub(crate) async fn disconnect(&self, container: &str, network: &str) -> Result<(), Error> {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        let request = self.client()?.disconnect_network(network, request);
        self.change("disconnect a container", request).await
    }

    pub(crate) async fn connect(&self, container: &str, network: &str, address: &str) -> Result<(), Error> {
        let endpoint_config = Some(endpoint(address));
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config };
        self.change("connect a container", self.client()?.connect_network(network, request)).await
    }

    /// Creates a network. Fails with status 403 or 409 if its subnet, bridge or name is in use.
    pub(crate) async fn create_network(&self, network: &Network) -> Result<(), Error> {
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: Some("bridge".into()),
            internal: Some(true),
            attachable: Some(false),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(network.subnet.clone()),
                    gateway: Some(network.gateway.clone()),
                    // Docker's own choices stay away from the addresses that instances get.
                    ip_range: network.subnet.parse().ok().map(|subnet: Subnet| subnet.unleased().to_string()),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            options: Some(HashMap::from([
                (BRIDGE_NAME.into(), network.bridge.clone()),
                (ICC.into(), "false".into()),
            ])),
            labels: Some(self.labels()),
            ..Default::default()
        };
        self.change("create a network", self.client()?.create_network(request)).await.map(drop)
    }

    /// Removes a network. Returns whether it existed.
    pub(crate) async fn remove_network(&self, name: &str) -> Result<bool, Error> {
        ignore_not_found(self.change("remove a network", self.client()?.remove_network(name)).await)
    }
}

/// A container's end of a network, with an address of our choice.
pub(super) fn endpoint(address: &str) -> EndpointSettings {
    EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(address.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}
