//! The plan: from what is wanted and what is seen to what is to be done. Pure: no I/O, no clock.

use std::collections::HashSet;

use store::{DesiredState, Instance, InstanceState, Millis};

use crate::spec::Spec;

/// What nobody knows stays this long: its row may be on its way.
pub(crate) const ORPHAN_AGE: Millis = 60_000;
/// A probe may fail once (a busy host) before the container is replaced.
const STRIKES_TO_REPLACE: u32 = 2;

/// A container of ours as Docker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) instance: String,
    pub(crate) generation: i64,
    /// The address that it was made for.
    pub(crate) address: String,
    /// What it was made to, see [`Spec::label`].
    pub(crate) spec: String,
    pub(crate) activity: Activity,
    /// Whether it really has its address, while it runs.
    pub(crate) attached: bool,
    pub(crate) created_at: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Never started: its secret may be missing.
    Created,
    Running,
    Paused,
    /// Docker is about to start it again by itself.
    Restarting,
    Stopped,
}

/// A volume or network of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    pub(crate) name: String,
    /// For a volume, whose it is.
    pub(crate) instance: Option<String>,
    pub(crate) created_at: Millis,
}

/// Everything of ours, from one complete look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Vec<Thing>,
    pub(crate) networks: Vec<Thing>,
}

/// One step for one instance; steps are taken in order and the first failure ends them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Tells the proxies before it is touched.
    Mark(InstanceState, Option<&'static str>),
    /// Asks memcached for its version; then the route is running, with this container.
    Probe(Container),
    Start(Container),
    Unpause(Container),
    /// Removes a container of this instance.
    Remove(String),
    /// Makes and starts a container, and probes it.
    Create {
        generation: i64,
    },
    /// Removes the volume, gives the address back, and records that nothing is left.
    Retire(InstanceState),
}

/// Something of ours that belongs to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Orphan {
    Container { id: String, instance: String },
    Volume(String),
    Network(String),
}

/// What to do about one instance. `seen` are its containers, `strikes` how often in a row this has failed.
pub(crate) fn plan(wanted: &Instance, seen: &[Container], strikes: u32) -> Vec<Action> {
    match wanted.wanted {
        DesiredState::Running => run(wanted, seen, strikes),
        DesiredState::Suspended => retire(wanted, seen, InstanceState::Suspended),
        DesiredState::Deleting => retire(wanted, seen, InstanceState::Deleting),
    }
}

/// Whether a plan only asks, so that it may go ahead beside any number of others.
pub(crate) fn only_probes(actions: &[Action]) -> bool {
    actions.iter().all(|action| matches!(action, Action::Probe(_)))
}

fn run(wanted: &Instance, seen: &[Container], strikes: u32) -> Vec<Action> {
    let spec = match Spec::of(wanted) {
        Ok(spec) => spec,
        Err(why) => return mark(wanted, InstanceState::Failed, Some(why)),
    };
    let recorded = wanted.route.as_ref().map_or(0, |route| route.generation);
    let current = seen
        .iter()
        .filter(|c| c.generation >= recorded && c.spec == spec.label() && at_its_address(wanted, c))
        .max_by_key(|c| c.generation);
    let kept = current.and_then(|c| Some((c, keep(wanted, c, strikes)?)));
    let kept_id = kept.as_ref().map(|(c, _)| c.id.clone());
    let others = seen.iter().filter(|c| Some(&c.id) != kept_id.as_ref());
    let removals = others.map(|c| Action::Remove(c.id.clone()));
    match kept {
        Some((_, steps)) => removals.chain(steps).collect(),
        None => {
            let newest = seen.iter().map(|c| c.generation).max().unwrap_or(0).max(recorded);
            let create = Action::Create { generation: newest.saturating_add(1) };
            let first = mark(wanted, on_its_way(wanted), None);
            first.into_iter().chain(removals).chain([create]).collect()
        }
    }
}

