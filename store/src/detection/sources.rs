//! The sources of notifications: a query of each, and what its rows tell.

use std::time::Duration;

use serde_json::json;

use crate::Timestamp;
use crate::notification::{NewNotification, NotificationKind};

/// What ends within this time is told.
const END_NEAR: Duration = Duration::from_hours(7 * 24);
/// The least life of a token or certificate whose end is told: that of a shorter one was near from the beginning.
const LIFE_MIN: Duration = Duration::from_hours(8 * 24);
/// What may happen all the time is told of a cache once in this time.
const QUIET: Duration = Duration::from_hours(1);
/// How late proxies and provisioners write down what has happened.
const SETTLED_AFTER: Duration = Duration::from_mins(2);
/// Intervals of statistics are written for as long as they last, and a while longer.
const STATISTICS_SETTLED_AFTER: Duration = Duration::from_mins(11);

/// Where there may be something to tell.
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
    /// Tokens that end soon.
    Tokens,
    /// Client certificates that end soon.
    Certificates,
    /// Connections and requests beyond a plan's limits.
    Denials,
    /// Values that memcached couldn't store.
    Memory,
}

/// A row of any source. What `id`, `name`, `text`, `more` and `number` are, each query says.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Found {
    user_id: String,
    cache_id: String,
    cache_name: String,
    pub(super) id: String,
    name: String,
    text: String,
    more: String,
    number: i64,
    pub(super) at: Timestamp,
}

/// How it is marked that a row is told.
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
        told: i64,
    },
    Failed {
        cache: String,
        at: Timestamp,
    },
    Recovered {
        cache: String,
    },
}

/// Every query takes position, its key, the end of the time to read, the time since when a cache is told no more, and the most
/// rows. One that needs less compares what it doesn't need with itself.
macro_rules! unused {
    () => {
        "($1 >= 0 OR $2 = '' OR $3 >= 0 OR $4 >= 0)"
    };
}

/// Token, its name, where it was found, in what.
const LEAKS: &str = concat!(
    "SELECT l.user_id, t.cache_id, c.name AS cache_name, l.token_id AS id, t.name, l.url AS text, l.source AS more, ",
    "l.told AS number, l.at FROM leaks l JOIN tokens t ON t.id = l.token_id JOIN caches c ON c.id = t.cache_id ",
    "WHERE l.told = 0 AND ",
    unused!(),
    " ORDER BY l.at LIMIT $5"
);
/// Instance, nothing, the message for its owner.
const FAILED: &str = concat!(
    "SELECT c.user_id, i.cache_id, c.name AS cache_name, i.id, '' AS name, COALESCE(r.message, '') AS text, '' AS more, ",
    "r.generation AS number, r.changed_at AS at FROM routes r JOIN instances i ON i.id = r.instance_id ",
    "JOIN caches c ON c.id = i.cache_id WHERE r.state = 'failed' AND i.desired = 'running' AND c.deleted_at IS NULL ",
    "AND NOT EXISTS (SELECT 1 FROM failed_caches f WHERE f.cache_id = i.cache_id) AND ",
    unused!(),
    " ORDER BY r.changed_at LIMIT $5"
);
/// Instance; the time is when it failed.
const RECOVERED: &str = concat!(
    "SELECT c.user_id, f.cache_id, c.name AS cache_name, i.id, '' AS name, '' AS text, '' AS more, r.generation AS number, ",
    // In this order: most routes are those of caches that run.
    "f.failed_at AS at FROM failed_caches f CROSS JOIN instances i CROSS JOIN routes r CROSS JOIN caches c ",
    "WHERE i.cache_id = f.cache_id AND r.instance_id = i.id AND c.id = f.cache_id AND r.state IN ('running', 'asleep') ",
    "AND c.deleted_at IS NULL AND ",
    unused!(),
    " LIMIT $5"
);
/// Instance, whether the contents are lost, cause, action, number of the event.
macro_rules! events {
    ($condition:literal) => {
        concat!(
            "SELECT c.user_id, i.cache_id, c.name AS cache_name, e.instance_id AS id, ",
            "CASE WHEN e.contents_lost = 1 THEN 'lost' ELSE '' END AS name, e.cause AS text, e.action AS more, e.number, ",
            "e.last_at AS at FROM instance_events e JOIN instances i ON i.id = e.instance_id ",
            "JOIN caches c ON c.id = i.cache_id WHERE ", $condition, " AND ", unused!(), " ORDER BY e.last_at LIMIT $5"
        )
    };
}
const EVENTS: &str = events!("e.told = 0 AND (e.contents_lost = 1 OR e.cause = 'out_of_memory')");
const REPEATED: &str =
    events!("e.told < 2 AND e.count >= 5 AND e.cause IN ('crashed', 'out_of_memory', 'hung')");
