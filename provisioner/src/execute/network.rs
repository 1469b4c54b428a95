//! Containers that lost their network get it back, with their addresses, so that no contents are lost: one that someone
//! disconnected, and all of a network whose bridge was removed or changed on this host, which is made again.

use futures_util::StreamExt;
use futures_util::stream;
use store::{EventAction, EventCause, Network};

use super::Executor;
use crate::docker::shown;
use crate::error::Error;
use crate::plan::{Container, ContainerState, Repair};
use crate::subnet::Subnet;

/// Containers that are disconnected or connected at a time.
const ATTACHMENTS_MAX: usize = 8;

impl Executor {
    /// Connects a running container to its network again, which keeps its contents. Makes the network again if someone has
    /// removed it.
    pub(super) async fn attach(&self, container: &Container) -> Result<(), Error> {
        let Container { id, address, .. } = container;
        let network = self.networks.find(address).ok_or(Error::InvalidInstance("it has no network"))?;
        // It may have another address there.
        let mut connected = self.docker.reattach(id, &network.name, address).await;
        if connected.as_ref().is_err_and(Error::is_not_found) {
            self.restore_dependencies().await?;
            connected = self.docker.connect(id, &network.name, address).await;
        }
        // That is repaired for all at once; afterwards this is tried again.
        match connected {
            Err(error) if !error.is_address_in_use() && self.networks.is_broken(&network) => {
                Err(Error::NetworkBroken { network: network.name, bridge: network.bridge })
            }
            connected => connected,
        }
    }

    /// Disconnects a container from all networks but its own, which keeps its contents.
    pub(super) async fn detach(&self, container: &Container) -> Result<(), Error> {
        for network in container.isolation.iter().flat_map(|isolation| &isolation.other_networks) {
            tracing::warn!(
                instance = container.instance,
                network = shown(network),
                "the container was connected to another network: disconnecting it"
            );
            self.docker.disconnect(&container.id, network).await?;
        }
        Ok(())
    }

    /// Makes a network again. Fails without changing anything if a foreign container is on it, which must be left alone.
    pub(crate) async fn remake_network(&self, network: &Network) -> Result<(), Error> {
        let _work_waits = self.concurrency.networks.write().await;
        let exists = self.docker.networks().await?.iter().any(|existing| existing.name == network.name);
        // It was repaired meanwhile, or is missing as a whole: the resync makes it again.
        if !exists || !self.networks.is_broken(network) {
            return Ok(());
        }
        if let Some(container) = self.docker.foreign_on(&network.name).await?.into_iter().next() {
            return Err(Error::ForeignOnNetwork { network: network.name.clone(), container });
        }
        let subnet: Option<Subnet> = network.subnet.parse().ok();
        let on_it = |c: &Container| subnet.is_some_and(|subnet| subnet.contains(&c.address)) && c.attached;
        let mut containers = self.docker.containers().await?;
        containers
            .retain(|c| matches!(c.state, ContainerState::Running | ContainerState::Paused) && on_it(c));
        let disconnections = containers.iter().cloned().map(|container| async move {
            let disconnected = self.docker.disconnect(&container.id, &network.name).await;
            warn_of(&container, disconnected);
        });
        stream::iter(disconnections).buffer_unordered(ATTACHMENTS_MAX).collect::<Vec<()>>().await;
        let made = self.networks.make_again(network).await;
        let (count, is_made) = (containers.len(), made.is_ok());
        // Also after a failure: where the old network exists still, its containers belong on it until the next attempt.
        let connections = containers.into_iter().map(|container| async move {
            let connected = self.docker.connect(&container.id, &network.name, &container.address).await;
            if is_made && connected.is_ok() {
                let (cause, action) = (EventCause::NetworkBroken, EventAction::Reattached);
                let repair = Repair { cause, action, contents_lost: false };
                self.history.record(&container.instance, repair, String::new());
            }
            warn_of(&container, connected);
        });
        stream::iter(connections).buffer_unordered(ATTACHMENTS_MAX).collect::<Vec<()>>().await;
        made?;
        tracing::warn!(network = network.name, containers = count, "the network was made again");
        Ok(())
    }
}

/// What fails for one container is left to the work on its instance, which connects it again.
fn warn_of(container: &Container, attached: Result<(), Error>) {
    if let Err(error) = attached {
        tracing::warn!(instance = container.instance, %error, "can't attach it to the network that was made again");
    }
}
