//! Tokens and client certificates that expire soon.

use std::time::Duration;

use serde_json::json;

use super::{Finding, FoundCache, Mark, SourceRow};
use crate::detection::Position;
use crate::{NotificationKind, Timestamp};

/// How long before the expiry of a token or certificate its user is notified.
pub(in crate::detection) const EXPIRY_NOTICE: Duration = Duration::from_hours(7 * 24);
/// The least life, in milliseconds, of one whose user is notified: that of a shorter one was near from the beginning.
pub(in crate::detection) const LIFE_MIN_MS: i64 = 8 * 24 * 3_600_000;

/// Up to `$5` tokens that live for `$4` and expire from `$1` to `$3`, and at `$1` have ids after `$2`. A rotated one expires as
/// its user wants.
pub(in crate::detection) const TOKENS: &str = "SELECT c.user_id, t.cache_id, c.name AS cache_name, t.id AS token_id, \
     t.name AS token_name, t.expires_at FROM tokens t JOIN caches c ON c.id = t.cache_id \
     WHERE COALESCE(t.revoked_at, t.expires_at) >= $1 AND COALESCE(t.revoked_at, t.expires_at) <= $3 \
     AND (t.expires_at > $1 OR t.id > $2) AND t.revoked_at IS NULL AND t.successor IS NULL \
     AND t.expires_at - t.created_at >= $4 AND c.deleted_at IS NULL ORDER BY COALESCE(t.revoked_at, t.expires_at), t.id LIMIT $5";
/// The same of certificates, by their fingerprints. Of one that expires with its token nobody is notified.
pub(in crate::detection) const CERTIFICATES: &str = "SELECT c.user_id, t.cache_id, c.name AS cache_name, x.fingerprint, \
     x.name AS certificate_name, t.id AS token_id, t.name AS token_name, x.not_after \
     FROM certificates x JOIN tokens t ON t.id = x.token_id \
     JOIN caches c ON c.id = t.cache_id WHERE x.not_after >= $1 AND x.not_after <= $3 \
     AND (x.not_after > $1 OR x.fingerprint > $2) AND t.revoked_at IS NULL AND x.not_after - x.created_at >= $4 \
     AND COALESCE(t.expires_at, 9223372036854775807) - 86400000 > x.not_after AND c.deleted_at IS NULL \
     ORDER BY x.not_after, x.fingerprint LIMIT $5";

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct ExpiringToken {
    #[sqlx(flatten)]
    cache: FoundCache,
    token_id: String,
    token_name: String,
    expires_at: Timestamp,
}

#[derive(sqlx::FromRow)]
pub(in crate::detection) struct ExpiringCertificate {
    #[sqlx(flatten)]
    cache: FoundCache,
    fingerprint: String,
    certificate_name: String,
    token_id: String,
    token_name: String,
    not_after: Timestamp,
}

impl SourceRow for ExpiringToken {
    fn position(&self) -> Option<Position> {
        Some(Position { at: self.expires_at, key: self.token_id.clone() })
    }

    fn finding(self, _: Timestamp) -> Finding {
        let Self { cache, token_id, token_name, expires_at } = self;
        let expires_at = expires_at.as_millis();
        let data = json!({ "token_id": token_id, "token_name": token_name, "expires_at": expires_at });
        let occurrence = (&*token_id, expires_at.to_string());
        let new = cache.notification(NotificationKind::TokenExpiring, occurrence, data);
        cache.finding(Mark::Position, vec![new])
    }
}

impl SourceRow for ExpiringCertificate {
    fn position(&self) -> Option<Position> {
        Some(Position { at: self.not_after, key: self.fingerprint.clone() })
    }

    fn finding(self, _: Timestamp) -> Finding {
        let Self { cache, fingerprint, certificate_name, token_id, token_name, not_after } = self;
        let expires_at = not_after.as_millis();
        let data = json!({ "fingerprint": fingerprint, "certificate_name": certificate_name, "token_id": token_id,
            "token_name": token_name, "expires_at": expires_at });
        let occurrence = (&*fingerprint, expires_at.to_string());
        let new = cache.notification(NotificationKind::CertificateExpiring, occurrence, data);
        cache.finding(Mark::Position, vec![new])
    }
}
