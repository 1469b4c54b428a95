//! What changes a webhook: another URL, another secret, its end; and what sends to it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::Webhook;

use super::show::{PageState, page};
use super::{Form, PATH, verify_current};
use crate::actions::webhooks::{self, WebhookInput};
use crate::actions::{ActionError, Refusal};
use crate::http::client_ip::ClientIp;
use crate::http::csrf::{CsrfForm, NoFields};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::state::AppState;

/// No `Debug`: that would print the password.
#[derive(Deserialize)]
pub(crate) struct Rotate {
    #[serde(default)]
    password: String,
    #[serde(default)]
    code: String,
}

pub(crate) async fn edit(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields: form }: CsrfForm<SignedIn, Form>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let kinds = form.kinds.kinds();
    let reject = async |webhook, status, errors| {
        let sent = Some((form.url.clone(), form.description.clone(), kinds));
        page(&app, &me, status, webhook, PageState { sent, errors, ..PageState::default() }).await
    };
    let input = match WebhookInput::parse(&app, &form.url, &form.description, kinds) {
        Ok(input) => input,
        Err(errors) => return reject(webhook, StatusCode::UNPROCESSABLE_ENTITY, errors.into()).await,
    };
    let verified = verify_current(&app, &me, client_ip, form.password.clone(), &form.code).await?;
    if let Err(rejection) = verified {
        return Ok(rejection.add_headers(reject(webhook, rejection.status(), (&rejection).into()).await?));
    }
    let changed = webhooks::change(&app, &me.user, &webhook, Some(&input), None).await;
    finish(&app, &me, webhook, changed, "saved").await
}

/// Replaces the secret, which the page then shows once.
pub(crate) async fn rotate(
    State(app): State<Arc<AppState>>,
    client_ip: ClientIp,
    Path(id): Path<String>,
    CsrfForm { sender: me, fields: form }: CsrfForm<SignedIn, Rotate>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let verified = verify_current(&app, &me, client_ip, form.password, &form.code).await?;
    if let Err(rejection) = verified {
        let view = PageState { rotate_errors: (&rejection).into(), ..PageState::default() };
        return Ok(rejection.add_headers(page(&app, &me, rejection.status(), webhook, view).await?));
    }
    match webhooks::rotate(&app, &me.user, &webhook).await {
        Ok(secret) => {
            let view = PageState { secret: Some(secret), ..PageState::default() };
            page(&app, &me, StatusCode::OK, webhook, view).await
        }
        Err(error) => finish(&app, &me, webhook, Err(error), "").await,
    }
}

pub(crate) async fn enable(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let enabled = webhooks::change(&app, &me.user, &webhook, None, Some(true)).await;
    finish(&app, &me, webhook, enabled, "enabled").await
}

pub(crate) async fn disable(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let disabled = webhooks::change(&app, &me.user, &webhook, None, Some(false)).await;
    finish(&app, &me, webhook, disabled, "disabled").await
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    webhooks::delete(&app, &me.user, &webhook).await?;
    Ok(Redirect::to(&format!("{PATH}?deleted")).into_response())
}

pub(crate) async fn test(
    State(app): State<Arc<AppState>>,
    Path(id): Path<String>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let sent = webhooks::send_test(&app, &me.user, &webhook).await.map(drop);
    finish(&app, &me, webhook, sent, "sending").await
}

pub(crate) async fn send_again(
    State(app): State<Arc<AppState>>,
    Path((id, delivery)): Path<(String, String)>,
    CsrfForm { sender: me, .. }: CsrfForm<SignedIn, NoFields>,
) -> Result<Response, PageError> {
    let webhook = webhooks::find(&app, &me.user, &id).await?;
    let delivery = webhooks::find_delivery(&app, &webhook, &delivery).await?;
    let sent = webhooks::send_again(&app, &me.user, &webhook, &delivery).await;
    finish(&app, &me, webhook, sent, "sending").await
}

/// Leads back to the page, which says what was done, or shows it with why that isn't done.
async fn finish(
    app: &AppState,
    me: &SignedIn,
    webhook: Webhook,
    result: Result<(), ActionError>,
    done: &str,
) -> Result<Response, PageError> {
    let refusal: Refusal = match result {
        Ok(()) => return Ok(Redirect::to(&format!("{PATH}/{}?done={done}", webhook.id)).into_response()),
        Err(ActionError::Refused(refusal)) => refusal,
        Err(ActionError::Failed(error)) => return Err(error),
    };
    let view = PageState { refused: Some(refusal.message.clone()), ..PageState::default() };
    let mut response = page(app, me, refusal.status(), webhook, view).await?;
    refusal.add_to(&mut response);
    Ok(response)
}
