//! `POST /caches/{cache}/sleep`: when the cache sleeps, as its user wants it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use identity::sleep::parse_sleep_after;
use serde::Deserialize;

use super::settings::{self, PageState, SettingsForm};
use super::{OwnCache, Tab, path_of};
use crate::actions::{self, ActionError};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::state::AppState;

#[derive(Deserialize)]
pub(crate) struct Fields {
    /// `plan`, or a time like `1h`.
    #[serde(default)]
    sleep_after: String,
}

pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: own, fields }: CsrfForm<OwnCache, Fields>,
) -> Result<Response, PageError> {
    let reject = async |status, error: String| {
        let form = SettingsForm { sleep_error: Some(error), ..SettingsForm::default() };
        settings::page(&app, &own, status, PageState { form, ..PageState::default() }).await
    };
    let seconds = match parse_sleep_after(fields.sleep_after.trim()) {
        Ok(seconds) => seconds,
        Err(fix) => {
            let error = format!("This time can’t be used: {fix}.");
            return reject(StatusCode::UNPROCESSABLE_ENTITY, error).await;
        }
    };
    match actions::caches::set_sleep_after(&app, &own.me.user, &own.cache, seconds).await {
        Ok(()) => {
            Ok(Redirect::to(&format!("{}?saved", path_of(&own.cache.id, Tab::Settings))).into_response())
        }
        Err(ActionError::Refused(refusal)) => {
            let mut response = reject(refusal.status(), refusal.message.clone()).await?;
            refusal.add_to(&mut response);
            Ok(response)
        }
        Err(ActionError::Failed(error)) => Err(error),
    }
}
