//! Notifications: what a user reads on pages, in mail and through webhooks. One is added once, however many processes see
//! its cause, in one transaction with its deliveries and its mail. The newest of each user are kept, for a month.

mod kind;
pub(crate) mod preferences;

use std::time::Duration;

use serde_json::{Map, Value};

pub use kind::{NotificationKind, NotificationKinds, ParseNotificationKindsError};

use crate::db::write_unversioned;
use crate::rows::{ROW_BYTES_MAX, read_row, read_rows};
use crate::{Store, StoreError, Timestamp, now};

/// Notifications of a user that are kept: the newest.
pub const NOTIFICATIONS_PER_USER_MAX: i64 = 200;
/// Notifications of a user that are kept of a kind which the user can bring about at will, so that these don't push out others.
pub(crate) const PROVOKED_MAX: i64 = 20;
/// Older ones are deleted.
const KEPT_FOR: Duration = Duration::from_hours(30 * 24);
/// Notifications that one transaction deletes for their age.
const DELETED_AT_ONCE_MAX: i64 = 5_000;

/// Something that a user is notified of.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Notification {
    /// 24 letters and digits.
    pub id: String,
    /// The user who is notified.
    pub user_id: String,
    /// What it tells.
    pub kind: NotificationKind,
    /// The cache that it is about, if it is about one.
    pub cache_id: Option<String>,
    /// The name that the cache had; empty without one.
    pub cache_name: String,
    /// More: texts and numbers by name, without secrets. Times (`..._at`) are milliseconds since 1970.
    pub data: Map<String, Value>,
    /// When it was added.
    pub created_at: Timestamp,
}

/// A notification to add.
#[derive(Debug, Clone)]
pub(crate) struct NewNotification {
    pub(crate) user_id: String,
    /// Its id and name.
    pub(crate) cache: Option<(String, String)>,
    pub(crate) kind: NotificationKind,
    /// What it is about, and which occurrence: the same one isn't added again.
    pub(crate) subject: String,
    pub(crate) period: String,
    /// It isn't added if another of this subject was added since.
    pub(crate) quiet_since: Option<Timestamp>,
    /// A JSON object.
    pub(crate) data: Value,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    id: String,
    user_id: String,
    kind: String,
    cache_id: Option<String>,
    cache_name: String,
    data: String,
    created_at: Timestamp,
}