/// The steps that bring this container to answer; `None` if only a new one will do.
fn keep(wanted: &Instance, c: &Container, strikes: u32) -> Option<Vec<Action>> {
    let mut steps =
        if c.activity == Activity::Running { vec![] } else { mark(wanted, on_its_way(wanted), None) };
    match c.activity {
        Activity::Created => return None,
        Activity::Running if !c.attached => return None,
        // Started, it may take a moment; but what didn't help once is not tried again.
        Activity::Running | Activity::Restarting if strikes >= STRIKES_TO_REPLACE => return None,
        Activity::Stopped | Activity::Paused if strikes > 0 => return None,
        Activity::Running | Activity::Restarting => {}
        Activity::Stopped => steps.push(Action::Start(c.clone())),
        Activity::Paused => steps.push(Action::Unpause(c.clone())),
    }
    steps.push(Action::Probe(c.clone()));
    Some(steps)
}

/// The address in the store is the truth; a container made before a crash may be there without a record.
fn at_its_address(wanted: &Instance, c: &Container) -> bool {
    wanted.route.as_ref().and_then(|route| route.address.as_ref()).is_none_or(|address| *address == c.address)
}

fn retire(wanted: &Instance, seen: &[Container], state: InstanceState) -> Vec<Action> {
    let nothing_left = wanted
        .route
        .as_ref()
        .is_some_and(|r| r.state == state && r.address.is_none() && r.container.is_none());
    if nothing_left && seen.is_empty() {
        return vec![];
    }
    let mut actions = mark(wanted, state, None);
    actions.extend(seen.iter().map(|c| Action::Remove(c.id.clone())));
    actions.push(Action::Retire(state));
    actions
}

/// Coming for the first time (or back from a rest) is pending; coming back by our doing is restarting.
fn on_its_way(wanted: &Instance) -> InstanceState {
    use InstanceState::{Failed, Pending, Restarting, Running};
    match wanted.route.as_ref() {
        Some(route) if matches!(route.state, Running | Restarting) => Restarting,
        // Said once it has failed several times; it stays until it works.
        Some(route) if route.state == Failed => Failed,
        _ => Pending,
    }
}

/// One mark, if it changes anything. No route reads as pending: that needs no record.
fn mark(wanted: &Instance, state: InstanceState, message: Option<&'static str>) -> Vec<Action> {
    let says = match &wanted.route {
        None => state == InstanceState::Pending && message.is_none(),
        // Without a message the one that stands is as good.
        Some(route) => route.state == state && (message.is_none() || route.message.as_deref() == message),
    };
    if says { vec![] } else { vec![Action::Mark(state, message)] }
}

/// What is ours in Docker and nobody's in the store. `known` are the ids of all instances, `networks` the
/// names of all networks in the store; each from a look that succeeded.
pub(crate) fn orphans(
    known: &HashSet<String>,
    networks: &HashSet<String>,
    seen: &Seen,
    now: Millis,
) -> Vec<Orphan> {
    // A store without a single instance beside containers of ours is more likely the wrong store.
    if known.is_empty() {
        return vec![];
    }
    let old = |created_at: Millis| now.saturating_sub(created_at) > ORPHAN_AGE;
    let lost = |instance: &str| !known.contains(instance);
    let containers = seen.containers.iter().filter(|c| old(c.created_at) && lost(&c.instance));
    let volumes = seen.volumes.iter().filter(|v| {
        old(v.created_at) && v.instance.as_deref().is_none_or(lost) && !in_use(seen, v.instance.as_deref())
    });
    let networks = seen.networks.iter().filter(|n| old(n.created_at) && !networks.contains(&n.name));
    containers
        .map(|c| Orphan::Container { id: c.id.clone(), instance: c.instance.clone() })
        .chain(volumes.map(|v| Orphan::Volume(v.name.clone())))
        .chain(networks.map(|n| Orphan::Network(n.name.clone())))
        .collect()
}

/// A volume goes with its container, or in the next pass.
fn in_use(seen: &Seen, instance: Option<&str>) -> bool {
    seen.containers.iter().any(|c| Some(c.instance.as_str()) == instance)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
