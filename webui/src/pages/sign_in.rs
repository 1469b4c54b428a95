//! Sign-in and sign-out. A wrong password and an unknown address get the same response after the same time.

pub(super) mod code;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::Email;
use serde::Deserialize;
use store::{Session, User};

use super::code_check::has_second_factor;
use super::password_check;
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::{self, Browser, SessionSource, SignedIn, Visitor};
use crate::layout::{Layout, render, set_cookie, set_retry_after};
use crate::password::{Account, Requester};
use crate::state::AppState;
use crate::view::date::retry_in;

/// Where a sign-in leads by default.
const DEFAULT_NEXT: &str = "/caches";
const WRONG_CREDENTIALS: &str = "Wrong e-mail or password. Check both and try again.";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    email: &'a str,
    next: &'a str,
    error: Option<String>,
    signed_out: bool,
    deleted: bool,
    /// After a new password was set with a link.
    reset: bool,
    /// After a code wasn't entered in time, or too many were wrong.
    expired: bool,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    #[serde(default)]
    next: String,
    #[serde(rename = "signed-out")]
    signed_out: Option<String>,
    deleted: Option<String>,
    reset: Option<String>,
    expired: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
}

pub(crate) async fn show(
    visitor: Visitor,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let next = local_path(&params.next);
    if visitor.me.is_some() {
        return Ok(Redirect::to(next).into_response());
    }
    let page = Page {
        layout: Layout::signed_out(),
        csrf_token: &visitor.csrf_token,
        email: "",
        next,
        error: None,
        signed_out: params.signed_out.is_some(),
        deleted: params.deleted.is_some(),
        reset: params.reset.is_some(),
        expired: params.expired.is_some(),
    };
    let mut response = render(StatusCode::OK, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    from: SessionSource,
    browser: Browser,
    CsrfForm { sender: visitor, fields }: CsrfForm<Visitor, Fields>,
) -> Result<Response, PageError> {
    let is_known = browser.has_signed_in(&app, &fields.email);
    let requester = match password_check::begin(&app, &fields.email, client_ip, is_known).await {
        Ok(requester) => requester,
        Err(wait) => return limited(&app, &visitor, &fields, wait),
    };
    let previous = visitor.me.as_ref().map(|me| me.session.clone());
    let sign_in = SignIn { app: app.clone(), email: fields.email.clone(), client_ip, from, previous };
    match sign_in.authenticate(requester, fields.password.clone()).await? {
        Outcome::Success(cookie) => {
            app.metrics.count_sign_in("success");
            let mut response = Redirect::to(local_path(&fields.next)).into_response();
            set_cookie(response.headers_mut(), Some(cookie));
            set_cookie(response.headers_mut(), Some(session::browser_cookie(&app, &fields.email)));
            Ok(response)
        }
        Outcome::CodeRequired(cookie) => {
            app.metrics.count_sign_in("code_required");
            let path = format!("/sign-in/code?next={}", query_value(local_path(&fields.next)));
            let mut response = Redirect::to(&path).into_response();
            set_cookie(response.headers_mut(), Some(cookie));
            Ok(response)
        }
        Outcome::Limited(wait) => limited(&app, &visitor, &fields, wait),
        Outcome::WrongCredentials => {
            app.metrics.count_sign_in("wrong_credentials");
            rejected(StatusCode::UNAUTHORIZED, &visitor, &fields, WRONG_CREDENTIALS.into())
        }
    }
}

pub(crate) async fn sign_out(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let cookie = session::end(&app, &me.session).await?;
    let mut response = Redirect::to("/sign-in?signed-out").into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

/// A sign-in whose password is being checked.
struct SignIn {
    app: Arc<AppState>,
    email: String,
    client_ip: ClientIp,
    from: SessionSource,
    /// The browser's session.
    previous: Option<Session>,
}

enum Outcome {
    /// The new session's cookie.
    Success(HeaderValue),
    /// The password was right; the cookie of the sign-in that waits for a code.
    CodeRequired(HeaderValue),
    /// The account was used too often; the time to wait.
    Limited(Duration),
    WrongCredentials,
}

impl SignIn {
    /// Starts a session if the credentials are right. Always takes two look-ups and one argon2.
    async fn authenticate(self, requester: Requester, password: String) -> Result<Outcome, PageError> {
        // No account has an empty address, which stands for an invalid one here.
        let email = Email::parse(&self.email).map_or(String::new(), |email| email.as_str().to_owned());
        let (app, store) = (self.app.clone(), self.app.store.clone());
        let find = async move {
            let user = store.user_by_email(&email).await?;
            let hash = store.password_hash(user.as_ref().map_or("", |user| &user.id)).await?;
            Ok(user.zip(hash).map(|(of, hash)| Account { of, hash }))
        };
        let outcome =
            app.passwords.verify(requester, password, find, |account| self.start(account)).await??;
        Ok(outcome.unwrap_or(Outcome::WrongCredentials))
    }

    /// Starts a session of a user whose password was right.
    async fn start(self, Account { of: user, hash }: Account<User>) -> Result<Outcome, PageError> {
        let (app, client_ip) = (&self.app, self.client_ip);
        if let Err(wait) = password_check::acquire_use(app, &user.id) {
            return Ok(Outcome::Limited(wait));
        }
        app.password_attempts.record_success(&self.email, client_ip.source());
        if has_second_factor(app, &user.id).await? {
            return self.await_code(&user, &hash).await;
        }
        let (session, cookie) = session::start(app, &user.id, &self.from, self.previous.as_ref()).await?;
        // A concurrent change of the password has ended every session but this one.
        if app.store.password_hash(&user.id).await?.as_ref() != Some(&hash) {
            session::end(app, &session).await?;
            return Ok(Outcome::WrongCredentials);
        }
        // And so has a second factor that was switched on meanwhile.
        if has_second_factor(app, &user.id).await? {
            session::end(app, &session).await?;
            return self.await_code(&user, &hash).await;
        }
        app.store.note_sign_in(&user.id, &format!("from {client_ip}")).await?;
        Ok(Outcome::Success(cookie))
    }
}
impl SignIn {
    /// Lets a sign-in wait for a code.
    async fn await_code(&self, user: &User, hash: &str) -> Result<Outcome, PageError> {
        let app = &self.app;
        let (id_hash, cookie) = session::await_code(app);
        app.store.add_pending_sign_in(&id_hash, &user.id).await?;
        // A concurrent change of the password has ended every such sign-in but this one.
        if app.store.password_hash(&user.id).await?.as_deref() != Some(hash) {
            app.store.end_pending_sign_in(&id_hash).await?;
            return Ok(Outcome::WrongCredentials);
        }
        Ok(Outcome::CodeRequired(cookie))
    }
}

/// The form again, with the time to wait.
fn limited(
    app: &AppState,
    visitor: &Visitor,
    fields: &Fields,
    wait: Duration,
) -> Result<Response, PageError> {
    app.metrics.count_sign_in("limited");
    let error = format!("Too many attempts. Try again {}.", retry_in(wait));
    let mut response = rejected(StatusCode::TOO_MANY_REQUESTS, visitor, fields, error)?;
    set_retry_after(response.headers_mut(), wait);
    Ok(response)
}

/// The form again, with an error.
fn rejected(
    status: StatusCode,
    visitor: &Visitor,
    fields: &Fields,
    error: String,
) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::for_visitor(visitor),
        csrf_token: &visitor.csrf_token,
        email: &fields.email,
        next: local_path(&fields.next),
        error: Some(error),
        signed_out: false,
        deleted: false,
        reset: false,
        expired: false,
    };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie.clone());
    Ok(response)
}

/// `next` if it is a path on this site, else [`DEFAULT_NEXT`]. Browsers read `\` as `/`, drop tabs and line
/// ends, and read `//` as the start of another host.
fn local_path(next: &str) -> &str {
    let is_plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_plain && next.starts_with('/') && !next.starts_with("//") { next } else { DEFAULT_NEXT }
}

/// A path as a value in a query.
fn query_value(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_on_this_site() {
        for local in ["/", "/caches", "/tokens/abcdefghijkl/revoke", "/sign-up?x=//y"] {
            assert_eq!(local_path(local), local);
        }
        for other in [
            "",
            "cache",
            "//evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "https://evil.example",
            "/\t/evil.example",
            "\t//evil.example",
            " //evil.example",
            "/\n/evil.example",
            "javascript:alert(1)",
            "/ä",
        ] {
            assert_eq!(local_path(other), DEFAULT_NEXT, "{other:?}");
        }
    }
}
