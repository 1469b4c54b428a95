//! Creates a token of the user's first cache. The response shows its secret, once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::TokenName;
use serde::Deserialize;
use store::{NewToken, StoreError, now};

use super::{limit_reached, reject_new_token};
use crate::forms::permissions::PermissionForm;
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::pages::cache::{self, NewTokenForm};
use crate::pages::no_cache;
use crate::state::AppState;
use crate::view::revealed_token::RevealedToken;

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    permissions: PermissionForm,
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    let Some(cache) = app.store.first_cache_of(&me.user.id).await? else {
        return no_cache::page(&me, StatusCode::CONFLICT);
    };
    let Fields { name, permissions } = fields;
    let mut form = NewTokenForm { name, permissions, ..NewTokenForm::default() };
    let name = match TokenName::parse(&form.name) {
        Ok(name) => name,
        Err(error) => {
            form.name_error = Some(error.to_string());
            return cache::with_rejected_form(&app, &me, StatusCode::UNPROCESSABLE_ENTITY, &form).await;
        }
    };
    let permissions = match form.permissions.parse(now()) {
        Ok(permissions) => permissions,
        Err(error) => {
            form.permissions_error = Some(error.to_string());
            return cache::with_rejected_form(&app, &me, StatusCode::UNPROCESSABLE_ENTITY, &form).await;
        }
    };
    if let Some(rejection) = reject_new_token(&app, &me, (&cache.id, &cache.name), &mut form).await? {
        return Ok(rejection);
    }
    let token = NewToken::generate(&app.token_key, name.as_str()).limited_to(permissions);
    let max = app.config.limits.tokens_at_once;
    match me.store(&app).create_token_within(&cache.id, &token, max).await {
        Ok(()) => {
            let revealed = RevealedToken::new(&token, name.as_str(), &cache.name, "/cache".to_owned());
            cache::with_new_token(&app, &me, &revealed).await
        }
        // Concurrent requests have reached the limit.
        Err(StoreError::LimitReached(_)) => {
            form.name_error = Some(limit_reached(&cache.name, max));
            cache::with_rejected_form(&app, &me, StatusCode::CONFLICT, &form).await
        }
        Err(error) => Err(error.into()),
    }
}
