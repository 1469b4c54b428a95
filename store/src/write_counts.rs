//! How many writes there were, and how long they took, for metrics.

use std::time::Duration;

/// Upper bound of the first bucket. Each bucket's bound is twice that of the one before it.
const BUCKET_MIN: Duration = Duration::from_millis(1);
/// The last one has no bound: with 16 of them, the one before it ends at 16 s.
const BUCKETS: usize = 16;

/// Writes since the process started.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteCounts {
    /// Writes by duration: the upper bound in seconds and the number of writes between the bound before and this one.
    pub durations: Vec<(f64, u64)>,
    /// The durations of all of them, in seconds.
    pub seconds: f64,
    /// Writes that failed because the database did, or that were given up. They aren't in `durations`.
    pub failed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    buckets: [u64; BUCKETS],
    total: Duration,
    failed: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, took: Duration) {
        let at = (0..BUCKETS - 1).take_while(|at| took > bound(*at)).count();
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.total += took;
    }

    pub(crate) fn add_failure(&mut self) {
        self.failed += 1;
    }

    pub(crate) fn snapshot(&self) -> WriteCounts {
        let upper = |at| if at == BUCKETS - 1 { f64::INFINITY } else { bound(at).as_secs_f64() };
        WriteCounts {
            durations: self.buckets.iter().enumerate().map(|(at, count)| (upper(at), *count)).collect(),
            seconds: self.total.as_secs_f64(),
            failed: self.failed,
        }
    }
}

fn bound(bucket: usize) -> Duration {
    BUCKET_MIN * (1 << bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_counted_by_duration() {
        let mut counts = Counts::default();
        for millis in [0, 1, 2, 3, 16_384, 16_385, 100_000] {
            counts.add(Duration::from_millis(millis));
        }
        counts.add_failure();
        let counted = counts.snapshot();
        let some: Vec<_> = counted.durations.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(some, [(0.001, 2), (0.002, 1), (0.004, 1), (16.384, 1), (f64::INFINITY, 2)]);
        assert_eq!((counted.failed, counted.durations.len()), (1, BUCKETS));
    }
}
