//! Docker's events, as far as they tell that something of ours was touched.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as Kind};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{Stream, StreamExt};
use store::now;

use super::{Engine, refused};
use crate::Error;
use crate::names::{LABEL, LABEL_INSTANCE, Names};

/// Something of ours was touched, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A container died, was paused or removed.
    Container { instance: String, container: String },
    /// A container was cut off a network of ours.
    CutOff { container: String },
    /// A network or a volume is gone.
    Gone,
}

impl Engine {
    /// Events from a moment ago on, so that nothing falls between a look and the first event. Ends with Docker.
    pub(crate) fn events(&self) -> Result<impl Stream<Item = Result<Event, Error>> + Send + use<>, Error> {
        // By name and label we choose ourselves: networks and volumes tell no labels in their events.
        let kinds = ["container", "network", "volume"];
        let events = ["die", "pause", "destroy", "disconnect"];
        let filters = HashMap::from([("type", kinds.to_vec()), ("event", events.to_vec())]);
        let since = (now() / 1000).to_string();
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        let names = self.names.clone();
        let stream = self.docker()?.clone();
        let stream = stream.events(Some(options));
        Ok(stream.filter_map(move |event| {
            let told = match event {
                Ok(event) => told(&names, event).map(Ok),
                Err(error) => Some(Err(refused("tell its events", error))),
            };
            std::future::ready(told)
        }))
    }
}

fn told(names: &Names, event: EventMessage) -> Option<Event> {
    let actor = event.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let ours = |name: &str| name.starts_with(&names.prefix());
    match event.typ? {
        Kind::CONTAINER if attributes.get(LABEL).is_some_and(|id| id == names.id()) => {
            let instance = attributes.get(LABEL_INSTANCE)?.clone();
            Some(Event::Container { instance, container: actor.id? })
        }
        Kind::NETWORK if attributes.get("name").is_some_and(|name| ours(name)) => {
            match attributes.get("container") {
                Some(container) => Some(Event::CutOff { container: container.clone() }),
                None => Some(Event::Gone),
            }
        }
        Kind::VOLUME if ours(&actor.id?) => Some(Event::Gone),
        _ => None,
    }
}
