//! Notifications of the key's user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use store::{Notification, Timestamp};
use utoipa::ToSchema;

use super::auth::{Principal, Read};
use super::body::Parameters;
use super::paging::{Page, PageParameters, cursor, key_of};
use super::problem::{Problem, ReadErrors};
use super::value::DateTime;
use crate::state::AppState;
use crate::view::notification;

/// Something that you were notified of, as webhooks get it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Notification)]
pub(super) struct NotificationView {
    id: String,
    /// Like `token_leaked`.
    kind: &'static str,
    created_at: DateTime,
    /// `null` if it isn't about a cache.
    cache: Option<NotificationCache>,
    /// More, by kind: texts, numbers and times.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// The same in words.
    text: String,
}

/// The cache of a notification.
#[derive(Debug, Serialize, ToSchema)]
struct NotificationCache {
    id: String,
    /// The name that it had then.
    name: String,
}

/// Lists your notifications of the last 30 days, the newest first: 200 at most
#[utoipa::path(get, path = "/notifications", tag = "Notifications", operation_id = "listNotifications",
    params(PageParameters), security(("api_key" = ["read"])),
    responses((status = 200, description = "A page of notifications", body = Page<NotificationView>), ReadErrors))]
pub(super) async fn list(
    State(app): State<Arc<AppState>>,
    caller: Principal<Read>,
    Parameters(parameters): Parameters<PageParameters>,
) -> Result<Json<Page<NotificationView>>, Problem> {
    let position = parameters.position()?;
    let before = position.after.as_deref().map(before).transpose()?;
    let limit = i64::try_from(position.limit).unwrap_or(i64::MAX);
    let found = app.store.notifications_of(&caller.user.id, before, limit.saturating_add(1)).await?;
    let has_more = found.len() > position.limit;
    let last = found.get(position.limit - 1).filter(|_| has_more);
    let next_cursor = last.map(|last| cursor(&key_of(last.created_at, &last.id)));
    let items = found.iter().take(position.limit).map(NotificationView::new).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// The time and id of a cursor.
pub(super) fn before(key: &str) -> Result<(Timestamp, &str), Problem> {
    let invalid = || Problem::parameter("cursor", "send the `next_cursor` of the page before, or none.");
    let (at, id) = key.split_once('-').ok_or_else(invalid)?;
    Ok((Timestamp::from_millis(at.parse().map_err(|_| invalid())?), id))
}

impl NotificationView {
    fn new(notification: &Notification) -> Self {
        let cache = |id: &String| NotificationCache { id: id.clone(), name: notification.cache_name.clone() };
        Self {
            id: notification.id.clone(),
            kind: notification.kind.name(),
            created_at: DateTime(notification.created_at),
            cache: notification.cache_id.as_ref().map(cache),
            data: notification::data(notification),
            text: notification::text(notification),
        }
    }
}
