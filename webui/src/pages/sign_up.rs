//! Sign-up: fields first, then the limit, the password, and one transaction. The first token is in the
//! answer to the POST itself: no copy of it waits anywhere, and every web UI behind a balancer can give it.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use store::{NewToken, NewUser, StoreError};

use super::{Frame, Trouble, cache, in_words, render, retry_after, set_cookie};
use crate::csrf::Submitted;
use crate::field::{Email, Password};
use crate::session::{self, SignedIn, Visitor};
use crate::source::Source;
use crate::web::Web;

/// What the token that comes with an account is called.
const FIRST_TOKEN: &str = "First token";

#[derive(Template)]
#[template(path = "sign_up.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    email: &'a str,
    wrong: Wrong,
}

/// What to change.
#[derive(Default)]
struct Wrong {
    email: Option<&'static str>,
    password: Option<&'static str>,
    all: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(visitor: Visitor) -> Result<Response, Trouble> {
    if visitor.me.is_some() {
        return Ok(Redirect::to("/cache").into_response());
    }
    form(StatusCode::OK, visitor, "", Wrong::default())
}

pub(crate) async fn submit(
    State(web): State<Arc<Web>>,
    source: Source,
    Submitted { sender: visitor, fields }: Submitted<Visitor, Fields>,
) -> Result<Response, Trouble> {
    let typed = fields.email;
    let (email, password) = match (Email::parse(&typed), Password::parse(fields.password)) {
        (Ok(email), Ok(password)) => (email, password),
        (email, password) => {
            let wrong = Wrong { email: email.err(), password: password.err(), all: None };
            return form(StatusCode::UNPROCESSABLE_ENTITY, visitor, &typed, wrong);
        }
    };
    // A taken address is told as such, or nobody could sign up in peace; so asking is limited.
    if let Err(wait) = web.sign_ups.take(source) {
        web.metrics.sign_up("limited");
        let all =
            format!("Too many accounts were asked for from your network. Try again {}.", in_words(wait));
        let wrong = Wrong { all: Some(all), ..Wrong::default() };
        let mut response = form(StatusCode::TOO_MANY_REQUESTS, visitor, &typed, wrong)?;
        retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    // Hashed before the store is asked: a taken address takes as long as a free one.
    let hash = web.passwords.hash(password.into_inner()).await?;
    let token = NewToken::generate(&web.token_key, FIRST_TOKEN);
    let new = NewUser {
        email: email.as_str(),
        password_hash: Some(&hash),
        plan: &web.config.plan,
        is_admin: false,
    };
    let user = match web.store.acting_as("visitor").sign_up(&new, &token).await {
        Ok(user) => user,
        Err(StoreError::AlreadyExists(_)) => {
            web.metrics.sign_up("taken");
            let taken = "This address has an account already. Sign in, or use another address.";
            let wrong = Wrong { email: Some(taken), ..Wrong::default() };
            return form(StatusCode::CONFLICT, visitor, &typed, wrong);
        }
        Err(error) => return Err(error.into()),
    };
    web.metrics.sign_up("done");
    let (session, cookie) = session::begin(&web, &user.id, visitor.me.as_ref()).await?;
    let me = SignedIn { user, session, leaks: Vec::new() };
    let mut response = cache::with_new_token(&web, &me, &token, FIRST_TOKEN).await?;
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

fn form(status: StatusCode, visitor: Visitor, email: &str, wrong: Wrong) -> Result<Response, Trouble> {
    let frame = Frame::around(&visitor);
    let page = Page { frame, form_token: &visitor.form_token, email, wrong };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}
