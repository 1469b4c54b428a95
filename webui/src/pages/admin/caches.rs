//! Caches of all users and their instances: the list of them, one with all that is known of it, and operations on it.

pub(super) mod actions;
pub(super) mod list;
pub(super) mod show;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use store::{Cache, Instance, ListedCache, User, now};

use super::{cache_path, plain_id, user_path};
use crate::http::admin::Admin;
use crate::http::csrf::FormSender;
use crate::http::reject::PageError;
use crate::state::AppState;
use crate::view::date::ago;

/// Extractor: an administrator, and the cache that the path names.
#[derive(Debug)]
pub(crate) struct OneCache {
    admin: Admin,
    cache: Cache,
    instance: Instance,
    owner: User,
    /// What to do, if the path names that too.
    action: Option<String>,
}

impl FromRequestParts<Arc<AppState>> for OneCache {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let admin = Admin::from_request_parts(parts, app).await?;
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(|_| PageError::NotFound)?;
        let part = |name: &str| path.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let id = part("cache").ok_or(PageError::NotFound)?;
        let cache = app.store.cache(plain_id(&id)?).await?.ok_or(PageError::NotFound)?;
        let instance = app.store.instance_of_cache(&cache.id).await?.ok_or(PageError::NotFound)?;
        let owner = app.store.user(&cache.user_id).await?.ok_or(PageError::NotFound)?;
        Ok(Self { admin, cache, instance, owner, action: part("action") })
    }
}

impl FormSender for OneCache {
    fn csrf_token(&self) -> &str {
        self.admin.csrf_token()
    }
}

/// A cache in a list.
pub(super) struct CacheLine {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) owner_path: String,
    pub(super) email: String,
    pub(super) state: &'static str,
    /// For how long, and who has suspended it.
    pub(super) since: String,
    pub(super) message: Option<String>,
    pub(super) plan: String,
    pub(super) memory_mb: i64,
    pub(super) address: String,
    pub(super) check_failed: bool,
    pub(super) checked: String,
}

impl CacheLine {
    pub(super) fn new(cache: ListedCache) -> Self {
        let age = |at| ago(now().since(at));
        Self {
            path: cache_path(&cache.id),
            owner_path: user_path(&cache.user_id),
            state: cache.state.as_str(),
            since: cache.changed_at.map(age).unwrap_or_default(),
            check_failed: cache.check_failed,
            checked: cache
                .checked_at
                .map_or_else(|| "not checked".to_owned(), |at| format!("checked {}", age(at))),
            address: cache.address.unwrap_or_default(),
            name: cache.name,
            email: cache.email,
            message: cache.message,
            plan: cache.plan,
            memory_mb: cache.memory_mb,
        }
    }
}
