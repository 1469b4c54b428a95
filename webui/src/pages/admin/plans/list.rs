//! `GET /admin/plans`: all plans with their limits.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::Plan;

use super::{LISTED_MAX, sleep_text};
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::Tab;
use crate::state::AppState;
use crate::view::number::{grouped, size};

#[derive(Template)]
#[template(path = "admin/plans/list.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    plans: Vec<PlanLine>,
    /// The plan of new users.
    of_new_users: String,
    /// What was just done.
    done: Option<&'static str>,
}

struct PlanLine {
    name: String,
    /// In the order of the columns.
    cells: [String; 10],
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    done: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    admin: Admin,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let done = match params.done.as_deref() {
        Some("created") => Some("The plan is created."),
        Some("updated") => Some("The plan is changed: its rates apply to all of its caches within a second."),
        Some("deleted") => Some("The plan is deleted."),
        _ => None,
    };
    let plans = app.store.plans().await?;
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Plans,
        plans: plans.into_iter().take(LISTED_MAX).map(PlanLine::new).collect(),
        of_new_users: app.config.plan.clone(),
        done,
    };
    render(StatusCode::OK, &page)
}

impl Page {
    fn columns(&self) -> [&'static str; 10] {
        [
            "Memory",
            "Connections",
            "Item size",
            "Operations/s",
            "Bytes/s",
            "Warm",
            "Sleeps after",
            "CPU weight",
            "Caches per user",
            "Price",
        ]
    }
}

impl PlanLine {
    fn new(plan: Plan) -> Self {
        let limit = |limit: Option<i64>, none: &str| limit.map_or_else(|| none.to_owned(), grouped);
        let cells = [
            format!("{} MB", grouped(plan.memory_mb)),
            grouped(plan.connections),
            size(plan.item_size_max),
            limit(plan.operations_per_second, "no limit"),
            limit(plan.bytes_per_second, "no limit"),
            if plan.warm { "yes" } else { "no" }.to_owned(),
            sleep_text(plan.sleep_after_seconds),
            plan.cpu_weight.to_string(),
            limit(plan.caches_per_user, "as the setting says"),
            plan.price_label.unwrap_or_default(),
        ];
        Self { name: plan.name, cells }
    }
}
