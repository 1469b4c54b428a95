//! Prometheus metrics, `memgate_provisioner_*`. Labels have a fixed set of values; a user is never one.

use std::collections::BTreeSet;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use store::{Instance, InstanceState};

use crate::capacity::CapacityGauges;
use crate::docker::Foreign;
use crate::plan::Action;

type Label = [(&'static str, &'static str); 1];

/// The provisioner's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    instances: Family<Label, Gauge>,
    actions: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    foreign: Family<Label, Gauge>,
    /// How many times the firewall's table was restored after something else changed it.
    pub(crate) firewall_repairs: Counter,
    pub(crate) capacity: CapacityGauges,
    /// Seconds of a full resync.
    pub(crate) resync: Histogram,
    /// Seconds of the work on one instance.
    pub(crate) reconcile: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // 1 ms to 32 s.
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            instances: Family::default(),
            actions: Family::default(),
            failures: Family::default(),
            foreign: Family::default(),
            firewall_repairs: Counter::default(),
            capacity: CapacityGauges::default(),
            resync: histogram(),
            reconcile: histogram(),
        };
        let registry = registry.sub_registry_with_prefix("memgate_provisioner");
        registry.register(
            "instances",
            "Instances by state, as of the last full resync",
            metrics.instances.clone(),
        );
        registry.register("actions", "Actions executed in Docker", metrics.actions.clone());
        registry.register("action_failures", "Actions that failed", metrics.failures.clone());
        registry.register(
            "foreign_resources",
            "Resources in Docker with this installation's label or prefix that it didn't create, and never touches",
            metrics.foreign.clone(),
        );
        registry.register(
            "firewall_repairs",
            "Times that the firewall rules were restored after something else changed them",
            metrics.firewall_repairs.clone(),
        );
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

    fn register_capacity(&self, registry: &mut Registry) {
        let CapacityGauges { budget, reserved, waiting } = self.capacity.clone();
        registry.register(
            "memory_budget_bytes",
            "Maximum of the sum of the instances' memory limits",
            budget,
        );
        registry.register("memory_reserved_bytes", "Sum of the instances' memory limits", reserved);
        registry.register("instances_waiting_for_memory", "Instances that wait for memory", waiting);
    }

    pub(crate) fn count_instances(&self, instances: &[Instance]) {
        for state in InstanceState::ALL {
            let count = instances.iter().filter(|instance| instance.state() == state).count();
            let gauge = self.instances.get_or_create(&[("state", state.as_str())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn count_foreign(&self, foreign: &BTreeSet<Foreign>) {
        for kind in Foreign::KINDS {
            let count = foreign.iter().filter(|foreign| foreign.kind == kind).count();
            self.foreign.get_or_create(&[("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn count_action(&self, action: &Action, ok: bool) {
        let label = [("action", label_value(action))];
        self.actions.get_or_create(&label).inc();
        if !ok {
            self.failures.get_or_create(&label).inc();
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
        Action::Remove(_) => "remove",
        Action::Create { .. } => "create",
        Action::TearDown(_) => "tear_down",
    }
}
