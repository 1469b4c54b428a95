//! `GET /admin/audit`: searches the audit log, a page at a time, and tells whether its entries follow each other.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{AuditFilter, AuditPage, NamedEntry, now};

use super::{PAGE_ROWS, Tab, cache_path, plain_id, search_text, user_path};
use crate::audit_check::AuditStatus;
use crate::http::admin::Admin;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::{Moment, ago};
use crate::view::number::grouped;

/// Times to choose from: a name, and hours.
const TIMES: [(&str, u64); 4] = [("hour", 1), ("day", 24), ("week", 7 * 24), ("month", 30 * 24)];

#[derive(Template)]
#[template(path = "admin/audit.html")]
struct Page<'a> {
    layout: Layout,
    tab: Tab,
    csrf_token: &'a str,
    search: Search,
    /// Why nothing was searched for.
    error: Option<String>,
    entries: Vec<EntryView>,
    /// The number before which the next page goes on.
    next: Option<i64>,
    check: CheckView,
}

/// An entry in a list.
pub(super) struct EntryView {
    pub(super) seq: i64,
    pub(super) at: Moment,
    pub(super) actor: String,
    pub(super) actor_path: Option<String>,
    pub(super) action: String,
    pub(super) subject: String,
    pub(super) subject_path: Option<String>,
    pub(super) detail: String,
}

/// What is known of the chain.
struct CheckView {
    /// How many entries the check has seen that runs now.
    running: Option<String>,
    text: String,
    problem: Option<String>,
    head: String,
}

/// The form as it was sent.
#[derive(Default, Deserialize)]
pub(crate) struct Search {
    #[serde(default)]
    actor: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    within: String,
    before: Option<i64>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    admin: Admin,
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(search) = search.unwrap_or_default();
    let rows = i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX);
    let (status, error, found) = match search.filter() {
        Ok(filter) => (StatusCode::OK, None, app.store.find_audit(&filter, search.before, rows).await?),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, Some(error), AuditPage::default()),
    };
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Audit,
        csrf_token: &admin.me.session.form_token,
        search,
        error,
        entries: found.entries.into_iter().map(EntryView::new).collect(),
        next: found.before,
        check: CheckView::new(app.audit_check.status()),
    };
    render(status, &page)
}

/// Begins a check of the whole log. It runs in the background, one at a time.
pub(crate) async fn verify(
    State(app): State<Arc<AppState>>,
    CsrfForm { .. }: CsrfForm<Admin, NoFields>,
) -> Response {
    app.audit_check.request();
    Redirect::to(Tab::Audit.path()).into_response()
}

impl Search {
    fn filter(&self) -> Result<AuditFilter, String> {
        let hours = TIMES.iter().find(|(name, _)| *name == self.within).map(|(_, hours)| hours);
        Ok(AuditFilter {
            actor: search_text(&self.actor)?.to_owned(),
            action: search_text(&self.action)?.to_owned(),
            subject: search_text(&self.subject)?.to_owned(),
            within: hours.map(|hours| Duration::from_secs(hours * 60 * 60)),
        })
    }
}

impl Page<'_> {
    fn times(&self) -> impl Iterator<Item = &'static str> {
        TIMES.into_iter().map(|(name, _)| name)
    }
}

impl EntryView {
    pub(super) fn new(NamedEntry { entry, actor_email, subject_email }: NamedEntry) -> Self {
        Self {
            seq: entry.seq,
            at: Moment::new(entry.at),
            actor_path: path_of(&entry.actor),
            subject_path: path_of(&entry.subject),
            actor: named(entry.actor, actor_email),
            action: entry.action,
            subject: named(entry.subject, subject_email),
            detail: entry.detail,
        }
    }
}

impl CheckView {
    fn new(status: AuditStatus) -> Self {
        let running = status.running.map(grouped);
        match status.last {
            None => {
                let text = "Not checked since this web UI has started.".to_owned();
                Self { running, text, problem: None, head: String::new() }
            }
            Some(result) => Self {
                running,
                text: format!(
                    "{} entries follow each other, checked {}.",
                    grouped(result.chain.entries),
                    ago(now().since(result.at))
                ),
                problem: result.problem,
                head: result.chain.head,
            },
        }
    }
}

/// `user ada@example.org` for `user` and an id, if the address is known.
fn named(text: String, email: Option<String>) -> String {
    match (text.split_once(' '), email) {
        (Some((kind, _)), Some(email)) => format!("{kind} {email}"),
        _ => text,
    }
}

/// The page of the user or the cache that an entry names.
fn path_of(named: &str) -> Option<String> {
    let (kind, id) = named.split_once(' ')?;
    let id = plain_id(id).ok()?;
    match kind {
        "user" | "admin" => Some(user_path(id)),
        "cache" => Some(cache_path(id)),
        _ => None,
    }
}
