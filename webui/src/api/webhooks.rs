//! Webhooks: list, create, show, change, rotate the secret, delete. A secret is in the answer that makes it, and nowhere else.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use store::{NotificationKind, NotificationKinds, Webhook};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::auth::{Principal, Read, Webhooks};
use super::body::{Body, Ids, Parameters};
use super::idempotency::{self, CreationStart, repeated};
use super::paging::{Page, PageParameters, key_of};
use super::problem::{BodyErrors, ChangeErrors, FieldError, Problem, ReadErrors};
use super::value::{DateTime, IfMatch, created, entity_tag, tagged, with_header};
use crate::actions::webhooks::{self, WebhookInput, WebhookInputErrors};
use crate::state::AppState;

/// A webhook, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookView {
    /// 24 letters and digits.
    id: String,
    /// Where notifications are sent.
    url: String,
    /// May be empty.
    description: String,
    /// What is sent.
    kinds: Vec<&'static str>,
    enabled: bool,
    /// Why it is disabled: `user`, `gone` (its receiver answered 410) or `failing` (every attempt had failed for three days).
    disabled_reason: Option<&'static str>,
    /// Since when every attempt has failed; `null` if the last one hasn't.
    failing_since: Option<DateTime>,
    created_at: DateTime,
    /// When its secret was replaced last. For 24 hours both secrets sign.
    rotated_at: Option<DateTime>,
}

/// A webhook with its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookSecret)]
pub(super) struct SecretView {
    #[serde(flatten)]
    webhook: WebhookView,
    /// `whsec_` and 32 bytes in base64, in the first answer only; `null` in an answer to the same request sent again.
    secret: Option<String>,
    /// Whether the answer has the secret. If not, and it was lost, rotate it.
    has_secret: bool,
}

/// A webhook to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook)]
pub(super) struct NewWebhookFields {
    /// An `https://` URL of at most 500 characters, which leads to a public address.
    #[schema(max_length = 500)]
    url: String,
    /// At most 60 characters.
    #[serde(default)]
    #[schema(max_length = 60)]
    description: Option<String>,
    /// Kinds of notifications to send; all without it.
    #[serde(default)]
    kinds: Option<Vec<NotificationKindName>>,
}

/// What to change of a webhook. What is missing stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChange)]
pub(super) struct ChangeFields {
    #[serde(default)]
    #[schema(max_length = 500)]
    url: Option<String>,
    #[serde(default)]
    #[schema(max_length = 60)]
    description: Option<String>,
    #[serde(default)]
    kinds: Option<Vec<NotificationKindName>>,
    /// Whether anything is sent.
    #[serde(default)]
    enabled: Option<bool>,
}

/// Nothing: `{}`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Empty)]
pub(super) struct NoFields {}

/// A kind of notification, by its name.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct NotificationKindName(NotificationKind);

impl TryFrom<String> for NotificationKindName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        let found = NotificationKind::CHOICES.into_iter().find(|kind| kind.name() == name);
        found.map(Self).ok_or("not a kind of notification")
    }
}

impl PartialSchema for NotificationKindName {
    fn schema() -> RefOr<Schema> {
        let names = NotificationKind::CHOICES.map(NotificationKind::name);
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A kind of notification."))
            .enum_values(Some(names))
            .into()
    }
}

impl ToSchema for NotificationKindName {
    fn name() -> Cow<'static, str> {
        "NotificationKind".into()
    }
}

/// Lists your webhooks, the oldest first
#[utoipa::path(get, path = "/webhooks", tag = "Webhooks", operation_id = "listWebhooks",
    params(PageParameters), security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of webhooks", body = Page<WebhookView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<WebhookView>>, Problem> {
    let position = parameters.position()?;
    let webhooks = app.store.webhooks_of(&caller.user.id).await?;
    let key = |it: &Webhook| key_of(it.created_at, &it.id);
    Ok(Json(position.page(webhooks, key, WebhookView::new)))
}

