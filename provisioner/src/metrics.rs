//! Prometheus metrics, `memgate_provisioner_*`. Labels have a fixed set of values; a user is never one.

use std::collections::BTreeSet;

use daemon::metrics::{CallMetrics, CounterBy, GaugeBy, LastTime, duration_histogram};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use store::{CheckResult, EventCause, Instance, InstanceState};

use crate::capacity::CapacityGauges;
use crate::docker::Foreign;
use crate::plan::Action;

/// The values of the label `action`.
const ACTIONS: [&str; 19] = [
    "set_state",
    "probe",
    "start",
    "unpause",
    "attach",
    "detach",
    "restore_limits",
    "begin",
    "keep",
    "restart",
    "stop",
    "sleep",
    "flush",
    "resize",
    "finish",
    "abandon",
    "remove",
    "create",
    "tear_down",
];
/// The parts that all instances share, as conditions name them.
const PARTS: [&str; 10] = [
    "docker",
    "store",
    "resync",
    "firewall",
    "network",
    "bridge",
    "bridge_filter",
    "image",
    "secrets",
    "orphans",
];
const CHECK_RESULTS: [CheckResult; 3] = [CheckResult::Passed, CheckResult::Failed, CheckResult::Unknown];
/// The calls of the store that are counted.
const STORE_CALLS: [&str; 8] = [
    "leader_lock",
    "read_instances",
    "record_route",
    "record_operation",
    "record_statistics",
    "record_isolation",
    "record_upgrade",
    "meter_memory",
];

/// The provisioner's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    instances: GaugeBy,
    actions: CounterBy,
    failures: CounterBy,
    foreign: GaugeBy,
    conditions: GaugeBy,
    isolation: GaugeBy,
    /// Repairs by cause.
    pub(crate) repairs: CounterBy,
    /// How many times the firewall's table was restored after something else changed it.
    pub(crate) firewall_repairs: Counter,
    pub(crate) capacity: CapacityGauges,
    /// Instances that were made ahead and that nobody has taken.
    pub(crate) ready: Gauge,
    /// 1 while this provisioner leads.
    pub(crate) leader: Gauge,
    pub(crate) store: CallMetrics,
    /// Seconds of a full resync.
    pub(crate) resync: Histogram,
    pub(crate) last_resync: LastTime,
    /// Seconds of the work on one instance.
    pub(crate) reconcile: Histogram,
}

impl Metrics {
    /// Registers the metrics, among them the count of Docker's time-outs.
    pub(crate) fn new(registry: &mut Registry, docker_timeouts: Counter) -> Self {
        let registry = registry.sub_registry_with_prefix("memgate_provisioner");
        let metrics = Self {
            instances: GaugeBy::register(
                registry,
                "instances",
                "Instances by state, as of the last full resync",
                "state",
                InstanceState::ALL.map(InstanceState::as_str),
            ),
            actions: CounterBy::register(
                registry,
                "actions",
                "Actions executed in Docker",
                "action",
                ACTIONS,
            ),
            failures: CounterBy::register(
                registry,
                "action_failures",
                "Actions that failed",
                "action",
                ACTIONS,
            ),
            foreign: GaugeBy::register(
                registry,
                "foreign_resources",
                "Resources in Docker with this installation's label or prefix that it didn't create, and never touches",
                "kind",
                Foreign::KINDS,
            ),
            conditions: GaugeBy::register(
                registry,
                "condition_failing",
                "Whether a part that all instances share fails: 1 if it does",
                "part",
                PARTS,
            ),
            isolation: GaugeBy::register(
                registry,
                "isolation_checks",
                "Running instances by the result of their newest isolation check",
                "result",
                CHECK_RESULTS.map(CheckResult::as_str),
            ),
            repairs: CounterBy::register(
                registry,
                "repairs",
                "Repairs of instances",
                "cause",
                EventCause::ALL.iter().map(|cause| cause.as_str()),
            ),
            firewall_repairs: Counter::default(),
            capacity: CapacityGauges::default(),
            ready: Gauge::default(),
            leader: Gauge::default(),
            store: CallMetrics::register(registry.sub_registry_with_prefix("store"), &STORE_CALLS),
            resync: duration_histogram(),
            last_resync: LastTime::register(
                registry,
                "last_resync_timestamp_seconds",
                "When all instances were last compared with Docker; 0 if never",
            ),
            reconcile: duration_histogram(),
        };
        metrics.register_counters(registry, docker_timeouts);
        registry.register("leader", "1 while this provisioner leads, otherwise 0", metrics.leader.clone());
        metrics.register_capacity(registry);
        registry.register(
            "resync_duration_seconds",
            "Duration of a full resync of all instances",
            metrics.resync.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Duration of the work on one instance",
            metrics.reconcile.clone(),
        );
        metrics
    }

