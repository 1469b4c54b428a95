//! Links of mails. Following one changes nothing, since programs that look for harmful mail do so too: the browser keeps its
//! code in a cookie, and goes on to a page that asks. So no page with the code in its address is shown.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use store::{AccountLink, LinkKind};

use crate::http::headers::NO_REFERRER;
use crate::http::reject::PageError;
use crate::http::session::{self, FollowedLink, Visitor};
use crate::layout::{Layout, render, set_cookie};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "link_ended.html")]
struct Page {
    layout: Layout,
}

/// `GET /links/{code}`
pub(crate) async fn follow(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    Path(code): Path<String>,
) -> Result<Response, PageError> {
    let link = match app.token_key.link_id(&code) {
        Some(id) => app.store.account_link(id).await?,
        // Codes that this installation didn't make cost no look-up.
        None => None,
    };
    let Some(link) = link else { return ended(&visitor) };
    let page = match link.kind {
        LinkKind::ResetPassword => "/reset-password",
        LinkKind::ChangeEmail => "/confirm-email",
        LinkKind::SignUp => "/sign-up/confirm",
    };
    let mut response = ([(header::REFERRER_POLICY, NO_REFERRER)], Redirect::to(page)).into_response();
    set_cookie(response.headers_mut(), Some(session::link_cookie(&app, &code)));
    Ok(response)
}

/// The link that the browser has followed, if it is valid and does this.
pub(super) async fn followed(
    app: &AppState,
    FollowedLink(code): &FollowedLink,
    kind: LinkKind,
) -> Result<Option<AccountLink>, PageError> {
    let Some(id) = code.as_deref().and_then(|code| app.token_key.link_id(code)) else { return Ok(None) };
    Ok(app.store.account_link(id).await?.filter(|link| link.kind == kind))
}

/// The page for a link that isn't valid.
pub(super) fn ended(visitor: &Visitor) -> Result<Response, PageError> {
    let mut response = render(StatusCode::GONE, &Page { layout: Layout::for_visitor(visitor) })?;
    response.headers_mut().insert(header::REFERRER_POLICY, header::HeaderValue::from_static(NO_REFERRER));
    Ok(response)
}
