//! What there is to tell users: leaks, events, failures, ends that come near, limits that were reached. Each source is read from
//! where the last pass stopped, through an index, so that a pass costs what has happened since, and what happened while no web UI
//! ran is told by the next one. Of several web UIs that see the same thing, one tells it.

mod sources;

pub use sources::DetectedSource;
#[cfg(test)]
pub(crate) use sources::QUERY_PLANS;

use std::time::Duration;

use self::sources::{Found, Mark};
use crate::db::{read, write_unversioned};
use crate::fan_out::insert_notification;
use crate::rows::{ROW_BYTES_MAX, read_rows, readable};
use crate::{MailLimits, NotificationKind, Store, StoreError, Timestamp, now};

/// Rows of a source that one call reads.
const BATCH_MAX: i64 = 200;
/// A position that has moved by less isn't written.
const POSITION_STEP: Duration = Duration::from_secs(60);

/// What one call has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detected {
    /// The kinds of the notifications that were added.
    pub added: Vec<NotificationKind>,
    /// Whether the source has more than one call reads.
    pub has_more: bool,
}

/// Up to where a source was read.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Position {
    at: Timestamp,
    key: String,
}

const POSITION: &str = "SELECT at, key FROM notification_positions WHERE source = $1";
/// Only forwards, since another process may have read on; but back from behind `$4`, where a clock that was ahead has left it.
const SET_POSITION: &str = "INSERT INTO notification_positions (source, at, key) VALUES ($1, $2, $3) \
     ON CONFLICT (source) DO UPDATE SET at = excluded.at, key = excluded.key WHERE notification_positions.at < excluded.at \
     OR (notification_positions.at = excluded.at AND notification_positions.key < excluded.key) \
     OR notification_positions.at > $4";
const MARK_LEAK: &str = "UPDATE leaks SET told = 1 WHERE token_id = $1 AND told = 0";
const MARK_EVENT: &str =
    "UPDATE instance_events SET told = $1 WHERE instance_id = $2 AND number = $3 AND told < $1";
const MARK_FAILED: &str =
    "INSERT INTO failed_caches (cache_id, failed_at) VALUES ($1, $2) ON CONFLICT (cache_id) DO NOTHING";
const MARK_RECOVERED: &str = "DELETE FROM failed_caches WHERE cache_id = $1";

/// Marks in a transaction that something is told. Returns whether this call has: another process may have been faster.
macro_rules! mark {
    ($tx:expr, $mark:expr) => {{
        let marked = match $mark {
            Mark::Position => None,
            Mark::Leak { token } => Some(sqlx::query(MARK_LEAK).bind(token).execute(&mut *$tx).await?),
            Mark::Event { instance, number, told } => {
                let mark = sqlx::query(MARK_EVENT).bind(told).bind(instance).bind(number);
                Some(mark.execute(&mut *$tx).await?)
            }
            Mark::Failed { cache, at } => {
                Some(sqlx::query(MARK_FAILED).bind(cache).bind(at).execute(&mut *$tx).await?)
            }
            Mark::Recovered { cache } => {
                Some(sqlx::query(MARK_RECOVERED).bind(cache).execute(&mut *$tx).await?)
            }
        };
        marked.is_none_or(|done| done.rows_affected() > 0)
    }};
}

impl Store {
    /// Looks for what a source has to tell, and adds up to 200 notifications, with their deliveries, and their mail within `mail`,
    /// if there is a mail server.
    ///
    /// # Errors
    /// Fails if the database does; then nothing is added, and the next call finds it again.
    pub async fn detect_notifications(
        &self,
        source: DetectedSource,
        mail: Option<&MailLimits>,
    ) -> Result<Detected, StoreError> {
        let at = now();
        let stored: Option<Position> = read!(self, pool => sqlx::query_as(POSITION).bind(source.name())
            .fetch_optional(pool).await)?;
        // No position is ahead of what a pass reads, but for clocks of several web UIs that differ a little.
        let ahead = source.read_until(at).saturating_add(POSITION_STEP);
        let stored = stored.filter(|position| position.at <= ahead);
        let is_first = stored.is_none();
        let from = stored.unwrap_or_else(|| Position { at, key: String::new() });
        let (sql, until) = (source.query(), source.until(at));
        let quiet_since = source.quiet_since(at);
        let rows: Vec<Result<Found, StoreError>> = read_rows!(
            self,
            ROW_BYTES_MAX,
            sqlx::query(sql).bind(from.at).bind(&from.key).bind(until).bind(quiet_since).bind(BATCH_MAX)
        )?;
        let has_more = i64::try_from(rows.len()).is_ok_and(|count| count >= BATCH_MAX);
        let rows = readable("notifications to add", rows);
        let next = match rows.last() {
            Some(last) if has_more && source.has_position() && last.at <= ahead => {
                Position { at: last.at, key: last.id.clone() }
            }
            _ => Position { at: source.read_until(at), key: String::new() },
        };
        let moves = source.has_position() && (is_first || next.at.since(from.at) >= POSITION_STEP);
        if rows.is_empty() && !moves {
            return Ok(Detected::default());
        }
        let found: Vec<_> =
            rows.iter().map(|row| (source.mark(row), source.notifications(row, at))).collect();
        let added = write_unversioned!(self, tx => {
            let mut added = Vec::new();
            for (told, notifications) in &found {
                if mark!(tx, told) {
                    for new in notifications {
                        if insert_notification!(tx, new, mail).is_some() {
                            added.push(new.kind);
                        }
                    }
                }
            }
            if source.has_position() {
                sqlx::query(SET_POSITION).bind(source.name()).bind(next.at).bind(&next.key).bind(ahead)
                    .execute(&mut *tx).await?;
            }
            added
        });
        Ok(Detected { added, has_more })
    }
}
