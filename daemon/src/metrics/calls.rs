//! Calls of another service: how long they take, and how many fail.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Label, duration_histogram, seconds_since_1970};

/// The label of all series.
const LABEL: &str = "operation";

/// Counts and times calls by operation. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    duration: Family<Label, Histogram, fn() -> Histogram>,
    errors: Family<Label, Counter>,
    last_success: Family<Label, Gauge<f64, AtomicU64>>,
}

/// A call that has begun. Counts as failed if it is dropped before it has succeeded: so a call that was given up after a
/// time limit does, too.
#[derive(Debug)]
#[must_use]
pub struct PendingCall {
    operation: &'static str,
    started: Instant,
    metrics: CallMetrics,
    succeeded: bool,
}

impl Default for CallMetrics {
    fn default() -> Self {
        Self {
            duration: Family::new_with_constructor(duration_histogram),
            errors: Family::default(),
            last_success: Family::default(),
        }
    }
}

impl CallMetrics {
    /// Registers them in a registry whose prefix names the service.
    pub fn register(registry: &mut Registry, operations: &[&'static str]) -> Self {
        let metrics = Self::default();
        for operation in operations {
            let label = [(LABEL, *operation)];
            drop(metrics.duration.get_or_create(&label));
            drop(metrics.errors.get_or_create(&label));
            drop(metrics.last_success.get_or_create(&label));
        }
        registry.register(
            "call_duration_seconds",
            "Duration of calls by operation",
            metrics.duration.clone(),
        );
        registry.register("call_errors", "Calls that failed or took too long", metrics.errors.clone());
        registry.register(
            "last_success_timestamp_seconds",
            "When a call has last succeeded; 0 if none has",
            metrics.last_success.clone(),
        );
        metrics
    }

    /// A call begins.
    pub fn begin(&self, operation: &'static str) -> PendingCall {
        PendingCall { operation, started: Instant::now(), metrics: self.clone(), succeeded: false }
    }

    /// Waits for `call` and counts it.
    pub async fn observe<T, E, F>(&self, operation: &'static str, call: F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let pending = self.begin(operation);
        let result = call.await;
        if result.is_ok() {
            pending.succeeded();
        }
        result
    }
}

impl PendingCall {
    /// The call has succeeded.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        let label = [(LABEL, self.operation)];
        let elapsed = self.started.elapsed().as_secs_f64();
        self.metrics.duration.get_or_create(&label).observe(elapsed);
        if self.succeeded {
            self.metrics.last_success.get_or_create(&label).set(seconds_since_1970());
        } else {
            self.metrics.errors.get_or_create(&label).inc();
        }
    }
}
