//! A user's own account: another password, and the end. Both ask for the password that is good now.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use store::{NewPassword, StoreError};

use super::{Frame, Trouble, in_words, render, retry_after, set_cookie};
use crate::csrf::Submitted;
use crate::field::Password;
use crate::session::{self, SignedIn};
use crate::source::Source;
use crate::web::Web;

const NOT_YOURS: &str = "This is not your password. Check it and try again.";

#[derive(Template)]
#[template(path = "account.html")]
struct Page<'a> {
    frame: Frame,
    form_token: &'a str,
    email: &'a str,
    /// How many tokens the change of the password has revoked, if there was one.
    changed: Option<u32>,
    end_all: bool,
    wrong: Wrong,
}

/// What to change.
#[derive(Default)]
struct Wrong {
    old: Option<String>,
    new: Option<&'static str>,
    delete: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Asked {
    changed: Option<u32>,
}

#[derive(Deserialize)]
pub(crate) struct Change {
    #[serde(default)]
    old: String,
    #[serde(default)]
    new: String,
    end_all: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Delete {
    #[serde(default)]
    password: String,
}

pub(crate) async fn show(
    me: SignedIn,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Trouble> {
    let Query(asked) = asked.unwrap_or_default();
    page(StatusCode::OK, &me, asked.changed, false, Wrong::default())
}

/// All sessions end with the old password; the browser at hand gets a new one.
pub(crate) async fn change_password(
    State(web): State<Arc<Web>>,
    source: Source,
    Submitted { sender: me, fields }: Submitted<SignedIn, Change>,
) -> Result<Response, Trouble> {
    let end_tokens = fields.end_all.is_some();
    let new = match Password::parse(fields.new) {
        Ok(new) => new,
        Err(wrong) => {
            let wrong = Wrong { new: Some(wrong), ..Wrong::default() };
            return page(StatusCode::UNPROCESSABLE_ENTITY, &me, None, end_tokens, wrong);
        }
    };
    let refuse = |refused: Refused| {
        let wrong = Wrong { old: Some(refused.words()), ..Wrong::default() };
        Ok(refused.mark(page(refused.status(), &me, None, end_tokens, wrong)?))
    };
    let held = match confirm(&web, &me, source, fields.old).await? {
        Ok(held) => held,
        Err(refused) => return refuse(refused),
    };
    let hash = web.passwords.hash(new.into_inner()).await?;
    let new = NewPassword { hash: &hash, replaces: Some(&held), end_tokens };
    let revoked = match me.store(&web).change_password(&me.user.id, &new).await {
        Ok(revoked) => revoked,
        // Somebody was quicker: the password that was typed is an old one by now.
        Err(StoreError::NotFound(_)) => return refuse(Refused::Wrong),
        Err(error) => return Err(error.into()),
    };
    let (_, cookie) = session::begin(&web, &me.user.id, None).await?;
    let mut response = Redirect::to(&format!("/account?changed={revoked}")).into_response();
    set_cookie(response.headers_mut(), Some(cookie));
    Ok(response)
}

pub(crate) async fn delete(
    State(web): State<Arc<Web>>,
    source: Source,
    Submitted { sender: me, fields }: Submitted<SignedIn, Delete>,
) -> Result<Response, Trouble> {
    if let Err(refused) = confirm(&web, &me, source, fields.password).await? {
        let wrong = Wrong { delete: Some(refused.words()), ..Wrong::default() };
        return Ok(refused.mark(page(refused.status(), &me, None, false, wrong)?));
    }
    me.store(&web).delete_user(&me.user.id).await?;
    let mut response = Redirect::to("/sign-in?deleted").into_response();
    set_cookie(response.headers_mut(), Some(session::forget(&web)));
    Ok(response)
}

/// Why a password isn't taken.
enum Refused {
    Wrong,
    Often(std::time::Duration),
}

/// The hash of the signed-in user's password, if that is what was typed. Whoever sits down at somebody's open
/// browser guesses no more often than at the sign-in.
async fn confirm(
    web: &Web,
    me: &SignedIn,
    source: Source,
    typed: String,
) -> Result<Result<String, Refused>, Trouble> {
    if let Err(wait) = web.sign_ins.take((me.user.email.clone(), source)) {
        return Ok(Err(Refused::Often(wait)));
    }
    let held = web.store.password_hash(&me.user.id).await?;
    let right = web.passwords.verify(typed, held.clone()).await?;
    Ok(held.filter(|_| right).ok_or(Refused::Wrong))
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::Wrong => StatusCode::UNAUTHORIZED,
            Self::Often(_) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Wrong => NOT_YOURS.to_owned(),
            Self::Often(wait) => format!("Too many attempts. Try again {}.", in_words(*wait)),
        }
    }

    fn mark(&self, mut response: Response) -> Response {
        if let Self::Often(wait) = self {
            retry_after(response.headers_mut(), *wait);
        }
        response
    }
}

fn page(
    status: StatusCode,
    me: &SignedIn,
    changed: Option<u32>,
    end_all: bool,
    wrong: Wrong,
) -> Result<Response, Trouble> {
    let (frame, form_token, email) = (Frame::of(me), me.session.form_token.as_str(), me.user.email.as_str());
    render(status, &Page { frame, form_token, email, changed, end_all, wrong })
}
