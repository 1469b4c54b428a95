//! What all rounds have shown.

use serde::Serialize;

use super::tally::Counts;

#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) rounds: usize,
    /// Rounds in which the next cache got the deleted one's address.
    pub(super) same_address: usize,
    /// Rounds in which the proxy was stopped while the address changed hands.
    pub(super) paused: usize,
    /// Keys in the next caches' memcacheds, those of them that aren't the owner's, and caches that had none.
    pub(super) keys_checked: usize,
    pub(super) foreign_keys: usize,
    pub(super) empty_caches: usize,
    /// Sessions of deleted caches that weren't closed.
    pub(super) left_open: usize,
    /// Logins that the next caches' memcacheds have refused: lanes to the deleted cache that arrived there.
    pub(super) lanes_refused: i64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    pub(super) round_s: Vec<f64>,
    /// What doesn't hold.
    pub(super) failures: Vec<String>,
}

impl Row {
    /// Takes what the clients saw, and says what doesn't hold.
    pub(super) fn finish(&mut self, counts: Counts) {
        self.failures = counts.failures();
        self.counts = counts;
        let checks = [
            (self.foreign_keys, "foreign keys are in memcacheds"),
            (self.left_open, "sessions of deleted caches stayed open"),
            (self.empty_caches, "caches had no keys"),
        ];
        for (count, what) in checks.into_iter().filter(|(count, _)| *count > 0) {
            self.failures.push(format!("{count} {what}"));
        }
        // Otherwise little was tried.
        if self.counts.late_requests == 0 {
            self.failures.push("no request was sent after a cache was gone".to_owned());
        }
        if self.same_address * 2 <= self.rounds {
            self.failures.push("most rounds were on another address".to_owned());
        }
    }

    pub(super) fn text(&self) -> String {
        let counts = &self.counts;
        let mut sorted = self.round_s.clone();
        sorted.sort_by(f64::total_cmp);
        let (median, max) = (sorted.get(sorted.len() / 2), sorted.last());
        let [median, max] = [median, max].map(|seconds| seconds.copied().unwrap_or(f64::NAN));
        let mut text = format!(
            "rounds                         {}, {} on the same address, {} with a stopped proxy\n\
             seconds of a round             median {median:.1}, max {max:.1}\n\
             requests                       {}, {} of them after the cache was gone\n\
             replies checked                {}\n\
             bytes crossed                  {}, {} wrong values\n\
             answered after the deletion    {}, {} logins, {} sessions stayed open\n\
             keys in memcached              {}, {} foreign\n\
             old lanes refused there        {}\n\
             missed                         {}\n",
            self.rounds,
            self.same_address,
            self.paused,
            counts.requests,
            counts.late_requests,
            counts.replies_checked,
            counts.bytes_crossed,
            counts.values_wrong,
            counts.answered_late,
            counts.late_logins,
            self.left_open,
            self.keys_checked,
            self.foreign_keys,
            self.lanes_refused,
            counts.missed,
        );
        for (error, count) in &counts.errors {
            text.push_str(&format!("error {count:8} x            {error}\n"));
        }
        for failure in &self.failures {
            text.push_str(&format!("FAILED                         {failure}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_said() {
        let row = || Row { rounds: 3, same_address: 2, ..Row::default() };
        let tried = || Counts { late_requests: 1, ..Counts::default() };
        let finished = |mut row: Row| {
            row.finish(tried());
            row.failures.len()
        };
        assert_eq!(finished(row()), 0);
        assert_eq!(finished(Row { foreign_keys: 1, left_open: 1, empty_caches: 1, ..row() }), 3);
        assert_eq!(finished(Row { same_address: 1, ..row() }), 1);
        let mut untried = row();
        untried.finish(Counts::default());
        assert_eq!(untried.failures, ["no request was sent after a cache was gone"]);
        let mut crossed = row();
        crossed.finish(Counts { bytes_crossed: 10, ..tried() });
        assert!(crossed.text().contains("FAILED                         10 bytes crossed"));
    }
}
