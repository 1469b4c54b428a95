//! How a cache is doing: figures of now, and their history.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use store::{
    StatisticsCounters, StatisticsInterval, StatisticsResolution, Usage, hits_per_thousand,
    latency_quantile_us, now,
};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Principal, Read};
use super::body::{Ids, Parameters};
use super::caches::find;
use super::problem::{Problem, ReadErrors};
use super::value::DateTime;
use crate::state::AppState;

const HOUR: Duration = Duration::from_hours(1);

/// How a cache is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Statistics {
    /// What memcached last said; `null` if it hasn't lately.
    newest: Option<Sample>,
    /// What has happened in the last hour.
    last_hour: Counters,
    /// Hits of a thousand reads in the last hour; `null` without reads.
    hits_per_thousand: Option<i64>,
    /// Client connections that are open.
    connections: i64,
    /// What applications have done since the cache was created.
    total: Totals,
    /// How long requests took in this service, since the cache was created.
    latency: Latency,
}

/// Figures of a memcached.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sample {
    sampled_at: DateTime,
    /// Seconds since memcached started.
    uptime_seconds: i64,
    /// Bytes that items use.
    bytes: i64,
    /// Bytes that items may use.
    limit_bytes: i64,
    /// Items, expired ones too until memcached finds them.
    items: i64,
}

/// What has happened in a time, as memcached counts it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counters {
    /// Reads that found their key.
    hits: i64,
    /// Reads that didn't.
    misses: i64,
    /// Stores.
    sets: i64,
    /// Items that were removed to make room.
    evictions: i64,
    /// Those of them that nobody had read.
    evicted_unfetched: i64,
    /// Stores that failed because there was no room.
    out_of_memory: i64,
    /// Bytes that memcached has received.
    bytes_read: i64,
    /// Bytes that memcached has sent.
    bytes_written: i64,
}

/// Operations of applications.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Totals {
    pub(super) hits: i64,
    pub(super) misses: i64,
    pub(super) stores: i64,
    pub(super) deletes: i64,
    pub(super) arithmetic: i64,
    pub(super) touches: i64,
    pub(super) others: i64,
    /// How many of these were answered with an error.
    pub(super) errors: i64,
    /// Bytes from applications.
    pub(super) bytes_in: i64,
    /// Bytes to applications.
    pub(super) bytes_out: i64,
}

/// Upper bounds in microseconds; `null` without requests.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Latency {
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    p999_us: Option<u64>,
}

/// How far back a history goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StatisticsRange)]
pub(super) enum Range {
    #[default]
    Hour,
    Day,
    Week,
    Month,
}

/// Which history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryParameters {
    /// `hour` (10 s each), as without it, `day` (5 minutes each), `week` or `month` (an hour each).
    #[serde(default)]
    #[param(inline = false, required = false)]
    range: Range,
}

/// The history of a cache's figures.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    range: Range,
    /// Seconds of an interval.
    interval_seconds: i64,
    /// Oldest first. Those in which nothing was measured are missing.
    intervals: Vec<Interval>,
}

/// Figures of a time.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Interval {
    begins_at: DateTime,
    /// The time in milliseconds that the counters cover.
    measured_ms: i64,
    /// At its end.
    bytes: i64,
    /// At its end.
    limit_bytes: i64,
    /// At its end.
    items: i64,
    #[serde(flatten)]
    counters: Counters,
}

/// Shows how a cache is doing now
#[utoipa::path(get, path = "/caches/{cache}/statistics", tag = "Statistics", operation_id = "getStatistics",
    params(("cache" = String, Path, description = "The cache's id")), security(("api_key" = ["read"])),
    responses((status = 200, description = "Its figures", body = Statistics), ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
) -> Result<Json<Statistics>, Problem> {
    let (_, instance) = find(&app, &caller.user, &id).await?;
    let (store, id) = (&app.store, &instance.id);
    let newest = store.instance_statistics(id).await?.map(|it| Sample {
        sampled_at: DateTime(it.sampled_at),
        uptime_seconds: it.uptime_seconds,
        bytes: it.gauges.bytes,
        limit_bytes: it.gauges.limit_bytes,
        items: it.gauges.items,
    });
    let since = now().saturating_sub(HOUR);
    let hour = store.statistics_history(id, StatisticsResolution::Seconds, since).await?;
    let hour = hour.iter().fold(StatisticsCounters::default(), |sum, it| sum.plus(&it.counters));
    let latency = store.latency(id).await?;
    let quantile = |thousandths| {
        latency_quantile_us(&latency, thousandths).map(|us| u64::try_from(us).unwrap_or_default())
    };
    Ok(Json(Statistics {
        newest,
        hits_per_thousand: hits_per_thousand(hour.hits, hour.misses),
        last_hour: Counters::new(&hour),
        connections: store.connections(id).await?,
        total: Totals::new(&store.usage(id).await?),
        latency: Latency { p50_us: quantile(500), p99_us: quantile(990), p999_us: quantile(999) },
    }))
}

/// Shows the history of a cache's figures
#[utoipa::path(get, path = "/caches/{cache}/statistics/history", tag = "Statistics", operation_id = "getStatisticsHistory",
    params(("cache" = String, Path, description = "The cache's id"), HistoryParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "Its history", body = History), ReadErrors))]
pub(super) async fn history(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(HistoryParameters { range }): Parameters<HistoryParameters>,
) -> Result<Json<History>, Problem> {
    let (_, instance) = find(&app, &caller.user, &id).await?;
    let (resolution, span) = match range {
        Range::Hour => (StatisticsResolution::Seconds, HOUR),
        Range::Day => (StatisticsResolution::Minutes, HOUR * 24),
        Range::Week => (StatisticsResolution::Hours, HOUR * 24 * 7),
        Range::Month => (StatisticsResolution::Hours, HOUR * 24 * 31),
    };
    let since = now().saturating_sub(span);
    let intervals = app.store.statistics_history(&instance.id, resolution, since).await?;
    Ok(Json(History {
        range,
        interval_seconds: resolution.seconds(),
        intervals: intervals.iter().map(Interval::new).collect(),
    }))
}

impl Counters {
    fn new(it: &StatisticsCounters) -> Self {
        Self {
            hits: it.hits,
            misses: it.misses,
            sets: it.sets,
            evictions: it.evictions,
            evicted_unfetched: it.evicted_unfetched,
            out_of_memory: it.out_of_memory,
            bytes_read: it.bytes_read,
            bytes_written: it.bytes_written,
        }
    }
}

impl Interval {
    fn new(it: &StatisticsInterval) -> Self {
        Self {
            begins_at: DateTime(it.begins_at),
            measured_ms: it.measured_ms,
            bytes: it.gauges.bytes,
            limit_bytes: it.gauges.limit_bytes,
            items: it.gauges.items,
            counters: Counters::new(&it.counters),
        }
    }
}

impl Totals {
    pub(super) fn new(usage: &Usage) -> Self {
        let Usage { hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, bytes_out } =
            *usage;
        Self { hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, bytes_out }
    }
}
