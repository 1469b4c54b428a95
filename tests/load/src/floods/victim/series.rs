//! Latencies and errors of one kind of event.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds; longer latencies count as this.
const LATENCY_MAX_US: u64 = 120_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Different texts of errors; further ones count as the last.
const ERRORS_MAX: usize = 20;

pub(in crate::floods) struct Series {
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

/// A series in figures.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::floods) struct Summary {
    /// Events with the right answer.
    pub(in crate::floods) answered: u64,
    pub(in crate::floods) p50_ms: f64,
    pub(in crate::floods) p99_ms: f64,
    pub(in crate::floods) max_ms: f64,
    /// How often each error occurred. Time-outs are also in the latencies.
    pub(in crate::floods) errors: BTreeMap<String, u64>,
}

impl Series {
    pub(in crate::floods) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS);
        Self { latency: latency.expect("the bounds are valid"), errors: BTreeMap::new() }
    }

    /// Counts an event: how long it took, and what went wrong.
    pub(in crate::floods) fn record(&mut self, took: Duration, result: Result<(), String>) {
        let Err(error) = result else {
            self.record_latency(took);
            return;
        };
        if error == super::TIMED_OUT {
            self.record_latency(took);
        }
        let known = self.errors.len() < ERRORS_MAX || self.errors.contains_key(&error);
        *self.errors.entry(if known { error } else { "other errors".into() }).or_default() += 1;
    }

    fn record_latency(&mut self, took: Duration) {
        self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(in crate::floods) fn add(&mut self, other: &Self) {
        let _ = self.latency.add(&other.latency);
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }

    pub(in crate::floods) fn summary(&self) -> Summary {
        let at = |quantile: f64| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        let timed_out = self.errors.get(super::TIMED_OUT).copied().unwrap_or_default();
        Summary {
            answered: self.latency.len() - timed_out,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            errors: self.errors.clone(),
        }
    }
}

impl Summary {
    pub(in crate::floods) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_are_slow_and_other_errors_have_no_latency() {
        let mut series = Series::new();
        series.record(Duration::from_millis(1), Ok(()));
        series.record(Duration::from_millis(2), Err("refused".into()));
        series.record(Duration::from_secs(5), Err(super::super::TIMED_OUT.into()));
        let summary = series.summary();
        assert_eq!((summary.answered, summary.error_count()), (1, 2));
        assert!(summary.max_ms > 4_990.0, "{summary:?}");
    }
}
