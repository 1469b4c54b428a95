//! The audit log: who did what, when, to what. Append-only, chained by hashes, without secrets.

pub(crate) mod search;

use sha2::{Digest as _, Sha256};

use crate::db::{OPERATOR, read, write};
use crate::keys::hex;
use crate::rows::{ROW_BYTES_MAX, read_rows};
use crate::{Store, StoreError, Timestamp, now};

pub use search::{AuditFilter, AuditPage, NamedEntry};

/// Bytes of a subject and of a detail. Entries are kept for ever, so nobody may make long ones.
const SUBJECT_MAX: usize = 256;
/// More than a token's permissions have, which are the longest.
const DETAIL_MAX: usize = 2048;
/// Ends a text that was cut.
const CUT: &str = "...";

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow, serde::Serialize)]
pub struct AuditEntry {
    /// Counted from 1, without gaps.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// The actor: `operator`, or `user` or `admin` and an id.
    pub actor: String,
    /// The action: `token.create`.
    pub action: String,
    /// What was changed: `token` or `user`, say, and an id.
    pub subject: String,
    /// More, in words; may be empty. At most 2 KiB: a longer one ends with `...`.
    pub detail: String,
    /// SHA-256 of the other fields and of the previous entry's hash, hexadecimal.
    pub hash: String,
}

/// An entry doesn't continue the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry is missing.
    #[error(
        "the audit log has a gap at entry {expected}: restore the database from a backup and look for who removed it"
    )]
    Gap {
        /// The missing entry's number.
        expected: i64,
    },
    /// An entry was changed.
    #[error(
        "entry {seq} of the audit log was changed: restore the database from a backup and look for who changed it"
    )]
    Changed {
        /// Its number.
        seq: i64,
    },
}

/// The chain of hashes up to an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditChain {
    /// The number of entries so far.
    pub entries: i64,
    /// The last entry's hash; empty before the first. A copy kept elsewhere proves later that no entry was removed.
    pub head: String,
}

impl AuditChain {
    /// Follows the chain to the next entry.
    ///
    /// # Errors
    /// [`AuditError`] if `entry` is not the next one, or was changed.
    pub fn follow(&mut self, entry: &AuditEntry) -> Result<(), AuditError> {
        let expected = self.entries.saturating_add(1);
        if entry.seq != expected {
            return Err(AuditError::Gap { expected });
        }
        if entry.hash != entry.chained(&self.head) {
            return Err(AuditError::Changed { seq: entry.seq });
        }
        self.entries = entry.seq;
        self.head.clone_from(&entry.hash);
        Ok(())
    }
}

impl AuditEntry {
    pub(crate) fn next(
        last: Option<(i64, String)>,
        actor: &str,
        action: &str,
        subject: String,
        detail: String,
    ) -> Result<Self, StoreError> {
        let (last_seq, before) = last.unwrap_or_default();
        let seq = last_seq.checked_add(1).ok_or(StoreError::Corrupt("audit log"))?;
        let (actor, action) = (cut(actor.to_owned(), SUBJECT_MAX), action.to_owned());
        let (subject, detail) = (cut(subject, SUBJECT_MAX), cut(detail, DETAIL_MAX));
        let mut entry = Self { seq, at: now(), actor, action, subject, detail, hash: String::new() };
        entry.hash = entry.chained(&before);
        Ok(entry)
    }

    /// Hashes every field with its length before it, so that different entries never hash the same bytes.
    fn chained(&self, before: &str) -> String {
        let (seq, at) = (self.seq.to_string(), self.at.to_string());
        let mut hash = Sha256::new();
        for field in [before, &seq, &at, &self.actor, &self.action, &self.subject, &self.detail] {
            hash.update(field.len().to_be_bytes());
            hash.update(field.as_bytes());
        }
        hex(&hash.finalize())
    }
}

/// At most `max` bytes of a text.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// The newest `$3` entries of the actor `$1` before the entry `$2`.
pub(crate) const OF_ACTOR: &str = "SELECT seq, at, actor, action, subject, detail, hash FROM audit \
     WHERE actor = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";
pub(crate) const LAST: &str = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
pub(crate) const INSERT: &str =
    "INSERT INTO audit (seq, at, actor, action, subject, detail, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// Writes an entry in a transaction that has taken a revision: such transactions run one after the other.
