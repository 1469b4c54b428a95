//! What there is to notify users of: leaked tokens, repairs, failed caches, expiry, reached limits. Each source is read from where
//! the last pass stopped, through an index, so that a pass costs what has happened since, and what happened while no web UI ran
//! is found by the next one. Of several web UIs that see the same thing, one adds the notification.

mod sources;

pub use sources::DetectedSource;
#[cfg(test)]
pub(crate) use sources::QUERY_PLANS;

use std::time::Duration;

use self::sources::{EXPIRY_NOTICE, Finding, LIFE_MIN_MS, Mark, QUIET, SourceRow};
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

/// What a source has from a position on.
struct Found {
    findings: Vec<Finding>,
    /// Of the last row, if there is more behind it.
    last: Option<Position>,
    has_more: bool,
}

const POSITION: &str = "SELECT at, key FROM notification_positions WHERE source = $1";
/// Only forwards, since another process may have read on; but back from behind `$4`, where a clock that was ahead has left it.
const SET_POSITION: &str = "INSERT INTO notification_positions (source, at, key) VALUES ($1, $2, $3) \
     ON CONFLICT (source) DO UPDATE SET at = excluded.at, key = excluded.key WHERE notification_positions.at < excluded.at \
     OR (notification_positions.at = excluded.at AND notification_positions.key < excluded.key) \
     OR notification_positions.at > $4";
const MARK_LEAK: &str = "UPDATE leaks SET notified = 1 WHERE token_id = $1 AND notified = 0";
const MARK_EVENT: &str =
    "UPDATE instance_events SET notified = 1 WHERE instance_id = $1 AND number = $2 AND notified = 0";
const MARK_REPETITION: &str = "UPDATE instance_events SET repetition_notified = 1 WHERE instance_id = $1 AND number = $2 \
     AND repetition_notified = 0";
const MARK_FAILED: &str =
    "INSERT INTO failed_caches (cache_id, failed_at) VALUES ($1, $2) ON CONFLICT (cache_id) DO NOTHING";
const MARK_RECOVERED: &str = "DELETE FROM failed_caches WHERE cache_id = $1";

/// Marks in a transaction that a user is notified. Returns whether this call has: another process may have been faster.
macro_rules! mark {
    ($tx:expr, $mark:expr) => {{
        let query = match $mark {
            Mark::Position => None,
            Mark::Leak { token } => Some(sqlx::query(MARK_LEAK).bind(token)),
            Mark::Event { instance, number } => Some(sqlx::query(MARK_EVENT).bind(instance).bind(number)),
            Mark::Repetition { instance, number } => {
                Some(sqlx::query(MARK_REPETITION).bind(instance).bind(number))
            }
            Mark::Failed { cache, at } => Some(sqlx::query(MARK_FAILED).bind(cache).bind(at)),
            Mark::Recovered { cache } => Some(sqlx::query(MARK_RECOVERED).bind(cache)),
        };
        match query {
            None => true,
            Some(query) => query.execute(&mut *$tx).await?.rows_affected() > 0,
        }
    }};
}

/// Reads rows of a source with a query and its parameters.
macro_rules! find {
    ($store:expr, $at:expr, $row:ident, $sql:ident, [$($parameter:expr),+]) => {{
        let rows: Vec<Result<sources::$row, StoreError>> =
            read_rows!($store, ROW_BYTES_MAX, sqlx::query(sources::$sql)$(.bind($parameter))+)?;
        found(rows, $at)
    }};
}

impl Store {
    /// Looks for what a source has to notify users of, and adds up to 200 notifications, with their deliveries, and their mail
    /// within `mail`, if there is a mail server.
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
        let Found { findings, last, has_more } = self.find(source, &from, at).await?;
        let read_until = || Position { at: source.read_until(at), key: String::new() };
        let last = last.filter(|last| last.at <= ahead);
        let next = source.has_position().then(|| last.unwrap_or_else(read_until));
        let moves = next.as_ref().is_some_and(|next| is_first || next.at.since(from.at) >= POSITION_STEP);
        if findings.is_empty() && !moves {
            return Ok(Detected::default());
        }
        let added = self.record(source, findings, next.zip(Some(ahead)), mail).await?;
        Ok(Detected { added, has_more })
    }

    /// Reads a source from a position on.
    async fn find(
        &self,
        source: DetectedSource,
        from: &Position,
        at: Timestamp,
    ) -> Result<Found, StoreError> {
        let (until, quiet_since) = (at.saturating_add(EXPIRY_NOTICE), at.saturating_sub(QUIET));
        Ok(match source {
            DetectedSource::Leaks => find!(self, at, LeakedToken, LEAKS, [BATCH_MAX]),
            DetectedSource::FailedCaches => find!(self, at, FailedCache, FAILED, [BATCH_MAX]),
            DetectedSource::RecoveredCaches => find!(self, at, RecoveredCache, RECOVERED, [BATCH_MAX]),
            DetectedSource::Events => find!(self, at, Event, EVENTS, [BATCH_MAX]),
            DetectedSource::RepeatedEvents => find!(self, at, RepeatedEvent, REPEATED, [BATCH_MAX]),
            DetectedSource::Tokens => {
                find!(self, at, ExpiringToken, TOKENS, [from.at, &from.key, until, LIFE_MIN_MS, BATCH_MAX])
            }
            DetectedSource::Certificates => find!(
                self,
                at,
                ExpiringCertificate,
                CERTIFICATES,
                [from.at, &from.key, until, LIFE_MIN_MS, BATCH_MAX]
            ),
            DetectedSource::Denials => {
                find!(self, at, ReachedLimit, DENIALS, [from.at, quiet_since, BATCH_MAX, at])
            }
            DetectedSource::Memory => {
                find!(self, at, RefusedValues, REFUSED_VALUES, [from.at, quiet_since, BATCH_MAX, at])
            }
        })
    }

    /// Adds the notifications of what was found, and marks it. Moves the source's position, also back from behind a time that no
    /// position is ahead of. Returns the kinds of those that are new.
    async fn record(
        &self,
        source: DetectedSource,
        mut findings: Vec<Finding>,
        next: Option<(Position, Timestamp)>,
        mail: Option<&MailLimits>,
    ) -> Result<Vec<NotificationKind>, StoreError> {
        // As webhooks are locked: in one order, so that two web UIs don't deadlock.
        findings.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        Ok(write_unversioned!(self, tx => {
            let mut added = Vec::new();
            for Finding { mark, notifications, .. } in &findings {
                if mark!(tx, mark) {
                    for new in notifications {
                        if insert_notification!(tx, new, mail).is_some() {
                            added.push(new.kind);
                        }
                    }
                }
            }
            if let Some((Position { at, key }, ahead)) = &next {
                sqlx::query(SET_POSITION).bind(source.name()).bind(at).bind(key).bind(ahead)
                    .execute(&mut *tx).await?;
            }
            added
        }))
    }
}

fn found<R: SourceRow>(rows: Vec<Result<R, StoreError>>, at: Timestamp) -> Found {
    let has_more = i64::try_from(rows.len()).is_ok_and(|count| count >= BATCH_MAX);
    let rows = readable("notifications to add", rows);
    let last = rows.last().filter(|_| has_more).and_then(SourceRow::position);
    Found { findings: rows.into_iter().map(|row| row.finding(at)).collect(), last, has_more }
}
