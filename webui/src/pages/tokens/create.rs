//! Creates a token of a cache. The response shows its secret, once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::TokenName;
use serde::Deserialize;
use store::{NewToken, StoreError, now};

use super::{check_new_token, limit_reached};
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
    let (name, permissions) = match (TokenName::parse(&form.name), form.permissions.parse(now())) {
        (Ok(name), Ok(permissions)) => (name, permissions),
        (name, permissions) => {
            form.name_error = name.err().map(|error| error.to_string());
            form.shows_permission_errors = permissions.is_err();
            return tokens::with_rejected_form(&app, &own, StatusCode::UNPROCESSABLE_ENTITY, &form).await;
        }
    };
    if let Err(refusal) = check_new_token(&app, &own).await? {
        form.name_error = Some(refusal.message.clone());
        let mut response = tokens::with_rejected_form(&app, &own, refusal.status, &form).await?;
        refusal.add_to(&mut response);
        return Ok(response);
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
            tokens::with_rejected_form(&app, &own, StatusCode::CONFLICT, &form).await
        }
        Err(error) => Err(error.into()),
    }
}
