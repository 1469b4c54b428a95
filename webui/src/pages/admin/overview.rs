//! `GET /admin`: what is wrong first, and then figures of the whole installation.

mod alerts;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use store::{
    DenialCause, DenialTotal, HostMemory, InstanceState, IsolationSummary, ListedCache, Plan, Proxy,
    UserFigures, WriteHealth, now,
};

use self::alerts::Alert;
use super::Tab;
use crate::audit_check::AuditStatus;
use crate::http::admin::Admin;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::ago;
use crate::view::number::{bytes, grouped};

/// Failed caches that are named.
const NAMED_MAX: i64 = 5;
const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Template)]
#[template(path = "admin/overview.html")]
struct Page {
    layout: Layout,
    tab: Tab,
    alerts: Vec<Alert>,
    tiles: Vec<Tile>,
}

/// A figure.
struct Tile {
    id: &'static str,
    title: &'static str,
    value: String,
    detail: String,
    /// Where more is said of it; empty if nowhere.
    link: &'static str,
}

/// What the page is made from.
struct Facts {
    users: UserFigures,
    states: Vec<(InstanceState, i64)>,
    /// Some of those that have failed.
    failed: Vec<ListedCache>,
    isolation: IsolationSummary,
    memory: Option<HostMemory>,
    /// The plan of new users.
    plan: Option<Plan>,
    proxies: Vec<Proxy>,
    /// The store's change counter.
    revision: i64,
    /// Of the last hour.
    denials: Vec<DenialTotal>,
    /// Enabled webhooks whose last attempt failed.
    failing_webhooks: i64,
    writes: WriteHealth,
    audit: AuditStatus,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, admin: Admin) -> Result<Response, PageError> {
    let facts = Facts::read(&app).await?;
    let page = Page {
        layout: Layout::signed_in(&admin.me),
        tab: Tab::Overview,
        alerts: alerts::of(&facts),
        tiles: facts.tiles(),
    };
    render(StatusCode::OK, &page)
}

impl Facts {
    async fn read(app: &AppState) -> Result<Self, PageError> {
        let store = &app.store;
        // Before the proxies, so that none seems to lag for a change between the two.
        let revision = store.revision().await?;
        Ok(Self {
            revision,
            users: store.user_figures().await?,
            states: store.cache_states().await?,
            failed: store.failed_caches(NAMED_MAX).await?,
            isolation: store.isolation_summary().await?,
            memory: store.host_memory().await?,
            plan: store.plan(&app.config.plan).await?,
            proxies: Proxy::current(&store.proxies().await?, now()),
            denials: store.denial_totals(now().saturating_sub(HOUR)).await?,
            failing_webhooks: store.failing_webhooks().await?,
            writes: store.write_health(),
            audit: app.audit_check.status(),
        })
    }

    /// How many caches are in a state.
    fn count(&self, state: InstanceState) -> i64 {
        self.states.iter().find(|(it, _)| *it == state).map_or(0, |(_, count)| *count)
    }

    fn tiles(&self) -> Vec<Tile> {
        let caches: i64 = self.states.iter().map(|(_, count)| count).sum();
        let states: Vec<String> = self
            .states
            .iter()
            .map(|(state, count)| format!("{} {}", grouped(*count), state.as_str()))
            .collect();
        let UserFigures { users, suspended, admins } = self.users;
        let tile = |id, title, value: String, detail: String, link| Tile { id, title, value, detail, link };
        let [throttled, denied] = self.denied_tokens();
        vec![
            tile(
                "users",
                "Users",
                grouped(users),
                format!("{} suspended; administrators: {}", grouped(suspended), grouped(admins)),
                Tab::Users.path(),
            ),
            tile("caches", "Caches", grouped(caches), or_none(states.join(", ")), Tab::Caches.path()),
            self.memory_tile(),
            self.isolation_tile(),
            tile(
                "proxies",
                "Proxies",
                self.proxies.len().to_string(),
                "with a heartbeat within a minute".to_owned(),
                Tab::Proxies.path(),
            ),
            tile(
                "throttled",
                "Throttled in the last hour",
                grouped(throttled),
                "tokens over the rates, connections or buffers of a plan or a proxy".to_owned(),
                "/admin/denials",
            ),
            tile(
                "denied",
                "Denied in the last hour",
                grouped(denied),
                "tokens whose logins or requests were denied for other causes".to_owned(),
                "/admin/denials",
            ),
            tile(
                "webhooks",
                "Failing webhooks",
                grouped(self.failing_webhooks),
                "enabled ones whose last attempt failed".to_owned(),
                "",
            ),
            self.audit_tile(),
        ]
    }

    /// Tokens over a limit, and tokens that were denied for other causes.
    fn denied_tokens(&self) -> [i64; 2] {
        let sum = |throttled: bool| {
            let of_kind = self.denials.iter().filter(|total| is_throttling(total.cause) == throttled);
            of_kind.map(|total| total.tokens).sum()
        };
        [sum(true), sum(false)]
    }

    fn memory_tile(&self) -> Tile {
        let (value, detail) = match &self.memory {
            None => ("unknown".to_owned(), "not known before a provisioner runs".to_owned()),
            Some(memory) => {
                let fit = self.plan.as_ref().map_or_else(String::new, |plan| {
                    format!(
                        ", room for {} more caches of the plan {}",
                        memory.caches_that_fit(plan),
                        plan.name
                    )
                });
                let budget = bytes(memory.capacity.budget_bytes);
                let free = bytes(memory.free_bytes());
                (bytes(memory.promised_bytes), format!("of {budget} promised, {free} free{fit}"))
            }
        };
        Tile { id: "memory", title: "Memory promised", value, detail, link: Tab::Caches.path() }
    }

    fn isolation_tile(&self) -> Tile {
        let it = &self.isolation;
        let oldest =
            it.oldest_at.map_or_else(String::new, |at| format!("the oldest check {}", ago(now().since(at))));
        let mut detail = if oldest.is_empty() { "no container was checked yet".to_owned() } else { oldest };
        for (count, what) in
            [(it.incomplete, "not fully checked"), (it.outdated, "with another image than new ones")]
        {
            if count > 0 {
                detail.push_str(&format!(", {} {what}", grouped(count)));
            }
        }
        let value = format!("{} checked", grouped(it.checked));
        Tile { id: "isolation", title: "Isolation", value, detail, link: Tab::Caches.path() }
    }

    fn audit_tile(&self) -> Tile {
        let (value, detail) = match &self.audit.last {
            None => ("not checked yet".to_owned(), "since this web UI has started".to_owned()),
            Some(result) => (
                format!("{} entries", grouped(result.chain.entries)),
                format!("follow each other, checked {}", ago(now().since(result.at))),
            ),
        };
        Tile { id: "audit", title: "Audit log", value, detail, link: Tab::Audit.path() }
    }
}

/// Whether a cause is a limit that a right credential has reached.
pub(super) fn is_throttling(cause: DenialCause) -> bool {
    matches!(
        cause,
        DenialCause::Rate
            | DenialCause::Limit
            | DenialCause::TokenLimit
            | DenialCause::ProxyLimit
            | DenialCause::Buffers
    )
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}
