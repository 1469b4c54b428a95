//! What has happened between two samples, in the order that was asked for. Pure: `--json` prints it as it is.

use std::cmp::Reverse;
use std::time::Duration;

use serde::Serialize;
use store::{Instance, InstanceUsage, Timestamp, Usage, hits_per_thousand, latency_quantile_us};

use super::sample::Sample;

/// What caches are sorted by, the most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Sort {
    Rate,
    /// The least first: those to look at.
    Hits,
    P99,
    Errors,
    Memory,
    Connections,
    Name,
}

#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) time: Timestamp,
    /// The time that rates were measured over.
    pub(super) measured_ms: u64,
    pub(super) total: Rates,
    pub(super) roles: Vec<RoleView>,
    pub(super) proxies: Vec<ProxyView>,
    pub(super) caches: Vec<CacheView>,
}

/// What clients have done in that time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    pub(super) operations_per_second: f64,
    /// Hits of a thousand reads; `null` without reads.
    pub(super) hits_per_thousand: Option<i64>,
    /// An upper bound; `null` without requests.
    pub(super) p99_us: Option<i64>,
    pub(super) errors_per_second: f64,
    pub(super) bytes_in_per_second: f64,
    pub(super) bytes_out_per_second: f64,
    pub(super) connections: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct CacheView {
    pub(super) email: String,
    pub(super) cache: String,
    pub(super) state: &'static str,
    #[serde(flatten)]
    pub(super) rates: Rates,
    /// Bytes that items use and may use; `null` if memcached hasn't said so lately.
    pub(super) memory_bytes: Option<i64>,
    pub(super) memory_limit_bytes: i64,
    pub(super) items: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ProxyView {
    pub(super) name: String,
    /// Changes of the store that it hasn't applied.
    pub(super) lag_revisions: i64,
    pub(super) heartbeat_age_ms: u128,
    pub(super) connections: i64,
    pub(super) version: String,
}

#[derive(Debug, Serialize)]
pub(super) struct RoleView {
    pub(super) role: &'static str,
    pub(super) ready: bool,
    pub(super) message: Option<String>,
    /// Of one CPU; `null` before it was measured.
    pub(super) cpu_percent: Option<f64>,
    pub(super) memory_bytes: f64,
    pub(super) open_files: f64,
    pub(super) open_files_max: f64,
    pub(super) connections: f64,
}

impl View {
    pub(super) fn between(first: &Sample, last: &Sample, sort: Sort) -> Self {
        let measured = last.at.saturating_duration_since(first.at);
        let none = InstanceUsage::default();
        let mut total = InstanceUsage::default();
        let mut caches = Vec::with_capacity(last.instances.len());
        for instance in &last.instances {
            let usage = last.usage.get(&instance.id).unwrap_or(&none);
            let since = first.usage.get(&instance.id).unwrap_or(&none);
            let used = difference(usage, since);
            total = sum(&total, &used);
            caches.push(CacheView::new(last, instance, Rates::of(&used, measured)));
        }
        sort_by(&mut caches, sort);
        Self {
            time: last.time,
            measured_ms: u64::try_from(measured.as_millis()).unwrap_or(u64::MAX),
            total: Rates::of(&total, measured),
            roles: roles(first, last),
            proxies: proxies(last),
            caches,
        }
    }
}

impl CacheView {
    fn new(last: &Sample, instance: &Instance, rates: Rates) -> Self {
        let said = last.statistics.get(&instance.id).map(|it| it.gauges);
        Self {
            email: last.emails.get(&instance.user_id).cloned().unwrap_or_default(),
            cache: instance.cache.clone(),
            state: instance.state().as_str(),
            rates,
            memory_bytes: said.map(|it| it.bytes),
            memory_limit_bytes: said.map_or(instance.memory_mb.saturating_mul(1 << 20), |it| it.limit_bytes),
            items: said.map(|it| it.items),
        }
    }
}

impl Rates {
    fn of(used: &InstanceUsage, measured: Duration) -> Self {
        let per_second = |count: i64| {
            // Tenths are precise enough, and no count is too long for a number of JSON.
            let ms = i64::try_from(measured.as_millis()).unwrap_or(i64::MAX);
            let tenths = store::tenths_per_second(count, ms).unwrap_or_default();
            f64::from(i32::try_from(tenths).unwrap_or(i32::MAX)) / 10.0
        };
        let it = &used.usage;
        Self {
            operations_per_second: per_second(it.operations()),
            hits_per_thousand: hits_per_thousand(it.hits, it.misses),
            p99_us: latency_quantile_us(&used.latency, 990),
            errors_per_second: per_second(it.errors),
            bytes_in_per_second: per_second(it.bytes_in),
            bytes_out_per_second: per_second(it.bytes_out),
            connections: used.connections,
        }
    }
}

/// What was used since an earlier time. A cache that was made again counts from zero.
fn difference(now: &InstanceUsage, before: &InstanceUsage) -> InstanceUsage {
    let less = |now: i64, before: i64| now.saturating_sub(before).max(0);
    let (it, was) = (&now.usage, &before.usage);
    let usage = Usage {
        hits: less(it.hits, was.hits),
        misses: less(it.misses, was.misses),
        stores: less(it.stores, was.stores),
        deletes: less(it.deletes, was.deletes),
        arithmetic: less(it.arithmetic, was.arithmetic),
        touches: less(it.touches, was.touches),
        others: less(it.others, was.others),
        errors: less(it.errors, was.errors),
        bytes_in: less(it.bytes_in, was.bytes_in),
        bytes_out: less(it.bytes_out, was.bytes_out),
    };
    let known =
        |bound: i64| before.latency.iter().find(|(it, _)| *it == bound).map_or(0, |(_, count)| *count);
    let latency = now.latency.iter().map(|(bound, count)| (*bound, less(*count, known(*bound))));
    InstanceUsage { usage, latency: latency.collect(), connections: now.connections }
}

fn sum(one: &InstanceUsage, other: &InstanceUsage) -> InstanceUsage {
    let mut latency: std::collections::BTreeMap<i64, i64> = one.latency.iter().copied().collect();
    for (bound, count) in &other.latency {
        let sum = latency.entry(*bound).or_default();
        *sum = sum.saturating_add(*count);
    }
    InstanceUsage {
        usage: one.usage.plus(&other.usage),
        latency: latency.into_iter().collect(),
        connections: one.connections.saturating_add(other.connections),
    }
}

fn sort_by(caches: &mut [CacheView], sort: Sort) {
    // So that equal ones stay where they are.
    caches.sort_by(|a, b| (&a.email, &a.cache).cmp(&(&b.email, &b.cache)));
    match sort {
        Sort::Name => {}
        Sort::Rate => {
            caches.sort_by(|a, b| b.rates.operations_per_second.total_cmp(&a.rates.operations_per_second));
        }
        Sort::Errors => {
            caches.sort_by(|a, b| b.rates.errors_per_second.total_cmp(&a.rates.errors_per_second));
        }
        Sort::Hits => caches.sort_by_key(|it| it.rates.hits_per_thousand.unwrap_or(i64::MAX)),
        Sort::P99 => caches.sort_by_key(|it| Reverse(it.rates.p99_us)),
        Sort::Memory => caches.sort_by_key(|it| Reverse(it.memory_bytes)),
        Sort::Connections => caches.sort_by_key(|it| Reverse(it.rates.connections)),
    }
}

fn proxies(last: &Sample) -> Vec<ProxyView> {
    let proxy = |it: &store::Proxy| ProxyView {
        name: it.name.clone(),
        lag_revisions: last.revision.saturating_sub(it.applied).max(0),
        heartbeat_age_ms: last.time.since(it.seen_at).as_millis(),
        connections: last.proxy_connections.get(&it.name).copied().unwrap_or_default(),
        version: it.version.clone(),
    };
    last.proxies.iter().map(proxy).collect()
}

fn roles(first: &Sample, last: &Sample) -> Vec<RoleView> {
    let role = |it: &super::roles::RoleSample| {
        let earlier = first.roles.iter().find(|earlier| earlier.role == it.role);
        RoleView {
            role: it.role,
            ready: it.problem.is_none(),
            message: it.problem.clone(),
            cpu_percent: earlier.and_then(|earlier| it.cpu_percent(earlier)),
            memory_bytes: it.memory_bytes,
            open_files: it.open_files,
            open_files_max: it.files_max,
            connections: it.connections,
        }
    };
    last.roles.iter().map(role).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(hits: i64, misses: i64, errors: i64, latency: &[(i64, i64)]) -> InstanceUsage {
        let usage = Usage { hits, misses, errors, ..Usage::default() };
        InstanceUsage { usage, latency: latency.to_vec(), connections: 3 }
    }

    #[test]
    fn rates_are_those_of_the_window() {
        let before = usage(1_000, 500, 7, &[(64, 1_400), (4_096, 100)]);
        let now = usage(1_090, 510, 9, &[(64, 1_499), (128, 1), (4_096, 100)]);
        let rates = Rates::of(&difference(&now, &before), Duration::from_secs(10));
        assert_eq!((rates.operations_per_second, rates.errors_per_second), (10.0, 0.2));
        assert_eq!((rates.hits_per_thousand, rates.p99_us, rates.connections), (Some(900), Some(64), 3));
        let idle = Rates::of(&difference(&now, &now), Duration::from_secs(10));
        assert_eq!((idle.operations_per_second, idle.hits_per_thousand, idle.p99_us), (0.0, None, None));
        // Made again: what it counts is new.
        let again = difference(&before, &now);
        assert_eq!((again.usage.hits, again.usage.operations()), (0, 0));
        assert_eq!(Rates::of(&now, Duration::ZERO).operations_per_second, 0.0);
    }

    //
    #[test]
    fn absurd_numbers_of_the_store_are_shown() {
        for (a, b) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX), (i64::MAX, i64::MAX)] {
            let (one, other) = (usage(a, b, a, &[(a, b)]), usage(b, a, b, &[(b, a)]));
            let rates = Rates::of(&sum(&difference(&one, &other), &one), Duration::from_millis(1));
            assert!(rates.operations_per_second.is_finite());
        }
    }
}
