//! The plan: from the desired and the observed state to actions. Pure: no I/O, no clock.

mod diagnosis;
mod operations;
mod resource;
mod sleep;

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use store::{DesiredState, Instance, InstanceState, Operation, OperationKind, Timestamp};

use crate::isolation::Isolation;
use crate::limits::Limits;
use crate::spec::Spec;

pub(crate) use diagnosis::{Repair, diagnose, restarted};
use operations::Requests;
pub(crate) use resource::{Ended, Resource};
use sleep::keep;

/// Resources without a row are kept this long: the row may not be visible yet.
pub(crate) const ORPHAN_AGE_MIN: Duration = Duration::from_secs(60);
/// Failed attempts before a container that Docker keeps restarting is replaced.
const FAILURES_TO_REPLACE: u32 = 2;

/// One of the installation's containers, as observed in Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) instance: String,
    pub(crate) generation: i64,
    /// The address that it was created with.
    pub(crate) address: String,
    /// The limits that it was created with, see [`Spec::label`].
    pub(crate) spec: String,
    pub(crate) state: ContainerState,
    /// Whether it runs and has its address.
    pub(crate) attached: bool,
    /// When it was last started, in Docker's words, if it was inspected.
    pub(crate) started_at: Option<String>,
    /// How it ended, if it was inspected and doesn't run.
    pub(crate) ended: Option<Ended>,
    /// Its limits, if it was inspected.
    pub(crate) limits: Option<Limits>,
    /// How it is shut off from everything else, if it was inspected.
    pub(crate) isolation: Option<Isolation>,
    /// The id of the image that it was created from.
    pub(crate) image: String,
    /// Whether that is another image than new containers get.
    pub(crate) outdated: bool,
    /// Whether health checks have proved that its memcached hangs.
    pub(crate) hung: bool,
    /// Whether it has other limits than it should have, and they can be restored.
    pub(crate) limits_differ: bool,
    /// Whether it lacks restrictions that other containers have, or publishes ports.
    pub(crate) unrestricted: bool,
    /// Whether its memcached has had no command for as long as its plan says.
    pub(crate) idle: bool,
    /// Whether it runs no memcached for clients, but keeps a warm cache's memory while that is stopped.
    pub(crate) is_holder: bool,
    /// Whether it was made before its instance.
    pub(crate) made_ahead: bool,
    pub(crate) created_at: Timestamp,
}

impl Container {
    /// Whether nothing says that its memcached ended without saving what a warm cache needs.
    pub(crate) fn ended_cleanly(&self) -> bool {
        self.ended.is_none_or(|ended| ended.exit_code == 0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// Never started: its secret may be missing.
    Created,
    Running,
    Paused,
    /// Docker is going to start it.
    Restarting,
    Stopped,
    /// Someone is removing it.
    Removing,
}

/// Everything of the installation in Docker, read at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: Vec<Resource>,
    pub(crate) networks: Vec<Resource>,
}

/// One step for one instance. Steps are executed in order, up to the first failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Records a state, with a message for the owner, so that proxies know it before the container changes.
    SetState(InstanceState, Option<&'static str>),
    /// Checks that memcached answers, and records the container as the running one.
    Probe(Container),
    Start(Container),
    Unpause(Container),
    /// Connects a running container to its network again, with its address.
    Attach(Container),
    /// Disconnects a container from all networks but its own.
    Detach(Container),
    /// Gives a container the limits back that it should have.
    RestoreLimits(Container),
    /// Records that an operation has begun, and what it goes on from after a crash.
    Begin(Operation, String),
    /// Keeps a warm cache's memory from now on, and waits for a good moment to stop its memcached.
    Keep(Container),
    /// Stops and starts a container.
    Restart(Container),
    /// Stops a container once proxies hold requests. A warm cache's memcached saves its contents then.
    Stop(Container),
    /// Stops a container, unless it has had a command since it was found idle.
    Sleep(Container),
    /// Removes all items.
    Flush(Container),
    /// Gives memcached and its container the memory that the instance is to have, if it hasn't.
    Resize(Container),
    /// Records that an operation is done.
    Finish(Operation),
    /// Records that an operation can't be done any more, and why.
    Abandon(Operation, &'static str),
    /// Removes a container, by id.
    Remove(String),
    /// Creates, starts and probes a container.
    Create {
        generation: i64,
    },
    /// Removes the volume, releases the address, and records that nothing is left.
    TearDown(InstanceState),
}

/// More containers without a row than the store has instances, and more than this, mean that it is the wrong store.
const ORPHANS_MIN: usize = 2;

/// The store and the containers have too little in common for one of them to decide about the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrongStore {
    /// Containers without a row.
    pub(crate) unknown: usize,
    /// Instances of the store.
    pub(crate) known: usize,
}

/// A resource of the installation that belongs to no row of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Orphan {
    Container { id: String, instance: String },
    Volume(String),
    Network(String),
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, instance } if instance.is_empty() => write!(f, "container {id}"),
            Self::Container { id, instance } => write!(f, "container {id} of instance {instance}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Network(name) => write!(f, "network {name}"),
        }
    }
}

