//! Creates a token of a cache. The response shows its secret, once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use identity::TokenName;
use serde::Deserialize;
use store::now;

use crate::actions::{self, ActionError};
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
    match actions::tokens::create(&app, &own.me.user, &own.cache, &name, permissions).await {
        Ok(token) => {
            let revealed = RevealedToken::new(&token, name.as_str(), &own.cache.name);
            first_steps::page(&app, &own, &revealed).await
        }
        Err(ActionError::Refused(refusal)) => {
            form.name_error = Some(refusal.message.clone());
            let mut response = tokens::with_rejected_form(&app, &own, refusal.status(), &form).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}
