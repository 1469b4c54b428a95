//! Deliveries: notifications on their way to webhooks.

use crate::db::{read, write_unversioned};
use crate::notification::{NewNotification, insert_notification_only};
use crate::rows::{SHORT_ROW_BYTES_MAX, read_rows};
use crate::webhook::lock_webhook;
use crate::{NotificationKind, Store, StoreError, Timestamp, now};

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is to be sent, for the first time or again.
    Waiting,
    /// The receiver has it.
    Delivered,
    /// It was given up.
    Failed,
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WebhookDelivery {
    /// 24 letters and digits.
    pub id: String,
    /// What is sent.
    pub notification_id: String,
    /// What that tells.
    pub kind: NotificationKind,
    /// Where the delivery is.
    pub state: DeliveryState,
    /// Attempts, the one that is being made included.
    pub attempts: i64,
    /// When the next one is due, while it waits.
    pub next_attempt_at: Timestamp,
    /// The HTTP status of the last attempt, if there was a reply.
    pub status: Option<i64>,
    /// Why the last attempt failed; may be empty.
    pub error: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When the last attempt began.
    pub attempted_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    notification_id: String,
    kind: String,
    state: String,
    attempts: i64,
    next_attempt_at: Timestamp,
    status: Option<i64>,
    error: String,
    created_at: Timestamp,
    attempted_at: Option<Timestamp>,
}

impl DeliveryState {
    /// Its name in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Delivered, Self::Failed].into_iter().find(|it| it.as_str() == text)
    }
}

impl Row {
    /// `None` if a newer memgate has written an unknown word.
    fn into_delivery(self) -> Option<WebhookDelivery> {
        Some(WebhookDelivery {
            kind: NotificationKind::parse(&self.kind)?,
            state: DeliveryState::parse(&self.state)?,
            id: self.id,
            notification_id: self.notification_id,
            attempts: self.attempts,
            next_attempt_at: self.next_attempt_at,
            status: self.status,
            error: self.error,
            created_at: self.created_at,
            attempted_at: self.attempted_at,
        })
    }
}

pub(crate) const INSERT: &str = "INSERT INTO webhook_deliveries (id, webhook_id, notification_id, state, attempts, \
     next_attempt_at, error, created_at) VALUES ($1, $2, $3, 'waiting', 0, $4, '', $4)";
pub(crate) const WAKE: &str = "UPDATE webhooks SET next_attempt_at = $1 WHERE id = $2 AND state = 'enabled' \
     AND (next_attempt_at IS NULL OR next_attempt_at > $1)";
/// The newest `$4` of the webhook `$1` before the time `$2`, and at that time before the id `$3`.
pub(crate) const OF_WEBHOOK: &str = "SELECT d.id, d.notification_id, n.kind, d.state, d.attempts, d.next_attempt_at, d.status, \
     d.error, d.created_at, d.attempted_at FROM webhook_deliveries d JOIN notifications n ON n.id = d.notification_id \
     WHERE d.webhook_id = $1 AND d.created_at <= $2 AND (d.created_at < $2 OR d.id < $3) \
     ORDER BY d.created_at DESC, d.id DESC LIMIT $4";
const SEND_AGAIN: &str = "UPDATE webhook_deliveries SET state = 'waiting', attempts = 0, next_attempt_at = $1 \
     WHERE id = $2 AND webhook_id = $3 AND state <> 'waiting'";
/// Deliveries that are due, of webhooks and users that are sent to, 1,000 at most.
pub(crate) const COUNT_DUE: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM webhooks w JOIN webhook_deliveries d \
     ON d.webhook_id = w.id AND d.state = 'waiting' AND d.next_attempt_at <= $1 \
     WHERE w.state = 'enabled' AND w.next_attempt_at IS NOT NULL AND w.next_attempt_at <= $1 \
     AND EXISTS (SELECT 1 FROM users u WHERE u.id = w.user_id AND u.state = 'active') LIMIT 1000) AS counted";

/// Adds a delivery, which is due at once, in a transaction that has locked the webhook. Evaluates to its id.
macro_rules! insert_delivery {
    ($tx:expr, $webhook:expr, $notification:expr) => {{
        let (id, at): (String, $crate::Timestamp) = ($crate::id::random(), $crate::now());
        let (webhook, notification): (&str, &str) = ($webhook, $notification);
        let insert =
            sqlx::query($crate::webhook_delivery::INSERT).bind(&id).bind(webhook).bind(notification).bind(at);
        insert.execute(&mut *$tx).await?;
        sqlx::query($crate::webhook_delivery::WAKE).bind(at).bind(webhook).execute(&mut *$tx).await?;
        id
    }};
}
pub(crate) use insert_delivery;

impl Store {
    /// Up to `limit` deliveries of a webhook, the newest first: those before another one, given by its time and id, or the newest
    /// of all.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn webhook_deliveries(
        &self,
        webhook_id: &str,
        before: Option<(Timestamp, &str)>,
        limit: i64,
    ) -> Result<Vec<WebhookDelivery>, StoreError> {
        let (at, id) = before.unwrap_or((Timestamp::MAX, ""));
        let rows: Vec<Result<Row, StoreError>> = read_rows!(
            self,
            SHORT_ROW_BYTES_MAX,
            sqlx::query(OF_WEBHOOK).bind(webhook_id).bind(at).bind(id).bind(limit)
        )?;
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        Ok(rows.into_iter().filter_map(Row::into_delivery).collect())
    }

    /// Sends a delivery of a webhook again, from the first attempt on. Does nothing if it waits.
    ///
    /// # Errors
    /// `NotFound("enabled webhook")`.
    pub async fn send_again(&self, webhook_id: &str, delivery_id: &str) -> Result<(), StoreError> {
        let at = now();
        write_unversioned!(self, tx => {
            let (..) = lock_webhook!(tx, webhook_id).ok_or(StoreError::NotFound("enabled webhook"))?;
            let changed = sqlx::query(SEND_AGAIN).bind(at).bind(delivery_id).bind(webhook_id).execute(&mut *tx).await?;
            if changed.rows_affected() > 0 {
                sqlx::query(WAKE).bind(at).bind(webhook_id).execute(&mut *tx).await?;
            }
        });
        Ok(())
    }

    /// Sends a test to a webhook, whatever kinds it wants. Returns the delivery's id.
    ///
    /// # Errors
    /// `NotFound("enabled webhook")`.
    pub async fn send_test(&self, webhook_id: &str) -> Result<String, StoreError> {
        Ok(write_unversioned!(self, tx => {
            let (user_id, _) = lock_webhook!(tx, webhook_id).ok_or(StoreError::NotFound("enabled webhook"))?;
            let new = NewNotification {
                user_id,
                cache: None,
                kind: NotificationKind::Test,
                subject: webhook_id.to_owned(),
                // Each is another one.
                period: crate::id::random(),
                quiet_since: None,
                data: serde_json::json!({ "webhook_id": webhook_id }),
            };
            let id = insert_notification_only!(tx, &new).ok_or(StoreError::NotFound("enabled webhook"))?;
            insert_delivery!(tx, webhook_id, &id)
        }))
    }

    /// Deliveries that are due, 1,000 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn due_deliveries(&self) -> Result<usize, StoreError> {
        let count: i64 =
            read!(self, pool => sqlx::query_scalar(COUNT_DUE).bind(now()).fetch_one(pool).await)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}