    fn register_counters(&self, registry: &mut Registry, docker_timeouts: Counter) {
        registry.register(
            "firewall_repairs",
            "Times that the firewall rules were restored after something else changed them",
            self.firewall_repairs.clone(),
        );
        registry.register(
            "docker_timeouts",
            "Requests that Docker didn't answer within their time limits",
            docker_timeouts,
        );
    }

    fn register_capacity(&self, registry: &mut Registry) {
        let CapacityGauges { budget, reserved, waiting } = self.capacity.clone();
        registry.register(
            "memory_budget_bytes",
            "Maximum of the sum of the instances' memory limits",
            budget,
        );
        registry.register("memory_reserved_bytes", "Sum of the instances' memory limits", reserved);
        registry.register("instances_waiting_for_memory", "Instances that wait for memory", waiting);
        let ready = self.ready.clone();
        registry.register("ready_instances", "Instances that were made before anybody asked for them", ready);
    }

    pub(crate) fn count_instances(&self, instances: &[Instance]) {
        for state in InstanceState::ALL {
            let count = instances.iter().filter(|instance| instance.state() == state).count();
            self.instances.set(state.as_str(), count);
        }
    }

    pub(crate) fn count_foreign(&self, foreign: &BTreeSet<Foreign>) {
        for kind in Foreign::KINDS {
            let count = foreign.iter().filter(|foreign| foreign.kind == kind).count();
            self.foreign.set(kind, count);
        }
    }

    pub(crate) fn count_isolation(&self, results: impl Iterator<Item = CheckResult>) {
        let results: Vec<CheckResult> = results.collect();
        for result in CHECK_RESULTS {
            self.isolation.set(result.as_str(), results.iter().filter(|it| **it == result).count());
        }
    }

    pub(crate) fn count_condition(&self, part: &'static str, fails: bool) {
        self.conditions.set(part, usize::from(fails));
    }

    pub(crate) fn count_action(&self, action: &Action, ok: bool) {
        let action = label_value(action);
        self.actions.inc(action);
        if !ok {
            self.failures.inc(action);
        }
    }
}

/// The value of the label `action`.
fn label_value(action: &Action) -> &'static str {
    match action {
        Action::SetState(..) => "set_state",
        Action::Probe(_) => "probe",
        Action::Start(_) => "start",
        Action::Unpause(_) => "unpause",
        Action::Attach(_) => "attach",
        Action::Detach(_) => "detach",
        Action::RestoreLimits(_) => "restore_limits",
        Action::Begin(..) => "begin",
        Action::Restart(_) => "restart",
        Action::Keep(_) => "keep",
        Action::Stop(_) => "stop",
        Action::Sleep(_) => "sleep",
        Action::Flush(_) => "flush",
        Action::Resize(_) => "resize",
        Action::Finish(_) => "finish",
        Action::Abandon(..) => "abandon",
        Action::Remove(_) => "remove",
        Action::Create { .. } => "create",
        Action::TearDown(_) => "tear_down",
    }
}