/// The actions for one instance. `asked` are its unfinished operations and `containers` its own; `failures` counts
/// failures in a row.
pub(crate) fn plan(
    instance: &Instance,
    asked: &[Operation],
    containers: &[Container],
    failures: u32,
) -> Vec<Action> {
    use OperationKind::{Delete, Suspend};
    let removal = |state| plan_removal(instance, containers, state);
    match instance.desired {
        DesiredState::Running => {
            let (void, asked): (Vec<_>, Vec<_>) =
                asked.iter().cloned().partition(|operation| matches!(operation.kind, Suspend | Delete));
            let (holders, own): (Vec<_>, Vec<_>) = containers.iter().cloned().partition(|c| c.is_holder);
            let mut actions = operations::abandon(&void, "the cache was resumed meanwhile: ask again");
            if let Some(steps) = sleep::plan_sleep(instance, !asked.is_empty(), &own) {
                actions.extend(steps);
            } else {
                actions.extend(plan_running(instance, &asked, &own, failures));
                actions.extend(holders.into_iter().map(|holder| Action::Remove(holder.id)));
            }
            actions
        }
        DesiredState::Suspended => {
            let why = "the cache was suspended meanwhile: resume it, and ask again";
            operations::carried_out_by(asked, Suspend, removal(InstanceState::Suspended), why)
        }
        DesiredState::Deleting => {
            let why = "the cache was deleted meanwhile: create another";
            operations::carried_out_by(asked, Delete, removal(InstanceState::Deleting), why)
        }
    }
}

/// Whether a container runs or has a network afterwards, and didn't before: not without firewall.
pub(crate) fn starts_container(action: &Action) -> bool {
    use Action::{Attach, Create, Restart, Start, Unpause};
    matches!(action, Start(_) | Unpause(_) | Attach(_) | Restart(_) | Create { .. })
}

/// Whether a plan changes nothing as far as is known, so that a health check is enough.
pub(crate) fn only_probes(actions: &[Action]) -> bool {
    actions.iter().all(|action| match action {
        Action::Probe(_) => true,
        Action::Resize(container) => !container.limits_differ,
        _ => false,
    })
}

/// Whether an action changes a container in Docker. Resizing takes long, and needs Docker for a moment of that.
pub(crate) fn changes_docker(action: &Action) -> bool {
    use Action::{
        Attach, Create, Detach, Keep, Remove, Restart, RestoreLimits, Sleep, Start, Stop, TearDown, Unpause,
    };
    match action {
        Start(_) | Unpause(_) | Attach(_) | Detach(_) | RestoreLimits(_) | Restart(_) => true,
        Keep(_) | Stop(_) | Sleep(_) | Remove(_) | Create { .. } | TearDown(_) => true,
        Action::SetState(..) | Action::Probe(_) | Action::Flush(_) | Action::Resize(_) => false,
        Action::Begin(..) | Action::Finish(_) | Action::Abandon(..) => false,
    }
}

/// Whether a plan needs nothing from the store: it neither creates nor removes anything, so that the recorded route
/// stays right.
pub(crate) fn needs_no_store(actions: &[Action]) -> bool {
    use Action::{Attach, Detach, Probe, Resize, RestoreLimits, SetState, Start, Unpause};
    let repairs = |action: &Action| matches!(action, Attach(_) | Detach(_) | RestoreLimits(_) | Resize(_));
    let starts = |action: &Action| matches!(action, SetState(..) | Probe(_) | Start(_) | Unpause(_));
    actions.iter().all(|action| repairs(action) || starts(action))
}

