//! The second step of a sign-in: a code of the user's second factor. It belongs to one sign-in whose password was right, waits
//! for five minutes and five codes, and ends with any change of the password.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::User;

use super::local_path;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::{self, AwaitedCode, SessionSource, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::pages::code_check::{self, CodeCheck};
use crate::state::AppState;
use crate::view::date::retry_in;

#[derive(Template)]
#[template(path = "sign_in/code.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    next: &'a str,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    code: String,
    #[serde(default)]
    next: String,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    visitor: Visitor,
    AwaitedCode(id_hash): AwaitedCode,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    match id_hash {
        Some(id_hash) if app.store.is_sign_in_pending(&id_hash).await? => {
            page(StatusCode::OK, &visitor, &params.next, None)
        }
        _ => Ok(expired(&app)),
    }
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    AwaitedCode(id_hash): AwaitedCode,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let Some(id_hash) = id_hash else { return Ok(expired(&app)) };
    let Some(pending) = app.store.try_pending_sign_in(&id_hash).await? else { return Ok(expired(&app)) };
    let user = app.store.user(&pending.user_id).await?;
    let Some(user) = user else { return Ok(expired(&app)) };
    match code_check::check(&app, &user, &fields.code).await? {
        CodeCheck::Right => {}
        CodeCheck::RateLimited(wait) => {
            app.metrics.count_sign_in("limited");
            let error = format!("Too many codes were tried. Try again {}.", retry_in(wait));
            let mut response = page(StatusCode::TOO_MANY_REQUESTS, &visitor, &fields.next, Some(error))?;
            set_retry_after(response.headers_mut(), wait);
            return Ok(response);
        }
        CodeCheck::Wrong => {
            app.metrics.count_sign_in("wrong_code");
            if pending.attempts_left == 0 {
                return Ok(expired(&app));
            }
            let error = "Wrong code, or one that was used already. Wait for the next code and enter that.";
            return page(StatusCode::UNAUTHORIZED, &visitor, &fields.next, Some(error.to_owned()));
        }
    }
    finish(&app, &id_hash, &user, (client_ip, &from, &visitor), &fields.next).await
}

/// Starts the session.
async fn finish(
    app: &AppState,
    id_hash: &str,
    user: &User,
    (client_ip, from, visitor): (ClientIp, &SessionSource, &Visitor),
    next: &str,
) -> Result<Response, PageError> {
    let hash = app.store.password_hash(&user.id).await?;
    // A change of the password has ended it, if it came before; and ends the session, if it comes later.
    if !app.store.end_pending_sign_in(id_hash).await? {
        return Ok(expired(app));
    }
    let previous = visitor.me.as_ref().map(|me| &me.session);
    let (session, cookie) = session::start(app, &user.id, from, previous).await?;
    if app.store.password_hash(&user.id).await? != hash {
        session::end(app, &session).await?;
        return Ok(expired(app));
    }
    app.store.note_sign_in(&user.id, &format!("from {client_ip}, with a code")).await?;
    app.metrics.count_sign_in("success");
    let mut response = Redirect::to(local_path(next)).into_response();
    for cookie in [cookie, session::browser_cookie(app, &user.email), session::expired_code_cookie(app)] {
        set_cookie(response.headers_mut(), Some(cookie));
    }
    Ok(response)
}

/// Back to the first step.
fn expired(app: &AppState) -> Response {
    let mut response = Redirect::to("/sign-in?expired").into_response();
    set_cookie(response.headers_mut(), Some(session::expired_code_cookie(app)));
    response
}

fn page(
    status: StatusCode,
    visitor: &Visitor,
    next: &str,
    error: Option<String>,
) -> Result<Response, PageError> {
    let layout = Layout::for_visitor(visitor);
    let page = Page { layout, csrf_token: &visitor.csrf_token, next: local_path(next), error };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie.clone());
    Ok(response)
}
