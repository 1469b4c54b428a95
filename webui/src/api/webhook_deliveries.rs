//! Deliveries of a webhook: list, send one again, send a test.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use store::{DeliveryState, WebhookDelivery};
use utoipa::ToSchema;

use super::auth::{Principal, Read, Webhooks};
use super::body::{Body, Ids, Parameters};
use super::idempotency::{self, CreationStart, repeated};
use super::notifications::before;
use super::paging::{Page, PageParameters, cursor, key_of};
use super::problem::{BodyErrors, Problem, ReadErrors};
use super::value::DateTime;
use super::webhooks::NoFields;
use crate::actions::webhooks;
use crate::state::AppState;

/// A notification on its way to a webhook.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(super) struct DeliveryView {
    id: String,
    notification_id: String,
    /// What the notification tells.
    kind: &'static str,
    /// `waiting`, `delivered` or `failed`.
    state: &'static str,
    /// Attempts that were made.
    attempts: i64,
    /// When it is tried next, while it waits.
    next_attempt_at: Option<DateTime>,
    /// The HTTP status of the last attempt, if there was a reply.
    status: Option<i64>,
    /// Why the last attempt failed; `null` if it hasn't.
    error: Option<String>,
    created_at: DateTime,
    attempted_at: Option<DateTime>,
}

/// Lists the deliveries of a webhook, the newest first
#[utoipa::path(get, path = "/webhooks/{webhook}/deliveries", tag = "Webhooks", operation_id = "listWebhookDeliveries",
    params(("webhook" = String, Path, description = "The webhook's id"), PageParameters),
    security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of deliveries", body = Page<DeliveryView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<DeliveryView>>, Problem> {
    let position = parameters.position()?;
    let webhook = webhooks::find(&app, &caller.user, &id).await?;
    let before = position.after.as_deref().map(before).transpose()?;
    let limit = i64::try_from(position.limit).unwrap_or(i64::MAX);
    let mut found = app.store.webhook_deliveries(&webhook.id, before, limit.saturating_add(1)).await?;
    let has_more = found.len() > position.limit;
    found.truncate(position.limit);
    let last = found.last().filter(|_| has_more);
    let next_cursor = last.map(|last| cursor(&key_of(last.created_at, &last.id)));
    Ok(Json(Page { items: found.into_iter().map(DeliveryView::new).collect(), next_cursor }))
}

/// Sends a test to a webhook, whatever kinds it wants
#[utoipa::path(post, path = "/webhooks/{webhook}/test", tag = "Webhooks", operation_id = "testWebhook",
    params(("webhook" = String, Path, description = "The webhook's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NoFields, security(("api_key" = ["webhooks"])),
    responses((status = 202, description = "It is being sent", body = DeliveryView),
        (status = 200, description = "It was sent before, with the same Idempotency-Key", body = DeliveryView),
        BodyErrors))]
pub(super) async fn test(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    Ids(id): Ids<String>,
    body: Body<NoFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let webhook = webhooks::find(&app, user, &id).await?;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => {
            let delivery = webhooks::find_delivery(&app, &webhook, &id).await?;
            return Ok(repeated(Json(DeliveryView::new(delivery)).into_response()));
        }
    };
    let sent = webhooks::send_test(&app, user, &webhook).await.map_err(Problem::from);
    let id = creation.end(&app, sent.map(|id| (id.clone(), id))).await?;
    let delivery = webhooks::find_delivery(&app, &webhook, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryView::new(delivery))).into_response())
}

/// Sends a delivery again, which was delivered or given up. Nothing is done if it waits
#[utoipa::path(post, path = "/webhooks/{webhook}/deliveries/{delivery}/send-again", tag = "Webhooks",
    operation_id = "sendWebhookDeliveryAgain",
    params(("webhook" = String, Path, description = "The webhook's id"),
        ("delivery" = String, Path, description = "The delivery's id")),
    request_body = NoFields, security(("api_key" = ["webhooks"])),
    responses((status = 202, description = "It is being sent", body = DeliveryView), BodyErrors))]
pub(super) async fn send_again(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    Ids((id, delivery)): Ids<(String, String)>,
    _: Body<NoFields>,
) -> Result<Response, Problem> {
    let webhook = webhooks::find(&app, &caller.user, &id).await?;
    let delivery = webhooks::find_delivery(&app, &webhook, &delivery).await?;
    webhooks::send_again(&app, &caller.user, &webhook, &delivery).await?;
    let delivery = webhooks::find_delivery(&app, &webhook, &delivery.id).await?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryView::new(delivery))).into_response())
}

impl DeliveryView {
    fn new(delivery: WebhookDelivery) -> Self {
        let is_waiting = delivery.state == DeliveryState::Waiting;
        Self {
            kind: delivery.kind.name(),
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            next_attempt_at: is_waiting.then_some(DateTime(delivery.next_attempt_at)),
            status: delivery.status,
            error: Some(delivery.error).filter(|error| !error.is_empty()),
            created_at: DateTime(delivery.created_at),
            attempted_at: delivery.attempted_at.map(DateTime),
            id: delivery.id,
            notification_id: delivery.notification_id,
        }
    }
}
