//! Repairs of instances that users notice: those that have lost contents, and those that are needed again and again.

use serde_json::json;

use super::{Finding, FoundCache, Mark, SourceRow};
use crate::{NotificationKind, Timestamp};

/// The cause of an event for which memory wasn't enough.
const OUT_OF_MEMORY: &str = "out_of_memory";

macro_rules! events {
    ($condition:literal) => {
        concat!(
            "SELECT c.user_id, i.cache_id, c.name AS cache_name, e.instance_id, e.number, e.cause, e.contents_lost, e.last_at ",
            "FROM instance_events e JOIN instances i ON i.id = e.instance_id JOIN caches c ON c.id = i.cache_id WHERE ",
            $condition,
            " ORDER BY e.last_at LIMIT $1"
        )
    };
}
/// Up to `$1` events that nobody was notified of.
pub(in crate::detection) const EVENTS: &str =
    events!("e.notified = 0 AND (e.contents_lost = 1 OR e.cause = 'out_of_memory')");
/// Up to `$1` events that were repeated, and of which nobody was notified that they were.
pub(in crate::detection) const REPEATED: &str =
    events!("e.repetition_notified = 0 AND e.count >= 5 AND e.cause IN ('crashed', 'out_of_memory', 'hung')");

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct Event {
    #[sqlx(flatten)]
    cache: FoundCache,
    instance_id: String,
    number: i64,
    cause: String,
    /// 0 or 1.
    contents_lost: i64,
    last_at: Timestamp,
}

/// An [`Event`] that was repeated.
#[derive(sqlx::FromRow)]
pub(in crate::detection) struct RepeatedEvent {
    #[sqlx(flatten)]
    event: Event,
}

impl SourceRow for Event {
    fn finding(self, at: Timestamp) -> Finding {
        let Self { cache, instance_id, number, cause, contents_lost, last_at } = self;
        let happened_at = last_at.as_millis();
        let mut notifications = Vec::new();
        if contents_lost == 1 {
            let data = json!({ "cause": cause, "happened_at": happened_at });
            notifications.push(cache.hourly(NotificationKind::CacheEmptied, "contents", at, data));
        }
        if cause == OUT_OF_MEMORY {
            let data = json!({ "cause": "container", "happened_at": happened_at });
            notifications.push(cache.hourly(NotificationKind::CacheOutOfMemory, "container", at, data));
        }
        cache.finding(Mark::Event { instance: instance_id, number }, notifications)
    }
}

impl SourceRow for RepeatedEvent {
    fn finding(self, _: Timestamp) -> Finding {
        let Event { cache, instance_id, number, cause, last_at, .. } = self.event;
        let data = json!({ "reason": "repeated", "cause": cause, "failed_at": last_at.as_millis() });
        let occurrence = (&*cache.cache_id, format!("{instance_id}/{number}"));
        let new = cache.notification(NotificationKind::CacheFailed, occurrence, data);
        cache.finding(Mark::Repetition { instance: instance_id, number }, vec![new])
    }
}
