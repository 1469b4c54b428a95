//! Creates a token of a cache. The response shows its secret, once.

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
use crate::pages::caches::tokens::{self, NewTokenForm};
use crate::pages::caches::{OwnCache, first_steps};
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
    CsrfForm { sender: own, fields }: CsrfForm<OwnCache, Fields>,
) -> Result<Response, PageError> {
    let Fields { name, permissions } = fields;
    let mut form = NewTokenForm { name, permissions, ..NewTokenForm::default() };
    let name = match TokenName::parse(&form.name) {
        Ok(name) => name,
        Err(error) => {
            form.name_error = Some(error.to_string());
            return tokens::page(&app, &own, StatusCode::UNPROCESSABLE_ENTITY, &form).await;
        }
    };
    let permissions = match form.permissions.parse(now()) {
        Ok(permissions) => permissions,
        Err(error) => {
            form.permissions_error = Some(error.to_string());
            return tokens::page(&app, &own, StatusCode::UNPROCESSABLE_ENTITY, &form).await;
        }
    };
    if let Some(rejection) = reject_new_token(&app, &own, &mut form).await? {
        return Ok(rejection);
    }
    let token = NewToken::generate(&app.token_key, name.as_str()).limited_to(permissions);
    let max = app.config.limits.tokens_at_once;
    match own.me.store(&app).create_token_within(&own.cache.id, &token, max).await {
        Ok(()) => {
            let revealed = RevealedToken::new(&token, name.as_str(), &own.cache.name);
            first_steps::page(&app, &own, &revealed).await
        }
        // Concurrent requests have reached the limit.
        Err(StoreError::LimitReached(_)) => {
            form.name_error = Some(limit_reached(&own.cache.name, max));
            tokens::page(&app, &own, StatusCode::CONFLICT, &form).await
        }
        Err(error) => Err(error.into()),
    }
}
