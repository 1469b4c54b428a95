//! Numbers for operators. Labels are our own words; a user is never one.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use store::{Instance, InstanceState};

use crate::plan::Action;

type Label = [(&'static str, &'static str); 1];

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    instances: Family<Label, Gauge>,
    actions: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    /// Seconds of one full pass.
    pub(crate) pass: Histogram,
    /// Seconds from taking up one instance to having done with it.
    pub(crate) attend: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        // 1 ms to 32 s.
        let histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            instances: Family::default(),
            actions: Family::default(),
            failures: Family::default(),
            pass: histogram(),
            attend: histogram(),
        };
        let registry = registry.sub_registry_with_prefix("memgate_provisioner");
        registry.register(
            "instances",
            "Instances by state, as of the last full pass",
            metrics.instances.clone(),
        );
        registry.register("actions", "Actions taken in Docker", metrics.actions.clone());
        registry.register("action_failures", "Actions that failed", metrics.failures.clone());
        registry.register("pass_seconds", "Duration of a full pass over all instances", metrics.pass.clone());
        registry.register("attend_seconds", "Duration of the work on one instance", metrics.attend.clone());
        metrics
    }

    pub(crate) fn count_instances(&self, instances: &[Instance]) {
        for state in InstanceState::ALL {
            let count = instances.iter().filter(|instance| instance.state() == state).count();
            let gauge = self.instances.get_or_create(&[("state", state.as_str())]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn taken(&self, action: &Action, well: bool) {
        let label = [("action", name(action))];
        self.actions.get_or_create(&label).inc();
        if !well {
            self.failures.get_or_create(&label).inc();
        }
    }
}

fn name(action: &Action) -> &'static str {
    match action {
        Action::Mark(..) => "mark",
        Action::Probe(_) => "probe",
        Action::Start(_) => "start",
        Action::Unpause(_) => "unpause",
        Action::Remove(_) => "remove",
        Action::Create { .. } => "create",
        Action::Retire(_) => "retire",
    }
}
