//! `GET /account/webhooks/{id}`: a webhook, its deliveries, and the forms that change it.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use store::{DeliveryState, NotificationKinds, Webhook, WebhookDelivery, now};

use super::{Errors, WebhookView, has_second_factor};
use crate::actions;
use crate::forms::kinds::{KindBox, boxes};
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::{ago, minute_of};

/// Deliveries on the page, the newest.
const SHOWN_MAX: i64 = 50;

#[derive(Template)]
#[template(path = "account/webhooks/show.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    has_webhooks: bool,
    webhook: WebhookView,
    url: &'a str,
    description: &'a str,
    boxes: Vec<KindBox>,
    /// Of the form that changes it.
    errors: Errors,
    /// Of the form that replaces the secret.
    rotate_errors: Errors,
    /// Why what was asked for isn't done.
    refused: Option<String>,
    asks_code: bool,
    /// The new secret, just after it was replaced.
    secret: Option<String>,
    deliveries: Vec<DeliveryView>,
    /// What was done just now.
    done: Option<&'static str>,
}

/// A delivery in the list.
struct DeliveryView {
    id: String,
    kind: &'static str,
    state: &'static str,
    /// Attempts and what came of the last one.
    attempts: String,
    when: String,
    /// When it is tried again.
    next: String,
    can_send_again: bool,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    done: Option<String>,
}

/// What depends on the request before the page.
#[derive(Default)]
pub(super) struct PageState {
    /// URL, description and kinds as they were sent, if they weren't accepted.
    pub(super) sent: Option<(String, String, NotificationKinds)>,
    pub(super) errors: Errors,
    pub(super) rotate_errors: Errors,
    pub(super) refused: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) done: Option<&'static str>,
}

/// What a redirect to the page may say that was done, and how the page says it.
const DONE: [(&str, &str); 4] = [
    ("saved", "The webhook is changed. Everything sent from now on uses the new settings."),
    ("enabled", "The webhook is enabled."),
    ("disabled", "The webhook is disabled. Nothing is sent to it."),
    ("sending", "It is being sent. What came of it appears below, or when you open this page again."),
];

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    Path(id): Path<String>,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let webhook = actions::webhooks::find(&app, &me.user, &id).await?;
    let done = DONE.into_iter().find(|(word, _)| params.done.as_deref() == Some(*word)).map(|(_, text)| text);
    page(&app, &me, StatusCode::OK, webhook, PageState { done, ..PageState::default() }).await
}

pub(super) async fn page(
    app: &AppState,
    me: &SignedIn,
    status: StatusCode,
    webhook: Webhook,
    view: PageState,
) -> Result<Response, PageError> {
    let deliveries = app.store.webhook_deliveries(&webhook.id, None, SHOWN_MAX).await?;
    let is_enabled = webhook.disabled.is_none();
    let (url, description, kinds) =
        view.sent.unwrap_or_else(|| (webhook.url.clone(), webhook.description.clone(), webhook.kinds));
    let page = Page {
        layout: Layout::signed_in(me),
        csrf_token: &me.session.form_token,
        has_webhooks: app.webhooks.is_some(),
        webhook: WebhookView::new(webhook),
        url: &url,
        description: &description,
        boxes: boxes(kinds),
        errors: view.errors,
        rotate_errors: view.rotate_errors,
        refused: view.refused,
        asks_code: has_second_factor(app, &me.user.id).await?,
        secret: view.secret,
        deliveries: deliveries.into_iter().map(|it| DeliveryView::new(it, is_enabled)).collect(),
        done: view.done,
    };
    render(status, &page)
}

impl DeliveryView {
    fn new(delivery: WebhookDelivery, is_enabled: bool) -> Self {
        let is_waiting = delivery.state == DeliveryState::Waiting;
        let times = match delivery.attempts {
            0 => "no attempt yet".to_owned(),
            1 => "1 attempt".to_owned(),
            attempts => format!("{attempts} attempts"),
        };
        let last = match (delivery.status, &*delivery.error) {
            (Some(status), _) if delivery.state == DeliveryState::Delivered => format!(", status {status}"),
            (_, "") => String::new(),
            (_, error) => format!(", {error}"),
        };
        let next = if is_waiting && delivery.attempts > 0 {
            format!("next attempt on {}", minute_of(delivery.next_attempt_at))
        } else {
            String::new()
        };
        Self {
            kind: delivery.kind.label(),
            state: delivery.state.as_str(),
            attempts: times + &last,
            when: ago(now().since(delivery.created_at)),
            next,
            can_send_again: is_enabled && !is_waiting,
            id: delivery.id,
        }
    }
}
