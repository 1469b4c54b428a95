//! What a cache used, hour by hour: what a bill is made from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use store::{Timestamp, UsageHour, UsageSpan};
use utoipa::{IntoParams, ToSchema};

use super::auth::{Principal, Read};
use super::body::{Ids, Parameters};
use super::caches::find;
use super::paging::{Page, Position, cursor};
use super::problem::{Problem, ReadErrors};
use super::statistics::Totals;
use super::value::{DateTime, parse_time};
use crate::state::AppState;

/// What a cache used in an hour while it had one plan.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageHour)]
pub(super) struct HourView {
    /// When the hour began.
    hour: DateTime,
    /// The name that the plan had then.
    plan: String,
    /// MiB of memory times the seconds for which they were reserved.
    memory_mb_seconds: i64,
    #[serde(flatten)]
    totals: Totals,
    /// Connections that were open at the same time.
    peak_connections: i64,
}

/// Which hours.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageParameters {
    /// The first hour (RFC 3339); without it, the first that is kept.
    #[param(format = DateTime)]
    from: Option<String>,
    /// The first hour that isn't listed any more (RFC 3339).
    #[param(format = DateTime)]
    to: Option<String>,
    /// Hours of the page, 1 to 200; 50 without it.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Option<String>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists what a cache used, hour by hour, the oldest first. The hour of now isn't complete
#[utoipa::path(get, path = "/caches/{cache}/usage", tag = "Statistics", operation_id = "listUsage",
    params(("cache" = String, Path, description = "The cache's id"), UsageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of hours", body = Page<HourView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<UsageParameters>,
) -> Result<Json<Page<HourView>>, Problem> {
    let UsageParameters { from, to, limit, cursor: after } = parameters;
    let position = Position::new(limit.as_deref(), after.as_deref())?;
    let span = UsageSpan {
        from: time_of("from", from.as_deref())?.unwrap_or(Timestamp::EPOCH),
        to: time_of("to", to.as_deref())?.unwrap_or(Timestamp::MAX),
    };
    let last = position.after.as_deref().map(parse_key).transpose()?;
    let (_, instance) = find(&app, &caller.user, &id).await?;
    let limit = i64::try_from(position.limit).unwrap_or(i64::MAX).saturating_add(1);
    let hours = app.store.usage_hours_behind(span, &instance.id, last, limit).await?;
    let has_more = hours.len() > position.limit;
    let next_cursor = hours.get(position.limit - 1).filter(|_| has_more);
    let next_cursor = next_cursor.map(|it| cursor(&format!("{}-{}", it.hour.as_millis(), it.plan)));
    Ok(Json(Page { items: hours.into_iter().take(position.limit).map(HourView::new).collect(), next_cursor }))
}

fn time_of(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let parse = |text| {
        parse_time(text).ok_or_else(|| Problem::parameter(name, "write a time like 2027-01-31T12:00:00Z."))
    };
    text.map(parse).transpose()
}

/// Hour and plan of a cursor.
fn parse_key(key: &str) -> Result<(Timestamp, &str), Problem> {
    let parsed = key.split_once('-').and_then(|(hour, plan)| Some((hour.parse().ok()?, plan)));
    let (hour, plan) =
        parsed.ok_or_else(|| Problem::parameter("cursor", "send that of the page before, or none."))?;
    Ok((Timestamp::from_millis(hour), plan))
}

impl HourView {
    fn new(it: UsageHour) -> Self {
        Self {
            hour: DateTime(it.hour),
            memory_mb_seconds: it.memory_mb_seconds,
            totals: Totals::new(&it.usage),
            peak_connections: it.peak_connections,
            plan: it.plan,
        }
    }
}
