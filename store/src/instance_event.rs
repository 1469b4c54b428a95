//! Events of instances: what happened to a container and what was done about it. Bounded: the newest events of each
//! instance, for a month, and the same event again within minutes is only counted.

mod kind;

use std::time::Duration;

use crate::db::write_unversioned;
use crate::rows::{ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, Timestamp, now};

pub use kind::{EventAction, EventCause};

/// Events that are kept per instance: the newest.
const EVENTS_PER_INSTANCE_MAX: i64 = 50;
/// Older events are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(30 * 24);
/// The same event again is counted, and not added, for this long after the last one.
const COUNTED_WITHIN: Duration = Duration::from_mins(10);
/// Characters of a detail.
const DETAIL_MAX: usize = 1_000;

/// An event to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInstanceEvent {
    /// The instance.
    pub instance_id: String,
    /// See [`InstanceEvent`].
    pub cause: EventCause,
    /// See [`InstanceEvent`].
    pub action: EventAction,
    /// See [`InstanceEvent`].
    pub contents_lost: bool,
    /// See [`InstanceEvent`].
    pub detail: String,
    /// When it happened.
    pub at: Timestamp,
}

/// An event of an instance, perhaps several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct InstanceEvent {
    /// What happened.
    pub cause: EventCause,
    /// What was done about it.
    pub action: EventAction,
    /// Whether the cache was empty afterwards.
    pub contents_lost: bool,
    /// More, for operators: the exit code, the last log lines. Not shown to users.
    pub detail: String,
    /// How many times in a row.
    pub count: i64,
    /// The first of these times.
    pub first_at: Timestamp,
    /// The last of these times.
    pub last_at: Timestamp,
}

impl InstanceEvent {
    /// What happened, what was done, and what became of the contents, for people. Names nothing internal.
    #[must_use]
    pub fn text(&self) -> String {
        let contents = match (self.action, self.contents_lost) {
            (EventAction::Failed, _) => "",
            (_, true) => ", its contents are lost",
            (_, false) => ", its contents are kept",
        };
        format!("{}: {}{contents}", self.cause.text(), self.action.text())
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    cause: String,
    action: String,
    contents_lost: i64,
    detail: String,
    count: i64,
    first_at: Timestamp,
    last_at: Timestamp,
}

impl Row {
    /// `None` if a newer memgate has written an unknown word.
    fn into_event(self) -> Option<InstanceEvent> {
        Some(InstanceEvent {
            cause: EventCause::parse(&self.cause)?,
            action: EventAction::parse(&self.action)?,
            contents_lost: self.contents_lost != 0,
            detail: self.detail,
            count: self.count,
            first_at: self.first_at,
            last_at: self.last_at,
        })
    }
}

const COUNT: &str = "UPDATE instance_events SET count = count + 1, detail = $1, last_at = $2 \
     WHERE instance_id = $3 AND cause = $4 AND action = $5 AND contents_lost = $6 AND last_at >= $7 \
     AND number = (SELECT MAX(number) FROM instance_events WHERE instance_id = $3)";
const ADD: &str = "INSERT INTO instance_events (instance_id, number, cause, action, contents_lost, detail, count, \
     first_at, last_at) SELECT i.id, (SELECT COALESCE(MAX(number), 0) + 1 FROM instance_events \
     WHERE instance_id = i.id), $1, $2, $3, $4, 1, $5, $5 FROM instances i \
     JOIN caches c ON c.id = i.cache_id WHERE i.id = $6 AND c.deleted_at IS NULL";
const DELETE_SURPLUS: &str = "DELETE FROM instance_events WHERE instance_id = $1 AND number <= \
     (SELECT MAX(number) FROM instance_events WHERE instance_id = $1) - $2";
/// Of a deleted cache.
pub(crate) const DELETE_EVENTS: &str =
    "DELETE FROM instance_events WHERE instance_id IN (SELECT id FROM instances WHERE cache_id = $1)";

/// The newest `$2` events of the instance `$1`.
pub(crate) const NEWEST: &str = "SELECT cause, action, contents_lost, detail, count, first_at, last_at FROM instance_events \
     WHERE instance_id = $1 ORDER BY number DESC LIMIT $2";

impl Store {
    /// Adds events, and deletes the oldest of each instance. Ignores unknown instances and those of deleted caches.
    ///
    /// # Errors
    /// Fails if the database does; then nothing is added.
    pub async fn add_instance_events(&self, events: &[NewInstanceEvent]) -> Result<(), StoreError> {
        let forgotten = now().saturating_sub(FORGOTTEN_AFTER);
        write_unversioned!(self, tx => {
            for it in events {
                let (cause, action) = (it.cause.as_str(), it.action.as_str());
                let (lost, detail) = (i64::from(it.contents_lost), it.detail.chars().take(DETAIL_MAX).collect::<String>());
                let counted = sqlx::query(COUNT).bind(&detail).bind(it.at).bind(&it.instance_id).bind(cause)
                    .bind(action).bind(lost).bind(it.at.saturating_sub(COUNTED_WITHIN))
                    .execute(&mut *tx).await?.rows_affected();
                if counted == 0 {
                    sqlx::query(ADD).bind(cause).bind(action).bind(lost).bind(&detail).bind(it.at)
                        .bind(&it.instance_id).execute(&mut *tx).await?;
                    sqlx::query(DELETE_SURPLUS).bind(&it.instance_id).bind(EVENTS_PER_INSTANCE_MAX)
                        .execute(&mut *tx).await?;
                }
            }
            sqlx::query("DELETE FROM instance_events WHERE last_at < $1").bind(forgotten).execute(&mut *tx).await?;
        });
        Ok(())
    }

    /// The newest `limit` events of an instance, newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn instance_events(
        &self,
        instance_id: &str,
        limit: i64,
    ) -> Result<Vec<InstanceEvent>, StoreError> {
        let rows = read_rows!(self, ROW_BYTES_MAX, sqlx::query(NEWEST).bind(instance_id).bind(limit))?;
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        Ok(rows.into_iter().filter_map(Row::into_event).collect())
    }
}
