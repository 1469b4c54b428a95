//! The caches of a user: the list of them, and the pages of one, which share a header and tabs. Caches of other users are
//! answered like caches that don't exist.

pub(super) mod connect;
pub(super) mod connections;
pub(super) mod denials;
pub(super) mod events;
pub(super) mod first_steps;
pub(super) mod overview;
pub(super) mod tokens;
pub(super) mod usage;

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Redirect, Response};
use store::{Cache, Instance, UserState};

use super::no_cache;
use crate::http::csrf::FormSender;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::cache_state::CacheState;

/// Where a user without a certain cache in mind is sent.
pub(crate) const CACHES: &str = "/caches";

#[derive(Template)]
#[template(path = "caches/list.html")]
struct List {
    layout: Layout,
    caches: Vec<CacheRow>,
}

/// A cache in the list.
struct CacheRow {
    id: String,
    name: String,
    memory_mb: i64,
    state: CacheState,
}

/// `GET /caches`. Somebody with one cache is led to it.
pub(crate) async fn show(State(app): State<Arc<AppState>>, me: SignedIn) -> Result<Response, PageError> {
    let caches = app.store.caches_of(&me.user.id).await?;
    match &*caches {
        [] => return no_cache::page(&me, StatusCode::OK),
        [only] => return Ok(Redirect::to(&format!("{CACHES}/{}", only.id)).into_response()),
        _ => {}
    }
    let mut rows = Vec::with_capacity(caches.len());
    for Cache { id, name, .. } in caches {
        // One that is being deleted has none.
        if let Some(instance) = app.store.instance_of_cache(&id).await? {
            let (memory_mb, state) = (instance.memory_mb, CacheState::new(&instance));
            rows.push(CacheRow { id, name, memory_mb, state });
        }
    }
    render(StatusCode::OK, &List { layout: Layout::signed_in(&me), caches: rows })
}

/// Extractor: the cache that the path names, and the signed-in user who has it.
#[derive(Debug)]
pub(crate) struct OwnCache {
    pub(crate) me: SignedIn,
    pub(crate) cache: Cache,
    pub(crate) instance: Instance,
}

impl FromRequestParts<Arc<AppState>> for OwnCache {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let me = SignedIn::from_request_parts(parts, app).await?;
        let Path(id) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| PageError::NotFound)?;
        Self::find(app, me, &id).await
    }
}

impl OwnCache {
    /// The cache with this id.
    ///
    /// # Errors
    ///
    /// [`PageError::NotFound`] if there is none, or another user has it.
    pub(crate) async fn find(app: &AppState, me: SignedIn, id: &str) -> Result<Self, PageError> {
        let cache = app.store.cache(id).await?.filter(|cache| cache.user_id == me.user.id);
        let cache = cache.ok_or(PageError::NotFound)?;
        let instance = app.store.instance_of_cache(&cache.id).await?.ok_or(PageError::NotFound)?;
        Ok(Self { me, cache, instance })
    }
}

impl FormSender for OwnCache {
    fn csrf_token(&self) -> &str {
        &self.me.session.form_token
    }
}

/// A page of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Overview,
    Connect,
    Tokens,
    Connections,
    Denials,
    Usage,
}

impl Tab {
    const ALL: [Self; 6] =
        [Self::Overview, Self::Connect, Self::Tokens, Self::Connections, Self::Denials, Self::Usage];

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Connect => "Connect",
            Self::Tokens => "Tokens",
            Self::Connections => "Connections",
            Self::Denials => "Denials",
            Self::Usage => "Usage",
        }
    }

    /// Its address, behind that of the cache.
    fn path(self) -> &'static str {
        match self {
            Self::Overview => "",
            Self::Connect => "/connect",
            Self::Tokens => "/tokens",
            Self::Connections => "/connections",
            Self::Denials => "/denials",
            Self::Usage => "/usage",
        }
    }
}

/// What is above every page of a cache: its name, its state, the user's other caches, and tabs.
pub(crate) struct Header {
    pub(crate) cache_id: String,
    pub(crate) name: String,
    pub(crate) state: CacheState,
    pub(crate) tab: Tab,
    /// Id and name.
    pub(crate) others: Vec<(String, String)>,
    /// Whether the user is suspended.
    pub(crate) user_suspended: bool,
}

impl Header {
    pub(crate) async fn new(app: &AppState, own: &OwnCache, tab: Tab) -> Result<Self, PageError> {
        let caches = app.store.caches_of(&own.me.user.id).await?;
        let others =
            caches.into_iter().filter(|it| it.id != own.cache.id).map(|it| (it.id, it.name)).collect();
        Ok(Self {
            cache_id: own.cache.id.clone(),
            name: own.cache.name.clone(),
            state: CacheState::new(&own.instance),
            tab,
            others,
            user_suspended: own.me.user.state == UserState::Suspended,
        })
    }

    fn tabs(&self) -> [Tab; Tab::ALL.len()] {
        Tab::ALL
    }

    /// The address of the page.
    pub(crate) fn path(&self) -> String {
        path_of(&self.cache_id, self.tab)
    }
}

/// The address of a cache's page.
pub(crate) fn path_of(cache_id: &str, tab: Tab) -> String {
    format!("{CACHES}/{cache_id}{}", tab.path())
}