/// Token, its name; the time is its end. A rotated one ends as its user wants.
const TOKENS: &str = "SELECT c.user_id, t.cache_id, c.name AS cache_name, t.id, t.name, '' AS text, '' AS more, \
     t.created_at AS number, t.expires_at AS at FROM tokens t JOIN caches c ON c.id = t.cache_id \
     WHERE COALESCE(t.revoked_at, t.expires_at) >= $1 AND COALESCE(t.revoked_at, t.expires_at) <= $3 \
     AND (t.expires_at > $1 OR t.id > $2) AND t.revoked_at IS NULL AND t.successor IS NULL \
     AND t.expires_at - t.created_at >= $4 AND c.deleted_at IS NULL ORDER BY COALESCE(t.revoked_at, t.expires_at), t.id LIMIT $5";
/// Fingerprint, its name, its token, the token's name; the time is its end. One that ends with its token isn't told.
const CERTIFICATES: &str = "SELECT c.user_id, t.cache_id, c.name AS cache_name, x.fingerprint AS id, x.name, t.id AS text, \
     t.name AS more, x.created_at AS number, x.not_after AS at FROM certificates x JOIN tokens t ON t.id = x.token_id \
     JOIN caches c ON c.id = t.cache_id WHERE x.not_after >= $1 AND x.not_after <= $3 \
     AND (x.not_after > $1 OR x.fingerprint > $2) AND t.revoked_at IS NULL AND x.not_after - x.created_at >= $4 \
     AND COALESCE(t.expires_at, 9223372036854775807) - 86400000 > x.not_after AND c.deleted_at IS NULL \
     ORDER BY x.not_after, x.fingerprint LIMIT $5";
/// Cache, nothing, the cause.
const DENIALS: &str = "SELECT c.user_id, d.cache_id, c.name AS cache_name, d.cache_id AS id, '' AS name, d.cause AS text, \
     '' AS more, CAST(0 AS BIGINT) AS number, CAST(MAX(d.last_at) AS BIGINT) AS at FROM denials d \
     JOIN caches c ON c.id = d.cache_id WHERE d.last_at >= $1 AND d.last_at <= $3 AND ($2 = '' OR d.last_at > 0) \
     AND d.cause IN ('limit', 'token_limit', 'rate') AND c.deleted_at IS NULL \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.kind = 'plan_limit_reached' \
     AND n.subject = d.cache_id || ':' || d.cause AND n.created_at > $4) \
     GROUP BY c.user_id, d.cache_id, c.name, d.cause ORDER BY at LIMIT $5";
/// Cache, nothing, `memory`; how many values.
const MEMORY: &str = "SELECT c.user_id, i.cache_id, c.name AS cache_name, i.cache_id AS id, '' AS name, 'memory' AS text, \
     '' AS more, CAST(SUM(h.out_of_memory) AS BIGINT) AS number, CAST(MAX(h.begins_at) AS BIGINT) AS at \
     FROM statistics_history h JOIN instances i ON i.id = h.instance_id JOIN caches c ON c.id = i.cache_id \
     WHERE h.resolution = 300 AND h.out_of_memory > 0 AND h.begins_at >= $1 AND h.begins_at <= $3 \
     AND ($2 = '' OR h.begins_at > 0) AND c.deleted_at IS NULL \
     AND NOT EXISTS (SELECT 1 FROM notifications n WHERE n.kind = 'cache_out_of_memory' \
     AND n.subject = i.cache_id || ':memory' AND n.created_at > $4) \
     GROUP BY c.user_id, i.cache_id, c.name ORDER BY at LIMIT $5";

