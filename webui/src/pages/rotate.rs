//! A token's successor: asked for, made with the same permissions and shown once.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{NewToken, StoreError, now};

use super::cache::{self, Typed};
use super::{Frame, Trouble, render, tokens};
use crate::csrf::Submitted;
use crate::date::day;
use crate::session::SignedIn;
use crate::web::Web;

/// How long the old token may go on: the value that is sent, and the words.
const GRACES: [(&str, &str); 4] =
    [("0s", "at once"), ("1h", "in an hour"), ("24h", "in a day"), ("7d", "in a week")];

#[derive(Template)]
#[template(path = "rotate.html")]
struct ConfirmPage<'a> {
    frame: Frame,
    form_token: &'a str,
    id: &'a str,
    name: &'a str,
    made: String,
    graces: &'a [(&'a str, &'a str)],
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    grace: String,
}

pub(crate) async fn confirm(
    State(web): State<Arc<Web>>,
    me: SignedIn,
    Path(id): Path<String>,
) -> Result<Response, Trouble> {
    let (_, token) = tokens::own(&web, &me, &id).await?;
    if !token.is_active(now()) || token.successor.is_some() {
        return Err(Trouble::NotFound);
    }
    let page = ConfirmPage {
        frame: Frame::of(&me),
        form_token: &me.session.form_token,
        id: &token.id,
        name: &token.name,
        made: day(token.created_at),
        graces: &GRACES,
    };
    render(StatusCode::OK, &page)
}

pub(crate) async fn submit(
    State(web): State<Arc<Web>>,
    Path(id): Path<String>,
    Submitted { sender: me, fields }: Submitted<SignedIn, Fields>,
) -> Result<Response, Trouble> {
    let (id, token) = tokens::own(&web, &me, &id).await?;
    if !GRACES.iter().any(|(value, _)| *value == fields.grace) {
        return Err(Trouble::Unreadable);
    }
    let grace = store::span(&fields.grace).map_err(|_| Trouble::Unreadable)?;
    if let Some(refused) = tokens::refused(&web, &me, &mut Typed::default()).await? {
        return Ok(refused);
    }
    let new = NewToken::generate(&web.token_key, &token.name);
    match me.store(&web).rotate_token(&id, new, now().saturating_add(grace)).await {
        Ok((new, _)) => cache::with_new_token(&web, &me, &new, &token.name).await,
        // It has ended, or it has a successor: in either case there is nothing to rotate.
        Err(StoreError::NotFound(_) | StoreError::AlreadyExists(_)) => Err(Trouble::NotFound),
        Err(error) => Err(error.into()),
    }
}
