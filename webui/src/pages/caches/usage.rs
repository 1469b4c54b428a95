//! What a cache used: per day on the page, per hour in a file.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use identity::usage_csv::Audience;
use store::{Store, StoreError, Timestamp, Usage, UsageHour, UsageSpan, now};

use super::{Header, OwnCache, Tab};
use crate::cache_events::StreamSlot;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::chart::{About, Chart, Series, Shape, Unit};
use crate::view::date::{day, day_of_year};
use crate::view::number::{bytes, grouped, hundredths};

const DAY: Duration = Duration::from_hours(24);
/// Days on the page, today included.
const DAYS: u32 = 31;
/// Pages of 1,000 hours that are read: 31 days have 744 hours, and one more row for each change of the plan.
const PAGES_MAX: usize = 3;
/// The columns behind the day.
const COLUMNS: [&str; 14] = [
    "Memory, GB-hours",
    "Plan",
    "Hits",
    "Misses",
    "Stores",
    "Deletes",
    "Counters",
    "Touches",
    "Other",
    "Operations",
    "Errors",
    "Received",
    "Sent",
    "Connections",
];
const MEMORY: About = About {
    id: "memory-used",
    title: "Memory per day, GB-hours",
    meaning: "1 GB for a day is 24. It changes with the size of the cache, and is less on days on which it slept or was suspended.",
    unit: Unit::GigabyteHours,
    shape: Shape::Bars,
};
const OPERATIONS: About = About {
    id: "operations",
    title: "Operations per day",
    meaning: "Everything that your clients asked for, of all kinds; the table has each kind.",
    unit: Unit::Count,
    shape: Shape::Bars,
};

#[derive(Template)]
#[template(path = "caches/usage.html")]
struct Page {
    layout: Layout,
    header: Header,
    /// Of each: id, title, value and detail.
    totals: Vec<(&'static str, &'static str, String, String)>,
    charts: Vec<Chart>,
    columns: [&'static str; COLUMNS.len()],
    /// Newest first, without days of which nothing is known.
    days: Vec<DayView>,
    is_cut: bool,
}

struct DayView {
    name: String,
    cells: [String; COLUMNS.len()],
}

/// What was used in some hours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sum {
    memory_mb_seconds: i64,
    usage: Usage,
    /// The most.
    peak_connections: i64,
    /// In the order of time.
    plans: Vec<String>,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let today = start_of_day(now());
    let first = today.saturating_sub(DAY * (DAYS - 1));
    let span = UsageSpan { from: first, to: Timestamp::MAX };
    let (hours, is_cut) = read(&app.store, &own.instance.id, span).await?;
    let days: Vec<(Timestamp, Option<Sum>)> = (0..DAYS)
        .map(|number| {
            let begins = first.saturating_add(DAY * number);
            let ends = begins.saturating_add(DAY);
            let hours = hours.iter().filter(|it| begins <= it.hour && it.hour < ends);
            (begins, hours.fold(None, |sum: Option<Sum>, hour| Some(sum.unwrap_or_default().with(hour))))
        })
        .collect();
    let total = hours.iter().fold(Sum::default(), Sum::with);
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(&app, &own, Tab::Usage).await?,
        totals: total.totals(),
        charts: charts(&days),
        columns: COLUMNS,
        days: days.iter().rev().filter_map(|(at, sum)| Some(sum.as_ref()?.view(*at))).collect(),
        is_cut,
    };
    render(StatusCode::OK, &page)
}

