//! Tokens that were found in public.

use serde_json::json;

use super::{Finding, FoundCache, Mark, SourceRow};
use crate::{NotificationKind, Timestamp};

/// Up to `$1` reports that nobody was notified of.
pub(in crate::detection) const LEAKS: &str = "SELECT l.user_id, t.cache_id, c.name AS cache_name, l.token_id, \
     t.name AS token_name, l.url, l.source FROM leaks l JOIN tokens t ON t.id = l.token_id \
     JOIN caches c ON c.id = t.cache_id WHERE l.notified = 0 ORDER BY l.at LIMIT $1";

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct LeakedToken {
    #[sqlx(flatten)]
    cache: FoundCache,
    token_id: String,
    token_name: String,
    /// Where it was found, and in what.
    url: String,
    source: String,
}

impl SourceRow for LeakedToken {
    fn finding(self, _: Timestamp) -> Finding {
        let Self { cache, token_id, token_name, url, source } = self;
        let data = json!({ "token_id": token_id, "token_name": token_name, "url": url, "source": source });
        let new = cache.notification(NotificationKind::TokenLeaked, (&token_id, String::new()), data);
        cache.finding(Mark::Leak { token: token_id }, vec![new])
    }
}
