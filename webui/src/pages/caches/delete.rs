//! Deletes a cache, after its name was typed.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::UserState;

use super::{CACHES, Header, OwnCache, Tab};
use crate::actions::{self, ActionError, SUSPENDED};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "caches/delete.html")]
struct Page<'a> {
    layout: Layout,
    header: Header,
    csrf_token: &'a str,
    memory_mb: i64,
    tokens: usize,
    typed: &'a str,
    error: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    name: String,
}

pub(crate) async fn show(State(app): State<Arc<AppState>>, own: OwnCache) -> Result<Response, PageError> {
    page(&app, &own, StatusCode::OK, ("", None)).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: own, fields: Fields { name: typed } }: CsrfForm<OwnCache, Fields>,
) -> Result<Response, PageError> {
    let reject = async |status, error: String| page(&app, &own, status, (&typed, Some(error))).await;
    if own.me.user.state == UserState::Suspended {
        return reject(StatusCode::FORBIDDEN, SUSPENDED.into()).await;
    }
    let name = &own.cache.name;
    if typed.trim() != name {
        let error = format!("This isn’t the cache’s name. Type {name} to delete it.");
        return reject(StatusCode::UNPROCESSABLE_ENTITY, error).await;
    }
    match actions::caches::delete(&app, &own.me.user, &own.cache).await {
        Ok(()) => Ok(Redirect::to(&format!("{CACHES}?deleted={name}")).into_response()),
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), refusal.message.clone()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// The page, with the name as it was typed and the error about it.
async fn page(
    app: &AppState,
    own: &OwnCache,
    status: StatusCode,
    (typed, error): (&str, Option<String>),
) -> Result<Response, PageError> {
    let page = Page {
        layout: Layout::signed_in(&own.me),
        header: Header::new(app, own, Tab::Settings).await?,
        csrf_token: &own.me.session.form_token,
        memory_mb: own.instance.memory_mb,
        tokens: app.store.count_active_tokens(&own.cache.id).await?,
        typed,
        error,
    };
    render(status, &page)
}