/// `GET /caches/{cache}/usage.csv`: all hours that are kept. They are read as they are sent: nobody keeps them in memory.
pub(crate) async fn download(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    let me = &own.me;
    // It is read while it is sent, which a slow client may draw out: it counts as an open stream.
    let slot = app.cache_events.acquire_slot(&me.user.id, &me.session.id_hash).map_err(|cause| {
        app.metrics.count_limited(cause);
        PageError::TooManyStreams
    })?;
    app.rate_limits.downloads.acquire(&me.user.id).map_err(|wait| {
        app.metrics.count_limited("downloads");
        PageError::RateLimited(wait)
    })?;
    let span = UsageSpan { from: Timestamp::EPOCH, to: Timestamp::MAX };
    let first = app.store.usage_hours(span, Some(&own.instance.id), None).await?;
    let file =
        CsvFile { store: app.store.clone(), instance_id: own.instance.id, span, next: Some(first), slot };
    let columns = Ok::<_, DownloadError>(Bytes::from(Audience::Owner.header()));
    let body = stream::StreamExt::chain(stream::iter([columns]), stream::try_unfold(file, CsvFile::next));
    // A name has only letters that a header may have.
    let name = format!("attachment; filename=\"memgate-usage-{}.csv\"", own.cache.name);
    let headers =
        [(header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (header::CONTENT_DISPOSITION, name)];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Why a file ends early.
#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error("failed to read usage")]
    Store(#[from] StoreError),
    #[error("another user's stream takes its place")]
    Displaced,
}

/// A file that is being sent.
struct CsvFile {
    store: Store,
    instance_id: String,
    span: UsageSpan,
    /// Rows that were read and not sent; `None` if they are to be read.
    next: Option<Vec<UsageHour>>,
    slot: StreamSlot,
}

impl CsvFile {
    /// The next part; `None` ends the file. A failure breaks the connection, so that no client takes a part for the whole.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, DownloadError> {
        if self.slot.is_displaced() {
            return Err(DownloadError::Displaced);
        }
        let Some(rows) = self.next.take().filter(|rows| !rows.is_empty()) else { return Ok(None) };
        let text: String = rows.iter().map(|hour| Audience::Owner.row(hour)).collect();
        self.next = Some(self.store.usage_hours(self.span, Some(&self.instance_id), rows.last()).await?);
        Ok(Some((Bytes::from(text), self)))
    }
}

/// Hours of an instance, oldest first, and whether there are more.
async fn read(store: &Store, instance: &str, span: UsageSpan) -> Result<(Vec<UsageHour>, bool), StoreError> {
    let mut hours: Vec<UsageHour> = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = store.usage_hours(span, Some(instance), hours.last()).await?;
        if page.is_empty() {
            return Ok((hours, false));
        }
        hours.extend(page);
    }
    Ok((hours, true))
}

fn start_of_day(at: Timestamp) -> Timestamp {
    let day = i64::try_from(DAY.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(at.as_millis().div_euclid(day).saturating_mul(day))
}

fn charts(days: &[(Timestamp, Option<Sum>)]) -> Vec<Chart> {
    let times: Vec<String> = days.iter().map(|(at, _)| day_of_year(*at)).collect();
    let chart = |about, name, value: fn(&Sum) -> i64| {
        let values = days.iter().map(|(_, sum)| sum.as_ref().map(value)).collect();
        Chart::new(about, &times, &[Series { name, values }])
    };
    vec![
        chart(MEMORY, "GB-hours", Sum::gigabyte_hours),
        chart(OPERATIONS, "Operations", |sum| sum.usage.operations()),
    ]
}

impl Sum {
    fn with(mut self, hour: &UsageHour) -> Self {
        self.usage = self.usage.plus(&hour.usage);
        self.memory_mb_seconds = self.memory_mb_seconds.saturating_add(hour.memory_mb_seconds);
        self.peak_connections = self.peak_connections.max(hour.peak_connections);
        if !self.plans.contains(&hour.plan) {
            self.plans.push(hour.plan.clone());
        }
        self
    }

    /// In hundredths. The store counts MiB times seconds.
    fn gigabyte_hours(&self) -> i64 {
        let hundredths = i128::from(self.memory_mb_seconds) * 100 / (3_600 * 1_024);
        i64::try_from(hundredths).unwrap_or(i64::MAX)
    }

    fn totals(&self) -> Vec<(&'static str, &'static str, String, String)> {
        let Usage { bytes_in, bytes_out, errors, .. } = self.usage;
        vec![
            ("total-memory", "Memory", hundredths(self.gigabyte_hours()), "GB-hours reserved".to_owned()),
            (
                "total-operations",
                "Operations",
                grouped(self.usage.operations()),
                format!("{} of them answered with an error", grouped(errors)),
            ),
            ("total-in", "Received", bytes(bytes_in), "from your clients".to_owned()),
            ("total-out", "Sent", bytes(bytes_out), "to your clients".to_owned()),
            (
                "total-connections",
                "Connections",
                grouped(self.peak_connections),
                "at most at the same time".to_owned(),
            ),
        ]
    }

    fn view(&self, at: Timestamp) -> DayView {
        let Usage { hits, misses, stores, deletes, arithmetic, touches, others, errors, bytes_in, bytes_out } =
            self.usage;
        let cells = [
            hundredths(self.gigabyte_hours()),
            self.plans.join(", "),
            grouped(hits),
            grouped(misses),
            grouped(stores),
            grouped(deletes),
            grouped(arithmetic),
            grouped(touches),
            grouped(others),
            grouped(self.usage.operations()),
            grouped(errors),
            bytes(bytes_in),
            bytes(bytes_out),
            grouped(self.peak_connections),
        ];
        DayView { name: day(at), cells }
    }
}
