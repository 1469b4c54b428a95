//! `POST /caches`: creates a cache with a first token. The response shows the token's secret, once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::FIRST_TOKEN_NAME;
use serde::Deserialize;
use store::{CREATED_MAX, Cache, CacheName, NewCache, NewToken, StoreError, UserState};

use super::list::{self, NewCacheForm};
use super::{OwnCache, SUSPENDED, Tab, acquire_change, first_steps, path_of};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::set_retry_after;
use crate::state::AppState;
use crate::view::revealed_token::RevealedToken;

const BAD_NAME: &str = "This isn’t a name for a cache. Use 1 to 40 lower-case letters, digits and hyphens, a letter or \
                        digit first.";

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    name: String,
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields: Fields { name: typed } }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let reject = async |status, error: String| {
        let form = NewCacheForm { name: typed.clone(), error: Some(error) };
        list::with_rejected_form(&app, &me, status, form).await
    };
    if me.user.state == UserState::Suspended {
        return reject(StatusCode::FORBIDDEN, SUSPENDED.into()).await;
    }
    let Ok(name) = typed.trim().parse::<CacheName>() else {
        return reject(StatusCode::UNPROCESSABLE_ENTITY, BAD_NAME.into()).await;
    };
    if let Err((wait, error)) = acquire_change(&app, &me) {
        let mut response = reject(StatusCode::TOO_MANY_REQUESTS, error).await?;
        set_retry_after(response.headers_mut(), wait);
        return Ok(response);
    }
    let new = NewCache { user_id: &me.user.id, name: &name, plan: None };
    match me.store(&app).create_cache(&new, app.config.caches_per_user).await {
        Ok(cache) => first_token(&app, me, &cache).await,
        Err(StoreError::AlreadyExists(_)) => {
            let error = format!("You already have a cache {name}. Choose another name.");
            reject(StatusCode::CONFLICT, error).await
        }
        Err(StoreError::LimitReached("memory")) => {
            tracing::warn!(
                "cache refused: the machine has no memory for another (`memgate status` shows its room)"
            );
            let error =
                "This service has no memory for another cache now. Try again later, or ask its operator.";
            reject(StatusCode::SERVICE_UNAVAILABLE, error.into()).await
        }
        Err(StoreError::LimitReached("caches a day")) => {
            let error =
                format!("You created {CREATED_MAX} caches within a day, which is the most. Try again later.");
            reject(StatusCode::TOO_MANY_REQUESTS, error).await
        }
        Err(StoreError::LimitReached(_)) => {
            let plan = app.store.plan(&me.user.plan).await?;
            let max = list::caches_max(&app, plan.as_ref());
            let error = format!(
                "You have reached the limit of your plan ({max}). Delete a cache, or ask the operator for a larger plan."
            );
            reject(StatusCode::CONFLICT, error).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates the first token and shows it, as after sign-up. Without one, leads to the page that creates tokens.
async fn first_token(app: &AppState, me: SignedIn, cache: &Cache) -> Result<Response, PageError> {
    let tokens = || Ok(Redirect::to(&path_of(&cache.id, Tab::Tokens)).into_response());
    if app.rate_limits.token_changes.acquire(&me.user.id).is_err() {
        return tokens();
    }
    let token = NewToken::generate(&app.token_key, FIRST_TOKEN_NAME);
    let max = app.config.limits.tokens_at_once;
    match me.store(app).create_token_within(&cache.id, &token, max).await {
        Ok(()) => {}
        Err(StoreError::LimitReached(_)) => return tokens(),
        Err(error) => return Err(error.into()),
    }
    let revealed = RevealedToken::new(&token, FIRST_TOKEN_NAME, &cache.name);
    let own = OwnCache::find(app, me, &cache.id).await?;
    first_steps::page(app, &own, &revealed).await
}
