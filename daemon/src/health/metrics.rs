//! What `/metrics` serves: the process, the endpoint, the role's health and its own metrics.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::PoisonError;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{Health, Report, STORE, STORE_WRITES};
use crate::metrics::{self, MetricsText};

/// Parts that are shown from the start, because alerts ask for them.
const PARTS: [&str; 2] = [STORE, STORE_WRITES];

/// All metrics, in the format that a request accepts.
pub(super) fn encode(health: &Health, accept: &str) -> Result<MetricsText, Error> {
    let mut status = Registry::default();
    status.register_collector(Box::new(StatusCollector(health.report())));
    let of_role = health.0.role_metrics.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<&Registry> = [&health.0.own_metrics, &status].into_iter().chain(of_role.iter()).collect();
    metrics::encode(&all, accept)
}

#[derive(Debug)]
struct StatusCollector(Report);

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let report = &self.0;
        for (name, help, value) in [
            ("memgate_role_alive", "1 while the role's loops make progress, as /healthz says", report.alive),
            ("memgate_role_ready", "1 while the role can work, as /readyz says", report.ready),
        ] {
            let gauge = ConstGauge::new(i64::from(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let mut failing: BTreeMap<&str, bool> = PARTS.iter().map(|part| (*part, false)).collect();
        failing.extend(report.problems.keys().map(|part| (part.as_str(), true)));
        let help = "1 while something is wrong with a part although the role works, as /status says";
        let mut family = encoder.encode_descriptor("memgate_role_problem", help, None, MetricType::Gauge)?;
        for (part, fails) in failing {
            ConstGauge::new(i64::from(fails)).encode(family.encode_family(&[("part", part)])?)?;
        }
        Ok(())
    }
}
