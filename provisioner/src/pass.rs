//! The full pass: one look at everything, repair of what all instances share, removal of what is nobody's,
//! and the list of instances that want work.

use std::collections::{HashMap, HashSet};

use futures_util::StreamExt;
use futures_util::stream;
use store::{Instance, now};
use tokio::time::Instant;

use crate::plan::{Action, Container, Orphan, Seen, only_probes, orphans, plan};
use crate::worker::Worker;
use crate::{Error, firewall};

/// Health checks at a time.
const PROBES: usize = 32;

/// What a pass has found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Ids of instances that want work.
    pub(crate) work: Vec<String>,
    /// Whose each container is, by its id.
    pub(crate) homes: HashMap<String, String>,
    /// Of each part, what is wrong with it.
    pub(crate) parts: Vec<(&'static str, Option<Error>)>,
}

impl Worker {
    /// Fails only if the store or Docker can't be read; nothing is removed then.
    pub(crate) async fn pass(&self) -> Result<Outcome, Error> {
        let started = Instant::now();
        // What is seen in Docker after this look at the store may be newer than it: orphans wait for that.
        let instances = self.store.instances().await?;
        let known: HashSet<String> = self.store.instance_ids().await?.into_iter().collect();
        self.metrics.count_instances(&instances);
        let (containers, volumes, networks) =
            tokio::try_join!(self.engine.containers(), self.engine.volumes(), self.engine.networks())?;
        let seen = Seen { containers, volumes, networks };
        let mut outcome = Outcome { parts: self.ensure_shared(&seen).await, ..Default::default() };
        self.remove_orphans(&known, &seen).await?;
        for container in &seen.containers {
            outcome.homes.insert(container.id.clone(), container.instance.clone());
        }
        outcome.work = self.find_work(&instances, &seen).await;
        self.metrics.pass.observe(started.elapsed().as_secs_f64());
        Ok(outcome)
    }

    /// Firewall first: no container is started on a bridge that it doesn't cover, if that can be helped.
    async fn ensure_shared(&self, seen: &Seen) -> Vec<(&'static str, Option<Error>)> {
        let firewall = firewall::ensure(&self.names).await.inspect(|placed| {
            if *placed {
                tracing::info!(table = self.names.table(), "firewall rules put in place");
            }
        });
        let networks = self.ensure_networks(&seen.networks).await;
        let bridges = if networks.is_ok() { firewall::filters_bridges().err() } else { None };
        let image = self.refresh_image().await;
        vec![
            ("firewall", firewall.err()),
            ("network", networks.err()),
            ("bridge", bridges),
            ("image", image.err()),
        ]
    }

    async fn remove_orphans(&self, known: &HashSet<String>, seen: &Seen) -> Result<(), Error> {
        let networks = self.store.networks().await?.into_iter().map(|network| network.name).collect();
        for orphan in orphans(known, &networks, seen, now()) {
            tracing::info!(?orphan, "removing what is nobody's");
            let removed = match &orphan {
                Orphan::Container { id, instance } => self.remove_lost(id, instance).await,
                Orphan::Volume(name) => self.engine.remove_volume(name).await.map(drop),
                Orphan::Network(name) => self.engine.remove_network(name).await.map(drop),
            };
            if let Err(error) = removed {
                tracing::warn!(?orphan, %error, "can't be removed: trying again at the next pass");
            }
        }
        Ok(())
    }

    async fn remove_lost(&self, container: &str, instance: &str) -> Result<(), Error> {
        self.engine.remove_container(container).await?;
        self.engine.remove_volume_of(instance).await?;
        Ok(self.store.release_address(instance).await?)
    }

    /// Those whose plan is more than a question, and those that don't answer it as recorded.
    async fn find_work(&self, instances: &[Instance], seen: &Seen) -> Vec<String> {
        let mut containers: HashMap<&str, Vec<Container>> = HashMap::new();
        for container in &seen.containers {
            containers.entry(&container.instance).or_default().push(container.clone());
        }
        let mut work = Vec::new();
        let mut questions = Vec::new();
        for instance in instances {
            let own = containers.remove(instance.id.as_str()).unwrap_or_default();
            let actions = plan(instance, &own, 0);
            if !only_probes(&actions) {
                work.push(instance.id.clone());
            } else if let Some(Action::Probe(container)) = actions.into_iter().next() {
                questions.push((instance.clone(), container));
            }
        }
        let mut answers =
            stream::iter(questions)
                .map(|(instance, container)| async move {
                    (self.is_well(&instance, &container).await, instance.id)
                })
                .buffer_unordered(PROBES);
        while let Some((well, id)) = answers.next().await {
            if !well {
                work.push(id);
            }
        }
        work
    }
}