fn plan_running(
    instance: &Instance,
    asked: &[Operation],
    containers: &[Container],
    failures: u32,
) -> Vec<Action> {
    let spec = match Spec::of(instance) {
        Ok(spec) => spec,
        Err(why) => {
            let abandoned =
                operations::abandon(asked, "the cache's limits are invalid: ask for another size");
            return set_state(instance, InstanceState::Failed, Some(why))
                .into_iter()
                .chain(abandoned)
                .collect();
        }
    };
    let asked = Requests::new(asked, &spec);
    let recorded = instance.route.as_ref().map_or(0, |route| route.generation);
    let current = containers
        .iter()
        .filter(|c| !c.unrestricted && c.generation >= recorded)
        .filter(|c| runs_as(c, &spec) && has_recorded_address(instance, c))
        .max_by_key(|c| c.generation);
    let kept = current.and_then(|c| Some((c, steps_to_keep(instance, &asked, c, failures)?)));
    let kept_id = kept.as_ref().map(|(c, _)| c.id.clone());
    let others = containers.iter().filter(|c| Some(&c.id) != kept_id.as_ref());
    let removals = others.map(|c| Action::Remove(c.id.clone()));
    match kept {
        Some((_, steps)) => removals.chain(steps).collect(),
        None => {
            let newest = containers.iter().max_by_key(|c| c.generation);
            let begun = asked.begin(newest);
            let keep = newest.filter(|c| asked.saves_contents(c)).cloned().map(Action::Keep);
            let stop = newest.filter(|c| asked.stops(c)).cloned().map(Action::Stop);
            let begun = begun.into_iter().chain(keep);
            let newest = containers.iter().map(|c| c.generation).max().unwrap_or(0).max(recorded);
            let create = Action::Create { generation: newest.saturating_add(1) };
            let first = set_state(instance, starting_state(instance), None);
            let steps = begun.chain(first).chain(stop).chain(removals);
            steps.chain([create]).chain(asked.finish()).collect()
        }
    }
}

/// The steps that make this container answer; `None` if it must be replaced.
fn steps_to_keep(
    instance: &Instance,
    asked: &Requests<'_>,
    c: &Container,
    failures: u32,
) -> Option<Vec<Action>> {
    let mut steps = asked.begin(Some(c));
    let is_elsewhere = c.isolation.as_ref().is_some_and(|isolation| !isolation.other_networks.is_empty());
    steps.extend(is_elsewhere.then(|| Action::Detach(c.clone())));
    let is_to_restart = asked.is_to_restart(c);
    match c.state {
        ContainerState::Created | ContainerState::Removing => return None,
        // A running container holds the cache's contents: failures alone prove nothing.
        ContainerState::Running if c.hung => return None,
        // An address that isn't recorded may have been leased to another.
        ContainerState::Running | ContainerState::Paused
            if !c.attached && recorded_address(instance) != Some(&c.address) =>
        {
            return None;
        }
        // The contents are gone, so this is the time for another image.
        ContainerState::Restarting | ContainerState::Stopped if c.outdated || asked.warms(c) => return None,
        // So is a restart, for the image and for the size.
        _ if is_to_restart && (c.outdated || asked.is_resized(c)) => return None,
        ContainerState::Restarting if failures >= FAILURES_TO_REPLACE => return None,
        // A step that didn't help is not repeated.
        ContainerState::Stopped | ContainerState::Paused if failures > 0 => return None,
        _ if is_to_restart => {
            steps.extend(keep(c));
            // Proxies hold requests from now on.
            steps.extend(set_state(instance, starting_state(instance), None));
            // Docker stops no container that is paused.
            steps.extend((c.state == ContainerState::Paused).then(|| Action::Unpause(c.clone())));
            steps.extend(c.limits_differ.then(|| Action::RestoreLimits(c.clone())));
            steps.extend([Action::Restart(c.clone()), Action::Probe(c.clone())]);
            steps.extend(asked.finish());
            return Some(steps);
        }
        ContainerState::Running | ContainerState::Restarting => {}
        ContainerState::Stopped if c.limits_differ => {
            steps.extend([Action::RestoreLimits(c.clone()), Action::Start(c.clone())]);
        }
        ContainerState::Stopped => steps.push(Action::Start(c.clone())),
        ContainerState::Paused => steps.push(Action::Unpause(c.clone())),
    }
    // However often that fails: the contents are there, and an address that something else has is given up.
    if matches!(c.state, ContainerState::Running | ContainerState::Paused) && !c.attached {
        steps.push(Action::Attach(c.clone()));
    }
    // Later than the step that brings it back, which must not wait for the store (F-34).
    if c.state != ContainerState::Running {
        steps.extend(set_state(instance, starting_state(instance), None));
    }
    if c.limits_differ && c.state != ContainerState::Stopped && !asked.may_resize(c) {
        steps.push(Action::RestoreLimits(c.clone()));
    }
    steps.push(Action::Probe(c.clone()));
    steps.extend(asked.may_resize(c).then(|| Action::Resize(c.clone())));
    steps.extend(asked.flush(c));
    steps.extend(asked.finish());
    Some(steps)
}

