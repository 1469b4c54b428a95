//! Users: the list of them, one user with all that belongs to the account, and what an administrator does to an account.

pub(super) mod actions;
pub(super) mod list;
pub(super) mod show;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use store::User;

use super::plain_id;
use crate::http::admin::Admin;
use crate::http::csrf::FormSender;
use crate::http::reject::PageError;
use crate::state::AppState;

/// Extractor: an administrator, and the user whom the path names.
#[derive(Debug)]
pub(crate) struct OneUser {
    admin: Admin,
    user: User,
    /// What to do, if the path names that too.
    action: Option<String>,
}

impl FromRequestParts<Arc<AppState>> for OneUser {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let admin = Admin::from_request_parts(parts, app).await?;
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, app).await;
        let Path(path) = path.map_err(|_| PageError::NotFound)?;
        let part = |name: &str| path.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let id = part("user").ok_or(PageError::NotFound)?;
        let user = app.store.user(plain_id(&id)?).await?.ok_or(PageError::NotFound)?;
        Ok(Self { admin, user, action: part("action") })
    }
}

impl FormSender for OneUser {
    fn csrf_token(&self) -> &str {
        self.admin.csrf_token()
    }
}