/// Creates a webhook. The answer has the secret of its signatures, once
#[utoipa::path(post, path = "/webhooks", tag = "Webhooks", operation_id = "createWebhook",
    params(("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NewWebhookFields, security(("api_key" = ["webhooks"])),
    responses((status = 201, description = "It is created", body = SecretView,
            headers(("Location" = String, description = "The webhook"), ("ETag" = String, description = "For If-Match"))),
        (status = 200, description = "It was created before, with the same Idempotency-Key; without its secret", body = SecretView),
        BodyErrors))]
pub(super) async fn create(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    body: Body<NewWebhookFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => return repeat(&app, &caller, &id).await,
    };
    let create = async {
        let NewWebhookFields { url, description, kinds } = &body.fields;
        let kinds = kinds.as_deref().map_or(NotificationKinds::ALL, chosen);
        let input = WebhookInput::parse(&app, url, description.as_deref().unwrap_or_default(), kinds)
            .map_err(invalid)?;
        let (id, secret) = webhooks::create(&app, user, &input).await?;
        Ok((id.clone(), (id, secret)))
    };
    let created = create.await;
    let (id, secret) = creation.end(&app, created).await?;
    reveal(&app, &caller, &id, secret).await
}

/// Shows a webhook
#[utoipa::path(get, path = "/webhooks/{webhook}", tag = "Webhooks", operation_id = "getWebhook",
    params(("webhook" = String, Path, description = "Its id")), security(("api_key" = ["read"])),
    responses((status = 200, description = "The webhook", body = WebhookView,
            headers(("ETag" = String, description = "For If-Match; changes with what you can change"))),
        ReadErrors))]
pub(super) async fn show(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Ids(id): Ids<String>,
) -> Result<Response, Problem> {
    let webhook = webhooks::find(&app, &caller.user, &id).await?;
    Ok(tagged(StatusCode::OK, &tag(&webhook), &WebhookView::new(webhook)))
}

/// Changes a webhook, enables or disables it. What waits is sent to the new URL, or given up
#[utoipa::path(patch, path = "/webhooks/{webhook}", tag = "Webhooks", operation_id = "updateWebhook",
    params(("webhook" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Change it only if its ETag is this")),
    request_body = ChangeFields, security(("api_key" = ["webhooks"])),
    responses((status = 200, description = "It is changed", body = WebhookView,
            headers(("ETag" = String, description = "For If-Match"))),
        BodyErrors))]
pub(super) async fn update(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
    body: Body<ChangeFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let webhook = webhooks::find(&app, user, &id).await?;
    let ChangeFields { url, description, kinds, enabled } = &body.fields;
    let url = url.as_deref().unwrap_or(&webhook.url);
    let description = description.as_deref().unwrap_or(&webhook.description);
    let kinds = kinds.as_deref().map_or(webhook.kinds, chosen);
    let changes = (url, description, kinds) != (&*webhook.url, &*webhook.description, webhook.kinds);
    // The operator may have allowed more when it was created.
    let input =
        changes.then(|| WebhookInput::parse(&app, url, description, kinds)).transpose().map_err(invalid)?;
    IfMatch::of(&headers).check(&tag(&webhook))?;
    if input.is_some() || enabled.is_some() {
        webhooks::change(&app, user, &webhook, input.as_ref(), *enabled).await?;
    }
    let webhook = webhooks::find(&app, user, &id).await?;
    Ok(tagged(StatusCode::OK, &tag(&webhook), &WebhookView::new(webhook)))
}

/// Deletes a webhook with its deliveries
#[utoipa::path(delete, path = "/webhooks/{webhook}", tag = "Webhooks", operation_id = "deleteWebhook",
    params(("webhook" = String, Path, description = "Its id"),
        ("If-Match" = Option<String>, Header, description = "Delete it only if its ETag is this")),
    security(("api_key" = ["webhooks"])),
    responses((status = 204, description = "It is deleted"), ChangeErrors))]
