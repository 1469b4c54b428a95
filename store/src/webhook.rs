//! Webhooks: addresses of a user's to which notifications are sent. The secret that signs them isn't stored:
//! [`TokenKey::webhook_secret`](crate::TokenKey::webhook_secret) makes it from the webhook's id and generation.

mod claim;
mod lock;

use std::time::Duration;

#[cfg(test)]
pub(crate) use claim::QUERY_PLANS;
pub use claim::{ClaimedDelivery, DeliveryOutcome, Finished};
pub(crate) use lock::{ENABLED_OF, LOCK, lock_webhook, lock_webhooks};

use crate::audit::note;
use crate::db::{read, write};
use crate::fan_out::insert_notification;
use crate::id::random;
use crate::notification::NewNotification;
use crate::rows::{ROW_BYTES_MAX, read_row, read_rows};
use crate::{MailLimits, NotificationKind, NotificationKinds, Store, StoreError, Timestamp, now};

/// Webhooks of a user.
pub const WEBHOOKS_PER_USER_MAX: i64 = 5;
/// How long the former secret counts after a rotation.
const FORMER_SECRET_VALID: Duration = Duration::from_hours(24);

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Webhook {
    /// 24 letters and digits.
    pub id: String,
    /// The user who has it.
    pub user_id: String,
    /// Where notifications go; the caller has validated it.
    pub url: String,
    /// What its user calls it; may be empty.
    pub description: String,
    /// What is sent.
    pub kinds: NotificationKinds,
    /// Why nothing is sent, if it is disabled.
    pub disabled: Option<DisabledReason>,
    /// Of its secret.
    pub generation: i64,
    /// When the secret was replaced last, if it was.
    pub rotated_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when every attempt has failed, if the last one has.
    pub failing_since: Option<Timestamp>,
}

/// Why a webhook is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Its user wants so.
    User,
    /// Its receiver has answered 410.
    Gone,
    /// Every attempt has failed for days.
    Failing,
}

/// What a user says of a webhook; the caller has validated it.
#[derive(Debug, Clone, Copy)]
pub struct WebhookFields<'a> {
    /// At most 500 characters.
    pub url: &'a str,
    /// The URL's host.
    pub host: &'a str,
    /// At most 60 characters.
    pub description: &'a str,
    /// What is sent.
    pub kinds: NotificationKinds,
}

impl DisabledReason {
    const ALL: [Self; 3] = [Self::User, Self::Gone, Self::Failing];

    /// Its name in rows and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    fn parse(text: &str) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(StoreError::Corrupt("reason of a webhook"))
    }
}

