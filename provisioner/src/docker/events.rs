//! Docker's events, filtered to changes of the installation's resources.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{Stream, StreamExt};
use store::{Timestamp, now};

use super::{Docker, map_error};
use crate::error::Error;
use crate::names::{LABEL_INSTANCE, Names};

/// A change of one of the installation's resources, by the provisioner or anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerEvent {
    /// A container of an instance changed.
    Container { instance: String, container: String, change: Change },
    /// A container was disconnected from one of the installation's networks.
    Disconnected { container: String },
    /// A network, a volume, or a foreign container with a name of the installation's was removed.
    Removed,
}

/// A change of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Someone asked Docker to stop or kill it.
    Signalled,
    /// The kernel ended a process of it for lack of memory.
    OutOfMemory,
    Died {
        exit_code: i64,
        at: Timestamp,
    },
    /// It was paused or removed, or its limits were changed.
    Other,
}

impl Docker {
    /// Streams events, starting a moment ago so that none is missed between a read and the first event. Ends
    /// when Docker stops.
    pub(crate) fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<DockerEvent, Error>> + Send + use<>, Error> {
        // Labels are checked here, not by Docker: events of networks and volumes have none, only names.
        let kinds = ["container", "network", "volume"];
        let events = ["die", "kill", "oom", "pause", "destroy", "update", "disconnect"];
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
            let change = match event.action.as_deref()? {
                "kill" => Change::Signalled,
                "oom" => Change::OutOfMemory,
                "die" => {
                    let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok());
                    let at = event.time_nano.map_or_else(now, |at| Timestamp::from_millis(at / 1_000_000));
                    Change::Died { exit_code: exit_code.unwrap_or_default(), at }
                }
                _ => Change::Other,
            };
            Some(DockerEvent::Container { instance, container: actor.id?, change })
        }
        // It comes and goes with the work on its instance.
        Kind::CONTAINER if names.owns_holder(attributes.get("name")?, &attributes) => None,
        // It had a name that an instance's container may need.
        Kind::CONTAINER if is_own(attributes.get("name")?) => {
            (event.action.as_deref() == Some("destroy")).then_some(DockerEvent::Removed)
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
