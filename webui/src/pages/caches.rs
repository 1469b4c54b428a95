//! The caches of a user: the list of them, and the pages of one, which share a header and tabs. Caches of other users are
//! answered like caches that don't exist.

pub(super) mod activity;
pub(super) mod connect;
pub(super) mod connections;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod denials;
pub(super) mod events;
pub(super) mod first_steps;
pub(super) mod list;
pub(super) mod operations;
pub(super) mod overview;
pub(super) mod settings;
pub(super) mod sleep;
pub(super) mod tokens;
pub(super) mod usage;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use store::{Cache, Instance, Operation, UserState};

use crate::actions;
use crate::http::csrf::FormSender;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::state::AppState;
use crate::view::cache_state::CacheState;

/// Where a user without a certain cache in mind is sent.
pub(crate) const CACHES: &str = "/caches";

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
        let (cache, instance) = actions::caches::find(app, &me.user, id).await?;
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
    Activity,
    Usage,
    Settings,
}

impl Tab {
    const ALL: [Self; 8] = [
        Self::Overview,
        Self::Connect,
        Self::Tokens,
        Self::Connections,
        Self::Denials,
        Self::Activity,
        Self::Usage,
        Self::Settings,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Connect => "Connect",
            Self::Tokens => "Tokens",
            Self::Connections => "Connections",
            Self::Denials => "Denials",
            Self::Activity => "Activity",
            Self::Usage => "Usage",
            Self::Settings => "Settings",
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
            Self::Activity => "/activity",
            Self::Usage => "/usage",
            Self::Settings => "/settings",
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
    /// What was asked of the cache, newest first.
    pub(crate) operations: Vec<Operation>,
}

impl Header {
    pub(crate) async fn new(app: &AppState, own: &OwnCache, tab: Tab) -> Result<Self, PageError> {
        let operations = operations_of(app, &own.cache.id).await?;
        let caches = app.store.caches_of(&own.me.user.id).await?;
        let others =
            caches.into_iter().filter(|it| it.id != own.cache.id).map(|it| (it.id, it.name)).collect();
        Ok(Self {
            cache_id: own.cache.id.clone(),
            name: own.cache.name.clone(),
            state: CacheState::new(&own.instance).with_operations(&own.instance, &operations),
            tab,
            others,
            user_suspended: own.me.user.state == UserState::Suspended,
            operations,
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

/// The newest operations of a cache, newest first.
async fn operations_of(app: &AppState, cache_id: &str) -> Result<Vec<Operation>, PageError> {
    Ok(app.store.operations_of(cache_id, actions::caches::OPERATIONS_MAX).await?)
}

/// The state of a cache, with what was asked of it.
async fn read_state(app: &AppState, instance: &Instance) -> Result<CacheState, PageError> {
    let operations = operations_of(app, &instance.cache_id).await?;
    Ok(CacheState::new(instance).with_operations(instance, &operations))
}

/// The address of a cache's page.
pub(crate) fn path_of(cache_id: &str, tab: Tab) -> String {
    format!("{CACHES}/{cache_id}{}", tab.path())
}