pub(super) async fn delete(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    Ids(id): Ids<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let webhook = webhooks::find(&app, &caller.user, &id).await?;
    IfMatch::of(&headers).check(&tag(&webhook))?;
    webhooks::delete(&app, &caller.user, &webhook).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replaces the secret of a webhook. For 24 hours each request is signed with both
#[utoipa::path(post, path = "/webhooks/{webhook}/rotate-secret", tag = "Webhooks", operation_id = "rotateWebhookSecret",
    params(("webhook" = String, Path, description = "Its id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key within a day, it is done once")),
    request_body = NoFields, security(("api_key" = ["webhooks"])),
    responses((status = 201, description = "The new secret", body = SecretView,
            headers(("Location" = String, description = "The webhook"), ("ETag" = String, description = "For If-Match"))),
        (status = 200, description = "It was replaced before, with the same Idempotency-Key; without the secret", body = SecretView),
        BodyErrors))]
pub(super) async fn rotate(
    State(app): State<Arc<AppState>>,
    caller: Principal<Webhooks>,
    Ids(id): Ids<String>,
    body: Body<NoFields>,
) -> Result<Response, Problem> {
    let user = &caller.user;
    let webhook = webhooks::find(&app, user, &id).await?;
    let creation = match idempotency::begin(&app, &user.id, &body.identity).await? {
        CreationStart::New(creation) => creation,
        CreationStart::Repeated(id) => return repeat(&app, &caller, &id).await,
    };
    let rotated = webhooks::rotate(&app, user, &webhook).await.map_err(Problem::from);
    let secret = creation.end(&app, rotated.map(|secret| (webhook.id.clone(), secret))).await?;
    reveal(&app, &caller, &id, secret).await
}

/// The answer that has a webhook's secret.
async fn reveal(
    app: &AppState,
    caller: &Principal<Webhooks>,
    id: &str,
    secret: String,
) -> Result<Response, Problem> {
    let webhook = webhooks::find(app, &caller.user, id).await?;
    let tag = tag(&webhook);
    let body = SecretView { webhook: WebhookView::new(webhook), secret: Some(secret), has_secret: true };
    Ok(with_header(created(StatusCode::CREATED, &format!("/webhooks/{id}"), &body), header::ETAG, &tag))
}

/// The answer to a creation that was done before.
async fn repeat(app: &AppState, caller: &Principal<Webhooks>, id: &str) -> Result<Response, Problem> {
    let webhook = webhooks::find(app, &caller.user, id).await?;
    let body = SecretView { webhook: WebhookView::new(webhook), secret: None, has_secret: false };
    Ok(repeated(Json(body).into_response()))
}

/// The tag of a webhook, from all that its user can change.
fn tag(webhook: &Webhook) -> String {
    let Webhook { id, url, description, kinds, disabled, generation, .. } = webhook;
    entity_tag(&(id, url, description, kinds, disabled, generation))
}

fn chosen(names: &[NotificationKindName]) -> NotificationKinds {
    names.iter().map(|NotificationKindName(kind)| *kind).collect()
}

fn invalid(errors: WebhookInputErrors) -> Problem {
    let WebhookInputErrors { url, description, kinds } = errors;
    let errors = [("url", url), ("description", description), ("kinds", kinds)];
    Problem::fields(
        errors.into_iter().filter_map(|(name, error)| Some(FieldError::new(name, error?))).collect(),
    )
}

impl WebhookView {
    fn new(webhook: Webhook) -> Self {
        Self {
            kinds: webhook.kinds.names().collect(),
            enabled: webhook.disabled.is_none(),
            disabled_reason: webhook.disabled.map(store::DisabledReason::as_str),
            failing_since: webhook.failing_since.map(DateTime),
            created_at: DateTime(webhook.created_at),
            rotated_at: webhook.rotated_at.map(DateTime),
            id: webhook.id,
            url: webhook.url,
            description: webhook.description,
        }
    }
}
