//! A line of the result: what the victim felt without a flood, with its CPU time alone, and with it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::job::Report;
use super::kind::{Kind, Role};
use super::usage::Usage;
use super::victim::{Felt, Summary};

#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) flood: Kind,
    /// Before the flood.
    pub(super) quiet: Felt,
    pub(super) during: Felt,
    /// After it, for floods that are measured then.
    pub(super) after: Option<Felt>,
    /// With a process that uses as much CPU time as the flood did, and sends nothing.
    pub(super) cpu_only: Felt,
    /// CPU time of the flood's processes, as a share of one core.
    pub(super) flood_cpu_share: f64,
    pub(super) report: Report,
    /// Generation of the victim's container before and after.
    pub(super) generations: [i64; 2],
    /// How many of the victim's keys were kept, of [`super::victim::KEPT_KEYS`]; `None` if they couldn't be read.
    pub(super) kept: Option<usize>,
    pub(super) usage: BTreeMap<Role, Usage>,
    /// Roles whose process isn't the same as before.
    pub(super) restarted: Vec<Role>,
}

/// p99 in ms, and its ratios.
pub(super) struct Compared {
    pub(super) quiet: f64,
    pub(super) cpu_only: f64,
    pub(super) during: f64,
}

impl Row {
    pub(super) fn p99(&self, of: impl Fn(&Felt) -> &Summary) -> Compared {
        let p99 = |felt| of(felt).p99_ms;
        Compared { quiet: p99(&self.quiet), cpu_only: p99(&self.cpu_only), during: p99(&self.during) }
    }

    /// p99 in ms after the flood, and its ratio to that before.
    pub(super) fn p99_after(&self, of: impl Fn(&Felt) -> &Summary) -> Option<(f64, f64)> {
        let after = of(self.after.as_ref()?).p99_ms;
        Some((after, ratio(after, of(&self.quiet).p99_ms)))
    }

    /// The most frequent error of the victim in each series, with its count.
    pub(super) fn errors(&self) -> Vec<String> {
        let Felt { login, request, page, sign_in } = &self.during;
        [("login", login), ("request", request), ("page", page), ("sign-in", sign_in)]
            .into_iter()
            .filter_map(|(name, summary)| {
                let (error, _) = summary.errors.iter().max_by_key(|(_, count)| **count)?;
                let (count, all) = (summary.error_count(), summary.error_count() + summary.answered);
                Some(format!("{name} {count} of {all} ({error})"))
            })
            .collect()
    }

    /// Whether the victim's container was replaced.
    pub(super) fn is_replaced(&self) -> bool {
        self.generations[0] != self.generations[1]
    }
}

impl Compared {
    pub(super) fn to_quiet(&self) -> f64 {
        ratio(self.during, self.quiet)
    }

    pub(super) fn to_cpu_only(&self) -> f64 {
        ratio(self.during, self.cpu_only)
    }
}

/// 0 if there is nothing to compare with.
fn ratio(value: f64, reference: f64) -> f64 {
    if reference > 0.0 { value / reference } else { 0.0 }
}
