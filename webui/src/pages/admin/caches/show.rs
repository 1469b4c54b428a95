//! `GET /admin/caches/{cache}`: a cache with its instance: route, isolation, figures, operations and events. Nothing of what
//! it holds.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{Cache, CheckResult, Instance, InstanceEvent, IsolationCheck, Operation, now};

use super::OneCache;
use super::actions::CacheAction;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::pages::admin::denials::DenialLine;
use crate::pages::admin::{Tab, user_path};
use crate::state::AppState;
use crate::view::date::{Moment, ago};
use crate::view::number::{bytes, grouped};
use crate::view::operation;

/// Operations and events on the page.
const SHOWN_MAX: i64 = 20;

#[derive(Template)]
#[template(path = "admin/caches/show.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    cache: Cache,
    email: String,
    owner_path: String,
    state: &'static str,
    message: Option<String>,
    /// Titles and values.
    facts: Vec<(&'static str, String)>,
    check: Option<CheckView>,
    /// What was just asked for.
    requested: Option<&'static str>,
    actions: Vec<CacheAction>,
    operations: Vec<OperationView>,
    events: Vec<EventView>,
    denials: Vec<DenialLine>,
}

struct CheckView {
    /// Parts and their results.
    parts: [(&'static str, &'static str); 4],
    failed: bool,
    outdated: bool,
    image: String,
    detail: String,
    when: String,
}

struct OperationView {
    title: String,
    state: &'static str,
    progress: i64,
    asked: Moment,
    requested_by: String,
    message: String,
}

struct EventView {
    text: String,
    count: i64,
    last: Moment,
    detail: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    requested: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    one: OneCache,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let OneCache { admin, cache, instance, owner, .. } = one;
    let store = &app.store;
    let operations = store.operations_of(&cache.id, SHOWN_MAX).await?;
    let denials = store.named_denials_of_cache(&cache.id, SHOWN_MAX).await?;
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Caches,
        facts: facts(&app, &cache, &instance).await?,
        check: store.isolation_check(&instance.id).await?.map(CheckView::new),
        requested: params.requested.as_deref().and_then(CacheAction::parse).map(CacheAction::requested),
        actions: CacheAction::of(&instance),
        operations: operations.into_iter().map(OperationView::new).collect(),
        events: store.instance_events(&instance.id, SHOWN_MAX).await?.iter().map(EventView::new).collect(),
        denials: denials.into_iter().map(DenialLine::new).collect(),
        state: instance.state().as_str(),
        message: instance.route.and_then(|route| route.message),
        owner_path: user_path(&owner.id),
        email: owner.email,
        cache,
    };
    render(StatusCode::OK, &page)
}

async fn facts(
    app: &AppState,
    cache: &Cache,
    instance: &Instance,
) -> Result<Vec<(&'static str, String)>, PageError> {
    let none = || "-".to_owned();
    let route = instance.route.as_ref();
    let statistics = app.store.instance_statistics(&instance.id).await?;
    let used = statistics.map_or_else(none, |it| {
        let limit = bytes(it.gauges.limit_bytes);
        format!("{} of {limit}, {} items", bytes(it.gauges.bytes), grouped(it.gauges.items))
    });
    Ok(vec![
        ("Plan", cache.plan.clone()),
        ("Memory", format!("{} MB", instance.memory_mb)),
        ("Used", used),
        ("Connections", grouped(app.store.connections(&instance.id).await?)),
        ("Warm", if instance.warm { "yes" } else { "no" }.to_owned()),
        ("Suspended itself", if cache.suspended { "yes" } else { "no" }.to_owned()),
        ("Address", route.and_then(|route| route.address.clone()).unwrap_or_else(none)),
        ("Generation", route.map_or_else(none, |route| route.generation.to_string())),
        ("memcached", route.and_then(|route| route.version.clone()).unwrap_or_else(none)),
        ("State since", route.map_or_else(none, |route| ago(now().since(route.changed_at)))),
        ("Instance", instance.id.clone()),
        ("Cache", cache.id.clone()),
    ])
}

impl CheckView {
    fn new(check: IsolationCheck) -> Self {
        let results = [check.ports, check.restrictions, check.reachability, check.login];
        let titles = ["Ports", "Restrictions", "Reachability", "Login"];
        let mut parts = [("", ""); 4];
        for ((part, title), result) in parts.iter_mut().zip(titles).zip(results) {
            *part = (title, result.as_str());
        }
        Self {
            parts,
            failed: results.contains(&CheckResult::Failed),
            outdated: check.outdated,
            image: check.image,
            detail: check.detail,
            when: ago(now().since(check.checked_at)),
        }
    }
}

impl OperationView {
    fn new(it: Operation) -> Self {
        Self {
            title: operation::title(&it),
            state: it.state.as_str(),
            progress: it.progress,
            asked: Moment::new(it.created_at),
            requested_by: it.requested_by,
            message: it.message.unwrap_or_default(),
        }
    }
}

impl EventView {
    fn new(it: &InstanceEvent) -> Self {
        Self { text: it.text(), count: it.count, last: Moment::new(it.last_at), detail: it.detail.clone() }
    }
}
