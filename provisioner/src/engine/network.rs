//! Networks: internal bridges, on which no container reaches another.

use std::collections::HashMap;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::{ListNetworksOptions, ListNetworksOptionsBuilder};
use store::Network;

use super::{Engine, created_at, gone, refused};
use crate::Error;
use crate::plan::Thing;
use crate::subnet::Subnet;

/// The bridge driver's options.
const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";

impl Engine {
    /// All networks of ours.
    pub(crate) async fn networks(&self) -> Result<Vec<Thing>, Error> {
        let options = ListNetworksOptionsBuilder::new().filters(&self.ours()).build();
        let list = self.docker()?.list_networks(Some(options)).await;
        Ok(list
            .map_err(|e| refused("list networks", e))?
            .into_iter()
            .map(|network| Thing {
                name: network.name.unwrap_or_default(),
                instance: None,
                created_at: created_at(&network.labels.unwrap_or_default()),
            })
            .collect())
    }

    /// The subnets of all networks in this engine, whoever made them, and the names of their bridges.
    pub(crate) async fn networks_in_use(&self) -> Result<(Vec<Subnet>, Vec<String>), Error> {
        let list = self.docker()?.list_networks(None::<ListNetworksOptions>).await;
        let list = list.map_err(|e| refused("list networks", e))?;
        let bridges = list.iter().filter_map(|n| n.options.as_ref()?.get(BRIDGE_NAME).cloned()).collect();
        let configs = list.into_iter().filter_map(|n| n.ipam?.config).flatten();
        Ok((configs.filter_map(|c| c.subnet?.parse().ok()).collect(), bridges))
    }

    /// Makes a network. 403 if its subnet or its bridge is taken.
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
        let made = self.docker()?.create_network(request).await;
        made.map(drop).map_err(|e| refused("create a network", e))
    }

    /// Whether it was there.
    pub(crate) async fn remove_network(&self, name: &str) -> Result<bool, Error> {
        gone("remove a network", self.docker()?.remove_network(name).await)
    }
}
