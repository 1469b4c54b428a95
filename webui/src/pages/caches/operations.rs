//! Asks for operations on a cache: restart, flush, resize, suspend and resume. What loses contents is asked for on a page of
//! its own first, which works without scripts.

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts, MatchedPath, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{NewOperation, UserState};

use super::settings::{self, PageState, SettingsForm};
use super::{Header, OwnCache, Tab, path_of};
use crate::actions::{self, ActionError, SUSPENDED};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::operation::Cost;

#[derive(Template)]
#[template(path = "caches/confirm.html")]
struct Confirmation<'a> {
    layout: Layout,
    header: Header,
    csrf_token: &'a str,
    /// The last part of the address.
    action: &'static str,
    title: String,
    button: &'static str,
    cost: Cost,
    /// The new size, of a resize.
    memory_mb: Option<i64>,
}

/// Extractor: the operation that the route is named after. A resize has no size yet.
pub(crate) struct RouteOperation(NewOperation);

impl FromRequestParts<Arc<AppState>> for RouteOperation {
    type Rejection = PageError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, PageError> {
        let path = MatchedPath::from_request_parts(parts, app).await.map_err(|_| PageError::NotFound)?;
        match path.as_str().rsplit('/').next() {
            Some("restart") => Ok(Self(NewOperation::Restart)),
            Some("flush") => Ok(Self(NewOperation::Flush)),
            Some("suspend") => Ok(Self(NewOperation::Suspend)),
            Some("resume") => Ok(Self(NewOperation::Resume)),
            Some("resize") => Ok(Self(NewOperation::Resize { memory_mb: 0 })),
            _ => Err(PageError::NotFound),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    /// Sent by the page that asks.
    confirmed: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ResizeFields {
    #[serde(default)]
    memory_mb: String,
    confirmed: Option<String>,
}

/// The page that asks. What needs no question is asked for on the page of settings.
pub(crate) async fn confirm(
    State(app): State<Arc<AppState>>,
    RouteOperation(new): RouteOperation,
    own: OwnCache,
) -> Result<Response, PageError> {
    let is_resize = matches!(new, NewOperation::Resize { .. });
    if is_resize || !Cost::of(new, &own.instance).is_destructive {
        return Ok(Redirect::to(&path_of(&own.cache.id, Tab::Settings)).into_response());
    }
    confirmation(&app, &own, new).await
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    RouteOperation(new): RouteOperation,
    CsrfForm { sender: own, fields }: CsrfForm<OwnCache, Fields>,
) -> Result<Response, PageError> {
    request(&app, &own, new, (fields.confirmed.is_some(), String::new())).await
}

pub(crate) async fn resize(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: own, fields }: CsrfForm<OwnCache, ResizeFields>,
) -> Result<Response, PageError> {
    let ResizeFields { memory_mb: typed, confirmed } = fields;
    let error = match typed.trim().parse::<i64>() {
        Ok(memory_mb) => match actions::caches::resize(&app, &own.cache, &own.instance, memory_mb).await {
            Ok(new) => return request(&app, &own, new, (confirmed.is_some(), typed)).await,
            Err(ActionError::Refused(refusal)) => refusal.message,
            Err(ActionError::Failed(error)) => return Err(error),
        },
        Err(_) => {
            let (min, max) = actions::caches::memory_range(&app, &own.cache, &own.instance).await?;
            format!("This isn’t a size. Give a whole number of MB from {min} to {max}.")
        }
    };
    let new = NewOperation::Resize { memory_mb: own.instance.memory_mb };
    reject(&app, &own, new, (StatusCode::UNPROCESSABLE_ENTITY, error, typed)).await
}

/// Asks for an operation, if it needs no confirmation or was confirmed. `typed` is the size as it was typed.
async fn request(
    app: &AppState,
    own: &OwnCache,
    new: NewOperation,
    (is_confirmed, typed): (bool, String),
) -> Result<Response, PageError> {
    if own.me.user.state == UserState::Suspended {
        return reject(app, own, new, (StatusCode::FORBIDDEN, SUSPENDED.into(), typed)).await;
    }
    if Cost::of(new, &own.instance).is_destructive && !is_confirmed {
        return confirmation(app, own, new).await;
    }
    match actions::caches::request(app, &own.me.user, &own.instance, new).await {
        Ok(_) => {
            let path = path_of(&own.cache.id, Tab::Settings);
            Ok(Redirect::to(&format!("{path}?requested={}", new.kind().as_str())).into_response())
        }
        Err(ActionError::Refused(refusal)) => {
            let error = (refusal.status(), refusal.message.clone(), typed);
            let mut response = reject(app, own, new, error).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// The page of settings with an error beside what was asked for.
async fn reject(
    app: &AppState,
    own: &OwnCache,
    new: NewOperation,
    (status, error, typed): (StatusCode, String, String),
) -> Result<Response, PageError> {
    let form = SettingsForm {
        memory_mb: Some(typed).filter(|typed| !typed.is_empty()),
        sleep_error: None,
        error: Some((new.kind(), error)),
    };
    settings::page(app, own, status, PageState { form, ..PageState::default() }).await
}

async fn confirmation(app: &AppState, own: &OwnCache, new: NewOperation) -> Result<Response, PageError> {
    let (title, button) = match new {
        NewOperation::Restart => ("Restart this cache?".to_owned(), "Restart and lose all contents"),
        NewOperation::Flush => ("Remove all items?".to_owned(), "Flush"),
        NewOperation::Suspend => ("Suspend this cache?".to_owned(), "Suspend"),
        NewOperation::Resume => ("Resume this cache?".to_owned(), "Resume"),
        NewOperation::Resize { memory_mb } => {
            let title = format!("Resize from {} to {memory_mb} MB?", own.instance.memory_mb);
            (title, "Resize and lose all contents")
        }
    };
    let memory_mb = match new {
        NewOperation::Resize { memory_mb } => Some(memory_mb),
        _ => None,
    };
    let page = Confirmation {
        layout: Layout::signed_in(&own.me),
        header: Header::new(app, own, Tab::Settings).await?,
        csrf_token: &own.me.session.form_token,
        action: new.kind().as_str(),
        title,
        button,
        cost: Cost::of(new, &own.instance),
        memory_mb,
    };
    render(StatusCode::OK, &page)
}