impl Row {
    /// `None` if a newer memgate has written an unknown kind.
    pub(crate) fn into_notification(self) -> Option<Notification> {
        Some(Notification {
            kind: NotificationKind::parse(&self.kind)?,
            data: serde_json::from_str(&self.data).unwrap_or_default(),
            id: self.id,
            user_id: self.user_id,
            cache_id: self.cache_id,
            cache_name: self.cache_name,
            created_at: self.created_at,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT id, user_id, kind, cache_id, cache_name, data, created_at FROM notifications ", $rest)
    };
}

pub(crate) const BY_ID: &str = select!("WHERE id = $1");
/// The newest `$4` of the user `$1` before the time `$2`, and at that time before the id `$3`.
pub(crate) const OF_USER: &str = select!(
    "WHERE user_id = $1 AND created_at <= $2 AND (created_at < $2 OR id < $3) ORDER BY created_at DESC, id DESC LIMIT $4"
);
/// Whether one of the kind `$1` about the subject `$2` was added after `$3`.
pub(crate) const HAS_RECENT: &str = "SELECT COUNT(*) FROM (SELECT 1 FROM notifications WHERE kind = $1 AND subject = $2 \
     AND created_at > $3 LIMIT 1) AS recent";
pub(crate) const INSERT: &str = "INSERT INTO notifications (id, user_id, cache_id, cache_name, kind, subject, period, data, \
     created_at) SELECT $1, id, $2, $3, $4, $5, $6, $7, $8 FROM users WHERE id = $9 AND deleted_at IS NULL \
     ON CONFLICT (kind, subject, period) DO NOTHING";
/// Deletes those of the user `$1`, but the newest `$2`.
pub(crate) const DELETE_SURPLUS: &str = "DELETE FROM notifications WHERE id IN (SELECT id FROM notifications \
     WHERE user_id = $1 ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET $2)";
/// Deletes those of the user `$1` and the kind `$2`, but the newest `$3`.
pub(crate) const DELETE_SURPLUS_OF_KIND: &str = "DELETE FROM notifications WHERE id IN (SELECT id FROM notifications \
     WHERE user_id = $1 AND kind = $2 ORDER BY created_at DESC, id DESC LIMIT 1000 OFFSET $3)";
pub(crate) const DELETE_OLD: &str =
    "DELETE FROM notifications WHERE id IN (SELECT id FROM notifications WHERE created_at < $1 LIMIT $2)";
pub(crate) const DELETE_ALL: &str = "DELETE FROM notifications WHERE user_id = $1";
pub(crate) const FORGET_DELETED: &str = "DELETE FROM failed_caches WHERE EXISTS (SELECT 1 FROM caches c WHERE c.id = failed_caches.cache_id AND c.deleted_at IS NOT NULL)";
/// Adds a notification in a transaction, and deletes the oldest of its user. Evaluates to its id, if it is new.
macro_rules! insert_notification_only {
    ($tx:expr, $new:expr) => {{
        let new: &$crate::notification::NewNotification = $new;
        let (id, kind): (String, &str) = ($crate::id::random(), new.kind.name());
        let recent: i64 = match new.quiet_since {
            None => 0,
            Some(since) => {
                let recent = sqlx::query_scalar($crate::notification::HAS_RECENT);
                recent.bind(kind).bind(&new.subject).bind(since).fetch_one(&mut *$tx).await?
            }
        };
        let (cache_id, cache_name) = match &new.cache {
            Some((id, name)) => (Some(id.as_str()), name.as_str()),
            None => (None, ""),
        };
        let inserted = if recent > 0 {
            0
        } else {
            let insert = sqlx::query($crate::notification::INSERT).bind(&id).bind(cache_id).bind(cache_name);
            let insert = insert.bind(kind).bind(&new.subject).bind(&new.period).bind(new.data.to_string());
            insert.bind($crate::now()).bind(&new.user_id).execute(&mut *$tx).await?.rows_affected()
        };
        if inserted > 0 && new.kind.can_be_provoked() {
            let surplus =
                sqlx::query($crate::notification::DELETE_SURPLUS_OF_KIND).bind(&new.user_id).bind(kind);
            surplus.bind($crate::notification::PROVOKED_MAX).execute(&mut *$tx).await?;
        }
        if inserted > 0 {
            let surplus = sqlx::query($crate::notification::DELETE_SURPLUS).bind(&new.user_id);
            surplus.bind($crate::notification::NOTIFICATIONS_PER_USER_MAX).execute(&mut *$tx).await?;
        }
        (inserted > 0).then_some(id)
    }};
}

pub(crate) use insert_notification_only;

/// The kinds that a user has chosen to get by mail, or those of one who hasn't chosen.
pub(crate) fn mail_kinds(chosen: Option<&str>) -> NotificationKinds {
    let parsed = chosen.map(|text| text.parse().unwrap_or(NotificationKinds::NEEDING_ACTION));
    parsed.unwrap_or(NotificationKinds::NEEDING_ACTION)
}

impl Store {
    /// A notification.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn notification(&self, id: &str) -> Result<Option<Notification>, StoreError> {
        let row: Option<Result<Row, StoreError>> =
            read_row!(self, ROW_BYTES_MAX, sqlx::query(BY_ID).bind(id))?;
        Ok(row.transpose()?.and_then(Row::into_notification))
    }

    /// Up to `limit` notifications of a user, the newest first: those before another one, given by its time and id, or the
    /// newest of all.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn notifications_of(
        &self,
        user_id: &str,
        before: Option<(Timestamp, &str)>,
        limit: i64,
    ) -> Result<Vec<Notification>, StoreError> {
        let (at, id) = before.unwrap_or((Timestamp::MAX, ""));
        let rows: Vec<Result<Row, StoreError>> = read_rows!(
            self,
            ROW_BYTES_MAX,
            sqlx::query(OF_USER).bind(user_id).bind(at).bind(id).bind(limit)
        )?;
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        Ok(rows.into_iter().filter_map(Row::into_notification).collect())
    }

    /// Deletes notifications that are over a month old, 5,000 at most; returns how many.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn delete_old_notifications(&self) -> Result<u64, StoreError> {
        let before = now().saturating_sub(KEPT_FOR);
        Ok(write_unversioned!(self, tx => {
            sqlx::query(FORGET_DELETED).execute(&mut *tx).await?;
            sqlx::query(DELETE_OLD).bind(before).bind(DELETED_AT_ONCE_MAX).execute(&mut *tx).await?.rows_affected()
        }))
    }
}