macro_rules! note {
    ($store:expr, $tx:expr, $action:expr, $subject:expr, $detail:expr) => {{
        let last: Option<(i64, String)> =
            sqlx::query_as($crate::audit::LAST).fetch_optional(&mut *$tx).await?;
        let (subject, detail) = ($subject.into(), $detail.into());
        let entry = $crate::AuditEntry::next(last, &$store.actor, $action, subject, detail)?;
        sqlx::query($crate::audit::INSERT)
            .bind(entry.seq)
            .bind(entry.at)
            .bind(entry.actor)
            .bind(entry.action)
            .bind(entry.subject)
            .bind(entry.detail)
            .bind(entry.hash)
            .execute(&mut *$tx)
            .await?;
    }};
}
pub(crate) use note;

/// What an administrator is called who acts in the web UI.
const ADMIN: &str = "admin ";

/// A user, as actor and as subject.
pub(crate) fn user_actor(user_id: &str) -> String {
    format!("user {user_id}")
}

/// The actor of what an administrator does for others: an operator, for all that an operator may do.
pub(crate) fn admin_actor(user_id: &str) -> String {
    format!("{ADMIN}{user_id}")
}

impl Store {
    /// Whether the actor is an operator, and not the user whose cache or account it is.
    pub(crate) fn acts_as_operator(&self) -> bool {
        *self.actor == *OPERATOR || self.actor.starts_with(ADMIN)
    }

    /// The same store, which names an administrator in the audit log.
    #[must_use]
    pub fn acting_as_admin(&self, user_id: &str) -> Self {
        self.acting_as(&admin_actor(user_id))
    }

    /// The same store, which names a user in the audit log.
    #[must_use]
    pub fn acting_as_user(&self, user_id: &str) -> Self {
        self.acting_as(&user_actor(user_id))
    }

    /// Whether the actor is this user.
    pub(crate) fn acts_as_user(&self, user_id: &str) -> bool {
        *self.actor == *user_actor(user_id)
    }

    /// The same store, which names `actor` in the audit log.
    #[must_use]
    pub fn acting_as(&self, actor: &str) -> Self {
        Self { actor: actor.into(), ..self.clone() }
    }

    /// Records that a user has signed in, who is the actor; `how` says from where.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn note_sign_in(&self, user_id: &str, how: &str) -> Result<(), StoreError> {
        self.acting_as_user(user_id).note("user.sign_in", &user_actor(user_id), how).await
    }

    /// Records an event that changes nothing in the store, such as a check.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn note(&self, action: &str, subject: &str, detail: &str) -> Result<(), StoreError> {
        write!(self, tx, _revision => note!(self, tx, action, subject, detail));
        Ok(())
    }

    /// Up to `limit` entries after entry `seq`, in order.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn audit_after(&self, seq: i64, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = "SELECT seq, at, actor, action, subject, detail, hash FROM audit WHERE seq > $1 \
                   ORDER BY seq LIMIT $2";
        read_rows!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(seq).bind(limit))?.into_iter().collect()
    }

    /// Up to `limit` entries before entry `seq`, the newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn audit_before(&self, seq: i64, limit: i64) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = "SELECT seq, at, actor, action, subject, detail, hash FROM audit WHERE seq < $1 \
                   ORDER BY seq DESC LIMIT $2";
        read_rows!(self, ROW_BYTES_MAX, sqlx::query(sql).bind(seq).bind(limit))?.into_iter().collect()
    }

    /// Up to `limit` entries of what a user did, before entry `seq`, the newest first.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn audit_by_user(
        &self,
        user_id: &str,
        seq: i64,
        limit: i64,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let actor = user_actor(user_id);
        read_rows!(self, ROW_BYTES_MAX, sqlx::query(OF_ACTOR).bind(actor).bind(seq).bind(limit))?
            .into_iter()
            .collect()
    }

    /// The number of entries.
    ///
    /// # Errors
    /// Fails if the database does.
    pub async fn audit_length(&self) -> Result<i64, StoreError> {
        let sql = "SELECT COALESCE(MAX(seq), 0) FROM audit";
        Ok(read!(self, pool => sqlx::query_scalar(sql).fetch_one(pool).await)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn entries_are_short() {
        let (long, plain) = ("é".repeat(10_000), "a".repeat(DETAIL_MAX));
        let entry = AuditEntry::next(None, &long, "test", long.clone(), long.clone()).unwrap();
        assert!(entry.actor.len() <= SUBJECT_MAX && entry.subject.len() <= SUBJECT_MAX);
        assert!(
            (DETAIL_MAX - 1..=DETAIL_MAX).contains(&entry.detail.len()) && entry.detail.ends_with("é...")
        );
        assert_eq!(AuditEntry::next(None, "a", "test", "b".into(), plain.clone()).unwrap().detail, plain);
        assert_eq!(AuditChain::default().follow(&entry), Ok(()));
    }
}