/// Each query, with the steps that it may take other than searching an index.
#[cfg(test)]
pub(crate) const QUERY_PLANS: &[(&str, &[&str])] = &[
    (LEAKS, &["SCAN l USING INDEX leaks_untold"]),
    (FAILED, &["CORRELATED SCALAR SUBQUERY"]),
    // Few: those that fail now.
    (RECOVERED, &["SCAN f"]),
    (EVENTS, &["SCAN e USING INDEX instance_events_untold"]),
    (REPEATED, &["SCAN e USING INDEX instance_events_repeated"]),
    (TOKENS, &["USE TEMP B-TREE FOR LAST"]),
    (CERTIFICATES, &["USE TEMP B-TREE FOR LAST"]),
    (DENIALS, &["USE TEMP B-TREE FOR", "CORRELATED SCALAR SUBQUERY"]),
    (MEMORY, &["USE TEMP B-TREE FOR", "CORRELATED SCALAR SUBQUERY"]),
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

    pub(super) fn query(self) -> &'static str {
        match self {
            Self::Leaks => LEAKS,
            Self::FailedCaches => FAILED,
            Self::RecoveredCaches => RECOVERED,
            Self::Events => EVENTS,
            Self::RepeatedEvents => REPEATED,
            Self::Tokens => TOKENS,
            Self::Certificates => CERTIFICATES,
            Self::Denials => DENIALS,
            Self::Memory => MEMORY,
        }
    }

    /// Whether rows are read from a position on. Those of other sources are marked.
    pub(super) fn has_position(self) -> bool {
        matches!(self, Self::Tokens | Self::Certificates | Self::Denials | Self::Memory)
    }

    fn is_end(self) -> bool {
        matches!(self, Self::Tokens | Self::Certificates)
    }

    /// The end of the time to read. What a broken proxy dates ahead isn't told before its time.
    pub(super) fn until(self, at: Timestamp) -> Timestamp {
        if self.is_end() { at.saturating_add(END_NEAR) } else { at }
    }

    /// Where the next pass begins if this one reads everything.
    pub(super) fn read_until(self, at: Timestamp) -> Timestamp {
        match self {
            Self::Tokens | Self::Certificates => at.saturating_add(END_NEAR),
            Self::Memory => at.saturating_sub(STATISTICS_SETTLED_AFTER),
            _ => at.saturating_sub(SETTLED_AFTER),
        }
    }

    /// The fourth parameter: the least life in milliseconds, or since when a cache is told no more.
    pub(super) fn quiet_since(self, at: Timestamp) -> Timestamp {
        if self.is_end() { Timestamp::EPOCH.saturating_add(LIFE_MIN) } else { at.saturating_sub(QUIET) }
    }

    pub(super) fn mark(self, row: &Found) -> Mark {
        let event = |told| Mark::Event { instance: row.id.clone(), number: row.number, told };
        match self {
            Self::Leaks => Mark::Leak { token: row.id.clone() },
            Self::FailedCaches => Mark::Failed { cache: row.cache_id.clone(), at: row.at },
            Self::RecoveredCaches => Mark::Recovered { cache: row.cache_id.clone() },
            Self::Events => event(1),
            Self::RepeatedEvents => event(2),
            Self::Tokens | Self::Certificates | Self::Denials | Self::Memory => Mark::Position,
        }
    }

    /// What a row tells.
    pub(super) fn notifications(self, row: &Found, at: Timestamp) -> Vec<NewNotification> {
        use NotificationKind::{
            CacheEmptied, CacheFailed, CacheOutOfMemory, CacheRecovered, CertificateExpiring,
            PlanLimitReached, TokenExpiring, TokenLeaked,
        };
        let Found { cache_id, id, name, text, more, number, .. } = row;
        let end = row.at.as_millis();
        let of = |kind, subject: String, period: String, data| NewNotification {
            user_id: row.user_id.clone(),
            cache: Some((cache_id.clone(), row.cache_name.clone())),
            kind,
            subject,
            period,
            quiet_since: None,
            data,
        };
        // At most one in the hour, also if two web UIs look at the same time.
        let hourly = |kind, what: &str, data| NewNotification {
            quiet_since: Some(at.saturating_sub(QUIET)),
            ..of(kind, format!("{cache_id}:{what}"), at.hour().to_string(), data)
        };
        match self {
            Self::Leaks => {
                let data = json!({ "token_id": id, "token_name": name, "url": text, "source": more });
                vec![of(TokenLeaked, id.clone(), String::new(), data)]
            }
            Self::FailedCaches => {
                let data = json!({ "reason": "not_started", "message": text, "failed_at": end });
                vec![of(CacheFailed, cache_id.clone(), end.to_string(), data)]
            }
            Self::RecoveredCaches => {
                vec![of(CacheRecovered, cache_id.clone(), end.to_string(), json!({ "failed_at": end }))]
            }
            Self::Events => {
                let data = json!({ "cause": text, "happened_at": end });
                let mut told = Vec::new();
                if name == "lost" {
                    told.push(hourly(CacheEmptied, "contents", data));
                }
                if text == "out_of_memory" {
                    let data = json!({ "cause": "container", "happened_at": end });
                    told.push(hourly(CacheOutOfMemory, "container", data));
                }
                told
            }
            Self::RepeatedEvents => {
                let data = json!({ "reason": "repeated", "cause": text, "failed_at": end });
                vec![of(CacheFailed, cache_id.clone(), format!("{id}/{number}"), data)]
            }
            Self::Tokens => {
                let data = json!({ "token_id": id, "token_name": name, "expires_at": end });
                vec![of(TokenExpiring, id.clone(), end.to_string(), data)]
            }
            Self::Certificates => {
                let data = json!({ "fingerprint": id, "certificate_name": name, "token_id": text, "token_name": more,
                    "expires_at": end });
                vec![of(CertificateExpiring, id.clone(), end.to_string(), data)]
            }
            Self::Denials => {
                let limit = match text.as_str() {
                    "limit" => "connections",
                    "token_limit" => "token_connections",
                    _ => "rate",
                };
                vec![hourly(PlanLimitReached, text, json!({ "limit": limit, "happened_at": end }))]
            }
            Self::Memory => {
                let data = json!({ "cause": "memory", "values": number, "happened_at": end });
                vec![hourly(CacheOutOfMemory, "memory", data)]
            }
        }
    }
}