impl Webhook {
    /// The generations of its secret that count at `now`: its own, and the one before for a day.
    #[must_use]
    pub fn generations(&self, now: Timestamp) -> Vec<i64> {
        let counts = |rotated: Timestamp| now.since(rotated) < FORMER_SECRET_VALID;
        let former = self.rotated_at.is_some_and(counts).then_some(self.generation - 1);
        [self.generation].into_iter().chain(former).collect()
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    user_id: String,
    url: String,
    description: String,
    kinds: String,
    state: String,
    reason: String,
    generation: i64,
    rotated_at: Option<Timestamp>,
    created_at: Timestamp,
    failing_since: Option<Timestamp>,
}

impl TryFrom<Row> for Webhook {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let is_disabled = row.state == "disabled";
        Ok(Self {
            disabled: is_disabled.then(|| DisabledReason::parse(&row.reason)).transpose()?,
            kinds: row.kinds.parse().map_err(|_| StoreError::Corrupt("kinds of a webhook"))?,
            id: row.id,
            user_id: row.user_id,
            url: row.url,
            description: row.description,
            generation: row.generation,
            rotated_at: row.rotated_at,
            created_at: row.created_at,
            failing_since: row.failing_since,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, user_id, url, description, kinds, state, reason, generation, rotated_at, created_at, failing_since ",
            "FROM webhooks ",
            $rest
        )
    };
}

pub(crate) const BY_ID: &str = select!("WHERE id = $1");
pub(crate) const OF_USER: &str = select!("WHERE user_id = $1 ORDER BY created_at, id LIMIT 100");
pub(crate) const COUNT: &str = "SELECT COUNT(*) FROM webhooks WHERE user_id = $1";
const INSERT: &str = "INSERT INTO webhooks (id, user_id, url, host, description, kinds, state, reason, generation, \
     created_at, leased_until) SELECT $1, id, $2, $3, $4, $5, 'enabled', '', 1, $6, 0 FROM users \
     WHERE id = $7 AND deleted_at IS NULL";
const UPDATE: &str = "UPDATE webhooks SET url = $1, host = $2, description = $3, kinds = $4 WHERE id = $5";
const ROTATE: &str =
    "UPDATE webhooks SET generation = generation + 1, rotated_at = $1 WHERE id = $2 RETURNING generation";
const ENABLE: &str = "UPDATE webhooks SET state = 'enabled', reason = '', failing_since = NULL WHERE id = $1 AND state = 'disabled'";
const DISABLE: &str = "UPDATE webhooks SET state = 'disabled', reason = $1, next_attempt_at = NULL \
     WHERE id = $2 AND state = 'enabled' RETURNING host";
const USER_OF: &str = "SELECT user_id FROM webhooks WHERE id = $1";
/// What waits is never sent.
const GIVE_UP: &str = "UPDATE webhook_deliveries SET state = 'failed', error = 'the webhook was disabled' \
     WHERE webhook_id = $1 AND state = 'waiting'";
const DELETE: &str = "DELETE FROM webhooks WHERE id = $1";
/// Deletes those of the user `$1`, with their deliveries.
pub(crate) const DELETE_ALL: &str = "DELETE FROM webhooks WHERE user_id = $1";
/// Webhooks that are used and fail, up to 1,000.
pub(crate) const COUNT_FAILING: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM webhooks WHERE failing_since IS NOT NULL \
     AND state = 'enabled' LIMIT 1000) AS failing";

/// Disables a webhook in a transaction, gives up what waits for it, and notes it. Evaluates to its host, if it was enabled.
macro_rules! disable {
    ($store:expr, $tx:expr, $id:expr, $reason:expr) => {{
        let (id, reason): (&str, DisabledReason) = ($id, $reason);
        let host: Option<String> =
            sqlx::query_scalar(DISABLE).bind(reason.as_str()).bind(id).fetch_optional(&mut *$tx).await?;
        if host.is_some() {
            sqlx::query(GIVE_UP).bind(id).execute(&mut *$tx).await?;
            note!($store, $tx, "webhook.disable", format!("webhook {id}"), reason.as_str());
        }
        host
    }};
}

impl Store {
    /// Creates a webhook with the first generation of its secret, which may be shown only after this has returned. Returns its id.
    ///
    /// # Errors
    /// `NotFound("user")`, `LimitReached("webhook")`.
    pub async fn create_webhook(
        &self,
        user_id: &str,
        fields: &WebhookFields<'_>,
    ) -> Result<String, StoreError> {
        let WebhookFields { url, host, description, kinds } = *fields;
        let id = random();
        write!(self, tx, _revision => {
            let webhooks: i64 = sqlx::query_scalar(COUNT).bind(user_id).fetch_one(&mut *tx).await?;
            if webhooks >= WEBHOOKS_PER_USER_MAX {
                return Err(StoreError::LimitReached("webhook"));
            }
            let inserted = sqlx::query(INSERT).bind(&id).bind(url).bind(host).bind(description).bind(kinds.to_string())
                .bind(now()).bind(user_id).execute(&mut *tx).await?.rows_affected();
            if inserted == 0 {
                return Err(StoreError::NotFound("user"));
            }
            note!(self, tx, "webhook.create", format!("webhook {id}"), format!("user {user_id}, host {host}, {kinds}"));
        });
        Ok(id)
    }

