//! What a run has measured: counted while it runs, one line of JSON at its end.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::session::Pending;
use crate::wire::Op;

/// Latencies above a minute are a minute.
const LATENCY_MAX: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// The result of one run. Only a run without a single error has one.
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
    /// Open loop: requests whose time had come and that weren't sent at the end.
    pub(crate) backlog: u64,
    /// Of one core.
    pub(crate) generator_share: f64,
    /// Seconds while measuring, by name; the generator's too.
    pub(crate) cpu_s: BTreeMap<String, Cpu>,
}

pub(crate) struct Tally {
    latency: Histogram<u64>,
    pub(crate) gets: u64,
    pub(crate) sets: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS).expect("the bounds are valid");
        Self { latency, gets: 0, sets: 0 }
    }

    pub(crate) fn restart(&mut self) {
        self.latency.reset();
        (self.gets, self.sets) = (0, 0);
    }

    /// Requests that were answered.
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
