//! A model of an instance, of Docker and of the store: whatever is wanted, breaks, fails or crashes at random, plans that are
//! carried out again and again come to an end, and that end is what is wanted.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use store::{DesiredState, Instance, InstanceState, Operation, OperationKind, OperationState};

use super::operations::tests::operation;
use super::tests::{container, instance, route, summary};
use super::{Action, Container, ContainerState, only_probes, plan};
use crate::spec::Spec;

/// Random sequences, their steps, and plans after which one must have come to an end.
const RUNS: u64 = 3_000;
const STEPS: usize = 30;
const PLANS_MAX: usize = 12;

struct World {
    random: StdRng,
    instance: Instance,
    operations: Vec<Operation>,
    containers: Vec<Container>,
    failures: u32,
    /// Counts starts of containers and names of things.
    count: u32,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let warm = random.random();
        let effective_sleep_after_seconds = random.random::<bool>().then_some(60);
        let instance =
            Instance { warm, effective_sleep_after_seconds, ..instance(DesiredState::Running, None) };
        let (operations, containers, log) = (vec![], vec![], vec![]);
        Self { random, instance, operations, containers, failures: 0, count: 0, log }
    }

    fn next(&mut self) -> String {
        self.count += 1;
        self.count.to_string()
    }

    fn open(&self) -> Vec<Operation> {
        self.operations.iter().filter(|it| !it.state.is_finished()).cloned().collect()
    }

    fn plan(&self) -> Vec<Action> {
        plan(&self.instance, &self.open(), &self.containers, self.failures)
    }

    /// Carries a plan out, up to a failure or crash at a random step if that happens.
    fn work(&mut self, may_fail: bool) {
        let actions = self.plan();
        self.log.push(summary(&actions));
        let stop = if may_fail && self.random.random_ratio(1, 3) {
            self.random.random_range(0..=actions.len())
        } else {
            actions.len()
        };
        let is_crash = self.random.random();
        for action in &actions[..stop] {
            if !self.execute(action) {
                self.failures += 1;
                return;
            }
        }
        self.failures = if stop == actions.len() || is_crash { 0 } else { self.failures + 1 };
    }

    /// Whether it succeeds.
    fn execute(&mut self, action: &Action) -> bool {
        match action {
            Action::SetState(state, _) => {
                let recorded = self.instance.route.take().or_else(|| nowhere(*state)).unwrap();
                self.instance.route = Some(store::Route { state: *state, ..recorded });
                self.instance.wake_requested = false;
            }
            Action::Probe(c) => {
                let wakes = self.instance.wake_requested;
                return self.change(&c.id, |it| it.idle &= !wakes) && self.adopt(&c.id);
            }
            Action::Start(c) => return self.start(&c.id),
            Action::Unpause(c) => return self.change(&c.id, |it| it.state = ContainerState::Running),
            Action::Attach(c) => return self.change(&c.id, |it| it.attached = true),
            Action::RestoreLimits(c) => return self.change(&c.id, |it| it.limits_differ = false),
            Action::Begin(operation, checkpoint) => {
                let checkpoint = Some(checkpoint.clone());
                self.record(operation, OperationState::Running, checkpoint);
            }
            Action::Detach(_) => {}
            Action::Keep(_) => self.keep(),
            Action::Restart(c) => return self.stop(&c.id) && self.start(&c.id),
            Action::Stop(c) => return self.stop(&c.id),
            Action::Sleep(c) if self.random.random_ratio(1, 4) => {
                return self.change(&c.id, |it| it.idle = false) && self.adopt(&c.id);
            }
            Action::Sleep(c) => return self.stop(&c.id),
            Action::Flush(c) => {
                return self.change(&c.id, |it| assert_eq!(it.state, ContainerState::Running));
            }
            Action::Resize(c) => return self.change(&c.id, |it| it.limits_differ = false),
            Action::Finish(operation) => self.record(operation, OperationState::Done, None),
            Action::Abandon(operation, _) => self.record(operation, OperationState::Failed, None),
            Action::Remove(id) => {
                let before = self.containers.len();
                self.containers.retain(|it| it.id != *id);
                assert!(self.containers.len() < before, "removed {id}: {:#?}", self.log);
            }
            Action::Create { generation } => return self.create(*generation),
            Action::TearDown(state) => {
                assert!(self.containers.is_empty(), "{:#?}", self.log);
                assert_ne!(self.instance.desired, DesiredState::Running);
                self.instance.route = nowhere(*state);
            }
        }
        true
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Container)) -> bool {
        let found = self.containers.iter_mut().find(|it| it.id == id);
        found.map(change).is_some()
    }

    fn start(&mut self, id: &str) -> bool {
        let started_at = Some(self.next());
        self.change(id, |it| {
            it.started_at = started_at;
            (it.state, it.attached, it.idle) = (ContainerState::Running, true, false);
        })
    }

    fn stop(&mut self, id: &str) -> bool {
        let spec = self.containers.iter().find(|it| it.id == id).map(|it| it.spec.clone());
        let is_warm = spec.and_then(|label| Spec::from_label(&label)).is_some_and(|spec| spec.is_warm());
        if is_warm {
            self.keep();
        }
        self.change(id, |it| (it.state, it.attached) = (ContainerState::Stopped, false))
    }

    fn keep(&mut self) {
        if !self.containers.iter().any(|it| it.is_holder) {
            let (id, spec) = (self.next(), String::new());
            let state = ContainerState::Running;
            self.containers.push(Container { id, is_holder: true, spec, ..container(state) });
        }
    }

    fn adopt(&mut self, id: &str) -> bool {
        let Some(c) = self.containers.iter_mut().find(|it| it.id == id) else { return false };
        if c.state == ContainerState::Restarting {
            (c.state, c.attached) = (ContainerState::Running, true);
        }
        if c.state != ContainerState::Running || !c.attached || c.hung {
            return false;
        }
        let recorded = route(InstanceState::Running, c.generation).unwrap();
        let (container, address) = (Some(c.id.clone()), Some(c.address.clone()));
        self.instance.route = Some(store::Route { container, address, ..recorded });
        self.instance.wake_requested = false;
        true
    }

    /// Whether it is recorded: a crash may come before.
    fn create(&mut self, generation: i64) -> bool {
        let is_alone = self.containers.iter().all(|it| it.is_holder);
        assert!(is_alone, "its name is taken: {:#?}", self.log);
        let (id, started_at) = (self.next(), Some(self.next()));
        let spec = Spec::of(&self.instance).unwrap().label();
        let new =
            Container { id: id.clone(), generation, spec, started_at, ..container(ContainerState::Running) };
        self.containers.push(new);
        !self.random.random_ratio(1, 10) && self.adopt(&id)
    }

    fn record(&mut self, operation: &Operation, state: OperationState, checkpoint: Option<String>) {
        let it = self.operations.iter_mut().find(|it| it.id == operation.id).unwrap();
        assert!(!it.state.is_finished(), "ended twice: {:#?}", self.log);
        it.state = state;
        it.checkpoint = checkpoint.or_else(|| it.checkpoint.take());
    }

    fn ask(&mut self, kind: OperationKind) {
        if self.open().iter().any(|it| it.kind == kind) {
            return;
        }
        let id = self.next();
        self.operations.push(Operation { id, ..operation(kind, OperationState::Pending, None) });
    }

    fn want(&mut self) {
        use OperationKind::{Delete, Flush, Resize, Restart, Resume, Suspend};
        let is_deleted = self.instance.desired == DesiredState::Deleting;
        match self.random.random_range(0..9) {
            _ if is_deleted => {}
            0 | 1 => {
                self.instance.desired = DesiredState::Suspended;
                self.ask(Suspend);
            }
            2..=4 => {
                self.instance.desired = DesiredState::Running;
                self.ask(Resume);
            }
            5 if self.random.random_ratio(1, 10) => {
                self.instance.desired = DesiredState::Deleting;
                self.operations.clear();
                self.ask(Delete);
            }
            _ if self.instance.desired == DesiredState::Suspended => {}
            6 => self.ask(Restart),
            7 => self.ask(Flush),
            8 => {
                self.instance.memory_mb = self.random.random_range(64..66);
                self.ask(Resize);
            }
            _ => self.instance.warm = !self.instance.warm,
        }
    }

    fn fault(&mut self) {
        let asleep = self.instance.route.as_ref().is_some_and(|it| it.state == InstanceState::Asleep);
        self.instance.wake_requested |= asleep && self.random.random();
        let fault = self.random.random_range(0..10);
        let count = self.containers.len();
        if count == 0 {
            return;
        }
        let number = self.random.random_range(0..count);
        if fault == 9 {
            self.containers.remove(number);
            return;
        }
        let c = &mut self.containers[number];
        let runs = c.state == ContainerState::Running;
        match fault {
            0 => (c.state, c.attached) = (ContainerState::Stopped, false),
            1 if runs => c.state = ContainerState::Paused,
            2 if runs => c.attached = false,
            3 => c.outdated = true,
            4 if runs => c.hung = true,
            5 => c.limits_differ = true,
            6 if runs => (c.state, c.attached) = (ContainerState::Restarting, false),
            7 | 8 => c.idle = true,
            _ => {}
        }
    }

    fn check_end(&self) {
        let log = &self.log;
        assert!(only_probes(&self.plan()), "{log:#?}");
        assert!(self.open().is_empty(), "{:?} {log:#?}", self.open());
        let it = self.instance.route.as_ref().unwrap();
        let (holders, own): (Vec<_>, Vec<_>) = self.containers.iter().partition(|it| it.is_holder);
        match (self.instance.desired, it.state) {
            (DesiredState::Running, InstanceState::Asleep) => {
                assert!(!self.instance.wake_requested, "{log:#?}");
                assert!(own.iter().all(|it| it.state == ContainerState::Stopped), "{log:#?}");
            }
            (DesiredState::Running, state) => {
                assert_eq!((state, own.len(), holders.len()), (InstanceState::Running, 1, 0), "{log:#?}");
                assert!(own[0].attached && it.container.as_ref() == Some(&own[0].id), "{log:#?}");
            }
            (DesiredState::Suspended | DesiredState::Deleting, state) => {
                let wanted = if self.instance.desired == DesiredState::Suspended {
                    InstanceState::Suspended
                } else {
                    InstanceState::Deleting
                };
                assert_eq!((state, self.containers.len(), &it.address), (wanted, 0, &None), "{log:#?}");
            }
        }
    }
}

fn nowhere(state: InstanceState) -> Option<store::Route> {
    route(state, 0).map(|it| store::Route { address: None, container: None, ..it })
}

// R-47, F-37.
#[test]
fn whatever_happens_plans_end_with_what_is_wanted() {
    for seed in 0..RUNS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            match world.random.random_range(0..6) {
                0 => world.want(),
                1 => world.fault(),
                _ => world.work(true),
            }
        }
        let mut plans = 0;
        world.failures = 0;
        // The last one is a check that leads to no other.
        let mut is_over = false;
        while !is_over {
            let is_check = only_probes(&world.plan());
            world.work(false);
            is_over = is_check && only_probes(&world.plan());
            plans += 1;
            assert!(plans < PLANS_MAX, "seed {seed}: {:#?}", world.log);
        }
        world.check_end();
    }
}