/// Whether a container runs with these limits, or can be given them.
fn runs_as(c: &Container, spec: &Spec) -> bool {
    Spec::from_label(&c.spec).is_some_and(|has| spec.is_resize_of(&has))
}

/// The recorded address counts. A container that was created just before a crash may have no record.
fn has_recorded_address(instance: &Instance, c: &Container) -> bool {
    recorded_address(instance).is_none_or(|address| *address == c.address)
}

fn recorded_address(instance: &Instance) -> Option<&String> {
    instance.route.as_ref().and_then(|route| route.address.as_ref())
}

fn plan_removal(instance: &Instance, containers: &[Container], state: InstanceState) -> Vec<Action> {
    let nothing_left = instance
        .route
        .as_ref()
        .is_some_and(|r| r.state == state && r.address.is_none() && r.container.is_none());
    if nothing_left && containers.is_empty() {
        return vec![];
    }
    let mut actions = set_state(instance, state, None);
    actions.extend(containers.iter().map(|c| Action::Remove(c.id.clone())));
    actions.push(Action::TearDown(state));
    actions
}

/// The state of an instance until it runs: restarting if it ran before or slept, pending if it is new or was suspended.
fn starting_state(instance: &Instance) -> InstanceState {
    use InstanceState::{Asleep, Failed, Pending, Restarting, Running};
    match instance.route.as_ref() {
        Some(route) if matches!(route.state, Running | Restarting | Asleep) => Restarting,
        // Failed several times in a row; kept until it runs.
        Some(route) if route.state == Failed => Failed,
        _ => Pending,
    }
}

/// Sets a state unless it is recorded already. An instance without a route counts as pending.
fn set_state(instance: &Instance, state: InstanceState, message: Option<&'static str>) -> Vec<Action> {
    let recorded = match &instance.route {
        None => state == InstanceState::Pending && message.is_none(),
        // Without a new message, the recorded one is kept.
        Some(route) => route.state == state && (message.is_none() || route.message.as_deref() == message),
    };
    if recorded { vec![] } else { vec![Action::SetState(state, message)] }
}

/// The orphans: resources of the installation without a row in the store. `known` are the ids of all
/// instances, `networks` the names of all networks in the store; both were read without an error.
///
/// # Errors
/// [`WrongStore`] if an empty or another store was put in the place of the installation's: nothing is an orphan then.
pub(crate) fn orphans(
    known: &HashSet<String>,
    networks: &HashSet<String>,
    snapshot: &Snapshot,
    now: Timestamp,
) -> Result<Vec<Orphan>, WrongStore> {
    let old = |created_at: Timestamp| now.since(created_at) > ORPHAN_AGE_MIN;
    let unknown = |instance: &str| !known.contains(instance);
    let containers = snapshot.containers.iter().filter(|c| old(c.created_at) && unknown(&c.instance));
    let instances: HashSet<&str> = containers.clone().map(|c| c.instance.as_str()).collect();
    if instances.len() > ORPHANS_MIN.max(known.len()) {
        return Err(WrongStore { unknown: instances.len(), known: known.len() });
    }
    // A store without any instance is more likely the wrong store than one whose instances are all gone.
    if known.is_empty() {
        return Ok(vec![]);
    }
    let volumes = snapshot.volumes.iter().filter(|v| {
        old(v.created_at)
            && v.instance.as_deref().is_none_or(unknown)
            && !in_use(snapshot, v.instance.as_deref())
    });
    let networks = snapshot.networks.iter().filter(|n| old(n.created_at) && !networks.contains(&n.name));
    let orphans = containers
        .map(|c| Orphan::Container { id: c.id.clone(), instance: c.instance.clone() })
        .chain(volumes.map(|v| Orphan::Volume(v.name.clone())))
        .chain(networks.map(|n| Orphan::Network(n.name.clone())));
    Ok(orphans.collect())
}

/// A volume is removed with its container, or by the next resync.
fn in_use(snapshot: &Snapshot, instance: Option<&str>) -> bool {
    snapshot.containers.iter().any(|c| Some(c.instance.as_str()) == instance)
}

#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
