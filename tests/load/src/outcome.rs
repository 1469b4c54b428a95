//! The result of a run: counted while it runs, printed as one line of JSON at the end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::session::Pending;
use crate::wire::Op;

/// Nanoseconds; longer latencies count as this.
const LATENCY_MAX: u64 = 60_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// The result of one run. A run with any error has none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) ops: u64,
    pub(crate) gets: u64,
    pub(crate) sets: u64,
    pub(crate) seconds: f64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Open loop: requests that were due but not sent when the run ended.
    pub(crate) backlog: u64,
    /// CPU time of the generator, as a share of one core.
    pub(crate) generator_share: f64,
    /// CPU time while measuring, by name, including the generator's.
    pub(crate) cpu_s: BTreeMap<String, Cpu>,
}

pub(crate) struct Counters {
    latency: Histogram<u64>,
    pub(crate) gets: u64,
    pub(crate) sets: u64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let latency =
            Histogram::new_with_bounds(1, LATENCY_MAX, SIGNIFICANT_DIGITS).expect("the bounds are valid");
        Self { latency, gets: 0, sets: 0 }
    }

    pub(crate) fn restart(&mut self) {
        self.latency.reset();
        (self.gets, self.sets) = (0, 0);
    }

    /// Requests with a reply.
    pub(crate) fn ops(&self) -> u64 {
        self.gets + self.sets
    }

    #[inline]
    pub(crate) fn count(&mut self, reply: Pending, now: u64) {
        match reply.op {
            Op::Get => self.gets += 1,
            Op::Set => self.sets += 1,
            Op::GetMore | Op::Login => return,
        }
        self.latency.saturating_record(now.saturating_sub(reply.at).max(1));
    }

    pub(crate) fn microseconds(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}
