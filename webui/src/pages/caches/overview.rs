//! Overview of a cache: how it is doing, what is wrong, what it may use. Never shows where the instance runs.

mod charts;
mod figures;
mod notices;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::InstanceState::{Deleting, Failed, Suspended};
use store::{Instance, InstanceEvent, StatisticsResolution, Timestamp, now};

use self::charts::Range;
use self::figures::{Measured, Tile};
use self::notices::{EXPIRY_WARNING, Facts, Notice};
use super::{Header, OwnCache, Tab, read_state};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::cache_state::CacheState;
use crate::view::chart::Chart;
use crate::view::date::ago;
use crate::view::number;

/// Repairs on the page.
const EVENTS_MAX: usize = 5;
/// Repairs that are read: more than there are in the hour of a crash loop.
const EVENTS_READ_MAX: i64 = 20;
/// What the tiles sum up.
const TILES_SPAN: Duration = Duration::from_hours(1);

#[derive(Template)]
#[template(path = "caches/overview.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    endpoint: String,
    /// Whether the endpoint speaks TLS, with a CA certificate to download.
    has_tls: bool,
    instance: &'a Instance,
    figures: Figures,
    range: Range,
    charts: Vec<Chart>,
    /// What happened to the cache, and how long ago, newest first.
    events: Vec<(String, String)>,
}

/// What a page with scripts fetches again every ten seconds.
#[derive(Template)]
#[template(path = "caches/figures.html")]
struct Figures {
    cache_id: String,
    notices: Vec<Notice>,
    tiles: Vec<Tile>,
    /// Whether to say how to begin: no application has used the cache yet, and it can be used.
    is_unused: bool,
}

#[derive(Default, Deserialize)]
pub(crate) struct Parameters {
    #[serde(default)]
    range: String,
}

/// What the store knows of a cache, of which every list has a limit.
struct Read {
    at: Timestamp,
    measured: Measured,
    events: Vec<InstanceEvent>,
    figures: Figures,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
    own: OwnCache,
) -> Result<Response, PageError> {
    let Query(Parameters { range }) = parameters.unwrap_or_default();
    let range = Range::parse(&range);
    let Read { at, measured, mut events, figures } = read(&app, &own).await?;
    let charts = if figures.is_unused {
        Vec::new()
    } else if range.resolution() == StatisticsResolution::Seconds {
        charts::all(range, &measured.last_hour, at)
    } else {
        let since = range.begins_at(at);
        let intervals = app.store.statistics_history(&own.instance.id, range.resolution(), since).await?;
        charts::all(range, &intervals, at)
    };
    events.truncate(EVENTS_MAX);
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Overview).await?,
        endpoint: app.endpoint.to_string(),
        has_tls: app.config.ca_certificate.is_some(),
        instance: &own.instance,
        figures,
        range,
        charts,
        events: events.iter().map(|event| (event.text(), ago(at.since(event.last_at)))).collect(),
    };
    render(StatusCode::OK, &page)
}

/// `GET /caches/{cache}/figures`: notices and tiles, without the rest of the page.
pub(crate) async fn figures(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    render(StatusCode::OK, &read(&app, &own).await?.figures)
}

/// `GET /caches/{cache}/state`: polled by pages whose event stream was refused.
pub(crate) async fn state(
    State(app): State<Arc<AppState>>,
    own: OwnCache,
) -> Result<Json<CacheState>, PageError> {
    Ok(Json(read_state(&app, &own.instance).await?))
}

async fn read(app: &AppState, own: &OwnCache) -> Result<Read, PageError> {
    let (store, cache, instance) = (&app.store, &own.cache.id, &own.instance);
    let at = now();
    let since = at.saturating_sub(TILES_SPAN);
    let measured = Measured {
        newest: store.instance_statistics(&instance.id).await?,
        last_hour: store.statistics_history(&instance.id, StatisticsResolution::Seconds, since).await?,
        usage: store.usage(&instance.id).await?,
        latency: store.latency(&instance.id).await?,
        connections: store.connections(&instance.id).await?,
    };
    let events = store.instance_events(&instance.id, EVENTS_READ_MAX).await?;
    let facts = Facts {
        instance,
        now: at,
        measured: &measured,
        events: &events,
        denials: &store.denials_of_cache(cache).await?,
        tokens: &store.list_tokens(cache, 0).await?.active,
        certificates: &store.expiring_certificates(cache, at.saturating_add(EXPIRY_WARNING)).await?,
    };
    let figures = Figures {
        cache_id: cache.clone(),
        notices: facts.notices(),
        tiles: measured.tiles(instance, at),
        is_unused: measured.is_unused() && !matches!(instance.state(), Failed | Suspended | Deleting),
    };
    Ok(Read { at, events, figures, measured })
}

impl Page<'_> {
    fn item_size_max(&self) -> String {
        number::size(self.instance.item_size_max)
    }

    fn connections_max(&self) -> String {
        number::grouped(self.instance.connections)
    }

    fn ranges(&self) -> [Range; Range::ALL.len()] {
        Range::ALL
    }

    /// Whether there is anything to draw.
    fn has_history(&self) -> bool {
        self.charts.iter().any(|chart| !chart.rows.is_empty())
    }
}
