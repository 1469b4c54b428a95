//! Aggregates runs into points: medians, spreads, and ratios to direct access in the same round. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::rows::{Kind, Row};
use super::targets::{CONTAINER, Target};
use crate::outcome::Outcome;
use crate::wire::Protocol;

/// Above this share of a core, the generator itself limits the throughput.
const GENERATOR_BUSY: f64 = 0.9;
/// An open loop that reaches less than this share of its rate is overloaded.
const RATE_REACHED_MIN: f64 = 0.95;

/// A line of the result.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Point {
    pub(super) row: String,
    pub(super) shape: String,
    pub(super) value_bytes: usize,
    pub(super) connections: usize,
    pub(super) pipeline: usize,
    pub(super) protocol: String,
    pub(super) tls: bool,
    pub(super) target: String,
    pub(super) backend: String,
    pub(super) ops_per_s: f64,
    /// Lowest and highest of the runs.
    pub(super) ops_per_s_spread: [f64; 2],
    /// Throughput divided by that of direct access to the same memcached: the median of all rounds.
    pub(super) ratio_to_direct: Option<f64>,
    pub(super) ratio_spread: Option<[f64; 2]>,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) p99_to_direct: Option<f64>,
    pub(super) cpu_s_per_million: BTreeMap<String, f64>,
    /// CPU seconds of the proxy in user space.
    pub(super) proxy_user_s_per_million: Option<f64>,
    /// CPU time of the generator, as a share of one core; above 0.9 it limits the throughput.
    pub(super) generator_share: f64,
    /// Reservations about the figures.
    pub(super) remarks: Vec<String>,
    /// Bytes of the target's private memory per connection: after login, and after a get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_per_connection: Option<[f64; 2]>,
}

type Runs = Vec<Result<Outcome, String>>;

pub(super) fn points(row: &Row, targets: &[Target], runs: &[Runs]) -> Vec<Point> {
    targets
        .iter()
        .zip(runs)
        .map(|(target, own)| {
            let mut point = head(row, target);
            if let Some(Err(reason)) = own.iter().find(|run| run.is_err()) {
                point.remarks.push(format!("invalid: {reason}"));
                return point;
            }
            fill(&mut point, row, &valid(own));
            if let Some(direct) = direct_of(target.backend, targets, runs) {
                compare(&mut point, &valid(own), &direct);
            }
            point
        })
        .collect()
}

fn valid(runs: &Runs) -> Vec<&Outcome> {
    runs.iter().filter_map(|run| run.as_ref().ok()).collect()
}

/// The runs of direct access to the same backend, in the faster protocol. `None` if one of them was invalid.
fn direct_of<'a>(backend: &str, targets: &[Target], runs: &'a [Runs]) -> Option<Vec<&'a Outcome>> {
    // Containers have no binary protocol (`-Y` turns it off), so loopback is the reference there.
    let on = |backend: &str| {
        let of_direct = |(target, runs): (&Target, &'a Runs)| {
            let fits = target.name == "direct" && target.backend == backend;
            (fits && runs.iter().all(Result::is_ok)).then(|| valid(runs))
        };
        let all = targets.iter().zip(runs).filter_map(of_direct);
        all.max_by(|a, b| rate(a).total_cmp(&rate(b)))
    };
    on(backend).or_else(|| on(super::targets::LOOPBACK).filter(|_| backend == CONTAINER))
}

fn rate(runs: &[&Outcome]) -> f64 {
    median(runs, |run| run.ops_per_s)
}

/// The row with its open loop's rate, taken from the peak of the closed loop's points.
pub(super) fn at_rate(row: Row, points: &[Point]) -> Row {
    let Kind::Open { share, .. } = row.kind else { return row };
    let peak = points
        .iter()
        .filter(|point| point.is_peak(&row))
        .map(|point| point.ops_per_s)
        .fold(20_000.0, f64::max);
    Row { kind: Kind::Open { share, rate: (peak * share).round() }, ..row }
}

fn head(row: &Row, target: &Target) -> Point {
    let lower = |protocol: Protocol| format!("{protocol:?}").to_lowercase();
    Point {
        row: row.name(),
        shape: row.shape(),
        value_bytes: row.value,
        connections: row.connections,
        pipeline: row.pipeline,
        protocol: lower(target.protocol),
        tls: target.uses_tls(),
        target: target.name.into(),
        backend: target.backend.into(),
        ..Point::default()
    }
}

fn fill(point: &mut Point, row: &Row, runs: &[&Outcome]) {
    point.ops_per_s = rate(runs);
    point.ops_per_s_spread = spread(runs.iter().map(|run| run.ops_per_s));
    point.p50_us = median(runs, |run| run.p50_us);
    point.p99_us = median(runs, |run| run.p99_us);
    point.p999_us = median(runs, |run| run.p999_us);
    point.generator_share = median(runs, |run| run.generator_share);
    let names = runs.iter().flat_map(|run| run.cpu_s.keys().cloned());
    for name in names {
        let per_million = |run: &&Outcome| run.cpu_s[&name].total() * 1e6 / run.ops as f64;
        point.cpu_s_per_million.insert(name.clone(), median_of(runs.iter().map(per_million)));
    }
    if point.cpu_s_per_million.contains_key("proxy") {
        let user = |run: &&Outcome| run.cpu_s["proxy"].user * 1e6 / run.ops as f64;
        point.proxy_user_s_per_million = Some(median_of(runs.iter().map(user)));
    }
    if point.generator_share > GENERATOR_BUSY {
        point.remarks.push(format!("generator at {:.0} % of its core", point.generator_share * 100.0));
    }
    if let Kind::Open { rate, .. } = row.kind
        && point.ops_per_s < rate * RATE_REACHED_MIN
    {
        point.remarks.push(format!("overloaded at {rate} requests/s"));
    }
}

fn compare(point: &mut Point, own: &[&Outcome], direct: &[&Outcome]) {
    let by_round = |what: fn(&Outcome) -> f64| -> Vec<f64> {
        own.iter().zip(direct).map(|(own, direct)| what(own) / what(direct)).collect()
    };
    let ratios = by_round(|run| run.ops_per_s);
    point.ratio_spread = Some(spread(ratios.iter().copied()));
    point.ratio_to_direct = Some(median_of(ratios.into_iter()));
    point.p99_to_direct = Some(median_of(by_round(|run| run.p99_us).into_iter()));
}

impl Point {
    /// Whether this is direct's closed loop that the open loop `row` takes its rate from.
    pub(super) fn is_peak(&self, row: &Row) -> bool {
        self.shape == "closed"
            && self.target == "direct"
            && self.backend == CONTAINER
            && self.pipeline == 1
            && self.protocol == format!("{:?}", row.protocol).to_lowercase()
            && (self.value_bytes, self.connections) == (row.value, row.connections)
    }
}

fn median(runs: &[&Outcome], what: impl Fn(&Outcome) -> f64) -> f64 {
    median_of(runs.iter().map(|run| what(run)))
}

fn median_of(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (len, middle) if len % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn spread(values: impl Iterator<Item = f64>) -> [f64; 2] {
    values.fold([f64::INFINITY, 0.0], |[low, high], value| [low.min(value), high.max(value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        assert_eq!(median_of([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median_of([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median_of(std::iter::empty()), 0.0);
        assert_eq!(spread([2.0, 1.0, 3.0].into_iter()), [1.0, 3.0]);
    }
}
