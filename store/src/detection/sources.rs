//! The sources of notifications. Each file has the queries of some, and a struct for the rows of each, which says what a row is
//! notified of, and how it is marked that this is done.

mod events;
mod expiry;
mod failures;
mod leaks;
mod limits;

use std::time::Duration;

use serde_json::Value;

pub(super) use self::events::{EVENTS, Event, REPEATED, RepeatedEvent};
pub(super) use self::expiry::{
    CERTIFICATES, EXPIRY_NOTICE, ExpiringCertificate, ExpiringToken, LIFE_MIN_MS, TOKENS,
};
pub(super) use self::failures::{FAILED, FailedCache, RECOVERED, RecoveredCache};
pub(super) use self::leaks::{LEAKS, LeakedToken};
pub(super) use self::limits::{DENIALS, REFUSED_VALUES, ReachedLimit, RefusedValues};
use super::Position;
use crate::Timestamp;
use crate::notification::{NewNotification, NotificationKind};

/// Of what may happen all the time, the user of a cache is notified once in this time.
pub(super) const QUIET: Duration = Duration::from_hours(1);
/// How late proxies and provisioners write down what has happened.
const SETTLED_AFTER: Duration = Duration::from_mins(2);
/// Intervals of statistics are written for as long as they last, and a while longer.
const STATISTICS_SETTLED_AFTER: Duration = Duration::from_mins(11);

/// Where there may be something to notify users of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectedSource {
    /// Reports of leaked tokens.
    Leaks,
    /// Caches that can't be started.
    FailedCaches,
    /// Caches that couldn't be started, and run.
    RecoveredCaches,
    /// Repairs that have lost contents, and memory that wasn't enough.
    Events,
    /// Repairs that are needed again and again.
    RepeatedEvents,
    /// Tokens that expire soon.
    Tokens,
    /// Client certificates that expire soon.
    Certificates,
    /// Connections and requests beyond a plan's limits.
    Denials,
    /// Values that memcached couldn't store.
    Memory,
}

/// What a row has of the cache that it is about.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct FoundCache {
    pub(super) user_id: String,
    pub(super) cache_id: String,
    pub(super) cache_name: String,
}

/// What a row means.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) user_id: String,
    pub(super) mark: Mark,
    pub(super) notifications: Vec<NewNotification>,
}

/// How it is marked that the user was notified of a row.
#[derive(Debug)]
pub(super) enum Mark {
    /// By the position behind it, and by the notification's subject.
    Position,
    Leak {
        token: String,
    },
    Event {
        instance: String,
        number: i64,
    },
    Repetition {
        instance: String,
        number: i64,
    },
    Failed {
        cache: String,
        at: Timestamp,
    },
    Recovered {
        cache: String,
    },
}

/// A row of a source.
pub(super) trait SourceRow {
    /// Where it is, if the source is read from a position on.
    fn position(&self) -> Option<Position> {
        None
    }

    /// What it means, at a time.
    fn finding(self, at: Timestamp) -> Finding;
}

/// Each query, with the steps that it may take other than searching an index.
#[cfg(test)]
pub(crate) const QUERY_PLANS: &[(&str, &[&str])] = &[
    (LEAKS, &["SCAN l USING INDEX leaks_unnotified"]),
    (FAILED, &["CORRELATED SCALAR SUBQUERY"]),
    // Few: those that fail now.
    (RECOVERED, &["SCAN f"]),
    (EVENTS, &["SCAN e USING INDEX instance_events_unnotified"]),
    (REPEATED, &["SCAN e USING INDEX instance_events_repeated"]),
    (TOKENS, &["USE TEMP B-TREE FOR LAST"]),
    (CERTIFICATES, &["USE TEMP B-TREE FOR LAST"]),
    (DENIALS, &["USE TEMP B-TREE FOR", "CORRELATED SCALAR SUBQUERY"]),
    (REFUSED_VALUES, &["USE TEMP B-TREE FOR", "CORRELATED SCALAR SUBQUERY"]),
];

impl DetectedSource {
    /// Every source.
    pub const ALL: [Self; 9] = [
        Self::Leaks,
        Self::FailedCaches,
        Self::RecoveredCaches,
        Self::Events,
        Self::RepeatedEvents,
        Self::Tokens,
        Self::Certificates,
        Self::Denials,
        Self::Memory,
    ];

    /// Its name in the store and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leaks => "leaks",
            Self::FailedCaches => "failed_caches",
            Self::RecoveredCaches => "recovered_caches",
            Self::Events => "events",
            Self::RepeatedEvents => "repeated_events",
            Self::Tokens => "tokens",
            Self::Certificates => "certificates",
            Self::Denials => "denials",
            Self::Memory => "memory",
        }
    }

    /// Whether rows are read from a position on. Those of other sources are marked.
    pub(super) fn has_position(self) -> bool {
        matches!(self, Self::Tokens | Self::Certificates | Self::Denials | Self::Memory)
    }

    /// Where the next pass begins if this one reads everything.
    pub(super) fn read_until(self, at: Timestamp) -> Timestamp {
        match self {
            Self::Tokens | Self::Certificates => at.saturating_add(EXPIRY_NOTICE),
            Self::Memory => at.saturating_sub(STATISTICS_SETTLED_AFTER),
            _ => at.saturating_sub(SETTLED_AFTER),
        }
    }
}

impl FoundCache {
    fn notification(
        &self,
        kind: NotificationKind,
        (subject, period): (&str, String),
        data: Value,
    ) -> NewNotification {
        NewNotification {
            user_id: self.user_id.clone(),
            cache: Some((self.cache_id.clone(), self.cache_name.clone())),
            kind,
            subject: subject.to_owned(),
            period,
            quiet_since: None,
            data,
        }
    }

    /// One that is added at most once in an hour, also if two web UIs look at the same time.
    fn hourly(&self, kind: NotificationKind, what: &str, at: Timestamp, data: Value) -> NewNotification {
        let subject = format!("{}:{what}", self.cache_id);
        NewNotification {
            quiet_since: Some(at.saturating_sub(QUIET)),
            ..self.notification(kind, (&subject, at.hour().to_string()), data)
        }
    }

    fn finding(self, mark: Mark, notifications: Vec<NewNotification>) -> Finding {
        Finding { user_id: self.user_id, mark, notifications }
    }
}
