//! Sign-in and sign-out. Wrong and unknown are answered alike, in words and in time.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use store::User;

use super::{Frame, Trouble, in_words, render, retry_after, set_cookie};
use crate::csrf::{NoFields, Submitted};
use crate::field::Email;
use crate::session::{self, SignedIn, Visitor};
use crate::source::Source;
use crate::web::Web;

/// Where a sign-in leads when nothing else was asked for.
const HOME: &str = "/cache";
const NO_MATCH: &str = "This e-mail address and password don't belong together. Check both and try again.";

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    email: &'a str,
    next: &'a str,
    wrong: Option<String>,
    signed_out: bool,
    deleted: bool,
}

#[derive(Default, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    next: String,
    #[serde(rename = "signed-out")]
    signed_out: Option<String>,
    deleted: Option<String>,
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
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Trouble> {
    let Query(asked) = asked.unwrap_or_default();
    let next = own_path(&asked.next);
    if visitor.me.is_some() {
        return Ok(Redirect::to(next).into_response());
    }
    let page = Page {
        frame: Frame::for_nobody(),
        form_token: &visitor.form_token,
        email: "",
        next,
        wrong: None,
        signed_out: asked.signed_out.is_some(),
        deleted: asked.deleted.is_some(),
    };
    let mut response = render(StatusCode::OK, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie);
    Ok(response)
}

pub(crate) async fn submit(
    State(web): State<Arc<Web>>,
    source: Source,
    Submitted { sender: visitor, fields }: Submitted<Visitor, Fields>,
) -> Result<Response, Trouble> {
    let key = (fields.email.trim().to_lowercase(), source);
    if let Err(wait) = web.sign_ins.take(key) {
        web.metrics.sign_in("limited");
        let wrong = format!("Too many attempts. Try again {}.", in_words(wait));
        let mut response = again(StatusCode::TOO_MANY_REQUESTS, &visitor, &fields, wrong)?;
        retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    let refuse = || {
        web.metrics.sign_in("refused");
        again(StatusCode::UNAUTHORIZED, &visitor, &fields, NO_MATCH.into())
    };
    let Some((user, hash)) = check(&web, &fields.email, fields.password.clone()).await? else {
        return refuse();
    };
    let (session, cookie) = session::begin(&web, &user.id, visitor.me.as_ref()).await?;
    // A password that was changed while it was compared has ended all sessions but this one.
    if web.store.password_hash(&user.id).await? != hash {
        session::end(&web, &session).await?;
        return refuse();
    }
    web.metrics.sign_in("done");
    let name = format!("user {}", user.id);
    web.store.acting_as(&name).note("user.sign_in", &name, &format!("from {source}")).await?;
    let mut response = Redirect::to(own_path(&fields.next)).into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

pub(crate) async fn out(
    State(web): State<Arc<Web>>,
    Submitted { sender: me, .. }: Submitted<SignedIn, NoFields>,
) -> Result<Response, Trouble> {
    let cookie = session::end(&web, &me.session).await?;
    let mut response = Redirect::to("/sign-in?signed-out").into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

/// The user with the hash that the password is right for. The same two look-ups and one argon2 whatever was typed.
async fn check(web: &Web, email: &str, password: String) -> Result<Option<(User, Option<String>)>, Trouble> {
    // No account has an address of another shape, nor an empty one.
    let email = Email::parse(email);
    let user = web.store.user_by_email(email.as_ref().map_or("", Email::as_str)).await?;
    let hash = web.store.password_hash(user.as_ref().map_or("", |user| &user.id)).await?;
    let right = web.passwords.verify(password, hash.clone()).await?;
    Ok(user.filter(|_| right).map(|user| (user, hash)))
}

fn again(status: StatusCode, visitor: &Visitor, fields: &Fields, wrong: String) -> Result<Response, Trouble> {
    let page = Page {
        frame: Frame::around(visitor),
        form_token: &visitor.form_token,
        email: &fields.email,
        next: own_path(&fields.next),
        wrong: Some(wrong),
        signed_out: false,
        deleted: false,
    };
    let mut response = render(status, &page)?;
    set_cookie(response.headers_mut(), visitor.new_cookie.clone());
    Ok(response)
}

/// `next` if it is a path on this very site, else [`HOME`]. Browsers read `\` as `/`, drop tabs and line
/// ends, and take `//` for another host.
fn own_path(next: &str) -> &str {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if plain && next.starts_with('/') && !next.starts_with("//") { next } else { HOME }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_stays_on_this_site() {
        for own in ["/", "/cache", "/tokens/abcdefghijkl/revoke", "/sign-up?x=//y"] {
            assert_eq!(own_path(own), own);
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
            assert_eq!(own_path(other), HOME, "{other:?}");
        }
    }
}
