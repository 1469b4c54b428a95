//! Tokens: made with a name and permissions and shown once, revoked for good. Somebody else's token isn't there.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use store::{NewToken, StoreError, TokenId, TokenRow, UserState, now};

use super::cache::{self, Typed};
use super::{Frame, Trouble, in_words, render, retry_after};
use crate::csrf::{NoFields, Submitted};
use crate::date::day;
use crate::field::TokenName;
use crate::permissions::Limits;
use crate::session::SignedIn;
use crate::web::Web;

pub(super) const SUSPENDED: &str = "Your account is suspended. Ask the operator of this service.";

#[derive(Template)]
#[template(path = "revoke.html")]
struct ConfirmPage<'a> {
    frame: Frame,
    form_token: &'a str,
    id: &'a str,
    name: &'a str,
    made: String,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    limits: Limits,
}

pub(crate) async fn create(
    State(web): State<Arc<Web>>,
    Submitted { sender: me, fields }: Submitted<SignedIn, Fields>,
) -> Result<Response, Trouble> {
    let Fields { name, limits } = fields;
    let mut typed = Typed { name, limits, ..Typed::default() };
    let name = match TokenName::parse(&typed.name) {
        Ok(name) => name,
        Err(wrong) => {
            typed.wrong = Some(wrong.into());
            return cache::with_refused_token(&web, &me, StatusCode::UNPROCESSABLE_ENTITY, &typed).await;
        }
    };
    let permissions = match typed.limits.parse(now()) {
        Ok(permissions) => permissions,
        Err(wrong) => {
            typed.wrong_limits = Some(wrong);
            return cache::with_refused_token(&web, &me, StatusCode::UNPROCESSABLE_ENTITY, &typed).await;
        }
    };
    if let Some(refused) = refused(&web, &me, &mut typed).await? {
        return Ok(refused);
    }
    let token = NewToken::generate(&web.token_key, name.as_str()).limited_to(permissions);
    let most = web.config.limits.tokens_at_once;
    match me.store(&web).create_token_within(&me.user.id, &token, most).await {
        Ok(()) => cache::with_new_token(&web, &me, &token, name.as_str()).await,
        // Others were made after we looked.
        Err(StoreError::LimitReached(_)) => {
            typed.wrong = Some(as_many_as_may_be(most));
            cache::with_refused_token(&web, &me, StatusCode::CONFLICT, &typed).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The page that says why this user gets no token now, if that is so. It takes one of those that a user
/// may make in an hour.
pub(super) async fn refused(
    web: &Arc<Web>,
    me: &SignedIn,
    typed: &mut Typed,
) -> Result<Option<Response>, Trouble> {
    let mut refuse = async |status, wrong| {
        typed.wrong = Some(wrong);
        cache::with_refused_token(web, me, status, typed).await.map(Some)
    };
    if me.user.state == UserState::Suspended {
        return refuse(StatusCode::FORBIDDEN, SUSPENDED.into()).await;
    }
    let most = web.config.limits.tokens_at_once;
    let held = web.store.tokens_of(&me.user.id).await?.iter().filter(|t| t.is_active(now())).count();
    if held >= most {
        return refuse(StatusCode::CONFLICT, as_many_as_may_be(most)).await;
    }
    if let Err((wait, wrong)) = take_one(web, me) {
        let mut response = refuse(StatusCode::TOO_MANY_REQUESTS, wrong).await?;
        if let Some(response) = &mut response {
            retry_after(response.headers_mut(), wait);
        }
        return Ok(response);
    }
    Ok(None)
}

/// Takes one of the tokens, certificates and changes that a user may make in an hour, or says how long to wait, in
/// words, too.
pub(super) fn take_one(web: &Web, me: &SignedIn) -> Result<(), (Duration, String)> {
    let too_many = |wait| {
        let wrong = format!("You made or changed many tokens lately. Try again {}.", in_words(wait));
        (wait, wrong)
    };
    web.new_tokens.take(&me.user.id).map_err(too_many)
}

fn as_many_as_may_be(most: usize) -> String {
    format!("You have {most} tokens, and that is the most. Revoke one that isn't in use.")
}

pub(crate) async fn confirm(
    State(web): State<Arc<Web>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let (_, token) = own(&web, &me, &id).await?;
    let page = ConfirmPage {
        frame: Frame::of(&me),
        form_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        made: day(token.created_at),
    };
    render(StatusCode::OK, &page)
}

pub(crate) async fn revoke(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Submitted { sender: me, .. }: Submitted<SignedIn, NoFields>,
) -> Result<Response, Trouble> {
    let (id, _) = own(&web, &me, &id).await?;
    me.store(&web).revoke_token(&id).await?;
    Ok(Redirect::to("/cache#tokens").into_response())
}

/// A token of this very user that hasn't been revoked.
pub(super) async fn own(web: &Web, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), Trouble> {
    let (id, token) = held(web, me, id).await?;
    if token.revoked_at.is_none() { Ok((id, token)) } else { Err(Trouble::NotFound) }
}

/// A token of this very user, whatever has become of it.
pub(super) async fn held(web: &Web, me: &SignedIn, id: &str) -> Result<(TokenId, TokenRow), Trouble> {
    let id = TokenId::parse(id).ok_or(Trouble::NotFound)?;
    let token = web.store.token(&id).await?.ok_or(Trouble::NotFound)?;
    if token.user_id == me.user.id { Ok((id, token)) } else { Err(Trouble::NotFound) }
}
