//! Entries of the audit log that match a filter, a page at a time, with a bounded amount of work.

use std::time::Duration;

use crate::db::read;
use crate::rows::{ROW_BYTES_MAX, read_rows};
use crate::{AuditEntry, Store, StoreError, now};

/// Entries that one call looks at, whatever it finds.
const SEARCHED_MAX: i64 = 50_000;

/// Which entries to find. Empty texts and `None` match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The actor: `operator`, or `user` or `admin` and an id.
    pub actor: String,
    /// The action: `token.create`.
    pub action: String,
    /// What was changed: `token` or `user`, say, and an id.
    pub subject: String,
    /// Only entries that are younger.
    pub within: Option<Duration>,
}

/// An entry, with the e-mail addresses of users that it names.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct NamedEntry {
    /// The entry.
    #[sqlx(flatten)]
    pub entry: AuditEntry,
    /// The address of the user or administrator who acted; `None` for others, and for deleted users.
    pub actor_email: Option<String>,
    /// The address of the user whom it is about.
    pub subject_email: Option<String>,
}

/// Entries that match, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<NamedEntry>,
    /// The number before which to go on searching; `None` once all entries were looked at.
    pub before: Option<i64>,
}

/// The entries that a query selects, with the addresses of users.
macro_rules! named {
    ($($part:expr),+ $(,)?) => {
        concat!(
            "SELECT e.seq, e.at, e.actor, e.action, e.subject, e.detail, e.hash, ua.email AS actor_email, ",
            "us.email AS subject_email FROM (",
            $($part,)+
            ") e LEFT JOIN users ua ON ua.id = CASE WHEN e.actor LIKE 'user %' THEN SUBSTR(e.actor, 6) ",
            "WHEN e.actor LIKE 'admin %' THEN SUBSTR(e.actor, 7) END AND ua.deleted_at IS NULL ",
            "LEFT JOIN users us ON us.id = CASE WHEN e.subject LIKE 'user %' THEN SUBSTR(e.subject, 6) END ",
            "AND us.deleted_at IS NULL ORDER BY e.seq DESC"
        )
    };
}

macro_rules! select {
    ($condition:literal) => {
        named!(
            "SELECT seq, at, actor, action, subject, detail, hash FROM audit WHERE ",
            $condition,
            " AND seq < $1 AND seq >= $2 AND ($3 = '' OR actor = $3) AND ($4 = '' OR action = $4) ",
            "AND ($5 = '' OR subject = $5) ORDER BY seq DESC LIMIT $6"
        )
    };
}

/// The newest `$3` entries with a subject or an actor, as a part of a union.
macro_rules! newest_with {
    ($condition:literal, $name:literal) => {
        concat!(
            "SELECT * FROM (SELECT seq, at, actor, action, subject, detail, hash FROM audit WHERE ",
            $condition,
            " ORDER BY seq DESC LIMIT $3) ",
            $name
        )
    };
}

/// Entries before `$1`, from `$2` on, with the actor `$3`, the action `$4` and the subject `$5` or any; at most `$6`.
pub(crate) const ANY: &str = select!("seq > 0");
/// The same with an actor.
pub(crate) const OF_ACTOR: &str = select!("actor = $3");
/// The same with a subject.
pub(crate) const OF_SUBJECT: &str = select!("subject = $5");
/// The first entry from a time on.
pub(crate) const FIRST_SINCE: &str = "SELECT seq FROM audit WHERE at >= $1 ORDER BY at, seq LIMIT 1";
/// The newest entries about a user and by the user, as `$1`, or as the administrator `$2`; at most `$3` each.
pub(crate) const OF_USER: &str = named!(
    newest_with!("subject = $1", "of_subject"),
    " UNION ",
    newest_with!("actor = $1", "of_user"),
    " UNION ",
    newest_with!("actor = $2", "of_admin"),
    " ORDER BY seq DESC LIMIT $3"
);

impl Store {
    /// Up to `limit` entries that match, before entry `before`, the newest first. Looks at 50,000 entries at most, so that
    /// there may be more although fewer were found.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn find_audit(
        &self,
        filter: &AuditFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<AuditPage, StoreError> {
        let last = self.audit_length().await?;
        let before = before.unwrap_or(i64::MAX).min(last.saturating_add(1));
        let first = match filter.within {
            Some(within) => self.first_audit_since(within).await?,
            None => Some(1),
        };
        let Some(first) = first.filter(|first| *first < before) else { return Ok(AuditPage::default()) };
        let from = before.saturating_sub(SEARCHED_MAX).max(first);
        let sql = match filter {
            _ if !filter.subject.is_empty() => OF_SUBJECT,
            _ if !filter.actor.is_empty() => OF_ACTOR,
            _ => ANY,
        };
        let rows = read_rows!(
            self,
            ROW_BYTES_MAX,
            sqlx::query(sql)
                .bind(before)
                .bind(from)
                .bind(&filter.actor)
                .bind(&filter.action)
                .bind(&filter.subject)
                .bind(limit)
        )?;
        let entries: Vec<NamedEntry> = rows.into_iter().collect::<Result<_, StoreError>>()?;
        let is_full = i64::try_from(entries.len()).is_ok_and(|found| found >= limit);
        let searched = if is_full { entries.last().map_or(from, |it| it.entry.seq) } else { from };
        Ok(AuditPage { entries, before: Some(searched).filter(|searched| *searched > first) })
    }

    /// The newest `limit` entries about a user and by the user, newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn audit_of_user(&self, user_id: &str, limit: i64) -> Result<Vec<NamedEntry>, StoreError> {
        let (user, admin) = (super::user_actor(user_id), super::admin_actor(user_id));
        read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_USER).bind(&user).bind(&admin).bind(limit))?
            .into_iter()
            .collect()
    }

    async fn first_audit_since(&self, within: Duration) -> Result<Option<i64>, StoreError> {
        let at = now().saturating_sub(within);
        Ok(read!(self, pool => sqlx::query_scalar(FIRST_SINCE).bind(at).fetch_optional(pool).await)?)
    }
}