    /// A webhook.
    ///
    /// # Errors
    /// `Corrupt` if its row is invalid.
    pub async fn webhook(&self, id: &str) -> Result<Option<Webhook>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, ROW_BYTES_MAX, sqlx::query(BY_ID).bind(id))?;
        row.map(|row| Webhook::try_from(row?)).transpose()
    }

    /// The webhooks of a user, the oldest first.
    ///
    /// # Errors
    /// `Corrupt` if a row is invalid.
    pub async fn webhooks_of(&self, user_id: &str) -> Result<Vec<Webhook>, StoreError> {
        let rows: Vec<Result<Row, StoreError>> =
            read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_USER).bind(user_id))?;
        rows.into_iter().map(|row| Webhook::try_from(row?)).collect()
    }

    /// Changes what a user says of a webhook, and whether it is used, at once. What waits goes to the new address, or is given up.
    ///
    /// # Errors
    /// `NotFound("webhook")`.
    pub async fn change_webhook(
        &self,
        id: &str,
        fields: Option<&WebhookFields<'_>>,
        enabled: Option<bool>,
    ) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            if let Some(WebhookFields { url, host, description, kinds }) = fields {
                let updated = sqlx::query(UPDATE).bind(url).bind(host).bind(description).bind(kinds.to_string()).bind(id)
                    .execute(&mut *tx).await?.rows_affected();
                if updated == 0 {
                    return Err(StoreError::NotFound("webhook"));
                }
                note!(self, tx, "webhook.update", format!("webhook {id}"), format!("host {host}, {kinds}"));
            }
            let switched = match enabled {
                Some(true) => {
                    let enabled = sqlx::query(ENABLE).bind(id).execute(&mut *tx).await?.rows_affected() > 0;
                    if enabled {
                        note!(self, tx, "webhook.enable", format!("webhook {id}"), "");
                    }
                    enabled
                }
                Some(false) => disable!(self, tx, id, DisabledReason::User).is_some(),
                None => false,
            };
            if fields.is_none() && !switched {
                // Rolls back: nothing changes.
                return Ok(());
            }
        });
        Ok(())
    }

    /// Replaces the secret of a webhook; the former one counts for another day. Returns the new generation.
    ///
    /// # Errors
    /// `NotFound("webhook")`.
    pub async fn rotate_webhook(&self, id: &str) -> Result<i64, StoreError> {
        Ok(write!(self, tx, _revision => {
            let generation: Option<i64> =
                sqlx::query_scalar(ROTATE).bind(now()).bind(id).fetch_optional(&mut *tx).await?;
            let generation = generation.ok_or(StoreError::NotFound("webhook"))?;
            note!(self, tx, "webhook.rotate", format!("webhook {id}"), format!("generation {generation}"));
            generation
        }))
    }

    /// Disables a webhook because of its receiver, gives up what waits for it, and notifies its user, by mail too within `mail`.
    /// Does nothing if it is disabled.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn disable_webhook(
        &self,
        id: &str,
        reason: DisabledReason,
        mail: Option<&MailLimits>,
    ) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            let user_id: Option<String> = sqlx::query_scalar(USER_OF).bind(id).fetch_optional(&mut *tx).await?;
            let Some(user_id) = user_id else { return Ok(()) };
            // The user's others get a delivery.
            let _ = lock_webhooks!(tx, &user_id);
            let Some(host) = disable!(self, tx, id, reason) else { return Ok(()) };
            let new = NewNotification {
                user_id,
                cache: None,
                kind: NotificationKind::WebhookDisabled,
                subject: id.to_owned(),
                period: now().to_string(),
                quiet_since: None,
                data: serde_json::json!({ "webhook_id": id, "host": host, "reason": reason.as_str() }),
            };
            let _ = insert_notification!(tx, &new, mail);
        });
        Ok(())
    }

    /// Deletes a webhook with its deliveries.
    ///
    /// # Errors
    /// `NotFound("webhook")`.
    pub async fn delete_webhook(&self, id: &str) -> Result<(), StoreError> {
        write!(self, tx, _revision => {
            if sqlx::query(DELETE).bind(id).execute(&mut *tx).await?.rows_affected() == 0 {
                return Err(StoreError::NotFound("webhook"));
            }
            note!(self, tx, "webhook.delete", format!("webhook {id}"), "");
        });
        Ok(())
    }

    /// Webhooks that are used, and whose last attempt failed; 1,000 at most.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn failing_webhooks(&self) -> Result<i64, StoreError> {
        Ok(read!(self, pool => sqlx::query_scalar(COUNT_FAILING).fetch_one(pool).await)?)
    }
}
