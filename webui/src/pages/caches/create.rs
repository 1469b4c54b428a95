//! `POST /caches`: creates a cache with a first token. The response shows the token's secret, once.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::TokenName;
use serde::Deserialize;
use store::{Cache, Permissions};

use super::list::{self, NewCacheForm};
use super::{OwnCache, Tab, first_steps, path_of};
use crate::actions::{self, ActionError};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::state::AppState;
use crate::view::revealed_token::RevealedToken;

#[derive(Deserialize)]
pub(crate) struct Fields {
    #[serde(default)]
    name: String,
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields: Fields { name: typed } }: CsrfForm<SignedIn, Fields>,
) -> Result<Response, PageError> {
    match actions::caches::create(&app, &me.user, &typed).await {
        Ok(cache) => first_token(&app, me, &cache).await,
        Err(ActionError::Refused(refusal)) => {
            let form = NewCacheForm { name: typed, error: Some(refusal.message.clone()) };
            let mut response = list::with_rejected_form(&app, &me, refusal.status(), form).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}

/// Creates the first token and shows it, as after sign-up. Without one, leads to the page that creates tokens.
async fn first_token(app: &AppState, me: SignedIn, cache: &Cache) -> Result<Response, PageError> {
    let name = TokenName::first();
    let token = match actions::tokens::create(app, &me.user, cache, &name, Permissions::ALL).await {
        Ok(token) => token,
        Err(ActionError::Refused(_)) => {
            return Ok(Redirect::to(&path_of(&cache.id, Tab::Tokens)).into_response());
        }
        Err(ActionError::Failed(error)) => return Err(error),
    };
    let revealed = RevealedToken::new(&token, name.as_str(), &cache.name);
    let own = OwnCache::find(app, me, &cache.id).await?;
    first_steps::page(app, &own, &revealed).await
}
