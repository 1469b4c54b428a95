//! When an upgrade stops, and how many instances it restarts at a time. Pure.

use store::UpgradeProgress;

/// Failures in a row, or among the first instances, after which it stops by itself.
const FAILURES_MAX: i64 = 2;
const FIRST_INSTANCES: i64 = 5;

/// The rules of an upgrade's progress.
pub(super) trait Rules {
    /// Counts those that are left.
    fn count(&mut self, left: usize);
    /// Counts one less: it was suspended or deleted before it had the new image.
    fn leave_out(&mut self);
    fn must_stop(&self) -> bool;
    /// Instances to restart at a time.
    fn at_a_time(&self, parallel: i64) -> usize;
}

impl Rules for UpgradeProgress {
    fn count(&mut self, left: usize) {
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.total = self.total.max(left.saturating_add(self.failed));
        self.done = self.total.saturating_sub(left).saturating_sub(self.failed);
    }

    fn leave_out(&mut self) {
        self.total = self.total.saturating_sub(1).max(0);
    }

    fn must_stop(&self) -> bool {
        let is_early = self.done.saturating_add(self.failed) <= FIRST_INSTANCES;
        self.failures_in_row >= FAILURES_MAX || (is_early && self.failed >= FAILURES_MAX)
    }

    /// The first one alone: a broken image costs no more.
    fn at_a_time(&self, parallel: i64) -> usize {
        if self.done == 0 { 1 } else { usize::try_from(parallel).unwrap_or(1).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn it_begins_with_one_and_stops_when_the_first_ones_fail() {
        let mut progress = UpgradeProgress::default();
        progress.count(10);
        assert_eq!((progress.total, progress.done, progress.at_a_time(4)), (10, 0, 1));
        progress.count(9);
        assert_eq!((progress.total, progress.done, progress.at_a_time(4)), (10, 1, 4));
        assert_eq!(progress.at_a_time(i64::MIN), 1);
        let of = |done, failed, failures_in_row| {
            UpgradeProgress { total: 100, done, failed, failures_in_row, ..UpgradeProgress::default() }
                .must_stop()
        };
        for (done, failed, failures_in_row, stops) in [
            (0, 0, 0, false),
            (0, 1, 1, false),
            (0, 2, 2, true),
            (1, 2, 1, true),
            (3, 2, 0, true),
            (4, 2, 0, false),
            (50, 2, 1, false),
            (50, 3, 2, true),
        ] {
            assert_eq!(of(done, failed, failures_in_row), stops, "{done} {failed} {failures_in_row}");
        }
    }

    #[test]
    fn what_was_done_while_nobody_looked_counts() {
        let mut progress = UpgradeProgress { total: 10, failed: 1, ..UpgradeProgress::default() };
        progress.count(4);
        assert_eq!((progress.total, progress.done), (10, 5));
        progress.count(0);
        assert_eq!((progress.total, progress.done), (10, 9));
        let mut changed = UpgradeProgress::default();
        changed.count(usize::MAX);
        assert_eq!(changed.total, i64::MAX);
    }

    #[test]
    fn one_that_is_suspended_meanwhile_is_not_done() {
        let mut progress = UpgradeProgress::default();
        progress.count(3);
        progress.leave_out();
        progress.count(2);
        assert_eq!((progress.total, progress.done), (2, 0));
        UpgradeProgress::default().leave_out();
    }
}
