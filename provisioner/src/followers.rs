//! The tasks beside the reconciler: what follows store, Docker, firewall and networks for it, and what samples, checks
//! and upgrades instances.

use std::sync::Arc;

use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;

use crate::events::{self, Event};
use crate::execute::Executor;
use crate::{isolation_check, sampler, upgrade};

/// Starts them. They end when the set is dropped.
pub(crate) fn start(executor: &Arc<Executor>, events: &Sender<Event>) -> JoinSet<()> {
    let mut followers = JoinSet::new();
    followers.spawn(events::follow_store(executor.store.clone(), events.clone()));
    let (it, sender) = (Arc::clone(executor), events.clone());
    followers.spawn(async move {
        events::follow_docker(&it.docker, sender, || it.observations.restrictions.reset()).await;
    });
    let (it, sender) = (Arc::clone(executor), events.clone());
    followers.spawn(async move { events::keep_firewall(&it.firewall, sender).await });
    let (it, sender) = (Arc::clone(executor), events.clone());
    followers.spawn(async move { events::watch_networks(&it.networks, sender).await });
    let it = Arc::clone(executor);
    followers.spawn(async move { sampler::run(&it).await });
    let (it, sender) = (Arc::clone(executor), events.clone());
    followers.spawn(async move { isolation_check::run(&it, it.isolation_interval, sender).await });
    let it = Arc::clone(executor);
    followers.spawn(async move { upgrade::run(&it).await });
    let it = Arc::clone(executor);
    followers.spawn(async move { it.keep_pool().await });
    followers
}
