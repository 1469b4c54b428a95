//! Limits of plans that were reached: of connections and requests, and of memory.

use serde_json::json;

use super::{Finding, FoundCache, Mark, SourceRow};
use crate::detection::Position;
use crate::{NotificationKind, Timestamp};

/// Up to `$3` caches and causes with denials from `$1` to `$4`, of which nobody was notified after `$2`. What a broken proxy dates
/// ahead isn't told before its time.
pub(in crate::detection) const DENIALS: &str = "SELECT c.user_id, d.cache_id, c.name AS cache_name, d.cause, \
     CAST(MAX(d.last_at) AS BIGINT) AS happened_at FROM denials d JOIN caches c ON c.id = d.cache_id \
     WHERE d.last_at >= $1 AND d.last_at <= $4 AND d.cause IN ('limit', 'token_limit', 'rate') AND c.deleted_at IS NULL \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.kind = 'plan_limit_reached' \
     AND n.subject = d.cache_id || ':' || d.cause AND n.created_at > $2) \
     GROUP BY c.user_id, d.cache_id, c.name, d.cause ORDER BY happened_at LIMIT $3";
/// Up to `$3` caches that refused to store from `$1` to `$4`, of which nobody was notified after `$2`.
pub(in crate::detection) const REFUSED_VALUES: &str = "SELECT c.user_id, i.cache_id, c.name AS cache_name, \
     CAST(SUM(h.out_of_memory) AS BIGINT) AS refused, CAST(MAX(h.begins_at) AS BIGINT) AS happened_at \
     FROM statistics_history h JOIN instances i ON i.id = h.instance_id JOIN caches c ON c.id = i.cache_id \
     WHERE h.resolution = 300 AND h.out_of_memory > 0 AND h.begins_at >= $1 AND h.begins_at <= $4 AND c.deleted_at IS NULL \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.kind = 'cache_out_of_memory' \
     AND n.subject = i.cache_id || ':memory' AND n.created_at > $2) \
     GROUP BY c.user_id, i.cache_id, c.name ORDER BY happened_at LIMIT $3";

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct ReachedLimit {
    #[sqlx(flatten)]
    cache: FoundCache,
    cause: String,
    happened_at: Timestamp,
}

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct RefusedValues {
    #[sqlx(flatten)]
    cache: FoundCache,
    /// How many values memcached couldn't store.
    refused: i64,
    happened_at: Timestamp,
}

impl SourceRow for ReachedLimit {
    fn position(&self) -> Option<Position> {
        Some(Position { at: self.happened_at, key: self.cache.cache_id.clone() })
    }

    fn finding(self, at: Timestamp) -> Finding {
        let Self { cache, cause, happened_at } = self;
        let limit = match cause.as_str() {
            "limit" => "connections",
            "token_limit" => "token_connections",
            _ => "rate",
        };
        let data = json!({ "limit": limit, "happened_at": happened_at.as_millis() });
        let new = cache.hourly(NotificationKind::PlanLimitReached, &cause, at, data);
        cache.finding(Mark::Position, vec![new])
    }
}

impl SourceRow for RefusedValues {
    fn position(&self) -> Option<Position> {
        Some(Position { at: self.happened_at, key: self.cache.cache_id.clone() })
    }

    fn finding(self, at: Timestamp) -> Finding {
        let Self { cache, refused, happened_at } = self;
        let data = json!({ "cause": "memory", "values": refused, "happened_at": happened_at.as_millis() });
        let new = cache.hourly(NotificationKind::CacheOutOfMemory, "memory", at, data);
        cache.finding(Mark::Position, vec![new])
    }
}
