//! `GET /admin/denials`: denied logins and requests of all users, by cause.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{DenialCause, DenialTotal, UserDenial, now};

use super::{Tab, cache_path, overview, user_path};
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::ago;
use crate::view::number::grouped;

/// Denials in the list.
const SHOWN_MAX: i64 = 100;
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Template)]
#[template(path = "admin/denials.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    /// `hour` or `day`.
    within: &'static str,
    /// The cause that was asked for; empty for any.
    cause: &'static str,
    throttled: Vec<Total>,
    denied: Vec<Total>,
    denials: Vec<DenialLine>,
    is_cut: bool,
}

/// Denials with one cause.
struct Total {
    cause: &'static str,
    what: &'static str,
    tokens: String,
    last: String,
}

/// A denial in a list.
pub(super) struct DenialLine {
    pub(super) cause: &'static str,
    pub(super) what: &'static str,
    pub(super) owner_path: String,
    pub(super) email: String,
    pub(super) cache_path: String,
    pub(super) cache: String,
    pub(super) token: String,
    pub(super) token_id: String,
    pub(super) origin: String,
    pub(super) last: String,
    pub(super) count: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    #[serde(default)]
    within: String,
    #[serde(default)]
    cause: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    admin: Admin,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let (within, span) = if params.within == "day" { ("day", DAY) } else { ("hour", HOUR) };
    let since = now().saturating_sub(span);
    let cause = DenialCause::parse(&params.cause);
    let totals = app.store.denial_totals(since).await?;
    let denials = app.store.denials_since(since, cause, SHOWN_MAX).await?;
    let (throttled, denied): (Vec<_>, Vec<_>) =
        totals.into_iter().partition(|total| overview::is_throttling(total.cause));
    let totals = |totals: Vec<DenialTotal>| totals.into_iter().map(Total::new).collect();
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Denials,
        within,
        cause: cause.map_or("", DenialCause::as_str),
        throttled: totals(throttled),
        denied: totals(denied),
        is_cut: i64::try_from(denials.len()).is_ok_and(|shown| shown >= SHOWN_MAX),
        denials: denials.into_iter().map(DenialLine::new).collect(),
    };
    render(StatusCode::OK, &page)
}

impl Page {
    fn groups(&self) -> [(&'static str, &'static str, &[Total]); 2] {
        [("throttled", "Throttled", &self.throttled), ("denied", "Denied", &self.denied)]
    }
}

impl Total {
    fn new(total: DenialTotal) -> Self {
        Self {
            cause: total.cause.as_str(),
            what: total.cause.what(),
            tokens: if total.tokens == 1 {
                "1 token".to_owned()
            } else {
                format!("{} tokens", grouped(total.tokens))
            },
            last: ago(now().since(total.last_at)),
        }
    }
}

impl DenialLine {
    pub(super) fn new(it: UserDenial) -> Self {
        let UserDenial { denial, token, cache_id, cache, user_id, email } = it;
        let mut origin = denial.source.unwrap_or_else(|| "many addresses".to_owned());
        if !denial.detail.is_empty() {
            origin.push_str(&format!(", {}", denial.detail));
        }
        Self {
            cause: denial.cause.as_str(),
            what: denial.cause.what(),
            owner_path: user_path(&user_id),
            email,
            cache_path: cache_path(&cache_id),
            cache,
            token,
            token_id: denial.token_id,
            origin,
            last: ago(now().since(denial.last_at)),
            count: grouped(denial.count),
        }
    }
}
