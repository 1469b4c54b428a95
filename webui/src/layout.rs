//! What surrounds every page: header, banners and assets; and how a page becomes a response.

use std::time::Duration;

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use store::UserState;

use crate::http::assets;
use crate::http::reject::PageError;
use crate::http::session::{SignedIn, Visitor};
use crate::view::token::LeakNotice;

/// Data of `templates/layout.html`, which every page extends.
pub(crate) struct Layout {
    /// Set if the visitor is signed in.
    pub(crate) account: Option<Account>,
    /// Shown on every page until dismissed.
    pub(crate) notices: Vec<LeakNotice>,
    pub(crate) style: String,
    pub(crate) script: String,
    pub(crate) icon: String,
}

/// The signed-in user, as the header shows them. No `Debug`: that would print the CSRF token.
pub(crate) struct Account {
    pub(crate) email: String,
    /// Whether the header leads to the administrators' area.
    pub(crate) is_admin: bool,
    pub(crate) csrf_token: String,
}

impl Layout {
    pub(crate) fn signed_out() -> Self {
        let [style, script, icon] = ["style.css", "page.js", "icon.svg"].map(assets::url);
        Self { account: None, notices: Vec::new(), style, script, icon }
    }

    pub(crate) fn signed_in(me: &SignedIn) -> Self {
        let notices = me.leaks.iter().map(LeakNotice::new).collect();
        let account = Account {
            email: me.user.email.clone(),
            is_admin: me.user.is_admin && me.user.state == UserState::Active,
            csrf_token: me.session.form_token.clone(),
        };
        Self { account: Some(account), notices, ..Self::signed_out() }
    }

    pub(crate) fn for_visitor(visitor: &Visitor) -> Self {
        visitor.me.as_ref().map_or_else(Self::signed_out, Self::signed_in)
    }
}

/// Renders a page.
///
/// # Errors
///
/// [`PageError::Internal`] if the template fails.
pub(crate) fn render(status: StatusCode, page: &impl Template) -> Result<Response, PageError> {
    let html = page.render().map_err(|error| {
        tracing::error!(%error, "failed to render a page");
        PageError::Internal
    })?;
    Ok((status, Html(html)).into_response())
}

/// Adds a `Set-Cookie` header, if there is a cookie.
pub(crate) fn set_cookie(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Sets `Retry-After`, rounded up to whole seconds.
pub(crate) fn set_retry_after(headers: &mut HeaderMap, wait: Duration) {
    headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
}
