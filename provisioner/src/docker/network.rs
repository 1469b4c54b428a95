//! Networks: internal bridges on which containers can't reach each other.

use std::collections::HashMap;

use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions, ListNetworksOptionsBuilder};
use store::Network;

use super::{Docker, created_at, ignore_not_found, map_error};
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
        let list = self.client()?.list_networks(Some(options)).await;
        Ok(list
            .map_err(|e| map_error("list networks", e))?
            .into_iter()
            .filter_map(|network| {
                let (name, labels) = (network.name?, network.labels?);
                let owned = self.names.owns_network(&name, &labels);
                owned.then(|| Resource { created_at: created_at(&labels), name, instance: None })
            })
            .collect())
    }

    /// The container that has an address on a network, if it isn't one of the installation's.
    pub(crate) async fn foreign_holder(&self, network: &str, address: &str) -> Result<Option<String>, Error> {
        let inspected = self.client()?.inspect_network(network, None::<InspectNetworkOptions>).await;
        let inspected = inspected.map_err(|e| map_error("inspect a network", e))?;
        let has_address = |ip: &str| ip.split('/').next() == Some(address);
        let holder = inspected.containers.unwrap_or_default().into_iter().find_map(|(id, endpoint)| {
            endpoint.ipv4_address.as_deref().is_some_and(has_address).then_some((id, endpoint.name))
        });
        let Some((id, name)) = holder else { return Ok(None) };
        let owned = self.containers().await?.iter().any(|container| container.id == id);
        Ok((!owned).then(|| name.unwrap_or(id)))
    }

    /// The subnets and bridge names of all networks in Docker, including other installations'.
    pub(crate) async fn subnets_and_bridges(&self) -> Result<(Vec<Subnet>, Vec<String>), Error> {
        let list = self.client()?.list_networks(None::<ListNetworksOptions>).await;
        let list = list.map_err(|e| map_error("list networks", e))?;
        let bridges = list.iter().filter_map(|n| n.options.as_ref()?.get(BRIDGE_NAME).cloned()).collect();
        let configs = list.into_iter().filter_map(|n| n.ipam?.config).flatten();
        Ok((configs.filter_map(|c| c.subnet?.parse().ok()).collect(), bridges))
    }

    /// Disconnects a container from a network and connects it again, with the same address. Its processes go on.
    pub(crate) async fn reattach(&self, container: &str, network: &str, address: &str) -> Result<(), Error> {
        let (client, container) = (self.client()?, container.to_owned());
        let request = NetworkDisconnectRequest { container: container.clone(), force: Some(true) };
        let disconnected = client.disconnect_network(network, request).await;
        disconnected.map_err(|e| map_error("disconnect a container", e))?;
        let request = NetworkConnectRequest { container, endpoint_config: Some(endpoint(address)) };
        let connected = client.connect_network(network, request).await;
        connected.map_err(|e| map_error("connect a container", e))
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
        let created = self.client()?.create_network(request).await;
        created.map(drop).map_err(|e| map_error("create a network", e))
    }

    /// Removes a network. Returns whether it existed.
    pub(crate) async fn remove_network(&self, name: &str) -> Result<bool, Error> {
        ignore_not_found("remove a network", self.client()?.remove_network(name).await)
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
