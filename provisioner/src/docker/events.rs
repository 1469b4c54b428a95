//! Docker's events, filtered to changes of the installation's resources.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{Stream, StreamExt};
use store::now;

use super::{Docker, map_error};
use crate::error::Error;
use crate::names::{LABEL_INSTANCE, Names};

/// A change of one of the installation's resources, by the provisioner or anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerEvent {
    /// A container died, was paused or removed.
    Container { instance: String, container: String },
    /// A container was disconnected from one of the installation's networks.
    Disconnected { container: String },
    /// A network or a volume was removed.
    Removed,
}

impl Docker {
    /// Streams events, starting a moment ago so that none is missed between a read and the first event. Ends
    /// when Docker stops.
    pub(crate) fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<DockerEvent, Error>> + Send + use<>, Error> {
        // Labels are checked here, not by Docker: events of networks and volumes have none, only names.
        let kinds = ["container", "network", "volume"];
        let events = ["die", "pause", "destroy", "disconnect"];
        let filters = HashMap::from([("type", kinds.to_vec()), ("event", events.to_vec())]);
        let since = (now().as_millis() / 1000).to_string();
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        let names = self.names.clone();
        let stream = self.client()?.clone();
        let stream = stream.events(Some(options));
        Ok(stream.filter_map(move |event| {
            let parsed = match event {
                Ok(event) => parse(&names, event).map(Ok),
                Err(error) => Some(Err(map_error("send events", error))),
            };
            std::future::ready(parsed)
        }))
    }
}

fn parse(names: &Names, event: EventMessage) -> Option<DockerEvent> {
    let actor = event.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let is_own = |name: &str| name.starts_with(&names.prefix());
    match event.typ? {
        Kind::CONTAINER if names.owns_instance(attributes.get("name")?, &attributes) => {
            let instance = attributes.get(LABEL_INSTANCE)?.clone();
            Some(DockerEvent::Container { instance, container: actor.id? })
        }
        Kind::NETWORK if attributes.get("name").is_some_and(|name| is_own(name)) => {
            match attributes.get("container") {
                Some(container) => Some(DockerEvent::Disconnected { container: container.clone() }),
                None => Some(DockerEvent::Removed),
            }
        }
        Kind::VOLUME if is_own(&actor.id?) => Some(DockerEvent::Removed),
        _ => None,
    }
}
