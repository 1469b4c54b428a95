//! Caches that can't be started, and those that run again.

use serde_json::json;

use super::{Finding, FoundCache, Mark, SourceRow};
use crate::{NotificationKind, Timestamp};

/// Up to `$1` caches that have failed since they ran last. The message is the one for their users.
pub(in crate::detection) const FAILED: &str = "SELECT c.user_id, i.cache_id, c.name AS cache_name, \
     COALESCE(r.message, '') AS message, r.changed_at AS failed_at FROM routes r JOIN instances i ON i.id = r.instance_id \
     JOIN caches c ON c.id = i.cache_id WHERE r.state = 'failed' AND i.desired = 'running' AND c.deleted_at IS NULL \
     AND NOT EXISTS (SELECT 1 FROM failed_caches f WHERE f.cache_id = i.cache_id) ORDER BY r.changed_at LIMIT $1";
/// Up to `$1` caches that failed, and run. In this order: most routes are those of caches that run.
pub(in crate::detection) const RECOVERED: &str = "SELECT c.user_id, f.cache_id, c.name AS cache_name, f.failed_at \
     FROM failed_caches f CROSS JOIN instances i CROSS JOIN routes r CROSS JOIN caches c \
     WHERE i.cache_id = f.cache_id AND r.instance_id = i.id AND c.id = f.cache_id AND r.state IN ('running', 'asleep') \
     AND c.deleted_at IS NULL LIMIT $1";

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct FailedCache {
    #[sqlx(flatten)]
    cache: FoundCache,
    message: String,
    failed_at: Timestamp,
}

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct RecoveredCache {
    #[sqlx(flatten)]
    cache: FoundCache,
    failed_at: Timestamp,
}

impl SourceRow for FailedCache {
    fn finding(self, _: Timestamp) -> Finding {
        let Self { cache, message, failed_at } = self;
        let millis = failed_at.as_millis();
        let data = json!({ "reason": "not_started", "message": message, "failed_at": millis });
        let occurrence = (&*cache.cache_id, millis.to_string());
        let new = cache.notification(NotificationKind::CacheFailed, occurrence, data);
        let mark = Mark::Failed { cache: cache.cache_id.clone(), at: failed_at };
        cache.finding(mark, vec![new])
    }
}

impl SourceRow for RecoveredCache {
    fn finding(self, _: Timestamp) -> Finding {
        let Self { cache, failed_at } = self;
        let millis = failed_at.as_millis();
        let occurrence = (&*cache.cache_id, millis.to_string());
        let data = json!({ "failed_at": millis });
        let new = cache.notification(NotificationKind::CacheRecovered, occurrence, data);
        let mark = Mark::Recovered { cache: cache.cache_id.clone() };
        cache.finding(mark, vec![new])
    }
}
