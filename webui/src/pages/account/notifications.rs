//! Notifications of the signed-in user: the latest, what comes by mail, and the way to webhooks.

use std::sync::Arc;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use store::{Notification, now};

use crate::forms::kinds::{KindBox, KindBoxes, boxes};
use crate::http::csrf::CsrfForm;
use crate::http::reject::PageError;
use crate::http::session::SignedIn;
use crate::layout::{Layout, render};
use crate::state::AppState;
use crate::view::date::{ago, minute_of};
use crate::view::notification;

/// Notifications on the page, the newest.
const SHOWN_MAX: i64 = 50;

#[derive(Template)]
#[template(path = "account/notifications.html")]
struct Page<'a> {
    layout: Layout,
    csrf_token: &'a str,
    has_mail: bool,
    has_webhooks: bool,
    boxes: Vec<KindBox>,
    notifications: Vec<NotificationView>,
    /// Whether the choice was saved just now.
    saved: bool,
}

/// A notification in the list.
struct NotificationView {
    kind: &'static str,
    title: &'static str,
    text: String,
    when: String,
    ago: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct Params {
    saved: Option<String>,
}

pub(crate) async fn show(
    State(app): State<Arc<AppState>>,
    me: SignedIn,
    params: Result<Query<Params>, QueryRejection>,
) -> Result<Response, PageError> {
    let Query(params) = params.unwrap_or_default();
    let notifications = app.store.notifications_of(&me.user.id, None, SHOWN_MAX).await?;
    let page = Page {
        layout: Layout::signed_in(&me),
        csrf_token: &me.session.form_token,
        has_mail: app.mail.is_some(),
        has_webhooks: app.webhooks.is_some(),
        boxes: boxes(app.store.mail_kinds_of(&me.user.id).await?),
        notifications: notifications.iter().map(NotificationView::new).collect(),
        saved: params.saved.is_some(),
    };
    render(StatusCode::OK, &page)
}

/// Chooses what comes by mail.
pub(crate) async fn submit(
    State(app): State<Arc<AppState>>,
    CsrfForm { sender: me, fields }: CsrfForm<SignedIn, KindBoxes>,
) -> Result<Response, PageError> {
    me.store(&app).set_mail_kinds(&me.user.id, fields.kinds()).await?;
    Ok(Redirect::to("/account/notifications?saved").into_response())
}

impl NotificationView {
    fn new(notification: &Notification) -> Self {
        Self {
            kind: notification.kind.name(),
            title: notification.kind.label(),
            text: notification::text(notification),
            when: minute_of(notification.created_at),
            ago: ago(now().since(notification.created_at)),
        }
    }
}
