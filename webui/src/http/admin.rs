//! Who gets into the administrators' area. To everybody else, signed in or not, none of its pages exists.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use store::{Store, UserState, now};

use super::csrf::FormSender;
use super::reject::PageError;
use super::session::{self, RequestedBy, SignedIn};
use crate::state::AppState;

/// Extractor: the administrator who sent the request. Only [`require_admin`] lets one through.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) me: Arc<SignedIn>,
}

/// Middleware of all addresses under `/admin`, also those that don't exist. The account is read with each request, so that
/// one that is suspended, or no administrator any more, gets no further.
pub(crate) async fn require_admin(
    State(app): State<Arc<AppState>>,
    mut request: Request,
    next: Next,
) -> Response {
    match session::find(&app, request.headers(), RequestedBy::User).await {
        Ok(Some(me)) if me.user.is_admin && me.user.state == UserState::Active => {
            request.extensions_mut().insert(Admin { me: Arc::new(me) });
            next.run(request).await
        }
        Ok(_) => PageError::NotFound.into_response(),
        Err(error) => error.into_response(),
    }
}

impl Admin {
    /// The store, with this administrator as the actor in the audit log.
    pub(crate) fn store(&self, app: &AppState) -> Store {
        app.store.acting_as_admin(&self.me.user.id)
    }

    /// Whether the password was entered a short time ago.
    pub(crate) fn has_entered_password(&self, app: &AppState) -> bool {
        now().since(self.me.session.password_entered_at()) < app.config.admin_password_valid_for()
    }
}

impl FromRequestParts<Arc<AppState>> for Admin {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<AppState>) -> Result<Self, PageError> {
        parts.extensions.get::<Self>().cloned().ok_or(PageError::NotFound)
    }
}

impl FormSender for Admin {
    fn csrf_token(&self) -> &str {
        &self.me.session.form_token
    }
}
